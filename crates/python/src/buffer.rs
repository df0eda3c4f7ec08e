//! Memory as objects of Python: of the store, of a GPU, of anybody by its address.

use std::ffi::c_int;
use std::sync::Arc;

use gcos::Registration as Registered;
use gcos::engine::device;
use gcos::hw::DmaBuffer;
use parking_lot::Mutex;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::error::Failure;
use crate::foreign::{dlpack, fill_view};
use crate::handle::Handle;
use crate::numbers;

/// Memory at an address that the caller knows: `nbytes` from `ptr` on.
///
/// `owner` is kept alive as long as this object; `device` is None for the host or "cuda:N".
#[pyclass(frozen, module = "gcos", name = "Memory")]
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) address: u64,
    pub(crate) len: usize,
    pub(crate) gpu: Option<usize>,
    _owner: Option<Py<PyAny>>,
}

/// The number of a GPU in "cuda", "cuda:N", or of an object with such a name (torch.device).
pub(crate) fn gpu_of(device: &Bound<'_, PyAny>) -> PyResult<usize> {
    let text = device.str()?.to_string();
    let number = match text.strip_prefix("cuda") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix(':').and_then(|number| number.parse().ok()),
        None => None,
    };
    let message = || format!("device: expected \"cuda\" or \"cuda:N\", got {text:?}");
    Ok(number.ok_or_else(|| Failure::invalid(message()))?)
}

#[pymethods]
impl Memory {
    #[new]
    #[pyo3(signature = (ptr, nbytes, owner = None, device = None))]
    fn new(
        #[pyo3(from_py_with = numbers::ptr)] ptr: u64,
        #[pyo3(from_py_with = numbers::nbytes)] nbytes: usize,
        owner: Option<Py<PyAny>>,
        device: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let gpu = match device {
            Some(device) if device.str()? != "cpu" => Some(gpu_of(device)?),
            _ => None,
        };
        if ptr == 0 || nbytes == 0 {
            let message = format!(
                "gcos.Memory: expected an address and a length that are not 0, got {ptr:#x} and {nbytes}"
            );
            return Err(Failure::invalid(message).into());
        }
        Ok(Self { address: ptr, len: nbytes, gpu, _owner: owner })
    }

    /// Address of the first byte.
    #[getter]
    fn ptr(&self) -> u64 {
        self.address
    }

    /// Length in bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.len
    }

    /// "cuda:N", or None for the host.
    #[getter]
    fn device(&self) -> Option<String> {
        self.gpu.map(|gpu| format!("cuda:{gpu}"))
    }

    fn __repr__(&self) -> String {
        let place = self.device().unwrap_or_else(|| "cpu".to_owned());
        format!("gcos.Memory(ptr={:#x}, nbytes={}, device={place:?})", self.address, self.len)
    }
}

/// Memory of the store that its drives reach: I/O with it moves no byte twice.
///
/// It has the buffer protocol (`memoryview(buffer)`, `torch.frombuffer(buffer, dtype=...)`) and DLPack.
#[pyclass(frozen, weakref, module = "gcos", name = "Buffer")]
#[derive(Debug)]
pub(crate) struct Buffer {
    handle: Arc<Handle>,
    /// Taken out only when the object goes.
    memory: Option<DmaBuffer>,
    address: usize,
    len: usize,
}

impl Buffer {
    pub(crate) fn new(handle: &Arc<Handle>, memory: DmaBuffer) -> Self {
        let address = {
            let slice = memory.as_dma();
            let (shared, offset) = slice.memory();
            shared.address() + offset
        };
        let len = memory.len();
        handle.reached.add_host(address, memory.as_dma());
        Self { handle: Arc::clone(handle), memory: Some(memory), address, len }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = self.memory.take();
        if self.handle.is_ours() {
            drop(self.handle.reached.remove_host(self.address));
        } else {
            // The mapping is the parent's.
            std::mem::forget(memory);
        }
    }
}

#[pymethods]
impl Buffer {
    /// Address of the first byte.
    fn data_ptr(&self) -> usize {
        self.address
    }

    /// Length in bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.len
    }

    fn __len__(&self) -> usize {
        self.len
    }

    fn __repr__(&self) -> String {
        format!("gcos.Buffer(nbytes={}, address={:#x})", self.len, self.address)
    }

    /// DLPack: one dimension of bytes.
    #[pyo3(signature = (*, stream = None, dl_device = None, copy = None, **_options))]
    fn __dlpack__<'py>(
        slf: &Bound<'py, Self>,
        stream: Option<&Bound<'py, PyAny>>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
        _options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = stream;
        let this = slf.get();
        as_it_is(dl_device, (dlpack::CPU, 0), copy)?;
        dlpack::give(slf.as_any(), (this.address as u64, this.len), None)
    }

    /// DLPack: the host.
    fn __dlpack_device__(&self) -> (i32, i32) {
        (dlpack::CPU, 0)
    }

    /// The buffer protocol. It has the interpreter's own signature; `fill_view` does everything.
    #[expect(unsafe_code, reason = "a signature of the interpreter's")]
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let this = slf.get();
        fill_view(view, slf.as_any(), (this.address, this.len), flags)
    }
}

