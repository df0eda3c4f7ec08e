//! Index and space of a pool together, under one lock: what must change in one step.

use std::collections::HashSet;

use gcos_layout::media::{Location, Record, RemoveRecord, Shape};
use smallvec::SmallVec;

use crate::alloc::Allocator;
use crate::index::{EntryState, Id, Index};
use crate::journal::Item;

/// A data zone, and the bookkeeping of the drive that it is on.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) alloc: Allocator,
    /// Bytes of records of the live and pending objects whose heads are here.
    pub(crate) meta_used: u64,
    /// Bytes of records that may be.
    pub(crate) meta_capacity: u64,
}

/// Places for an object.
#[derive(Debug, Clone)]
pub(crate) struct Placement {
    pub(crate) head: Location,
    pub(crate) pieces: Vec<Location>,
}

/// What must change in one step.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) index: Index,
    /// By drive index; `None` for a missing drive.
    pub(crate) spaces: Vec<Option<Space>>,
    /// Keys that a put is writing.
    pub(crate) writing: HashSet<Vec<u8>>,
    /// Doomed entries whose space is not free yet.
    pub(crate) doomed: usize,
    pub(crate) payload_bytes: u64,
    pub(crate) pinned: u64,
    /// Where the next object goes first.
    pub(crate) next_drive: usize,
}

/// A record that says that a doomed object is gone, for the journal of `drive`.
#[derive(Debug)]
pub(crate) struct Removal {
    pub(crate) drive: u8,
    pub(crate) item: Item,
}

impl State {
    fn space(&mut self, drive: u8) -> Option<&mut Space> {
        self.spaces.get_mut(usize::from(drive))?.as_mut()
    }

    /// Finds places for an object on drives that `usable` (bit mask) allows, without taking them for
    /// anybody in particular yet: `owner` is entered as their owner. All or nothing.
    pub(crate) fn place(
        &mut self,
        shape: &Shape,
        key_len: usize,
        owner: Id,
        usable: u64,
    ) -> Option<Placement> {
        let count = self.spaces.len();
        let first = self.next_drive;
        self.next_drive = (first + 1) % count.max(1);
        let mut pieces: Vec<Location> = Vec::with_capacity(shape.pieces());
        for index in 0..shape.pieces() {
            let blocks = shape.piece_blocks(index);
            match self.take_any(first + index, blocks, 0, owner, usable) {
                Some(location) => pieces.push(location),
                None => {
                    self.give_all(&pieces);
                    return None;
                }
            }
        }
        let record = Record::put_len(key_len, shape.pieces()) as u64;
        match self.take_any(first, shape.head_blocks(key_len), record, owner, usable) {
            Some(head) => {
                if let Some(space) = self.space(head.drive) {
                    space.meta_used += record;
                }
                Some(Placement { head, pieces })
            }
            None => {
                self.give_all(&pieces);
                None
            }
        }
    }

    /// A slot on the first drive from `first` on that has one, and room for `record` bytes of
    /// metadata.
    fn take_any(
        &mut self,
        first: usize,
        blocks: u32,
        record: u64,
        owner: Id,
        usable: u64,
    ) -> Option<Location> {
        let count = self.spaces.len();
        (0..count).map(|i| (first + i) % count).find_map(|drive| {
            if usable & (1 << drive) == 0 {
                return None;
            }
            let space = self.spaces.get_mut(drive)?.as_mut()?;
            if record > 0 && space.meta_used + record > space.meta_capacity {
                return None;
            }
            let class = space.alloc.class(blocks)?;
            let (chunk, block) = space.alloc.take(class, owner)?;
            Some(Location { drive: u8::try_from(drive).ok()?, chunk, block })
        })
    }

    fn give_all(&mut self, locations: &[Location]) {
        for location in locations {
            if let Some(space) = self.space(location.drive) {
                space.alloc.give(location.chunk, location.block);
            }
        }
    }

    /// Frees the space and the entry of an object that nobody holds or sees.
    pub(crate) fn release_entry(&mut self, id: Id) {
        let Some(entry) = self.index.entry(id) else { return };
        let mut places: SmallVec<[Location; 8]> = entry.pieces().collect();
        let record = Record::put_len(entry.key().len(), places.len()) as u64;
        places.push(entry.head());
        let (head, doomed) = (entry.head(), entry.state() == EntryState::Doomed);
        self.give_all(&places);
        if !doomed && let Some(space) = self.space(head.drive) {
            space.meta_used = space.meta_used.saturating_sub(record);
        }
        self.index.free(id);
        self.doomed -= usize::from(doomed);
    }

    /// Makes a written object visible. An older one of its key is doomed and returned: its space may be
    /// freed when the new object's record, or (on another drive) a removal of its own, is durable.
    pub(crate) fn make_live(&mut self, id: Id) -> Option<Id> {
        let key = self.index.entry(id)?.key().to_vec();
        let old = self.index.find(&key);
        if let Some(old) = old {
            self.doom(old);
        }
        self.index.make_live(id);
        let (len, pinned) =
            self.index.entry(id).map_or((0, false), |e| (e.payload_len(), e.pins > 0));
        self.payload_bytes += u64::from(len);
        self.pinned += u64::from(pinned);
        old
    }

