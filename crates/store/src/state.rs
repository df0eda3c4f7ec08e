//! Index and space of a pool together, under one lock: what must change in one step.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use gcos_layout::media::{Location, Record, RemoveRecord, Shape};
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::alloc::Allocator;
use crate::canary::{self, Canary};
use crate::index::{EntryState, Id, Index};
use crate::journal::Item;

/// A data zone, and the bookkeeping of the drive that it is on.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) alloc: Allocator,
    /// Blocks of doomed entries: taken, and free before long.
    pub(crate) doomed_blocks: u64,
    /// Bytes of records of the objects whose heads are here, until their end is recorded.
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

/// What an object could not be placed for want of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// A slot of so many blocks.
    Blocks(u32),
    /// Room for its record in a checkpoint.
    Records,
}

/// What must change in one step.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) index: Index,
    /// By drive index; `None` for a missing drive.
    pub(crate) spaces: Vec<Option<Space>>,
    /// Keys that a put is writing, each with the moment at which that put last got on.
    pub(crate) writing: HashMap<Vec<u8>, Arc<Mutex<Instant>>>,
    /// Keys of which an older object lies on a drive that cannot be told that it is gone.
    haunted: HashMap<Vec<u8>, SmallVec<[Ghost; 1]>>,
    /// Doomed entries whose space is not free yet.
    pub(crate) doomed: usize,
    /// Those of them whose space stays taken until the next open.
    pub(crate) stuck: usize,
    pub(crate) payload_bytes: u64,
    pub(crate) pinned: u64,
    pinned_blocks: u64,
    /// Chunks that a drive is deallocating.
    pub(crate) deallocating: usize,
    /// Where the next object goes first.
    next_drive: usize,
}

/// An object that may be there at the next open although it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ghost {
    /// The drive that has its record.
    drive: u8,
    /// Its entry, where it is known to be over: then the drive can be told, should it come back.
    over: Option<Id>,
    /// Whether the record that tells it waits in the drive's journal.
    told: bool,
}

/// A record that says that a doomed object is gone, for the journal of `drive`.
#[derive(Debug)]
pub(crate) struct Removal {
    pub(crate) drive: u8,
    pub(crate) item: Item,
}

impl State {
    pub(crate) fn new(index: Index, spaces: Vec<Option<Space>>) -> Self {
        Self { index, spaces, ..Self::default() }
    }

    fn space(&mut self, drive: u8) -> Option<&mut Space> {
        self.spaces.get_mut(usize::from(drive))?.as_mut()
    }

