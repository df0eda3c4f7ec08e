//! What callers hand over as memory: buffers of Python, tensors, DLPack, plain addresses.

use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyList, PyMemoryView, PyTuple};

use crate::buffer::{Buffer, DeviceBuffer, Memory};
use crate::error::{Failure, wrong_type};
use crate::foreign::{HostRange, View, dlpack};
use crate::numbers;

/// What a call does with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// It reads it: a put.
    Source,
    /// It writes it: a get.
    Sink,
}

/// Where memory lies.
#[derive(Debug)]
pub(crate) enum Place {
    Host(HostRange),
    Cuda { gpu: usize, address: u64, len: usize },
}

/// What keeps memory where it is; held, never looked at.
#[derive(Debug)]
#[expect(dead_code, reason = "held for its drop")]
pub(crate) enum Keep {
    Buffer(View),
    Object(Py<PyAny>),
    Tensor(dlpack::Taken),
}

/// One stretch of memory that a caller handed over, and what keeps it alive.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) place: Place,
    /// Number of the stream that the memory was last used in, as far as that is known: of the one that torch uses, or
    /// the default one, which DLPack was asked to put what was asked of the tensor before.
    pub(crate) stream: Option<u64>,
    _keep: Keep,
}

const EXPECTED: &str = "an object with the buffer protocol, a tensor (torch, or DLPack), gcos.Memory, \
                        gcos.Buffer or gcos.DeviceBuffer";

impl Region {
    pub(crate) fn len(&self) -> usize {
        match &self.place {
            Place::Host(range) => range.len(),
            Place::Cuda { len, .. } => *len,
        }
    }

    fn new(place: Place, keep: Keep) -> Self {
        Self { place, stream: None, _keep: keep }
    }