/// Memory of a GPU that the store's drives reach. It has DLPack and `__cuda_array_interface__`
/// (`torch.from_dlpack(buffer)`, `torch.as_tensor(buffer, device="cuda")`).
#[pyclass(frozen, weakref, module = "gcos", name = "DeviceBuffer")]
#[derive(Debug)]
pub(crate) struct DeviceBuffer {
    handle: Arc<Handle>,
    memory: Option<device::DeviceBuffer>,
    gpu: usize,
    address: u64,
    len: usize,
}

impl DeviceBuffer {
    pub(crate) fn new(handle: &Arc<Handle>, gpu: usize, memory: device::DeviceBuffer) -> Self {
        let slice = memory.as_slice();
        let (address, len) = (slice.device_address(), slice.len());
        handle.reached.add_device(gpu, address, slice);
        Self { handle: Arc::clone(handle), memory: Some(memory), gpu, address, len }
    }

    pub(crate) fn range(&self) -> Result<(usize, u64, usize), Failure> {
        Ok((self.gpu, self.address, self.len))
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        let memory = self.memory.take();
        if self.handle.is_ours() {
            drop(self.handle.reached.remove_device(self.gpu, self.address));
        } else {
            std::mem::forget(memory);
        }
    }
}

#[pymethods]
impl DeviceBuffer {
    /// Address of the first byte, for the GPU.
    fn data_ptr(&self) -> u64 {
        self.address
    }

    /// Length in bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.len
    }

    /// "cuda:N".
    #[getter]
    fn device(&self) -> String {
        format!("cuda:{}", self.gpu)
    }

    fn __len__(&self) -> usize {
        self.len
    }

    fn __repr__(&self) -> String {
        format!("gcos.DeviceBuffer(device=\"cuda:{}\", nbytes={})", self.gpu, self.len)
    }

    /// The CUDA Array Interface, version 3: one dimension of bytes.
    #[getter]
    fn __cuda_array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let described = PyDict::new(py);
        described.set_item("shape", PyTuple::new(py, [self.len])?)?;
        described.set_item("typestr", "|u1")?;
        described.set_item("data", (self.address, false))?;
        described.set_item("version", 3)?;
        described.set_item("strides", py.None())?;
        Ok(described)
    }

    /// DLPack: one dimension of bytes. Nothing is under way in any stream.
    #[pyo3(signature = (*, stream = None, dl_device = None, copy = None, **_options))]
    fn __dlpack__<'py>(
        slf: &Bound<'py, Self>,
        stream: Option<&Bound<'py, PyAny>>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
        _options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = stream;
        let this = slf.get();
        let ordinal = i32::try_from(this.gpu).unwrap_or(i32::MAX);
        as_it_is(dl_device, (dlpack::CUDA, ordinal), copy)?;
        dlpack::give(slf.as_any(), (this.address, this.len), Some(this.gpu))
    }

    /// DLPack: the GPU.
    fn __dlpack_device__(&self) -> (i32, usize) {
        (dlpack::CUDA, self.gpu)
    }
}

/// Refuses what DLPack's consumers may ask for beside the memory itself: a copy, or another device.
fn as_it_is(asked: Option<(i32, i32)>, here: (i32, i32), copy: Option<bool>) -> PyResult<()> {
    if copy == Some(true) {
        return Err(PyBufferError::new_err(
            "gcos gives its memory, not copies of it; copy it after",
        ));
    }
    match asked {
        Some(device) if device != here => Err(PyBufferError::new_err(format!(
            "the memory is on device {here:?} of DLPack, and {device:?} was asked for; move it after"
        ))),
        _ => Ok(()),
    }
}

/// Memory of the caller that the drives reach: see `Store.register`. A context manager.
#[pyclass(frozen, weakref, module = "gcos", name = "Registration")]
#[derive(Debug)]
pub(crate) struct Registration {
    handle: Arc<Handle>,
    inner: Mutex<Option<Registered>>,
    address: usize,
    len: usize,
}

impl Registration {
    pub(crate) fn new(handle: &Arc<Handle>, inner: Registered) -> Self {
        let (address, len) = (inner.address(), inner.len());
        Self { handle: Arc::clone(handle), inner: Mutex::new(Some(inner)), address, len }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let inner = self.inner.get_mut().take();
        if !self.handle.is_ours() {
            std::mem::forget(inner);
            return;
        }
        // The table of registrations and the drives are waited for: others may run meanwhile.
        let mut inner = Some(inner);
        if Python::try_attach(|py| py.detach(|| drop(inner.take()))).is_none() {
            drop(inner);
        }
    }
}

#[pymethods]
impl Registration {
    /// Takes the memory out of the drives' reach. What is under way keeps it until it ends. May be called twice.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.handle.check_fork()?;
        let taken = self.inner.lock().take();
        py.detach(|| drop(taken));
        Ok(())
    }

    /// Address of the first byte that drives reach: of the first whole page.
    #[getter]
    fn ptr(&self) -> usize {
        self.address
    }

    /// Bytes that drives reach, whole pages.
    #[getter]
    fn nbytes(&self) -> usize {
        self.len
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        let state = if self.inner.lock().is_some() { "" } else { ", closed" };
        format!("gcos.Registration(nbytes={}{state})", self.len)
    }
}
