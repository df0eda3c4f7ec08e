use std::sync::Arc;

use crate::{DmaMapper, DmaSpace, HwError, SharedMemory};

/// Addresses that buffers of a space of host memory are given, in bytes: none near 0, so that a zeroed
/// address is never a good one.
const ADDRESSES: std::ops::Range<u64> = 1 << 32..1 << 47;

/// Nothing has to be mapped where the kernel moves the bytes.
#[derive(Debug)]
struct Unmapped;

impl DmaMapper for Unmapped {
    fn map(&self, _iova: u64, memory: &Arc<SharedMemory>) -> Result<(), HwError> {
        // On kernels before 6.5, after a fork in the middle of a direct read the parent's first store
        // went to a copy of the page, and what was read to the other.
        memory.keep_from_children();
        Ok(())
    }

    fn unmap(&self, _iova: u64, _len: usize) -> Result<(), HwError> {
        Ok(())
    }
}

/// A space of plain host memory, for engines that hand memory to the kernel and need no I/O virtual
/// addresses. No device reaches its buffers by their addresses.
///
/// # Errors
/// [`HwError`], as from [`DmaSpace::new`].
pub fn host_space() -> Result<Arc<DmaSpace>, HwError> {
    DmaSpace::new(Arc::new(Unmapped), &[ADDRESSES])
}