    /// The memory of one object.
    pub(crate) fn of(object: &Bound<'_, PyAny>, purpose: Use) -> PyResult<Self> {
        let plain = object.is_instance_of::<PyBytes>()
            || object.is_instance_of::<PyByteArray>()
            || object.is_instance_of::<PyMemoryView>();
        if plain {
            return Self::of_buffer(object, purpose);
        }
        if let Ok(memory) = object.cast::<Memory>() {
            let memory = memory.get();
            return Self::at(memory.gpu, memory.address, memory.len, object);
        }
        if let Ok(buffer) = object.cast::<DeviceBuffer>() {
            let (gpu, address, len) = buffer.get().range()?;
            return Self::at(Some(gpu), address, len, object);
        }
        if object.is_instance_of::<Buffer>() {
            return Self::of_buffer(object, purpose);
        }
        if let Some(data_ptr) = object.getattr_opt(intern!(object.py(), "data_ptr"))? {
            let region = Self::of_tensor(object, &data_ptr);
            return region.map_err(|error| no_tensor(object, error));
        }
        match Self::of_buffer(object, purpose) {
            Ok(region) => Ok(region),
            // What cannot be written is not written by another way.
            Err(error) if purpose == Use::Source || View::get(object, false).is_err() => {
                let protocol = intern!(object.py(), "__dlpack__");
                match object.getattr_opt(protocol)? {
                    Some(export) => {
                        Self::of_dlpack(object, &export).map_err(|error| no_tensor(object, error))
                    }
                    None => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The memory of one object, or of a list of them, in order.
    pub(crate) fn all_of(object: &Bound<'_, PyAny>, purpose: Use) -> PyResult<Vec<Self>> {
        let several = object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>();
        if !several {
            return Ok(vec![Self::of(object, purpose)?]);
        }
        let regions: Vec<Self> = object
            .try_iter()?
            .map(|one| one.and_then(|one| Self::of(&one, purpose)))
            .collect::<PyResult<_>>()?;
        if regions.is_empty() {
            return Err(Failure::invalid("buffers: expected at least one segment, got none").into());
        }
        Ok(regions)
    }

    fn of_buffer(object: &Bound<'_, PyAny>, purpose: Use) -> PyResult<Self> {
        let py = object.py();
        let view = match View::get(object, purpose == Use::Sink) {
            Ok(view) => view,
            Err(error) if error.is_instance_of::<PyTypeError>(py) => {
                return Err(wrong_type("buffer", EXPECTED, object));
            }
            Err(_) if purpose == Use::Sink && View::get(object, false).is_ok() => {
                let name = object.get_type().name()?;
                let message = format!(
                    "the buffer ({name}) is read-only; a get needs writable memory, such as a \
                     bytearray"
                );
                return Err(Failure::invalid(message).into());
            }
            Err(error) => {
                let message = format!(
                    "the buffer cannot be used ({}); expected one stretch of memory in order: copy \
                     it first",
                    error.value(py)
                );
                return Err(Failure::invalid(message).into());
            }
        };
        let range = HostRange::of(&view).ok_or_else(empty)?;
        Ok(Self::new(Place::Host(range), Keep::Buffer(view)))
    }

    /// A tensor of torch, or what behaves like one.
    fn of_tensor(object: &Bound<'_, PyAny>, data_ptr: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let contiguous: bool = object.call_method0(intern!(py, "is_contiguous"))?.extract()?;
        if !contiguous {
            return Err(not_contiguous().into());
        }
        let device = object.getattr(intern!(py, "device"))?;
        let kind: String = device.getattr(intern!(py, "type"))?.extract()?;
        let index = device.getattr(intern!(py, "index"))?;
        let index = if index.is_none() { None } else { Some(numbers::device(&index)?) };
        let len = numbers::nbytes(&object.getattr(intern!(py, "nbytes"))?)?;
        let gpu = match kind.as_str() {
            "cpu" => None,
            "cuda" => Some(index.unwrap_or(0)),
            other => {
                let expected = "expected one on \"cpu\" or \"cuda\"";
                let message = format!("the tensor is on the device \"{other}\"; {expected}");
                return Err(Failure::invalid(message).into());
            }
        };
        let address = numbers::ptr(&data_ptr.call0()?)?;
        let mut region = Self::at(gpu, address, len, object)?;
        if let Some(gpu) = gpu {
            region.stream = torch_stream(py, gpu);
        }
        Ok(region)
    }

    fn of_dlpack(object: &Bound<'_, PyAny>, export: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let device = object.call_method0(intern!(py, "__dlpack_device__"))?;
        let (kind, _): (i32, i32) = device
            .extract()
            .map_err(|_| wrong_type("__dlpack_device__", "two numbers", &device))?;
        let capsule = match kind {
            // The default stream, as DLPack numbers it: what was asked of the tensor before comes first.
            dlpack::CUDA => {
                let options = pyo3::types::PyDict::new(py);
                options.set_item(intern!(py, "stream"), 1)?;
                export.call((), Some(&options))?
            }
            _ => export.call0()?,
        };
        let taken = dlpack::take(&capsule)?;
        let place = place(taken.gpu, taken.address, taken.len)?;
        let stream = taken.gpu.map(|_| 0);
        Ok(Self { stream, ..Self::new(place, Keep::Tensor(taken)) })
    }

    fn at(
        gpu: Option<usize>,
        address: u64,
        len: usize,
        owner: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        Ok(Self::new(place(gpu, address, len)?, Keep::Object(owner.clone().unbind())))
    }
}

fn place(gpu: Option<usize>, address: u64, len: usize) -> Result<Place, Failure> {
    if len == 0 {
        return Err(empty());
    }
    let gone = || {
        Failure::invalid(format!(
            "{len} bytes at address {address:#x}: the memory was freed, or never was; expected memory that \
             exists"
        ))
    };
    if address == 0 {
        return Err(gone());
    }
    match gpu {
        Some(gpu) => Ok(Place::Cuda { gpu, address, len }),
        None => {
            let range = usize::try_from(address).ok().and_then(|at| HostRange::told(at, len));
            Ok(Place::Host(range.ok_or_else(gone)?))
        }
    }
}

/// An object with some of what a tensor has, and not all: its own missing parts are the caller's wrong type.
fn no_tensor(object: &Bound<'_, PyAny>, error: PyErr) -> PyErr {
    let py = object.py();
    if !error.is_instance_of::<PyAttributeError>(py) {
        return error;
    }
    let wrong = wrong_type("buffer", EXPECTED, object);
    wrong.set_cause(py, Some(error));
    wrong
}

fn empty() -> Failure {
    Failure::invalid("the buffer has 0 bytes; expected at least 1")
}

fn not_contiguous() -> Failure {
    Failure::invalid(
        "the buffer is not contiguous; expected one stretch of memory in order: call contiguous() or copy it",
    )
}

/// The stream that torch uses for a GPU in this thread, if torch is loaded. It is never loaded by this.
fn torch_stream(py: Python<'_>, gpu: usize) -> Option<u64> {
    let modules = py.import(intern!(py, "sys")).ok()?.getattr(intern!(py, "modules")).ok()?;
    let torch = modules.get_item(intern!(py, "torch")).ok()?;
    let stream = torch.getattr("cuda").ok()?.call_method1("current_stream", (gpu,)).ok()?;
    stream.getattr("cuda_stream").ok()?.extract().ok()
}
