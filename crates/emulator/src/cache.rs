//! A volatile write cache that really loses data.

use std::collections::BTreeMap;

use fastrand::Rng;
use parking_lot::Mutex;

use crate::medium::{MediaError, Medium, Scratch};

/// Ranges of more blocks than this are zeroed on the medium at once instead of block by block.
const ZERO_BLOCKS: u64 = 4096;

/// One block that the medium does not have yet.
#[derive(Debug)]
enum Block {
    Zero,
    Data(Box<[u8]>),
}

#[derive(Debug)]
struct Dirty {
    blocks: BTreeMap<u64, Block>,
    rng: Rng,
    off: bool,
}

/// Blocks that were written but are not on the medium yet.
///
/// A block reaches the medium by a flush, when the cache is full, or at any moment in between, by
/// the seed; blocks do so one at a time and in any order, as in a drive. After a power cut each
/// block is at a version that was current at or after the last flush, and blocks of one write are
/// independent of each other: a write is torn at the cache's unit.
#[derive(Debug)]
pub(crate) struct WriteCache {
    unit: u64,
    capacity_blocks: usize,
    dirty: Mutex<Dirty>,
}

impl WriteCache {
    /// `unit`: bytes that are written or lost as one. `capacity`: bytes held at most.
    pub(crate) fn new(unit: u64, capacity: u64, seed: u64) -> Self {
        let dirty = Dirty { blocks: BTreeMap::new(), rng: Rng::with_seed(seed), off: false };
        let capacity_blocks = usize::try_from((capacity / unit).max(1)).unwrap_or(usize::MAX);
        Self { unit, capacity_blocks, dirty: Mutex::new(dirty) }
    }

    /// Reads through the cache. The lock is held over the read of the medium, since a block could
    /// otherwise move from cache to medium unseen between the two.
    pub(crate) fn read(
        &self,
        medium: &Medium,
        offset: u64,
        scratch: &mut Scratch,
    ) -> Result<(), MediaError> {
        let dirty = self.dirty.lock();
        dirty.check_power()?;
        medium.read(offset, scratch)?;
        let len = scratch.transfer.len() as u64;
        self.overlay(&dirty, offset, len, |at, bytes| Ok(scratch.transfer.scatter(at, bytes)?))
    }

    /// Reads bytes through the cache.
    pub(crate) fn read_bytes(
        &self,
        medium: &Medium,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), MediaError> {
        let dirty = self.dirty.lock();
        dirty.check_power()?;
        medium.read_bytes(offset, out)?;
        self.overlay(&dirty, offset, out.len() as u64, |at, bytes| {
            if let Some(part) = out.get_mut(at..at + bytes.len()) {
                part.copy_from_slice(bytes);
            }
            Ok(())
        })
    }

    /// Calls `put` with the dirty bytes inside the range and where in the range they go.
    fn overlay(
        &self,
        dirty: &Dirty,
        offset: u64,
        len: u64,
        mut put: impl FnMut(usize, &[u8]) -> Result<(), MediaError>,
    ) -> Result<(), MediaError> {
        let blocks = offset / self.unit..(offset + len).div_ceil(self.unit);
        for (&index, block) in dirty.blocks.range(blocks) {
            let piece = Piece::of(self.unit, index, offset, len);
            match block {
                Block::Data(data) => {
                    put(piece.in_range, data.get(piece.in_block()).unwrap_or_default())?;
                }
                Block::Zero => put(piece.in_range, &vec![0; piece.len])?,
            }
        }
        Ok(())
    }

    /// Takes a write into the cache, where a power cut may lose it.
    pub(crate) fn write(
        &self,
        medium: &Medium,
        offset: u64,
        scratch: &Scratch,
    ) -> Result<(), MediaError> {
        let len = scratch.transfer.len() as u64;
        let mut dirty = self.dirty.lock();
        dirty.check_power()?;
        for index in offset / self.unit..(offset + len).div_ceil(self.unit) {
            let piece = Piece::of(self.unit, index, offset, len);
            let mut data = self.before_change(&mut dirty, medium, index, &piece)?;
            if let Some(part) = data.get_mut(piece.in_block()) {
                scratch.transfer.gather(piece.in_range, part)?;
            }
            dirty.blocks.insert(index, Block::Data(data));
        }
        self.evict(&mut dirty, medium)
    }

