use std::any::Any;
use std::sync::Arc;

use crate::{Gpu, GpuError};

/// What keeps memory alive.
pub type Hold = Box<dyn Any + Send>;

pub(crate) mod sealed {
    /// Only this crate knows what a GPU reaches.
    pub trait Sealed {}
}

/// A range of memory that the GPU reaches: [`crate::DeviceSlice`], [`crate::PinnedSlice`],
/// [`crate::ForeignMemory`].
pub trait GpuRange: sealed::Sealed {
    /// The GPU.
    fn gpu(&self) -> &Arc<Gpu>;

    /// Address of the first byte for the GPU.
    fn device_address(&self) -> u64;

    /// Length in bytes.
    fn len(&self) -> usize;

    /// Whether the length is 0.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What keeps the memory alive; `None` for memory of others.
    fn hold(&self) -> Option<Hold>;
}

/// Address of `len` bytes at `offset` of a range.
pub(crate) fn within(
    gpu: &Gpu,
    (base, size): (u64, usize),
    offset: usize,
    len: usize,
) -> Result<u64, GpuError> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(base + offset as u64),
        _ => {
            let source = gcos_hw::OutOfBounds { offset, len, size };
            Err(GpuError::OutOfBounds { ordinal: gpu.ordinal(), source })
        }
    }
}
