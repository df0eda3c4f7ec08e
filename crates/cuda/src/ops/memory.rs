use std::sync::Arc;

use parking_lot::Mutex;

use crate::range::{Hold, within};
use crate::{Gpu, GpuError, GpuRange};

/// A range of memory that an operation works on, and what keeps it alive.
#[derive(Debug)]
pub struct Memory {
    gpu: Arc<Gpu>,
    address: u64,
    len: usize,
    /// Nothing looks into it: it is there to be dropped. Locked, so that threads may share the rest.
    _hold: Option<Mutex<Hold>>,
}

impl Memory {
    /// A range of device memory, of pinned host memory, or of somebody else's.
    pub fn of(range: &impl GpuRange) -> Self {
        Self {
            gpu: Arc::clone(range.gpu()),
            address: range.device_address(),
            len: range.len(),
            _hold: range.hold().map(Mutex::new),
        }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// Address of `len` bytes at `offset`.
    pub(super) fn at(&self, offset: u64, len: u64) -> Result<u64, GpuError> {
        let narrow = |value| usize::try_from(value).unwrap_or(usize::MAX);
        within(&self.gpu, (self.address, self.len), narrow(offset), narrow(len))
    }

    /// Refuses memory of another GPU.
    pub(super) fn is_of(&self, gpu: &Gpu) -> Result<(), GpuError> {
        if self.gpu.same(gpu) {
            return Ok(());
        }
        Err(GpuError::Invalid {
            ordinal: gpu.ordinal(),
            what: "GPU of the memory of an operation",
            expected: "that of the kernels",
            got: self.gpu.ordinal() as u64,
        })
    }
}

/// The memory that a run names by its index.
pub(super) fn named<'a>(
    gpu: &Gpu,
    memories: &'a [Memory],
    index: u32,
) -> Result<&'a Memory, GpuError> {
    memories.get(index as usize).ok_or_else(|| GpuError::Invalid {
        ordinal: gpu.ordinal(),
        what: "memory that a run names",
        expected: "an index into the memory that was handed over",
        got: u64::from(index),
    })
}
