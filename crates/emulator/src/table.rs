//! The controller's view of memory: I/O virtual addresses that are mapped, and nothing else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gcos_hw::{DmaMapper, DmaSpace, HwError, LineLoads, PAGE_BYTES, SharedMemory, order_stores};
use parking_lot::RwLock;

use crate::transfer::Transfer;

/// Addresses that [`IovaTable::space`] hands out. They lie below every address that Linux gives to
/// a process, so that a process address that is taken for an I/O virtual address faults.
const USABLE: std::ops::Range<u64> = 0x1_0000_0000..0x100_0000_0000;

/// How long [`IovaTable::unmap`](DmaMapper::unmap) waits for transfers that use the memory.
const UNMAP_TIMEOUT: Duration = Duration::from_secs(30);

/// An access to an address that is not mapped, or that runs past the end of its mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no memory is mapped at I/O virtual address {iova:#x}")]
pub struct Unmapped {
    /// First address of the access that is not mapped.
    pub iova: u64,
}

/// Memory at an I/O virtual address. Whoever holds one keeps `unmap` waiting.
#[derive(Debug)]
pub(crate) struct Mapping {
    pub(crate) iova: u64,
    pub(crate) memory: Arc<SharedMemory>,
}

impl Mapping {
    fn end(&self) -> u64 {
        self.iova + self.memory.len() as u64
    }

    /// Offset of `iova` in the memory and the bytes from there to its end.
    pub(crate) fn locate(&self, iova: u64) -> Option<(usize, usize)> {
        let offset = usize::try_from(iova.checked_sub(self.iova)?).ok()?;
        let left = self.memory.len().checked_sub(offset)?;
        (left > 0).then_some((offset, left))
    }
}

/// I/O virtual address → memory, as an IOMMU would hold it.
///
/// Controllers reach memory only through this table. Several controllers may share one: they then
/// reach the same memory at the same addresses.
#[derive(Debug)]
pub struct IovaTable {
    /// Sorted by address, never overlapping.
    mappings: RwLock<Vec<Arc<Mapping>>>,
    /// How entries are fetched from other devices' memory.
    loads: LineLoads,
}

