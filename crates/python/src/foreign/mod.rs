//! Memory of the interpreter and of other libraries. All that the compiler cannot check about it is here.

pub(crate) mod dlpack;

use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::Arc;

use gcos::engine::device::{Gpu, GpuError, Stream};
use gcos::hw::{HwError, PAGE_BYTES, SharedMemory};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;
use pyo3::{ffi, types::PyAny};

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
    /// The range of a buffer of Python.
    pub(crate) fn of_buffer(buffer: &PyUntypedBuffer) -> Option<Self> {
        let address = NonNull::new(buffer.buf_ptr().cast::<u8>())?;
        Some(Self { address, len: buffer.len_bytes() })
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
