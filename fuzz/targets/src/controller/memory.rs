//! What a device reaches: the memory that is mapped at the moment, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use gcos_hw::{DmaMapper, HwError, SharedMemory};
use parking_lot::Mutex;

/// Mappings by address.
#[derive(Debug, Default)]
pub struct Mapped(Mutex<BTreeMap<u64, Arc<SharedMemory>>>);

impl Mapped {
    /// Number of mappings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether nothing is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn at(&self, iova: u64, len: usize) -> Option<(Arc<SharedMemory>, usize)> {
        let mappings = self.0.lock();
        let (start, memory) = mappings.range(..=iova).next_back()?;
        let offset = usize::try_from(iova - start).ok()?;
        let fits = offset.checked_add(len).is_some_and(|end| end <= memory.len());
        fits.then(|| (Arc::clone(memory), offset))
    }

    /// Copies bytes out; zeros where nothing is mapped.
    pub(super) fn read<const N: usize>(&self, iova: u64) -> [u8; N] {
        let mut out = [0; N];
        if let Some((memory, offset)) = self.at(iova, N) {
            memory.read(offset, &mut out).unwrap();
        }
        out
    }

    /// Copies bytes in: whether they were all mapped. If not, nothing is written.
    pub fn write(&self, iova: u64, bytes: &[u8]) -> bool {
        let Some((memory, offset)) = self.at(iova, bytes.len()) else { return false };
        memory.write(offset, bytes).is_ok()
    }

    /// Writes a completion entry, the word with the phase tag last.
    pub(super) fn complete(&self, iova: u64, entry: [u32; 4]) {
        use std::sync::atomic::Ordering;
        let Some((memory, offset)) = self.at(iova, 16).filter(|_| iova.is_multiple_of(4)) else {
            return;
        };
        for (i, word) in entry.into_iter().enumerate() {
            memory.store_u32(offset + 4 * i, word.to_le(), Ordering::Release).unwrap();
        }
    }
}

impl DmaMapper for Mapped {
    fn map(&self, iova: u64, memory: &Arc<SharedMemory>) -> Result<(), HwError> {
        let before = self.0.lock().insert(iova, Arc::clone(memory));
        assert!(before.is_none(), "mapped twice at {iova:#x}");
        Ok(())
    }

    fn unmap(&self, iova: u64, len: usize) -> Result<(), HwError> {
        let memory = self.0.lock().remove(&iova);
        assert_eq!(memory.map(|memory| memory.len()), Some(len), "unmapped what was not mapped");
        Ok(())
    }
}
