//! The memory side of one command: pieces of mapped memory, in the order of the data.

use std::sync::Arc;

use gcos_hw::{MemoryRange, OutOfBounds, SharedMemory};

use crate::table::Mapping;

/// How many recently used mappings a new piece is compared with before it takes its own hold.
const RECENT: usize = 4;

#[derive(Debug, Clone, Copy)]
struct Segment {
    /// Index in [`Transfer::pins`].
    pin: usize,
    offset: usize,
    len: usize,
}

/// Pieces of mapped memory. While it holds them they stay mapped.
///
/// Pieces that follow each other in memory are one piece: a copy over a buffer that is contiguous
/// at its I/O virtual address is one copy. Reused from command to command to save the allocation.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    pins: Vec<Arc<Mapping>>,
    segments: Vec<Segment>,
    len: usize,
}

impl Transfer {
    /// Lets go of the memory.
    pub(crate) fn clear(&mut self) {
        self.segments.clear();
        self.pins.clear();
        self.len = 0;
    }

    /// Bytes in all.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends when all of it lies in the mapping that was used last.
    pub(crate) fn extend_in_last(&mut self, iova: u64, len: usize) -> bool {
        let Some(pin) = self.pins.len().checked_sub(1) else { return false };
        let Some((offset, room)) = self.pins.get(pin).and_then(|last| last.locate(iova)) else {
            return false;
        };
        if room < len {
            return false;
        }
        self.append(Segment { pin, offset, len });
        true
    }

    pub(crate) fn push(&mut self, mapping: &Arc<Mapping>, offset: usize, len: usize) {
        let recent = self.pins.len().saturating_sub(RECENT);
        let known = self.pins.iter().skip(recent).position(|pin| Arc::ptr_eq(pin, mapping));
        let pin = match known {
            Some(index) => recent + index,
            None => {
                self.pins.push(Arc::clone(mapping));
                self.pins.len() - 1
            }
        };
        self.append(Segment { pin, offset, len });
    }

    fn append(&mut self, segment: Segment) {
        self.len += segment.len;
        match self.segments.last_mut() {
            Some(last) if last.pin == segment.pin && last.offset + last.len == segment.offset => {
                last.len += segment.len;
            }
            _ => self.segments.push(segment),
        }
    }

    /// The pieces: memory, offset in it, length.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (&Arc<SharedMemory>, usize, usize)> {
        self.segments.iter().filter_map(|segment| {
            let pin = self.pins.get(segment.pin)?;
            Some((&pin.memory, segment.offset, segment.len))
        })
    }

    /// The pieces of `len` bytes at `start` of the data.
    pub(crate) fn part(
        &self,
        start: usize,
        len: usize,
    ) -> impl Iterator<Item = (&Arc<SharedMemory>, usize, usize)> {
        let (mut skip, mut left) = (start, len);
        self.pieces().filter_map(move |(memory, offset, piece)| {
            let over = skip.min(piece);
            skip -= over;
            let take = (piece - over).min(left);
            left -= take;
            (take > 0).then_some((memory, offset + over, take))
        })
    }

    /// The pieces as elements of a vectored file transfer.
    pub(crate) fn ranges(&self, out: &mut Vec<MemoryRange>) {
        out.clear();
        out.extend(self.pieces().map(|(memory, offset, len)| MemoryRange {
            memory: Arc::clone(memory),
            offset,
            len,
        }));
    }

    /// Copies `out.len()` bytes at `start` of the data out of memory.
    pub(crate) fn gather(&self, start: usize, out: &mut [u8]) -> Result<(), OutOfBounds> {
        let mut rest = out;
        for (memory, offset, len) in self.part(start, rest.len()) {
            let (piece, after) = std::mem::take(&mut rest).split_at_mut(len);
            memory.read(offset, piece)?;
            rest = after;
        }
        self.filled(start, rest.len())
    }

    /// Copies `bytes` into memory at `start` of the data.
    pub(crate) fn scatter(&self, start: usize, bytes: &[u8]) -> Result<(), OutOfBounds> {
        let mut rest = bytes;
        for (memory, offset, len) in self.part(start, rest.len()) {
            let (piece, after) = rest.split_at(len);
            memory.write(offset, piece)?;
            rest = after;
        }
        self.filled(start, rest.len())
    }

    /// Copies from `source` at `offset` into all of this memory.
    pub(crate) fn copy_from(
        &self,
        source: &SharedMemory,
        mut offset: usize,
    ) -> Result<(), OutOfBounds> {
        for (memory, at, len) in self.pieces() {
            memory.copy_from(at, source, offset, len)?;
            offset += len;
        }
        Ok(())
    }

    /// Copies all of this memory to `target` at `offset`.
    pub(crate) fn copy_to(
        &self,
        target: &SharedMemory,
        mut offset: usize,
    ) -> Result<(), OutOfBounds> {
        for (memory, at, len) in self.pieces() {
            target.copy_from(offset, memory, at, len)?;
            offset += len;
        }
        Ok(())
    }

    /// Flips one bit of the data.
    pub(crate) fn flip(&self, bit: usize) -> Result<(), OutOfBounds> {
        let mut byte = [0];
        self.gather(bit / 8, &mut byte)?;
        self.scatter(bit / 8, &byte.map(|byte| byte ^ (1 << (bit % 8))))
    }

    fn filled(&self, offset: usize, missing: usize) -> Result<(), OutOfBounds> {
        match missing {
            0 => Ok(()),
            len => Err(OutOfBounds { offset, len, size: self.len }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IovaTable;
    use gcos_hw::{DmaMapper, PAGE_BYTES};

    #[test]
    fn contiguous_pages_become_one_piece() {
        let table = IovaTable::new();
        let memory = Arc::new(SharedMemory::anonymous(8 * PAGE_BYTES).unwrap());
        table.map(0x10000, &memory).unwrap();
        let mut transfer = Transfer::default();
        for page in [0u64, 1, 2, 5, 6, 4] {
            table.pin(0x10000 + page * 4096, PAGE_BYTES, &mut transfer).unwrap();
        }
        let pieces: Vec<_> = transfer.pieces().map(|(_, offset, len)| (offset, len)).collect();
        assert_eq!(pieces, [(0, 3 * 4096), (5 * 4096, 2 * 4096), (4 * 4096, 4096)]);
        assert_eq!(transfer.len(), 6 * 4096);
        let part: Vec<_> = transfer.part(4096 * 2 + 10, 4096).map(|(_, o, l)| (o, l)).collect();
        assert_eq!(part, [(2 * 4096 + 10, 4086), (5 * 4096, 10)]);
    }

    #[test]
    fn scattered_bytes_are_gathered_again() {
        let table = IovaTable::new();
        let memory = Arc::new(SharedMemory::anonymous(8 * PAGE_BYTES).unwrap());
        table.map(0x10000, &memory).unwrap();
        let mut transfer = Transfer::default();
        for page in [3u64, 1, 7] {
            table.pin(0x10000 + page * 4096 + 1, 100, &mut transfer).unwrap();
        }
        let bytes: Vec<u8> = (0..250).collect();
        transfer.scatter(50, &bytes).unwrap();
        let mut out = vec![0; 250];
        transfer.gather(50, &mut out).unwrap();
        assert_eq!(out, bytes);
        assert!(transfer.gather(51, &mut out).is_err());
        transfer.flip(50 * 8 + 3).unwrap();
        transfer.gather(50, &mut out).unwrap();
        assert_eq!(out[0], 8);
    }
}
