use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

use cudarc::driver::sys;

use crate::{Gpu, GpuError};

/// GPU memory of CUDA's virtual memory management: it can be exported, which memory of `cuMemAlloc`
/// cannot.
#[derive(Debug)]
pub(crate) struct VmmMemory {
    gpu: Arc<Gpu>,
    handle: sys::CUmemGenericAllocationHandle,
    address: sys::CUdeviceptr,
    len: usize,
}

const POSIX_FD: sys::CUmemAllocationHandleType =
    sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;

fn location(gpu: &Gpu) -> sys::CUmemLocation {
    sys::CUmemLocation {
        type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
        id: i32::try_from(gpu.ordinal()).unwrap_or(i32::MAX),
    }
}

fn properties(gpu: &Gpu) -> sys::CUmemAllocationProp {
    sys::CUmemAllocationProp {
        type_: sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        requestedHandleTypes: POSIX_FD,
        location: location(gpu),
        win32HandleMetaData: std::ptr::null_mut(),
        allocFlags: sys::CUmemAllocationProp_st__bindgen_ty_1 {
            compressionType: 0,
            gpuDirectRDMACapable: 1,
            usage: 0,
            reserved: [0; 4],
        },
    }
}

impl VmmMemory {
    /// Takes `len` bytes, rounded up to the GPU's granularity (2 MiB), and maps them in CUDA's address
    /// space. They hold whatever was there before.
    pub(crate) fn new(gpu: &Arc<Gpu>, len: usize) -> Result<Self, GpuError> {
        let properties = properties(gpu);
        let mut granularity = 0;
        let minimum = sys::CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
        gpu.call("cuMemGetAllocationGranularity", || {
            // SAFETY: both pointers are to live values of the right types.
            unsafe { sys::cuMemGetAllocationGranularity(&mut granularity, &properties, minimum) }
        })?;
        let rounded = len.checked_next_multiple_of(granularity.max(1)).filter(|&n| n > 0);
        let len = rounded.ok_or(GpuError::Invalid {
            ordinal: gpu.ordinal(),
            what: "length of GPU memory",
            expected: "1 byte or more, below the address space",
            got: len as u64,
        })?;
        let mut memory = Self { gpu: Arc::clone(gpu), handle: 0, address: 0, len };
        gpu.call("cuMemCreate", || {
            // SAFETY: as above.
            unsafe { sys::cuMemCreate(&mut memory.handle, len, &properties, 0) }
        })?;
        gpu.call("cuMemAddressReserve", || {
            // SAFETY: as above; CUDA chooses the address.
            unsafe { sys::cuMemAddressReserve(&mut memory.address, len, 0, 0, 0) }
        })?;
        gpu.call("cuMemMap", || {
            // SAFETY: the range was reserved just now, for this handle's length.
            unsafe { sys::cuMemMap(memory.address, len, 0, memory.handle, 0) }
        })?;
        let access = sys::CUmemAccessDesc {
            location: location(gpu),
            flags: sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        gpu.call("cuMemSetAccess", || {
            // SAFETY: the range is mapped; one descriptor is given.
            unsafe { sys::cuMemSetAccess(memory.address, len, &access, 1) }
        })?;
        Ok(memory)
    }

    /// Address of the first byte for the GPU.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A descriptor that stands for the memory.
    pub(crate) fn export(&self) -> Result<OwnedFd, GpuError> {
        let mut fd: std::ffi::c_int = -1;
        self.gpu.call("cuMemExportToShareableHandle", || {
            let out: *mut std::ffi::c_int = &mut fd;
            // SAFETY: for this type of handle CUDA writes one int.
            unsafe { sys::cuMemExportToShareableHandle(out.cast(), self.handle, POSIX_FD, 0) }
        })?;
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

impl Drop for VmmMemory {
    fn drop(&mut self) {
        let end = |call, wanted: bool, f: &mut dyn FnMut() -> sys::CUresult| {
            if wanted && let Err(error) = self.gpu.call(call, f) {
                tracing::error!(%error, len = self.len, "GPU memory was not freed");
            }
        };
        let (address, len, handle) = (self.address, self.len, self.handle);
        // A range that was reserved and never mapped refuses the unmap; the rest is freed all the same.
        // SAFETY: the range and the handle are ours, and nothing refers to them any more.
        end("cuMemUnmap", address != 0, &mut || unsafe { sys::cuMemUnmap(address, len) });
        // SAFETY: as above.
        end("cuMemAddressFree", address != 0, &mut || unsafe {
            sys::cuMemAddressFree(address, len)
        });
        // SAFETY: as above.
        end("cuMemRelease", handle != 0, &mut || unsafe { sys::cuMemRelease(handle) });
    }
}
