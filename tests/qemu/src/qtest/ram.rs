//! The machine's RAM: a file that QEMU and this process both map.

use std::fs::File;
use std::sync::Arc;

use gcos_hw::{DmaMapper, DmaSpace, HwError, PAGE_BYTES, SharedMemory};

/// Size of the machine's RAM.
pub(crate) const RAM_BYTES: u64 = 192 << 20;

/// Where DMA buffers begin: below are the words that interrupts write, and what a PC keeps low.
const DMA_START: u64 = 16 << 20;

/// Where the pages of interrupt words begin.
const WORDS_START: u64 = 1 << 20;

/// RAM by its file. Devices reach all of it all the time, so mapping is a matter of addresses only.
#[derive(Debug)]
pub(crate) struct Ram {
    file: File,
}

impl Ram {
    pub(crate) fn new(file: File) -> Arc<Self> {
        Arc::new(Self { file })
    }

    /// The address space of all devices of the machine.
    pub(crate) fn space(self: &Arc<Self>) -> Result<Arc<DmaSpace>, HwError> {
        DmaSpace::new(Arc::<Self>::clone(self), std::slice::from_ref(&(DMA_START..RAM_BYTES)))
    }

    /// A page of words for the interrupts of the function of this index, and its address.
    pub(crate) fn words(&self, index: usize) -> Result<(SharedMemory, u64), HwError> {
        let address = WORDS_START + (index * PAGE_BYTES) as u64;
        Ok((SharedMemory::of_file(&self.file, address, PAGE_BYTES)?, address))
    }
}

impl DmaMapper for Ram {
    fn memory(&self, iova: u64, len: usize) -> Result<Arc<SharedMemory>, HwError> {
        let memory = SharedMemory::of_file(&self.file, iova, len)?;
        // What an earlier buffer left there.
        memory.fill(0, len, 0)?;
        Ok(Arc::new(memory))
    }

    fn map(&self, iova: u64, memory: &Arc<SharedMemory>) -> Result<(), HwError> {
        let end = iova.checked_add(memory.len() as u64);
        if end.is_some_and(|end| end <= RAM_BYTES) {
            return Ok(());
        }
        let reason = format!("the machine has {RAM_BYTES} bytes of RAM");
        Err(HwError::Map { iova, len: memory.len(), reason })
    }

    fn unmap(&self, _iova: u64, _len: usize) -> Result<(), HwError> {
        Ok(())
    }
}
