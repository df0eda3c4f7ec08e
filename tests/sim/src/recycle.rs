//! Memory that is used again. A history makes hundreds of buffers of a megabyte for a few milliseconds each: to
//! take them from the system, page by page, would take longer than what is done with them.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use gcos_emulator::{AddressSpace, IovaTable};
use gcos_hw::{DmaMapper, DmaSpace, HwError, SharedMemory};
use parking_lot::Mutex;

/// I/O virtual addresses of a space, the ones of `IovaTable::space`.
const USABLE: Range<u64> = 0x1_0000_0000..0x100_0000_0000;
/// Buffers of one size that are kept.
const KEPT: usize = 32;
/// Larger ones are not: they are rare.
const LARGEST: usize = 2 << 20;

/// Buffers that nobody uses, by length.
static IDLE: Mutex<BTreeMap<usize, Vec<Arc<SharedMemory>>>> = Mutex::new(BTreeMap::new());

/// A table of addresses whose memory goes back to [`IDLE`].
#[derive(Debug)]
struct Recycler {
    table: Arc<IovaTable>,
    lent: Mutex<HashMap<u64, Arc<SharedMemory>>>,
}

impl DmaMapper for Recycler {
    fn memory(&self, iova: u64, len: usize) -> Result<Arc<SharedMemory>, HwError> {
        let used = IDLE.lock().get_mut(&len).and_then(Vec::pop);
        // Somebody may have kept it beyond its mapping, such as a command that was given up.
        let memory = match used.filter(|memory| Arc::strong_count(memory) == 1) {
            Some(memory) if memory.fill(0, len, 0).is_ok() => memory,
            _ => Arc::new(SharedMemory::anonymous(len)?),
        };
        self.lent.lock().insert(iova, Arc::clone(&memory));
        Ok(memory)
    }

    fn map(&self, iova: u64, memory: &Arc<SharedMemory>) -> Result<(), HwError> {
        self.table.map(iova, memory)
    }

    fn unmap(&self, iova: u64, len: usize) -> Result<(), HwError> {
        self.table.unmap(iova, len)?;
        if let Some(memory) = self.lent.lock().remove(&iova).filter(|_| len <= LARGEST) {
            let mut idle = IDLE.lock();
            let list = idle.entry(len).or_default();
            if list.len() < KEPT {
                list.push(memory);
            }
        }
        Ok(())
    }
}

/// An address space whose memory is used again, zeroed.
///
/// # Errors
/// None that the range of addresses above could cause.
pub fn address_space() -> Result<AddressSpace, String> {
    let table = IovaTable::new();
    let recycler = Recycler { table: Arc::clone(&table), lent: Mutex::default() };
    let dma = DmaSpace::new(Arc::new(recycler), std::slice::from_ref(&USABLE));
    Ok(AddressSpace { table, dma: dma.map_err(|error| error.to_string())? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_used_again_is_zeroed_and_belongs_to_nobody_else() {
        let len = 12_288;
        let space = address_space().expect("a space");
        let buffer = space.dma.alloc(len).expect("memory");
        let slice = buffer.slice(0, len).expect("a part");
        slice.write(0, &[7; 12_288]).expect("within");
        let kept = buffer.slice(0, len).expect("a part");
        drop((buffer, slice));
        let second = space.dma.alloc(len).expect("memory");
        let mut bytes = vec![1; len];
        second.slice(0, len).expect("a part").read(0, &mut bytes).expect("within");
        assert!(bytes.iter().all(|&byte| byte == 0));
        kept.read(0, &mut bytes).expect("within");
        assert!(bytes.iter().all(|&byte| byte == 7), "what is lent is not used again");
        drop((kept, second));
        for _ in 0..3 {
            let again = address_space().expect("a space").dma.alloc(len).expect("memory");
            let slice = again.slice(0, len).expect("a part");
            slice.read(0, &mut bytes).expect("within");
            assert!(bytes.iter().all(|&byte| byte == 0));
            slice.write(0, &[9; 12_288]).expect("within");
        }
    }
}