    /// Makes an object invisible and holds its space until [`State::unhold`].
    pub(crate) fn doom(&mut self, id: Id) {
        let Some(entry) = self.index.entry_mut(id) else { return };
        if entry.state() != EntryState::Live {
            return;
        }
        entry.holds += 1;
        let record = Record::put_len(entry.key().len(), entry.pieces().count()) as u64;
        let (len, pins, head) = (entry.payload_len(), entry.pins, entry.head());
        self.payload_bytes -= u64::from(len);
        self.pinned -= u64::from(pins > 0);
        self.doomed += 1;
        if pins > 0 {
            // Not in the order: it must be there for `doom` to take it out.
            self.index.enter_order(id);
        }
        self.index.doom(id);
        if let Some(space) = self.space(head.drive) {
            space.meta_used = space.meta_used.saturating_sub(record);
        }
    }

    /// Dooms a live object and makes the record that says so. The hold that this takes ends when the
    /// record is durable.
    pub(crate) fn remove(&mut self, id: Id) -> Option<Removal> {
        self.doom(id);
        self.removal(id)
    }

    /// The record that says that a doomed object is gone.
    pub(crate) fn removal(&self, id: Id) -> Option<Removal> {
        let entry = self.index.entry(id)?;
        let record = RemoveRecord { key: entry.key().to_vec(), generation: entry.generation };
        let item = Item {
            record: Record::Remove(record),
            flush: 0,
            make_live: None,
            release: SmallVec::from_buf([id]),
            waiter: None,
        };
        Some(Removal { drive: entry.head().drive, item })
    }

    /// Takes a reader's hold on a live object. `false` when it has too many.
    pub(crate) fn hold(&mut self, id: Id) -> bool {
        match self.index.entry_mut(id) {
            Some(entry) if entry.holds < u16::MAX - 1 => {
                entry.holds += 1;
                true
            }
            _ => false,
        }
    }

    /// Ends a hold; frees a doomed object with its last.
    pub(crate) fn unhold(&mut self, id: Id) {
        let Some(entry) = self.index.entry_mut(id) else { return };
        entry.holds = entry.holds.saturating_sub(1);
        if entry.holds == 0 && entry.state() == EntryState::Doomed {
            self.release_entry(id);
        }
    }

    /// Blocks in taken slots, and in all chunks, of the drives present.
    pub(crate) fn blocks(&self) -> (u64, u64) {
        self.spaces.iter().flatten().fold((0, 0), |(used, all), space| {
            (used + space.alloc.used_blocks(), all + space.alloc.capacity_blocks())
        })
    }

    /// Dooms least recently used objects to make room for a head and pieces of these sizes (in
    /// blocks): about as many blocks as are needed, whole chunks if the objects at hand are of other
    /// sizes. Only objects whose heads are on a drive of `writable` (bit mask) can go, since their
    /// removal must be recorded. Nothing is returned when nothing can go.
    pub(crate) fn evict(&mut self, needs: &[u32], most_blocks: u64, writable: u64) -> Vec<Removal> {
        let mut freed = 0;
        let mut victims = Vec::new();
        while freed < most_blocks {
            let can_go = |id: &Id| {
                self.index.entry(*id).is_some_and(|e| writable & (1 << e.head().drive) != 0)
            };
            let Some(oldest) = self.index.oldest_first().find(can_go) else { break };
            for id in self.with_neighbours(oldest, needs, writable) {
                freed += self.blocks_of(id);
                victims.extend(self.remove(id));
            }
        }
        victims
    }

    /// The object, and if its slots are of no use for `needs`, all that share a chunk with them: only
    /// a chunk that is empty can be divided anew.
    fn with_neighbours(&self, id: Id, needs: &[u32], writable: u64) -> Vec<Id> {
        let Some(entry) = self.index.entry(id) else { return Vec::new() };
        let mut found = vec![id];
        for place in entry.pieces().chain([entry.head()]) {
            let Some(Some(space)) = self.spaces.get(usize::from(place.drive)) else { continue };
            let class = space.alloc.chunk_class(place.chunk);
            if needs.iter().any(|&blocks| space.alloc.class(blocks) == class) {
                continue;
            }
            found.extend(space.alloc.owners(place.chunk).filter(|&other| {
                self.index.entry(other).is_some_and(|e| {
                    e.state() == EntryState::Live
                        && e.pins == 0
                        && writable & (1 << e.head().drive) != 0
                })
            }));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    fn blocks_of(&self, id: Id) -> u64 {
        let Some(entry) = self.index.entry(id) else { return 1 };
        let shape = entry.shape().ok();
        let pieces =
            shape.map_or(0, |s| (0..s.pieces()).map(|i| u64::from(s.piece_blocks(i))).sum());
        pieces + shape.map_or(1, |s| u64::from(s.head_blocks(entry.key().len())))
    }
}