    /// Makes the range read as zeros, volatile as a write is.
    pub(crate) fn zero(&self, medium: &Medium, offset: u64, len: u64) -> Result<(), MediaError> {
        let blocks = offset / self.unit..(offset + len).div_ceil(self.unit);
        if blocks.end - blocks.start > ZERO_BLOCKS {
            return self.zero_through(medium, offset, len);
        }
        let mut dirty = self.dirty.lock();
        dirty.check_power()?;
        for index in blocks {
            let piece = Piece::of(self.unit, index, offset, len);
            if piece.len as u64 == self.unit {
                dirty.blocks.insert(index, Block::Zero);
                continue;
            }
            let mut data = self.before_change(&mut dirty, medium, index, &piece)?;
            if let Some(part) = data.get_mut(piece.in_block()) {
                part.fill(0);
            }
            dirty.blocks.insert(index, Block::Data(data));
        }
        self.evict(&mut dirty, medium)
    }

    /// Writes to the medium. Older cached bytes of the range are dropped, so that they can never
    /// overwrite the newer ones; other cached blocks stay volatile.
    pub(crate) fn write_through(
        &self,
        medium: &Medium,
        offset: u64,
        scratch: &mut Scratch,
    ) -> Result<(), MediaError> {
        let mut dirty = self.dirty.lock();
        dirty.check_power()?;
        medium.write(offset, scratch)?;
        let len = scratch.transfer.len() as u64;
        self.replace(&mut dirty, offset, len, |at, part| Ok(scratch.transfer.gather(at, part)?))
    }

    /// Zeroes the range on the medium, as [`WriteCache::write_through`] writes.
    pub(crate) fn zero_through(
        &self,
        medium: &Medium,
        offset: u64,
        len: u64,
    ) -> Result<(), MediaError> {
        let mut dirty = self.dirty.lock();
        dirty.check_power()?;
        medium.zero(offset, len)?;
        self.replace(&mut dirty, offset, len, |_, part| {
            part.fill(0);
            Ok(())
        })
    }

    /// Brings dirty blocks up to date with a range that is on the medium already.
    fn replace(
        &self,
        dirty: &mut Dirty,
        offset: u64,
        len: u64,
        mut fill: impl FnMut(usize, &mut [u8]) -> Result<(), MediaError>,
    ) -> Result<(), MediaError> {
        let blocks = offset / self.unit..(offset + len).div_ceil(self.unit);
        let touched: Vec<u64> = dirty.blocks.range(blocks).map(|(&index, _)| index).collect();
        for index in touched {
            let piece = Piece::of(self.unit, index, offset, len);
            if piece.len as u64 == self.unit {
                dirty.blocks.remove(&index);
            } else if let Some(Block::Data(data)) = dirty.blocks.get_mut(&index)
                && let Some(part) = data.get_mut(piece.in_block())
            {
                fill(piece.in_range, part)?;
            } else if let Some(block) = dirty.blocks.get_mut(&index) {
                let mut data = vec![0; piece.unit].into_boxed_slice();
                if let Some(part) = data.get_mut(piece.in_block()) {
                    fill(piece.in_range, part)?;
                }
                *block = Block::Data(data);
            }
        }
        Ok(())
    }

