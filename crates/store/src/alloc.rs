//! Which slots of a drive's data chunks are taken, and by whom. Nothing of this is on media: it
//! follows from the objects.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gcos_layout::media::SlotClass;

use crate::canary::{self, Canary};
use crate::index::Id;

const FREE: Id = Id::MAX;

/// One data chunk.
#[derive(Debug, Default)]
struct Chunk {
    class: Option<SlotClass>,
    used: u32,
    owners: Owners,
}

/// Who has the slots. A chunk with one slot, the usual case for large objects, needs no list.
#[derive(Debug, Default)]
enum Owners {
    #[default]
    None,
    One(Id),
    Many(Box<[Id]>),
}

impl Owners {
    fn slots(&self) -> &[Id] {
        match self {
            Owners::None => &[],
            Owners::One(id) => std::slice::from_ref(id),
            Owners::Many(ids) => ids,
        }
    }

    fn slots_mut(&mut self) -> &mut [Id] {
        match self {
            Owners::None => &mut [],
            Owners::One(id) => std::slice::from_mut(id),
            Owners::Many(ids) => ids,
        }
    }
}

/// The data chunks of one drive.
#[derive(Debug)]
pub(crate) struct Allocator {
    chunk_blocks: u32,
    chunks: Vec<Chunk>,
    /// Free chunks that hold nothing the drive would keep.
    clean: VecDeque<u32>,
    /// Free chunks that have not been deallocated since they were used.
    dirty: VecDeque<u32>,
    /// Chunks with free slots, by class.
    partial: BTreeMap<SlotClass, BTreeSet<u32>>,
    used_blocks: u64,
}

impl Allocator {
    /// All chunks free.
    pub(crate) fn new(chunks: u32, chunk_blocks: u32) -> Self {
        Self {
            chunk_blocks,
            chunks: (0..chunks).map(|_| Chunk::default()).collect(),
            clean: VecDeque::new(),
            dirty: (0..chunks).collect(),
            partial: BTreeMap::new(),
            used_blocks: 0,
        }
    }

    /// The class whose slots hold `blocks` blocks.
    pub(crate) fn class(&self, blocks: u32) -> Option<SlotClass> {
        SlotClass::for_blocks(blocks, self.chunk_blocks)
    }

    /// Blocks of the slots of that class.
    pub(crate) fn slot_blocks(&self, blocks: u32) -> Option<u32> {
        self.class(blocks).map(|class| class.slot_blocks(self.chunk_blocks))
    }

    /// Takes a slot for `owner`: chunk and first block.
    pub(crate) fn take(&mut self, class: SlotClass, owner: Id) -> Option<(u32, u16)> {
        let number = match self.partial.get(&class).and_then(|set| set.first().copied()) {
            Some(number) => number,
            None => self.open_chunk(class)?,
        };
        let slot_blocks = class.slot_blocks(self.chunk_blocks);
        let chunk = self.chunks.get_mut(number as usize)?;
        let slot = chunk.owners.slots().iter().position(|&id| id == FREE)?;
        if let Some(place) = chunk.owners.slots_mut().get_mut(slot) {
            *place = owner;
        }
        chunk.used += 1;
        if chunk.used == class.slots() {
            self.leave_partial(class, number);
        }
        self.used_blocks += u64::from(slot_blocks);
        let block = u16::try_from(slot as u32 * slot_blocks).ok()?;
        Some((number, block))
    }

    fn open_chunk(&mut self, class: SlotClass) -> Option<u32> {
        let number = self.clean.pop_front().or_else(|| self.dirty.pop_front())?;
        self.shape_chunk(number, class);
        Some(number)
    }

    fn shape_chunk(&mut self, number: u32, class: SlotClass) {
        if let Some(chunk) = self.chunks.get_mut(number as usize) {
            chunk.class = Some(class);
            chunk.owners = match class.slots() {
                1 => Owners::One(FREE),
                n => Owners::Many(vec![FREE; n as usize].into_boxed_slice()),
            };
            self.partial.entry(class).or_default().insert(number);
        }
    }

    fn leave_partial(&mut self, class: SlotClass, number: u32) {
        if let Some(set) = self.partial.get_mut(&class) {
            set.remove(&number);
            if set.is_empty() {
                self.partial.remove(&class);
            }
        }
    }