impl IovaTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { mappings: RwLock::default(), loads: LineLoads::widest() })
    }

    /// An address space over this table, with addresses that are no process addresses.
    ///
    /// # Errors
    /// [`HwError::Invalid`] never happens with the built-in range; it is passed on all the same.
    pub fn space(self: &Arc<Self>) -> Result<Arc<DmaSpace>, HwError> {
        let mapper: Arc<dyn DmaMapper> = Arc::clone(self) as _;
        DmaSpace::new(mapper, std::slice::from_ref(&USABLE))
    }

    /// Number of mappings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mappings.read().len()
    }

    /// Whether nothing is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `out.len()` bytes at `iova` out.
    pub(crate) fn read(&self, iova: u64, out: &mut [u8]) -> Result<(), Unmapped> {
        let mut done = 0;
        self.visit(iova, out.len(), |mapping, offset, len| {
            let Some(part) = out.get_mut(done..done + len) else { return false };
            done += len;
            mapping.memory.read(offset, part).is_ok()
        })
    }

    /// Copies `bytes` to `iova`. Nothing is written unless all of it is mapped.
    #[cfg(test)]
    pub(crate) fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), Unmapped> {
        let mut done = 0;
        self.visit(iova, bytes.len(), |mapping, offset, len| {
            let Some(part) = bytes.get(done..done + len) else { return false };
            done += len;
            mapping.memory.write(offset, part).is_ok()
        })
    }

    /// Adds `len` bytes at `iova` to a transfer, which keeps the memory mapped from then on.
    pub(crate) fn pin(
        &self,
        iova: u64,
        len: usize,
        transfer: &mut Transfer,
    ) -> Result<(), Unmapped> {
        // Pages of one buffer follow each other: the last mapping usually fits, without the lock.
        if transfer.extend_in_last(iova, len) {
            return Ok(());
        }
        self.visit(iova, len, |mapping, offset, len| {
            transfer.push(mapping, offset, len);
            true
        })
    }

    /// Copies whole submission queue entries out, by the widest loads where the memory is another
    /// device's.
    pub(crate) fn fetch_entries(&self, iova: u64, out: &mut [u8]) -> Result<(), Unmapped> {
        let mut done = 0;
        self.visit(iova, out.len(), |mapping, offset, len| {
            let Some(part) = out.get_mut(done..done + len) else { return false };
            done += len;
            match mapping.memory.is_foreign() {
                true => mapping.memory.read_lines(self.loads, offset, part).is_ok(),
                false => mapping.memory.read(offset, part).is_ok(),
            }
        })
    }

    /// Stores a 16-byte queue entry at a multiple of 16. The second half becomes visible after the
    /// first: it holds the phase tag.
    pub(crate) fn store_entry(&self, iova: u64, first: u64, second: u64) -> Result<(), Unmapped> {
        self.visit(iova, 16, |mapping, offset, _| {
            let gathered = mapping.memory.is_foreign();
            if gathered {
                // Data before the entry.
                order_stores();
            }
            let low = mapping.memory.store_u64(offset, first, Ordering::Relaxed);
            if gathered {
                // Write-combining memory has no order but this.
                order_stores();
            }
            let high = if gathered {
                mapping.memory.store_u64(offset + 8, second, Ordering::Release)
            } else {
                // The phase tag by a store of the width that it is loaded by: accesses of different
                // widths order nothing in the language's memory model.
                let [third, fourth] = [second as u32, (second >> 32) as u32];
                let third = mapping.memory.store_u32(offset + 8, third, Ordering::Relaxed);
                third.and(mapping.memory.store_u32(offset + 12, fourth, Ordering::Release))
            };
            if gathered {
                // Without it the entry may stay in the processor until something else pushes it out.
                order_stores();
            }
            low.is_ok() && high.is_ok()
        })
    }

    /// Loads a 32-bit word at a multiple of 4.
    pub(crate) fn load_word(&self, iova: u64) -> Result<u32, Unmapped> {
        let mut word = 0;
        self.visit(iova, 4, |mapping, offset, _| {
            let loaded = mapping.memory.load_u32(offset, Ordering::Acquire);
            word = u32::from_le(loaded.unwrap_or(0));
            loaded.is_ok()
        })?;
        Ok(word)
    }

    /// Stores a 32-bit word at a multiple of 4.
    pub(crate) fn store_word(&self, iova: u64, word: u32) -> Result<(), Unmapped> {
        self.visit(iova, 4, |mapping, offset, _| {
            mapping.memory.store_u32(offset, word.to_le(), Ordering::Release).is_ok()
        })
    }

    /// Calls `f` with each piece of the range, after having checked that all of it is mapped. The
    /// table is locked for reading meanwhile, so `unmap` waits for what `f` does.
    fn visit(
        &self,
        iova: u64,
        len: usize,
        mut f: impl FnMut(&Arc<Mapping>, usize, usize) -> bool,
    ) -> Result<(), Unmapped> {
        let table = self.mappings.read();
        let first = table.partition_point(|mapping| mapping.end() <= iova);
        let end = iova.checked_add(len as u64).ok_or(Unmapped { iova })?;
        let mut covered = iova;
        for mapping in table.iter().skip(first) {
            if covered >= end || mapping.iova > covered {
                break;
            }
            covered = mapping.end();
        }
        if covered < end {
            return Err(Unmapped { iova: covered });
        }
        let (mut at, mut left) = (iova, len);
        for mapping in table.iter().skip(first) {
            if left == 0 {
                break;
            }
            let (offset, room) = mapping.locate(at).ok_or(Unmapped { iova: at })?;
            let part = room.min(left);
            if !f(mapping, offset, part) {
                return Err(Unmapped { iova: at });
            }
            at += part as u64;
            left -= part;
        }
        Ok(())
    }
}

fn refused(iova: u64, len: usize, reason: &str) -> HwError {
    HwError::Map { iova, len, reason: reason.to_owned() }
}

