use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gcos_hw::{DmaMapper, DmaSpace, HwError, SharedMemory};

/// Counts the memory that is mapped for devices: an allocator does not see it.
#[derive(Debug, Default)]
pub struct Counted {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Counted {
    /// A space whose memory is counted.
    ///
    /// # Errors
    /// [`HwError`] never; it is passed on all the same.
    pub fn space() -> Result<(Arc<Self>, Arc<DmaSpace>), HwError> {
        let counted = Arc::new(Self::default());
        let usable = 0x10_0000..0x100_0000_0000;
        let mapper: Arc<dyn DmaMapper> = Arc::clone(&counted) as _;
        let space = DmaSpace::new(mapper, std::slice::from_ref(&usable))?;
        Ok((counted, space))
    }

    /// Most bytes that were mapped at once.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

impl DmaMapper for Counted {
    fn map(&self, _iova: u64, memory: &Arc<SharedMemory>) -> Result<(), HwError> {
        let now = self.now.fetch_add(memory.len(), Ordering::SeqCst) + memory.len();
        self.most.fetch_max(now, Ordering::SeqCst);
        Ok(())
    }

    fn unmap(&self, _iova: u64, len: usize) -> Result<(), HwError> {
        self.now.fetch_sub(len, Ordering::SeqCst);
        Ok(())
    }
}