    /// Takes places for an object on drives that `usable` (bit mask) allows, in the name of `owner`. All
    /// or nothing.
    pub(crate) fn place(
        &mut self,
        shape: &Shape,
        key_len: usize,
        owner: Id,
        usable: u64,
    ) -> Result<Placement, Shortage> {
        let first = self.next_drive;
        self.next_drive = (first + 1) % self.spaces.len().max(1);
        let mut pieces: Vec<Location> = Vec::with_capacity(shape.pieces());
        for index in 0..shape.pieces() {
            let blocks = shape.piece_blocks(index);
            match self.take_any(first + index, blocks, 0, owner, usable) {
                Ok(location) => pieces.push(location),
                Err(shortage) => {
                    self.give_all(&pieces);
                    return Err(shortage);
                }
            }
        }
        let record = Record::put_len(key_len, shape.pieces()) as u64;
        match self.take_any(first, shape.head_blocks(key_len), record, owner, usable) {
            Ok(head) => {
                if let Some(space) = self.space(head.drive) {
                    space.meta_used += record;
                }
                Ok(Placement { head, pieces })
            }
            Err(shortage) => {
                self.give_all(&pieces);
                Err(shortage)
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
    ) -> Result<Location, Shortage> {
        let count = self.spaces.len();
        let mut shortage = Shortage::Records;
        for drive in (0..count).map(|i| (first + i) % count).filter(|d| usable & (1 << d) != 0) {
            let Some(Some(space)) = self.spaces.get_mut(drive) else { continue };
            if record > 0 && space.meta_used + record > space.meta_capacity {
                continue;
            }
            shortage = Shortage::Blocks(blocks);
            let taken = space.alloc.class(blocks).and_then(|class| space.alloc.take(class, owner));
            if let (Some((chunk, block)), Ok(drive)) = (taken, u8::try_from(drive)) {
                return Ok(Location { drive, chunk, block });
            }
        }
        Err(shortage)
    }

    /// Whether slots of these sizes (in blocks) would fit, with everything evicted that may be.
    pub(crate) fn can_ever_fit(&self, needs: &[u32], usable: u64) -> bool {
        let spaces = || {
            let usable = move |(drive, _): &(usize, _)| usable & (1 << drive) != 0;
            self.spaces.iter().enumerate().filter(usable).filter_map(|(_, space)| space.as_ref())
        };
        let slot = |blocks: u32| {
            spaces().find_map(|space| space.alloc.slot_blocks(blocks)).map_or(u64::MAX, u64::from)
        };
        let needed = needs.iter().fold(0u64, |sum, &blocks| sum.saturating_add(slot(blocks)));
        let capacity: u64 = spaces().map(|space| space.alloc.capacity_blocks()).sum();
        // Which of the pinned blocks are on these drives is known only where these are all.
        let all = (0..self.spaces.len()).all(|drive| {
            usable & (1 << drive) != 0 || self.spaces.get(drive).is_none_or(Option::is_none)
        });
        needed <= capacity.saturating_sub(if all { self.pinned_blocks } else { 0 })
    }

    fn give_all(&mut self, locations: &[Location]) {
        for location in locations {
            if let Some(space) = self.space(location.drive) {
                space.alloc.give(location.chunk, location.block);
            }
        }
    }

    fn free_record(&mut self, id: Id) {
        let Some(entry) = self.index.entry(id) else { return };
        let record = Record::put_len(entry.key().len(), entry.pieces().count()) as u64;
        let head = entry.head();
        if let Some(space) = self.space(head.drive) {
            space.meta_used = space.meta_used.saturating_sub(record);
        }
    }

    /// Frees the space and the entry of an object that nobody holds or sees.
    pub(crate) fn release_entry(&mut self, id: Id) {
        if self.index.entry_mut(id).is_some_and(|entry| entry.set_ended()) {
            self.free_record(id);
        }
        let Some(entry) = self.index.entry(id) else { return };
        let mut places: SmallVec<[Location; 8]> = entry.pieces().collect();
        places.push(entry.head());
        if entry.state() == EntryState::Doomed {
            self.doomed -= 1;
            for (drive, blocks) in self.slots_of(id) {
                if let Some(space) = self.space(drive) {
                    space.doomed_blocks = space.doomed_blocks.saturating_sub(blocks);
                }
            }
        }
        self.give_all(&places);
        self.index.free(id);
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
        let entry = self.index.entry(id)?;
        let (len, pinned) = (entry.payload_len(), entry.pins > 0);
        self.payload_bytes += u64::from(len);
        if pinned {
            self.pinned += 1;
            self.pinned_blocks += self.blocks_of(id);
        }
        old
    }

    /// Makes an object invisible and holds its space until [`State::end`].
    pub(crate) fn doom(&mut self, id: Id) {
        while self.unpin(id) {}
        let Some(entry) = self.index.entry_mut(id) else { return };
        if entry.state() != EntryState::Live {
            return;
        }
        entry.holds += 1;
        self.payload_bytes -= u64::from(entry.payload_len());
        self.doomed += 1;
        for (drive, blocks) in self.slots_of(id) {
            if let Some(space) = self.space(drive) {
                space.doomed_blocks += blocks;
            }
        }
        self.index.doom(id);
        if canary::on(Canary::ReuseBeforeDurable) {
            self.end(id);
        }
    }

    /// Notes that the record that ends a doomed object is durable; its space is free when its last
    /// reader is done.
    pub(crate) fn end(&mut self, id: Id) {
        if self.index.entry_mut(id).is_some_and(|entry| entry.set_ended()) {
            self.lay(id);
            self.free_record(id);
            self.unhold(id);
        }
    }

    /// Forgets the ghost of an object whose end is on record.
    fn lay(&mut self, id: Id) {
        if self.haunted.is_empty() {
            return;
        }
        let Some(key) = self.index.entry(id).map(|entry| entry.key().to_vec()) else { return };
        let Some(ghosts) = self.haunted.get_mut(&key) else { return };
        let Some(at) = ghosts.iter().position(|ghost| ghost.over == Some(id)) else { return };
        let ghost = ghosts.remove(at);
        if ghosts.is_empty() {
            self.haunted.remove(&key);
        }
        self.stuck -= usize::from(!ghost.told);
    }

    /// Gives up an object that is visible and whose record will never be written: it was acknowledged
    /// relaxed, and is lost.
    pub(crate) fn lose(&mut self, id: Id) {
        if self.index.entry(id).is_some_and(|entry| entry.state() == EntryState::Live) {
            self.doom(id);
            self.end(id);
        }
    }

    /// Notes that a doomed object's drive cannot be told of its end: its space stays taken, and its key
    /// may come back when the pool is opened again. `over`: its end is certain, only the record of it is
    /// missing; else the object that took its place was lost.
    pub(crate) fn haunt(&mut self, id: Id, over: bool) {
        let Some(entry) = self.index.entry(id) else { return };
        let ghosts = self.haunted.entry(entry.key().to_vec()).or_default();
        match ghosts.iter_mut().find(|ghost| over && ghost.over == Some(id)) {
            Some(ghost) if !ghost.told => return,
            // The record did not come to be.
            Some(ghost) => ghost.told = false,
            None => {
                let drive = entry.head().drive;
                ghosts.push(Ghost { drive, over: over.then_some(id), told: false });
            }
        }
        self.stuck += 1;
    }

    /// Notes that the record of an object which nobody was told is there may be on its drive all the same.
    pub(crate) fn doubt(&mut self, id: Id) {
        if let Some(entry) = self.index.entry(id) {
            let ghost = Ghost { drive: entry.head().drive, over: None, told: false };
            self.haunted.entry(entry.key().to_vec()).or_default().push(ghost);
        }
    }

    /// Whether an object of this key may come back when the pool is opened again.
    pub(crate) fn is_haunted(&self, key: &[u8]) -> bool {
        self.haunted.contains_key(key)
    }

    /// The records that a drive which is back must get: of the ends that it could not be told. Each is a
    /// ghost until it is on record ([`State::end`]).
    pub(crate) fn untold(&mut self, drive: u8) -> Vec<Removal> {
        let mut over = Vec::new();
        for ghost in self.haunted.values_mut().flatten() {
            if ghost.drive == drive && !ghost.told && ghost.over.is_some() {
                ghost.told = true;
                self.stuck -= 1;
                over.extend(ghost.over);
            }
        }
        over.into_iter().filter_map(|id| self.removal(id)).collect()
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
            entry: None,
            make_live: false,
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

    /// Protects a live object from eviction. `false` when it has too many pins.
    pub(crate) fn pin(&mut self, id: Id) -> bool {
        let Some(pins) = self.index.entry(id).map(|entry| entry.pins) else { return false };
        if pins == u16::MAX {
            return false;
        }
        if pins == 0 {
            self.index.leave_order(id);
            self.pinned += 1;
            self.pinned_blocks += self.blocks_of(id);
        }
        if let Some(entry) = self.index.entry_mut(id) {
            entry.pins += 1;
        }
        true
    }

    /// Takes one pin back. `false` when there is none.
    pub(crate) fn unpin(&mut self, id: Id) -> bool {
        let Some(entry) = self.index.entry_mut(id) else { return false };
        if entry.state() != EntryState::Live || entry.pins == 0 {
            return false;
        }
        entry.pins -= 1;
        if entry.pins == 0 {
            self.pinned -= 1;
            self.pinned_blocks = self.pinned_blocks.saturating_sub(self.blocks_of(id));
            self.index.enter_order(id);
        }
        true
    }

    /// Blocks in taken slots, and in all chunks, of those of these drives (bit mask) that are present.
    pub(crate) fn blocks(&self, drives: u64) -> (u64, u64) {
        let of = |(drive, space): (usize, &Option<Space>)| {
            let space = space.as_ref().filter(|_| drives & (1 << drive) != 0)?;
            Some((space.alloc.used_blocks(), space.alloc.capacity_blocks()))
        };
        let found = self.spaces.iter().enumerate().filter_map(of);
        found.fold((0, 0), |(used, all), (more_used, more)| (used + more_used, all + more))
    }

    /// Blocks of these drives (bit mask) that stay in use when everything doomed is free, and blocks in all
    /// their chunks.
    pub(crate) fn blocks_to_stay(&self, drives: u64) -> (u64, u64) {
        let (used, all) = self.blocks(drives);
        let spaces = (0..).zip(&self.spaces).filter(|(drive, _)| drives & (1 << drive) != 0);
        let doomed: u64 = spaces.filter_map(|(_, s)| s.as_ref()).map(|s| s.doomed_blocks).sum();
        (used.saturating_sub(doomed), all)
    }

    /// Dooms least recently used objects, of about `most_blocks` blocks, to mend a shortage: where a slot
    /// is wanted and the objects at hand have slots of other sizes, all of a chunk, since only an empty
    /// chunk can be divided anew. Only objects whose heads are on a drive of `writable` (bit mask) can
    /// go: their end must be recorded.
    pub(crate) fn evict(
        &mut self,
        shortage: Shortage,
        most_blocks: u64,
        writable: u64,
    ) -> Vec<Removal> {
        let candidates = self.oldest(most_blocks, writable);
        let mut freed = 0;
        let mut victims = Vec::new();
        for candidate in candidates {
            if freed >= most_blocks {
                break;
            }
            for id in self.with_neighbours(candidate, shortage, writable) {
                freed += self.blocks_of(id);
                victims.extend(self.remove(id));
            }
        }
        victims
    }

    /// The least recently used objects that can go, of at least `blocks` blocks together.
    fn oldest(&self, blocks: u64, writable: u64) -> Vec<Id> {
        let mut sum = 0;
        let can_go = |id: &Id| self.is_evictable(*id, writable);
        let enough = |id: &Id| {
            let before = sum;
            sum += self.blocks_of(*id);
            before < blocks
        };
        self.index.oldest_first().filter(can_go).take_while(enough).collect()
    }

    fn is_evictable(&self, id: Id, writable: u64) -> bool {
        self.index.entry(id).is_some_and(|entry| {
            entry.state() == EntryState::Live
                && (entry.pins == 0 || canary::on(Canary::PinsIgnored))
                && writable & (1 << entry.head().drive) != 0
        })
    }

    /// The object, unless it has gone already, and those that share a chunk with it if its own slots
    /// are of no use.
    fn with_neighbours(&self, id: Id, shortage: Shortage, writable: u64) -> Vec<Id> {
        let Some(entry) = self.index.entry(id).filter(|_| self.is_evictable(id, writable)) else {
            return Vec::new();
        };
        let mut found = vec![id];
        let Shortage::Blocks(blocks) = shortage else { return found };
        for place in entry.pieces().chain([entry.head()]) {
            let Some(Some(space)) = self.spaces.get(usize::from(place.drive)) else { continue };
            if space.alloc.class(blocks) == space.alloc.chunk_class(place.chunk) {
                continue;
            }
            let owners = space.alloc.owners(place.chunk);
            found.extend(owners.filter(|&other| self.is_evictable(other, writable)));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    fn blocks_of(&self, id: Id) -> u64 {
        self.slots_of(id).iter().map(|(_, blocks)| blocks).sum()
    }

    /// Drive and blocks of each slot of an object.
    fn slots_of(&self, id: Id) -> SmallVec<[(u8, u64); 8]> {
        let Some(entry) = self.index.entry(id) else { return SmallVec::new() };
        let Ok(shape) = entry.shape() else { return SmallVec::new() };
        let needs = (0..shape.pieces()).map(|i| shape.piece_blocks(i));
        let places = entry.pieces().zip(needs);
        let head = (entry.head(), shape.head_blocks(entry.key().len()));
        let slots = places.chain([head]);
        slots.map(|(place, blocks)| (place.drive, self.slot_blocks(place, blocks))).collect()
    }

    /// Blocks of the slot that holds `blocks` blocks on a drive.
    fn slot_blocks(&self, place: Location, blocks: u32) -> u64 {
        let space = self.spaces.get(usize::from(place.drive)).and_then(Option::as_ref);
        space.and_then(|space| space.alloc.slot_blocks(blocks)).map_or(0, u64::from)
    }
}

#[cfg(test)]
mod tests {
    use gcos_layout::media::PutRecord;

    use super::*;

    /// An object of a pool of one drive.
    fn object(state: &mut State, key: &[u8]) -> Id {
        let shape = Shape::choose(64 << 10, key.len(), 1 << 20, 1).unwrap();
        let id = state.index.add();
        let place = state.place(&shape, key.len(), id, 1).unwrap();
        let record = PutRecord {
            key: key.to_vec(),
            generation: 1,
            root: 0,
            expiry: 0,
            shape,
            head: place.head,
            pieces: place.pieces,
        };
        state.index.fill(id, &record).unwrap();
        state.make_live(id);
        id
    }

    #[test]
    fn a_ghost_is_told_once_and_stays_until_its_end_is_on_record() {
        let space = Space {
            alloc: Allocator::new(8, 256),
            doomed_blocks: 0,
            meta_used: 0,
            meta_capacity: 1 << 20,
        };
        let mut state = State::new(Index::default(), vec![Some(space)]);
        let id = object(&mut state, b"key");
        state.doom(id);
        let doomed = state.blocks(1).0;
        assert_eq!(state.blocks_to_stay(1).0, 0);
        state.haunt(id, true);
        // Noted once, however often its record fails.
        state.haunt(id, true);
        assert_eq!(state.stuck, 1);

        assert_eq!(state.untold(1).len(), 0, "of another drive");
        assert_eq!(state.untold(0).len(), 1);
        // Whoever comes now, with the record under way, adds no second: the entry may be another object's
        // by the time that one is written.
        assert_eq!(state.untold(0).len(), 0);
        assert_eq!((state.is_haunted(b"key"), state.stuck), (true, 0));

        // The record could not be written.
        state.haunt(id, true);
        assert_eq!((state.is_haunted(b"key"), state.stuck), (true, 1));
        assert_eq!(state.untold(0).len(), 1);

        assert_eq!(state.blocks(1).0, doomed);
        state.end(id);
        assert_eq!((state.is_haunted(b"key"), state.stuck, state.doomed), (false, 0, 0));
        assert_eq!(state.blocks(1).0, 0);
    }

    #[test]
    fn what_is_doomed_on_one_drive_leaves_the_others_as_full_as_they_are() {
        let space = || {
            let alloc = Allocator::new(8, 256);
            Some(Space { alloc, doomed_blocks: 0, meta_used: 0, meta_capacity: 1 << 20 })
        };
        let mut state = State::new(Index::default(), vec![space(), space()]);
        let (a, b) = (object(&mut state, b"a"), object(&mut state, b"b"));
        assert_eq!(state.blocks_to_stay(2).0, 0, "both are on the first drive");
        let of_one = state.blocks(1).0 / 2;
        state.doom(a);
        assert_eq!(state.blocks_to_stay(1).0, of_one);
        assert_eq!(state.blocks_to_stay(3).0, of_one);
        state.end(a);
        assert_eq!(state.blocks_to_stay(1).0, of_one);
        state.doom(b);
        assert_eq!(state.blocks_to_stay(1).0, 0);
        assert_eq!(state.blocks(1).0, of_one);
    }
}