    /// Takes the slot at a known place, as recovery finds it in a record. `Err` names an owner that is
    /// in the way (any, if the chunk is divided differently), or nothing if there is no such slot.
    pub(crate) fn claim(
        &mut self,
        number: u32,
        block: u16,
        class: SlotClass,
        owner: Id,
    ) -> Result<(), Option<Id>> {
        let slot_blocks = class.slot_blocks(self.chunk_blocks);
        let slot = u32::from(block) / slot_blocks;
        let chunk = self.chunks.get(number as usize).ok_or(None)?;
        if u32::from(block) % slot_blocks != 0 || slot >= class.slots() {
            return Err(None);
        }
        match chunk.class {
            Some(other) if other != class => {
                return Err(chunk.owners.slots().iter().copied().find(|&id| id != FREE));
            }
            Some(_) => {}
            None => self.shape_chunk(number, class),
        }
        let chunk = self.chunks.get_mut(number as usize).ok_or(None)?;
        match chunk.owners.slots_mut().get_mut(slot as usize) {
            Some(place) if *place == FREE => *place = owner,
            Some(place) => return Err(Some(*place)),
            None => return Err(None),
        }
        chunk.used += 1;
        if chunk.used == class.slots() {
            self.leave_partial(class, number);
        }
        self.used_blocks += u64::from(slot_blocks);
        Ok(())
    }

    /// After recovery has claimed everything: what is in no use is free, once.
    pub(crate) fn settle(&mut self) {
        let unused = |(n, chunk): (u32, &Chunk)| (chunk.used == 0).then_some(n);
        let empty: Vec<u32> = (0..).zip(&self.chunks).filter_map(unused).collect();
        self.dirty = empty.iter().copied().collect();
        self.clean.clear();
        for number in empty {
            self.close_chunk(number);
        }
    }

    /// Gives a slot back.
    pub(crate) fn give(&mut self, number: u32, block: u16) {
        let chunk_blocks = self.chunk_blocks;
        let Some(chunk) = self.chunks.get_mut(number as usize) else { return };
        let Some(class) = chunk.class else { return };
        let slot_blocks = class.slot_blocks(chunk_blocks);
        match chunk.owners.slots_mut().get_mut((u32::from(block) / slot_blocks) as usize) {
            Some(place) if *place != FREE => *place = FREE,
            _ => return,
        }
        chunk.used -= 1;
        self.used_blocks -= u64::from(slot_blocks);
        if chunk.used == 0 {
            self.close_chunk(number);
            self.dirty.push_back(number);
        } else {
            self.partial.entry(class).or_default().insert(number);
        }
    }

    fn close_chunk(&mut self, number: u32) {
        let Some(chunk) = self.chunks.get_mut(number as usize) else { return };
        let class = chunk.class.take();
        chunk.owners = Owners::None;
        if let Some(class) = class {
            self.leave_partial(class, number);
        }
    }

