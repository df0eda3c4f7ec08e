use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gcos_hw::SharedMemory;

use super::{Known, MemoryKind, Played};
use crate::{CudaCall, GpuError};

/// What windows of a real GPU are multiples of.
const GRANULE_BYTES: usize = 2 << 20;

/// Memory of a played GPU.
#[derive(Debug)]
pub(crate) struct PlayedMemory {
    base: NonNull<u8>,
    len: usize,
    used_bytes: Arc<AtomicU64>,
    _known: Known,
    _pages: SharedMemory,
}

// SAFETY: the memory is reached through `SharedMemory` alone, which answers for it; the pointer is only its
// address.
unsafe impl Send for PlayedMemory {}
// SAFETY: as above.
unsafe impl Sync for PlayedMemory {}

impl PlayedMemory {
    /// Takes `len` bytes, rounded up to 2 MiB and aligned to it.
    pub(crate) fn new(gpu: &Played, len: usize) -> Result<Self, GpuError> {
        let ordinal = gpu.options().ordinal;
        let rounded = len.checked_next_multiple_of(GRANULE_BYTES).filter(|&n| n > 0);
        let room = rounded.and_then(|len| len.checked_add(GRANULE_BYTES));
        let (Some(len), Some(room)) = (rounded, room) else {
            return Err(GpuError::Invalid {
                ordinal,
                what: "length of GPU memory",
                expected: "1 byte or more, below the address space",
                got: len as u64,
            });
        };
        let take = |used: u64| {
            used.checked_add(len as u64).filter(|&after| after <= gpu.options().memory_bytes)
        };
        let taken = gpu.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.map_err(|_| GpuError::Cuda {
            ordinal,
            source: CudaCall {
                call: "cuMemCreate",
                name: "CUDA_ERROR_OUT_OF_MEMORY".to_owned(),
                text: "the played GPU has no more".to_owned(),
            },
        })?;
        let give_back = || {
            gpu.used_bytes.fetch_sub(len as u64, Ordering::Relaxed);
        };
        let pages = SharedMemory::anonymous(room).map_err(|source| {
            give_back();
            GpuError::Memory { ordinal, source }
        })?;
        let base = pages.address().next_multiple_of(GRANULE_BYTES) as *mut u8;
        let Some(base) = NonNull::new(base) else {
            give_back();
            let what = "address of GPU memory";
            return Err(GpuError::Invalid { ordinal, what, expected: "not 0", got: 0 });
        };
        let known = Known::new(gpu, base.as_ptr() as u64, len, MemoryKind::Device);
        let used_bytes = Arc::clone(&gpu.used_bytes);
        Ok(Self { base, len, used_bytes, _known: known, _pages: pages })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for PlayedMemory {
    fn drop(&mut self) {
        self.used_bytes.fetch_sub(self.len as u64, Ordering::Relaxed);
    }
}
