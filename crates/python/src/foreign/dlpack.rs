//! DLPack: tensors of other libraries without a copy, in both directions.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::error::Failure;

/// Kinds of devices, as DLPack numbers them.
pub(crate) const CPU: i32 = 1;
pub(crate) const CUDA: i32 = 2;
const CUDA_HOST: i32 = 3;

/// Name of a capsule that nobody has taken, and of one that somebody has.
const FRESH: &CStr = c"dltensor";
const USED: &CStr = c"used_dltensor";

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Device {
    kind: i32,
    id: i32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[derive(Debug)]
#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device: Device,
    dimensions: i32,
    kind: DataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[derive(Debug)]
#[repr(C)]
struct Managed {
    tensor: Tensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

/// A tensor that was taken over from another library. It goes back when this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    managed: NonNull<Managed>,
    pub(crate) address: u64,
    pub(crate) len: usize,
    /// Number of the GPU, `None` for the host.
    pub(crate) gpu: Option<usize>,
}

// SAFETY: DLPack lets a consumer call the deleter on any thread; nothing else of it is used after it was made.
unsafe impl Send for Taken {}
// SAFETY: as above.
unsafe impl Sync for Taken {}

impl Drop for Taken {
    fn drop(&mut self) {
        let managed = self.managed.as_ptr();
        // Deleters of Python libraries want the interpreter; without it the memory is gone with the process.
        let _ = Python::try_attach(|_| {
            // SAFETY: it was taken over from its capsule, which was renamed, so nobody else deletes it.
            unsafe {
                if let Some(delete) = (*managed).deleter {
                    delete(managed);
                }
            }
        });
    }
}

/// Takes over what `__dlpack__` has returned.
pub(crate) fn take(capsule: &Bound<'_, PyAny>) -> PyResult<Taken> {
    let py = capsule.py();
    // SAFETY: both calls look at the type of the object, and set an exception where it is no such capsule.
    let pointer = unsafe { ffi::PyCapsule_GetPointer(capsule.as_ptr(), FRESH.as_ptr()) };
    let Some(managed) = NonNull::new(pointer.cast::<Managed>()) else {
        let error = PyErr::fetch(py);
        return Err(PyTypeError::new_err(format!("buffer: expected a DLPack capsule: {error}")));
    };
    // SAFETY: as above; the name is static, as the capsule wants it.
    if unsafe { ffi::PyCapsule_SetName(capsule.as_ptr(), USED.as_ptr()) } != 0 {
        return Err(PyErr::fetch(py));
    }
    let mut taken = Taken { managed, address: 0, len: 0, gpu: None };
    // SAFETY: the capsule says that this is a managed tensor; it lives until its deleter is called.
    let tensor = unsafe { &managed.as_ref().tensor };
    taken.gpu = match tensor.device.kind {
        CPU | CUDA_HOST => None,
        CUDA => Some(usize::try_from(tensor.device.id).unwrap_or(usize::MAX)),
        kind => {
            let expected = "expected memory of the host (1, 3) or of a CUDA GPU (2)";
            return Err(Failure::invalid(format!("DLPack device type {kind}: {expected}")).into());
        }
    };
    taken.len = length(tensor)?;
    taken.address = (tensor.data.expose_provenance() as u64).wrapping_add(tensor.byte_offset);
    Ok(taken)
}

/// Length in bytes of a tensor that must lie in one stretch, in order.
fn length(tensor: &Tensor) -> Result<usize, Failure> {
    let count = usize::try_from(tensor.dimensions).unwrap_or(0);
    if count > 0 && tensor.shape.is_null() {
        return Err(Failure::invalid("DLPack: a tensor with dimensions and without a shape"));
    }
    let bits = usize::from(tensor.kind.bits) * usize::from(tensor.kind.lanes);
    let mut elements: i64 = 1;
    for at in (0..count).rev() {
        // SAFETY: shape, and strides where they are given, have one number for each dimension.
        let (size, stride) = unsafe {
            let strides = NonNull::new(tensor.strides);
            (*tensor.shape.add(at), strides.map(|strides| *strides.as_ptr().add(at)))
        };
        if size > 1 && stride.is_some_and(|stride| stride != elements) {
            return Err(Failure::invalid(
                "the tensor is not contiguous; expected one stretch of memory in order: copy it first",
            ));
        }
        elements = elements.checked_mul(size).filter(|n| *n >= 0).ok_or_else(too_large)?;
    }
    let bits = usize::try_from(elements).ok().and_then(|n| n.checked_mul(bits));
    Ok(bits.ok_or_else(too_large)?.div_ceil(8))
}

fn too_large() -> Failure {
    Failure::invalid("DLPack: a shape that no memory has")
}

/// A tensor that was handed out, with what it needs.
struct Export {
    // First: other libraries see a pointer to it.
    managed: Managed,
    shape: i64,
    stride: i64,
    owner: Option<Py<PyAny>>,
}

unsafe extern "C" fn delete(managed: *mut Managed) {
    // SAFETY: the context is the box that `give` made, and a deleter is called once.
    let mut export = unsafe { Box::from_raw((*managed).context.cast::<Export>()) };
    let owner = export.owner.take();
    if Python::try_attach(|_| ()).is_some() {
        Python::attach(|_| drop(owner));
    } else {
        // The interpreter is gone, and all its objects.
        std::mem::forget(owner);
    }
}

unsafe extern "C" fn drop_capsule(capsule: *mut ffi::PyObject) {
    // SAFETY: the interpreter calls this with a capsule of `give`; one that was taken has another name.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, FRESH.as_ptr()) == 1 {
            let managed = ffi::PyCapsule_GetPointer(capsule, FRESH.as_ptr()).cast::<Managed>();
            delete(managed);
        }
    }
}

/// A capsule for `len` bytes at `address`, on a GPU or the host, which live as long as `owner`.
pub(crate) fn give<'py>(
    owner: &Bound<'py, PyAny>,
    (address, len): (u64, usize),
    gpu: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = owner.py();
    let device = match gpu {
        None => Device { kind: CPU, id: 0 },
        Some(id) => Device { kind: CUDA, id: i32::try_from(id).unwrap_or(i32::MAX) },
    };
    let address = usize::try_from(address).unwrap_or_default();
    let tensor = Tensor {
        data: std::ptr::with_exposed_provenance_mut(address),
        device,
        dimensions: 1,
        // Unsigned, 8 bits.
        kind: DataType { code: 1, bits: 8, lanes: 1 },
        shape: std::ptr::null_mut(),
        strides: std::ptr::null_mut(),
        byte_offset: 0,
    };
    let export = Box::into_raw(Box::new(Export {
        managed: Managed { tensor, context: std::ptr::null_mut(), deleter: Some(delete) },
        shape: i64::try_from(len).unwrap_or(i64::MAX),
        stride: 1,
        owner: Some(owner.clone().unbind()),
    }));
    // SAFETY: the box was just made and has no other user. Its own fields are pointed at, and it does not move
    // before it is dropped.
    unsafe {
        (*export).managed.tensor.shape = &raw mut (*export).shape;
        (*export).managed.tensor.strides = &raw mut (*export).stride;
        (*export).managed.context = export.cast();
        let pointer = (&raw mut (*export).managed).cast::<c_void>();
        let capsule = ffi::PyCapsule_New(pointer, FRESH.as_ptr(), Some(drop_capsule));
        if capsule.is_null() {
            drop(Box::from_raw(export));
        }
        Bound::from_owned_ptr_or_err(py, capsule)
    }
}