    /// Puts every dirty block on the medium.
    pub(crate) fn flush(&self, medium: &Medium) -> Result<(), MediaError> {
        let mut dirty = self.dirty.lock();
        dirty.check_power()?;
        while let Some((index, block)) = dirty.blocks.pop_first() {
            if let Err(error) = self.destage(medium, index, &block) {
                dirty.blocks.insert(index, block);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Loses power: each dirty block has reached the medium or has not, by the seed. Nothing is
    /// accepted until [`WriteCache::power_on`].
    pub(crate) fn power_off(&self, medium: &Medium, seed: u64) -> Result<(), MediaError> {
        let mut dirty = self.dirty.lock();
        if std::mem::replace(&mut dirty.off, true) {
            return Ok(());
        }
        let mut rng = Rng::with_seed(seed);
        for (index, block) in std::mem::take(&mut dirty.blocks) {
            if rng.bool() {
                self.destage(medium, index, &block)?;
            }
        }
        Ok(())
    }

    pub(crate) fn power_on(&self) {
        self.dirty.lock().off = false;
    }

    /// Bytes that a power cut could lose now.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.dirty.lock().blocks.len() as u64 * self.unit
    }

    /// The block as it reads now, about to be changed. What is dirty may reach the medium first:
    /// a drive may write a version back at any time.
    fn before_change(
        &self,
        dirty: &mut Dirty,
        medium: &Medium,
        index: u64,
        piece: &Piece,
    ) -> Result<Box<[u8]>, MediaError> {
        if let Some(block) = dirty.blocks.remove(&index) {
            if dirty.rng.bool() {
                self.destage(medium, index, &block)?;
            }
            return Ok(match block {
                Block::Data(data) => data,
                Block::Zero => vec![0; piece.unit].into_boxed_slice(),
            });
        }
        let mut data = vec![0; piece.unit].into_boxed_slice();
        if (piece.len as u64) < self.unit {
            let start = index * self.unit;
            let end = (start + self.unit).min(medium.len());
            let present = usize::try_from(end - start).unwrap_or(0);
            medium.read_bytes(start, data.get_mut(..present).unwrap_or_default())?;
        }
        Ok(data)
    }

    fn evict(&self, dirty: &mut Dirty, medium: &Medium) -> Result<(), MediaError> {
        while dirty.blocks.len() > self.capacity_blocks {
            let last = dirty.blocks.last_key_value().map_or(0, |(&index, _)| index);
            let from = dirty.rng.u64(0..=last);
            let Some(index) = dirty.blocks.range(from..).next().map(|(&index, _)| index) else {
                return Ok(());
            };
            if let Some(block) = dirty.blocks.remove(&index) {
                self.destage(medium, index, &block)?;
            }
        }
        Ok(())
    }

    fn destage(&self, medium: &Medium, index: u64, block: &Block) -> Result<(), MediaError> {
        let start = index * self.unit;
        let len = self.unit.min(medium.len().saturating_sub(start));
        match block {
            // To give back the space of one block takes longer than to write it; large ranges, whose space
            // counts, never come here.
            Block::Zero => medium.write_zeros(start, len),
            Block::Data(data) => {
                let present = usize::try_from(len).unwrap_or(0);
                medium.write_bytes(start, data.get(..present).unwrap_or_default())
            }
        }
    }
}

impl Dirty {
    fn check_power(&self) -> Result<(), MediaError> {
        if self.off { Err(MediaError::PowerOff) } else { Ok(()) }
    }
}

/// Where a block and a range of bytes overlap.
struct Piece {
    unit: usize,
    start: usize,
    len: usize,
    /// Offset of the overlap in the range.
    in_range: usize,
}

impl Piece {
    fn of(unit: u64, index: u64, offset: u64, len: u64) -> Self {
        let block = index * unit;
        let start = block.max(offset);
        let end = (block + unit).min(offset + len);
        Self {
            unit: unit as usize,
            start: (start - block) as usize,
            len: (end - start) as usize,
            in_range: (start - offset) as usize,
        }
    }

    fn in_block(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IovaTable;
    use gcos_hw::{DmaMapper, SharedMemory};
    use std::sync::Arc;

    const BLOCKS: usize = 32;
    const UNIT: usize = 4096;

    struct Bed {
        medium: Arc<Medium>,
        cache: WriteCache,
        scratch: Scratch,
        memory: Arc<SharedMemory>,
        table: Arc<IovaTable>,
    }

    impl Bed {
        fn new(seed: u64, capacity: u64) -> Self {
            let table = IovaTable::new();
            let memory = Arc::new(SharedMemory::anonymous(BLOCKS * UNIT).unwrap());
            table.map(0x10000, &memory).unwrap();
            Self {
                medium: Medium::ram((BLOCKS * UNIT) as u64).unwrap(),
                cache: WriteCache::new(UNIT as u64, capacity, seed),
                scratch: Scratch::default(),
                memory,
                table,
            }
        }

        /// Points the scratch transfer at memory filled with `byte`.
        fn fill(&mut self, len: usize, byte: u8) {
            self.memory.fill(0, len, byte).unwrap();
            self.scratch.transfer.clear();
            self.table.pin(0x10000, len, &mut self.scratch.transfer).unwrap();
        }
    }

    /// After a cut each block must be at a version that was current at or after its last flush.
    #[test]
    fn a_power_cut_keeps_flushed_blocks_and_leaves_others_old_or_new() {
        for seed in 0..200 {
            let mut rng = Rng::with_seed(seed);
            let mut bed = Bed::new(seed, if rng.bool() { 8 * 4096 } else { 1 << 20 });
            let mut versions: Vec<Vec<u8>> = vec![vec![0]; BLOCKS];
            for step in 1..60u8 {
                let blocks = rng.usize(1..=4);
                let at = rng.usize(0..=BLOCKS - blocks);
                let offset = (at * UNIT) as u64;
                match rng.u8(0..10) {
                    0 => {
                        bed.cache.flush(&bed.medium).unwrap();
                        for v in &mut versions {
                            v.drain(..v.len() - 1);
                        }
                    }
                    1 | 2 => {
                        bed.fill(blocks * UNIT, step);
                        bed.cache.write_through(&bed.medium, offset, &mut bed.scratch).unwrap();
                        versions[at..at + blocks].fill(vec![step]);
                    }
                    3 => {
                        bed.cache.zero(&bed.medium, offset, (blocks * UNIT) as u64).unwrap();
                        versions[at..at + blocks].iter_mut().for_each(|v| v.push(0));
                    }
                    _ => {
                        bed.fill(blocks * UNIT, step);
                        bed.cache.write(&bed.medium, offset, &bed.scratch).unwrap();
                        versions[at..at + blocks].iter_mut().for_each(|v| v.push(step));
                    }
                }
                let mut now = vec![0; BLOCKS * UNIT];
                bed.cache.read_bytes(&bed.medium, 0, &mut now).unwrap();
                for (block, v) in now.chunks(UNIT).zip(&versions) {
                    assert!(block.iter().all(|b| b == v.last().unwrap()), "read back, seed {seed}");
                }
            }
            bed.cache.power_off(&bed.medium, seed).unwrap();
            let mut after = vec![0; BLOCKS * UNIT];
            bed.medium.peek(0, &mut after).unwrap();
            for (index, (block, v)) in after.chunks(UNIT).zip(&versions).enumerate() {
                assert!(block.iter().all(|b| *b == block[0]), "torn inside a unit, seed {seed}");
                assert!(v.contains(&block[0]), "block {index}: {} not in {v:?}", block[0]);
            }
        }
    }

    #[test]
    fn parts_of_a_block_keep_their_neighbours() {
        let mut bed = Bed::new(1, 1 << 20);
        bed.fill(UNIT, 1);
        bed.cache.write(&bed.medium, 0, &bed.scratch).unwrap();
        bed.fill(512, 2);
        bed.cache.write_through(&bed.medium, 512, &mut bed.scratch).unwrap();
        bed.cache.zero(&bed.medium, 1024, 512).unwrap();
        bed.cache.flush(&bed.medium).unwrap();
        let mut out = vec![9; UNIT];
        bed.medium.peek(0, &mut out).unwrap();
        let expected: Vec<u8> = [1, 2, 0, 1, 1, 1, 1, 1].iter().flat_map(|&b| [b; 512]).collect();
        assert!(out == expected);
    }

    #[test]
    fn nothing_is_accepted_while_power_is_off() {
        let mut bed = Bed::new(1, 1 << 20);
        bed.fill(UNIT, 1);
        bed.cache.write(&bed.medium, 0, &bed.scratch).unwrap();
        assert_eq!(bed.cache.dirty_bytes(), UNIT as u64);
        bed.cache.power_off(&bed.medium, 0).unwrap();
        assert_eq!(bed.cache.dirty_bytes(), 0);
        let refused = bed.cache.write(&bed.medium, 0, &bed.scratch);
        assert!(matches!(refused, Err(MediaError::PowerOff)));
        assert!(matches!(bed.cache.flush(&bed.medium), Err(MediaError::PowerOff)));
        bed.cache.power_on();
        bed.cache.write(&bed.medium, 0, &bed.scratch).unwrap();
    }
}