    /// The owners of a chunk's slots.
    pub(crate) fn owners(&self, number: u32) -> impl Iterator<Item = Id> + '_ {
        let slots = self.chunks.get(number as usize).map(|c| c.owners.slots()).unwrap_or_default();
        slots.iter().copied().filter(|&id| id != FREE)
    }

    /// The class that a chunk is divided by.
    pub(crate) fn chunk_class(&self, number: u32) -> Option<SlotClass> {
        self.chunks.get(number as usize).and_then(|chunk| chunk.class)
    }

    /// Takes up to `most` free chunks out to be deallocated; give them back with
    /// [`Allocator::deallocated`].
    pub(crate) fn take_dirty(&mut self, most: usize) -> Vec<u32> {
        let count = most.min(self.dirty.len());
        if canary::on(Canary::DeallocateRace) {
            return self.dirty.iter().take(count).copied().collect();
        }
        self.dirty.drain(..count).collect()
    }

    /// Chunks from [`Allocator::take_dirty`] are free again: clean if the drive took the hint.
    pub(crate) fn deallocated(&mut self, chunks: &[u32], done: bool) {
        let list = if done { &mut self.clean } else { &mut self.dirty };
        list.extend(chunks);
    }

    /// Free chunks, deallocated or not.
    pub(crate) fn free_chunks(&self) -> usize {
        self.dirty.len() + self.clean.len()
    }

    /// Free chunks that wait for deallocation.
    pub(crate) fn dirty_chunks(&self) -> usize {
        self.dirty.len()
    }

    /// Blocks in slots that are taken.
    pub(crate) fn used_blocks(&self) -> u64 {
        self.used_blocks
    }

    /// Blocks in all chunks.
    pub(crate) fn capacity_blocks(&self) -> u64 {
        self.chunks.len() as u64 * u64::from(self.chunk_blocks)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slots_share_a_chunk_by_class_and_an_empty_chunk_changes_class() {
        let mut alloc = Allocator::new(1, 64);
        let small = alloc.class(16).unwrap();
        let large = alloc.class(64).unwrap();
        let slots: Vec<_> = (0..4).map(|i| alloc.take(small, i).unwrap()).collect();
        assert_eq!(slots, [(0, 0), (0, 16), (0, 32), (0, 48)]);
        assert_eq!(alloc.take(small, 9), None);
        assert_eq!(alloc.take(large, 9), None);
        assert_eq!(alloc.owners(0).collect::<Vec<_>>(), [0, 1, 2, 3]);
        slots.iter().for_each(|&(chunk, block)| alloc.give(chunk, block));
        assert_eq!(alloc.used_blocks(), 0);
        assert_eq!(alloc.take(large, 9), Some((0, 0)));
    }

    #[test]
    fn claims_find_who_is_in_the_way() {
        let mut alloc = Allocator::new(2, 64);
        let (small, large) = (alloc.class(16).unwrap(), alloc.class(64).unwrap());
        assert_eq!(alloc.claim(1, 16, small, 5), Ok(()));
        assert_eq!(alloc.claim(1, 16, small, 6), Err(Some(5)));
        assert_eq!(alloc.claim(1, 0, large, 6), Err(Some(5)));
        assert_eq!(alloc.claim(1, 17, small, 6), Err(None));
        assert_eq!(alloc.claim(2, 0, small, 6), Err(None));
        alloc.settle();
        assert_eq!(alloc.take(large, 7), Some((0, 0)));
        assert_eq!(alloc.take(large, 8), None);
    }

    #[test]
    fn a_chunk_being_deallocated_is_not_handed_out() {
        let mut alloc = Allocator::new(1, 64);
        let class = alloc.class(64).unwrap();
        let chunks = alloc.take_dirty(8);
        assert_eq!(chunks, [0]);
        assert_eq!(alloc.take(class, 1), None);
        alloc.deallocated(&chunks, true);
        assert!(alloc.take(class, 1).is_some());
    }

    proptest! {
        #[test]
        fn no_block_is_given_twice(ops in proptest::collection::vec((any::<bool>(), 1u32..=64, any::<u16>()), 1..400)) {
            let mut alloc = Allocator::new(6, 64);
            let mut taken: HashMap<Id, (u32, u16, u32)> = HashMap::new();
            for (id, (take, blocks, pick)) in ops.into_iter().enumerate() {
                let id = id as Id;
                if take {
                    let class = alloc.class(blocks).unwrap();
                    if let Some((chunk, block)) = alloc.take(class, id) {
                        let len = class.slot_blocks(64);
                        prop_assert!(len >= blocks && u32::from(block) + len <= 64);
                        for &(c, b, l) in taken.values() {
                            let (b, block) = (u32::from(b), u32::from(block));
                            prop_assert!(c != chunk || b + l <= block || block + len <= b);
                        }
                        taken.insert(id, (chunk, block, len));
                    }
                } else if !taken.is_empty() {
                    let key = *taken.keys().nth(usize::from(pick) % taken.len()).unwrap();
                    let (chunk, block, _) = taken.remove(&key).unwrap();
                    alloc.give(chunk, block);
                }
                let used: u32 = taken.values().map(|t| t.2).sum();
                prop_assert_eq!(alloc.used_blocks(), u64::from(used));
            }
            // With everything given back, every chunk is whole again.
            for (chunk, block, _) in taken.into_values() {
                alloc.give(chunk, block);
            }
            let whole = alloc.class(64).unwrap();
            prop_assert_eq!((0..7).filter_map(|i| alloc.take(whole, i)).count(), 6);
        }
    }
}
