//! Memory of the interpreter and of other libraries. All that the compiler cannot check about it is here.

pub(crate) mod dlpack;

use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::Arc;

use gcos::engine::device::{Gpu, GpuError, Stream};
use gcos::hw::{HwError, PAGE_BYTES, SharedMemory};
use pyo3::prelude::*;
use pyo3::{ffi, types::PyAny};

/// A view of the memory of a Python object, which the object keeps in place until this is dropped.
///
/// `pyo3::buffer` wants more of an object than a range of bytes: shapes and strides, which ctypes leaves out.
pub(crate) struct View {
    // In a box: objects may point into it.
    view: Box<ffi::Py_buffer>,
}

// SAFETY: it is used for its address and its length, and released with the interpreter attached.
unsafe impl Send for View {}
// SAFETY: as above; nothing in it changes.
unsafe impl Sync for View {}

impl View {
    /// All bytes of an object, in order. Objects whose bytes are not one stretch refuse.
    pub(crate) fn get(object: &Bound<'_, PyAny>, writable: bool) -> PyResult<Self> {
        let flags = if writable { ffi::PyBUF_WRITABLE } else { ffi::PyBUF_SIMPLE };
        let mut view = Box::new(ffi::Py_buffer::new());
        // SAFETY: the view is fresh, and stays where it is until it is released.
        match unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut *view, flags) } {
            0 => Ok(Self { view }),
            _ => Err(PyErr::fetch(object.py())),
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // Without the interpreter its objects are gone, and this one with them.
        let _ = Python::try_attach(|_| {
            // SAFETY: it was filled by `PyObject_GetBuffer`, and is released once.
            unsafe { ffi::PyBuffer_Release(&raw mut *self.view) }
        });
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("len", &self.view.len).finish_non_exhaustive()
    }
}

/// Bytes of host memory that a Python object owns.
#[derive(Debug)]
pub(crate) struct HostRange {
    address: NonNull<u8>,
    len: usize,
}

// SAFETY: it is an address; the memory belongs to no thread.
unsafe impl Send for HostRange {}
// SAFETY: as above.
unsafe impl Sync for HostRange {}

impl HostRange {
    /// The range of a view; `None` if there are no bytes.
    pub(crate) fn of(view: &View) -> Option<Self> {
        let address = NonNull::new(view.view.buf.cast::<u8>())?;
        let len = usize::try_from(view.view.len).ok().filter(|len| *len > 0)?;
        Some(Self { address, len })
    }

    /// The range at an address that its owner told. `None` for address 0 and ranges that wrap around.
    pub(crate) fn told(address: usize, len: usize) -> Option<Self> {
        address.checked_add(len).filter(|end| *end <= isize::MAX as usize)?;
        let address = NonNull::new(std::ptr::with_exposed_provenance_mut(address))?;
        Some(Self { address, len })
    }

    pub(crate) fn address(&self) -> usize {
        self.address.as_ptr().expose_provenance()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The bytes, for a put.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the owner said that the range is readable, and is kept alive beside `self`. Nobody changes
        // it during the call: that is the contract of every call that takes a buffer (docs/python.md).
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.len) }
    }

    /// The bytes, for a get.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the owner said that the range is writable, and is kept alive beside `self`. Ranges of one
        // call do not overlap, which is checked; nobody else uses it during the call, by its contract.
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), self.len) }
    }

    /// The whole pages inside, if there are any.
    pub(crate) fn whole_pages(&self) -> Option<Self> {
        let start = self.address().checked_next_multiple_of(PAGE_BYTES)?;
        let end = (self.address() + self.len) / PAGE_BYTES * PAGE_BYTES;
        Self::told(start, end.checked_sub(start).filter(|len| *len > 0)?)
    }

    /// As memory that drives can be made to reach, for a range of whole pages. `owner` keeps it until it is dropped.
    pub(crate) fn lend(&self, owner: Arc<dyn Send + Sync>) -> Result<SharedMemory, HwError> {
        // SAFETY: the range stays as long as its owner, which is handed over. No reference into it exists but
        // during calls that were handed the same memory, whose contract forbids it.
        unsafe { SharedMemory::lent(self.address, self.len, owner) }
    }
}

/// The stream of another library, by its number.
pub(crate) fn stream(gpu: &Arc<Gpu>, raw: u64) -> Result<Stream, GpuError> {
    // SAFETY: whoever gave the number keeps the stream until the call has ended (docs/python.md); objects that
    // it was taken from are kept alive by the call.
    unsafe { Stream::borrow(gpu, raw) }
}

/// Answers a request for the buffer of `owner`: `len` writable bytes at `address`.
pub(crate) fn fill_view(
    view: *mut ffi::Py_buffer,
    owner: &Bound<'_, PyAny>,
    (address, len): (usize, usize),
    flags: c_int,
) -> PyResult<()> {
    let len = ffi::Py_ssize_t::try_from(len).unwrap_or(ffi::Py_ssize_t::MAX);
    let start = std::ptr::with_exposed_provenance_mut(address);
    // SAFETY: the interpreter handed over a view to fill in; the memory lives as long as `owner`, of which the
    // view gets a reference.
    let filled = unsafe { ffi::PyBuffer_FillInfo(view, owner.as_ptr(), start, len, 0, flags) };
    if filled == 0 { Ok(()) } else { Err(PyErr::fetch(owner.py())) }
}