impl DmaMapper for IovaTable {
    fn map(&self, iova: u64, memory: &Arc<SharedMemory>) -> Result<(), HwError> {
        let len = memory.len();
        if !iova.is_multiple_of(PAGE_BYTES as u64) {
            return Err(refused(iova, len, "the address is not a multiple of 4096"));
        }
        let Some(end) = iova.checked_add(len as u64) else {
            return Err(refused(iova, len, "it would run past the end of the address space"));
        };
        let mut table = self.mappings.write();
        let at = table.partition_point(|mapping| mapping.end() <= iova);
        if table.get(at).is_some_and(|next| next.iova < end) {
            return Err(refused(iova, len, "it overlaps a mapping; unmap that one first"));
        }
        table.insert(at, Arc::new(Mapping { iova, memory: Arc::clone(memory) }));
        Ok(())
    }

    fn unmap(&self, iova: u64, len: usize) -> Result<(), HwError> {
        let mut mapping = {
            let mut table = self.mappings.write();
            let at = table.partition_point(|mapping| mapping.iova < iova);
            match table.get(at) {
                Some(found) if found.iova == iova && found.memory.len() == len => table.remove(at),
                _ => return Err(refused(iova, len, "no mapping of this address and length")),
            }
        };
        // Nobody can find the mapping any more; wait for transfers that found it before.
        let start = Instant::now();
        let mut spins = 0;
        loop {
            match Arc::try_unwrap(mapping) {
                Ok(_) => return Ok(()),
                Err(busy) => mapping = busy,
            }
            if start.elapsed() > UNMAP_TIMEOUT {
                return Err(refused(iova, len, "a transfer still uses the memory after 30 s"));
            }
            gcos_hw::relax_spinning(spins);
            spins += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(pages: usize) -> Arc<SharedMemory> {
        Arc::new(SharedMemory::anonymous(pages * PAGE_BYTES).unwrap())
    }

    #[test]
    fn access_ends_where_the_mapping_ends() {
        let table = IovaTable::new();
        let target = memory(2);
        table.map(0x10000, &target).unwrap();
        assert_eq!(table.write(0x11ffc, &[1; 4]), Ok(()));
        assert_eq!(table.write(0x11ffc, &[2; 5]), Err(Unmapped { iova: 0x12000 }));
        let mut last = [0; 4];
        table.read(0x11ffc, &mut last).unwrap();
        assert_eq!(last, [1; 4], "a refused write touches nothing");
        assert_eq!(table.read(0xffff, &mut last), Err(Unmapped { iova: 0xffff }));
        assert_eq!(table.read(u64::MAX - 1, &mut last), Err(Unmapped { iova: u64::MAX - 1 }));
    }

    #[test]
    fn adjacent_mappings_are_crossed() {
        let table = IovaTable::new();
        table.map(0x10000, &memory(1)).unwrap();
        table.map(0x11000, &memory(1)).unwrap();
        let bytes: Vec<u8> = (0..64).collect();
        table.write(0x11000 - 32, &bytes).unwrap();
        let mut out = [0; 64];
        table.read(0x11000 - 32, &mut out).unwrap();
        assert_eq!(out[..], bytes[..]);
        assert!(table.store_entry(0x11000 - 8, 1, 2).is_err());
    }

    #[test]
    fn overlaps_and_unknown_unmaps_are_refused() {
        let table = IovaTable::new();
        table.map(0x10000, &memory(2)).unwrap();
        assert!(table.map(0x11000, &memory(1)).is_err());
        assert!(table.map(0xf000, &memory(2)).is_err());
        assert!(table.map(0x10001, &memory(1)).is_err());
        assert!(table.unmap(0x10000, PAGE_BYTES).is_err());
        assert!(table.unmap(0x11000, 2 * PAGE_BYTES).is_err());
        table.unmap(0x10000, 2 * PAGE_BYTES).unwrap();
        assert!(table.is_empty());
    }

    #[test]
    fn unmap_waits_for_pinned_memory() {
        let table = IovaTable::new();
        table.map(0x10000, &memory(1)).unwrap();
        let mut transfer = Transfer::default();
        table.pin(0x10000, 100, &mut transfer).unwrap();
        let other = Arc::clone(&table);
        let unmap = std::thread::spawn(move || other.unmap(0x10000, PAGE_BYTES));
        std::thread::sleep(Duration::from_millis(20));
        assert!(!unmap.is_finished());
        transfer.clear();
        unmap.join().unwrap().unwrap();
    }
}
