//! The objects in memory: key → where its bytes are, in least-recently-used order.
//!
//! One entry is 56 bytes; with its share of the hash table an object costs at most 96 bytes beside
//! its key (and 6 more for each piece past the fourth). `Stats::index_bytes` reports the truth.

use std::hash::BuildHasher;
use std::mem::size_of;

use gcos_layout::media::{FormatError, Location, PutRecord, PutView, Shape};
use hashbrown::{DefaultHashBuilder, HashTable};
use smallvec::SmallVec;

use crate::canary;

/// Number of an entry. Reused after the entry is freed.
pub(crate) type Id = u32;

/// No entry.
const NONE: Id = Id::MAX;
/// Entries are allocated this many at a time, so that growing never copies them.
const PAGE_ENTRIES: usize = 4096;
const KEY_MASK: u16 = 0x07ff;
const STATE_SHIFT: u16 = 14;
/// The record that the object exists is durable.
const RECORDED: u16 = 1 << 13;
/// The record that ends the object (its removal, or a newer one in the same journal) is durable.
const ENDED: u16 = 1 << 12;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryState {
    /// Free for reuse.
    Vacant,
    /// A put is writing it; nobody sees it yet.
    Pending,
    /// Visible.
    Live,
    /// Removed; its space is freed when the last hold is gone.
    Doomed,
}

/// One object.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// Key, then (if there are pieces) piece length in grains and the pieces' locations.
    blob: Box<[u8]>,
    pub(crate) generation: u64,
    pub(crate) root: u32,
    payload_len: u32,
    pub(crate) expiry: u32,
    newer: Id,
    older: Id,
    /// Readers, plus one while a record that frees it is not durable.
    pub(crate) holds: u16,
    pub(crate) pins: u16,
    /// Key length, two flags, and the state in the top two bits.
    key_and_state: u16,
    head: [u8; Location::BYTES],
}

const _: () = assert!(size_of::<Entry>() == 56, "the index budget counts on 56-byte entries");

/// What is known of an object that goes into the index.
#[derive(Debug, Clone)]
pub(crate) struct Parts<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) generation: u64,
    root: u32,
    expiry: u32,
    shape: Shape,
    pub(crate) head: Location,
    pieces: SmallVec<[Location; 8]>,
}

impl<'a> From<&'a PutRecord> for Parts<'a> {
    fn from(record: &'a PutRecord) -> Self {
        let &PutRecord { ref key, generation, root, expiry, shape, head, ref pieces } = record;
        let pieces = SmallVec::from_slice(pieces);
        Self { key, generation, root, expiry, shape, head, pieces }
    }
}

impl<'a> From<PutView<'a>> for Parts<'a> {
    fn from(view: PutView<'a>) -> Self {
        let PutView { key, generation, root, expiry, shape, head, .. } = view;
        Self { key, generation, root, expiry, shape, head, pieces: view.pieces().collect() }
    }
}

impl Entry {
    /// An entry for an object, in no state and no order.
    fn new(object: &Parts<'_>) -> Result<Self, FormatError> {
        let extra = if object.pieces.is_empty() { 0 } else { 2 };
        let len = object.key.len() + extra + Location::BYTES * object.pieces.len();
        let mut blob = Vec::with_capacity(len);
        blob.extend_from_slice(object.key);
        if !object.pieces.is_empty() {
            blob.extend_from_slice(&object.shape.piece_grains().to_le_bytes());
            for piece in &object.pieces {
                blob.extend_from_slice(&piece.encode()?);
            }
        }
        Ok(Self {
            blob: blob.into_boxed_slice(),
            generation: object.generation,
            root: object.root,
            payload_len: object.shape.payload_len(),
            expiry: object.expiry,
            newer: NONE,
            older: NONE,
            head: object.head.encode()?,
            key_and_state: u16::try_from(object.key.len()).unwrap_or(KEY_MASK) & KEY_MASK,
            ..Self::default()
        })
    }

    pub(crate) fn state(&self) -> EntryState {
        match self.key_and_state >> STATE_SHIFT {
            0 => EntryState::Vacant,
            1 => EntryState::Pending,
            2 => EntryState::Live,
            _ => EntryState::Doomed,
        }
    }

    fn set_state(&mut self, state: EntryState) {
        let rest = self.key_and_state & !(3 << STATE_SHIFT);
        self.key_and_state = rest | ((state as u16) << STATE_SHIFT);
    }

    /// Notes that the record that the object exists is durable.
    pub(crate) fn set_recorded(&mut self) {
        self.key_and_state |= RECORDED;
    }

    /// Notes that the record that ends the object is durable. Whether it was not before.
    pub(crate) fn set_ended(&mut self) -> bool {
        let before = self.key_and_state & ENDED;
        self.key_and_state |= ENDED;
        before == 0
    }

    /// Whether a recovery now would find the object: what a checkpoint must hold.
    pub(crate) fn durable(&self) -> bool {
        let state = self.state();
        (state == EntryState::Live || state == EntryState::Doomed)
            && self.key_and_state & (RECORDED | ENDED) == RECORDED
    }

    fn key_len(&self) -> usize {
        (self.key_and_state & KEY_MASK).into()
    }

    pub(crate) fn key(&self) -> &[u8] {
        self.blob.get(..self.key_len()).unwrap_or_default()
    }

    fn extra(&self) -> &[u8] {
        self.blob.get(self.key_len()..).unwrap_or_default()
    }

    pub(crate) fn payload_len(&self) -> u32 {
        self.payload_len
    }

    pub(crate) fn head(&self) -> Location {
        Location::decode(self.head)
    }

    pub(crate) fn pieces(&self) -> impl Iterator<Item = Location> + '_ {
        let locations = self.extra().get(2..).unwrap_or_default().as_chunks().0;
        locations.iter().map(|bytes| Location::decode(*bytes))
    }

    pub(crate) fn shape(&self) -> Result<Shape, FormatError> {
        let extra = self.extra();
        let piece_grains = match extra.first_chunk::<2>() {
            Some(bytes) => u16::from_le_bytes(*bytes),
            None => 0,
        };
        let pieces = extra.len().saturating_sub(2) / Location::BYTES;
        let pieces = u16::try_from(pieces).unwrap_or(u16::MAX);
        Shape::from_fields(self.payload_len, pieces, piece_grains)
    }

    /// The record that says that this object exists.
    pub(crate) fn record(&self) -> Result<PutRecord, FormatError> {
        Ok(PutRecord {
            key: self.key().to_vec(),
            generation: self.generation,
            root: self.root,
            expiry: self.expiry,
            shape: self.shape()?,
            head: self.head(),
            pieces: self.pieces().collect(),
        })
    }

    pub(crate) fn expired(&self, now: u32) -> bool {
        self.expiry != 0 && self.expiry <= now
    }
}

/// All objects of a pool.
#[derive(Debug)]
pub(crate) struct Index {
    pages: Vec<Vec<Entry>>,
    /// First of the vacant entries, chained through `older`.
    vacant: Id,
    table: HashTable<Id>,
    hasher: DefaultHashBuilder,
    newest: Id,
    oldest: Id,
    blob_bytes: usize,
    key_bytes: usize,
    live: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            vacant: NONE,
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            newest: NONE,
            oldest: NONE,
            blob_bytes: 0,
            key_bytes: 0,
            live: 0,
        }
    }
}

impl Index {
    /// Prepares for `objects` more objects.
    pub(crate) fn reserve(&mut self, objects: usize) {
        let (pages, hasher) = (&self.pages, &self.hasher);
        self.table.reserve(objects, |&id| hash_entry(pages, hasher, id));
    }

    pub(crate) fn entry(&self, id: Id) -> Option<&Entry> {
        entry_at(&self.pages, id)
    }

    pub(crate) fn entry_mut(&mut self, id: Id) -> Option<&mut Entry> {
        self.pages.get_mut(id as usize / PAGE_ENTRIES)?.get_mut(id as usize % PAGE_ENTRIES)
    }

    /// A new pending entry with nothing in it yet; nobody finds it until [`Index::make_live`].
    pub(crate) fn add(&mut self) -> Id {
        let mut entry = Entry { newer: NONE, older: NONE, ..Entry::default() };
        entry.set_state(EntryState::Pending);
        self.store(entry)
    }

    /// Fills in a new entry.
    pub(crate) fn fill(&mut self, id: Id, record: &PutRecord) -> Result<(), FormatError> {
        let mut entry = Entry::new(&Parts::from(record))?;
        entry.set_state(EntryState::Pending);
        self.count(&entry);
        let before = match self.entry_mut(id) {
            Some(slot) => std::mem::replace(slot, entry),
            None => entry,
        };
        self.discount(&before);
        Ok(())
    }

    /// Adds an object that a recovery has found, visible and on record, under the hash of its key. It is in
    /// no order of use before [`Index::order`] puts all of them there. The caller has made sure that no other
    /// entry of its key is live.
    pub(crate) fn enter(&mut self, hash: u64, object: &Parts<'_>) -> Result<Id, FormatError> {
        let mut entry = Entry::new(object)?;
        entry.set_state(EntryState::Live);
        entry.set_recorded();
        self.count(&entry);
        let id = self.store(entry);
        self.live += 1;
        let (pages, hasher) = (&self.pages, &self.hasher);
        self.table.insert_unique(hash, id, |&id| hash_entry(pages, hasher, id));
        Ok(id)
    }

    /// Makes the order of use this one, the least recently used first.
    pub(crate) fn order(&mut self, oldest_first: impl IntoIterator<Item = Id>) {
        (self.oldest, self.newest) = (NONE, NONE);
        oldest_first.into_iter().for_each(|id| self.link_newest(id));
    }

    fn count(&mut self, entry: &Entry) {
        self.blob_bytes += entry.blob.len();
        self.key_bytes += entry.key_len();
    }

    fn discount(&mut self, entry: &Entry) {
        self.blob_bytes -= entry.blob.len();
        self.key_bytes -= entry.key_len();
    }

    fn store(&mut self, entry: Entry) -> Id {
        if self.vacant != NONE {
            let id = self.vacant;
            if let Some(slot) = self.entry_mut(id) {
                let next = std::mem::replace(slot, entry).older;
                self.vacant = next;
                return id;
            }
        }
        if self.pages.last().is_none_or(|page| page.len() == PAGE_ENTRIES) {
            self.pages.push(Vec::with_capacity(PAGE_ENTRIES));
        }
        let id = self.upper_id();
        if let Some(page) = self.pages.last_mut() {
            page.push(entry);
        }
        id
    }

    /// One past the highest entry number in use.
    pub(crate) fn upper_id(&self) -> Id {
        let full = self.pages.len().saturating_sub(1) * PAGE_ENTRIES;
        let last = self.pages.last().map_or(0, Vec::len);
        Id::try_from(full + last).unwrap_or(NONE)
    }

    /// Frees an entry that is neither live nor held.
    pub(crate) fn free(&mut self, id: Id) {
        let vacant = self.vacant;
        let Some(entry) = self.entry_mut(id) else { return };
        let (blob, key) = (entry.blob.len(), entry.key_len());
        *entry = Entry { older: vacant, ..Entry::default() };
        self.blob_bytes -= blob;
        self.key_bytes -= key;
        self.vacant = id;
    }

    /// The hash by which a key is found.
    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        canary::weak_hash(key).unwrap_or_else(|| self.hasher.hash_one(key))
    }

    pub(crate) fn find(&self, key: &[u8]) -> Option<Id> {
        self.find_hashed(self.hash(key), key)
    }

    /// As [`Index::find`], with the key's [`Index::hash`].
    pub(crate) fn find_hashed(&self, hash: u64, key: &[u8]) -> Option<Id> {
        let weak = canary::weak_hash(key).is_some();
        let is = |&id: &Id| self.entry(id).is_some_and(|entry| entry.key() == key || weak);
        self.table.find(hash, is).copied()
    }

    /// Makes an entry visible, as the most recently used unless it is pinned. The caller has made sure that no other entry of its
    /// key is live.
    pub(crate) fn make_live(&mut self, id: Id) {
        let Some(entry) = self.entry_mut(id) else { return };
        entry.set_state(EntryState::Live);
        self.live += 1;
        let (pages, hasher) = (&self.pages, &self.hasher);
        let hash = hash_entry(pages, hasher, id);
        self.table.insert_unique(hash, id, |&id| hash_entry(pages, hasher, id));
        if self.entry(id).is_some_and(|entry| entry.pins == 0) {
            self.link_newest(id);
        }
    }

    /// Makes a live entry invisible. It stays until [`Index::free`].
    pub(crate) fn doom(&mut self, id: Id) {
        if self.entry(id).is_none_or(|entry| entry.state() != EntryState::Live) {
            return;
        }
        self.unlink(id);
        let hash = hash_entry(&self.pages, &self.hasher, id);
        if let Ok(found) = self.table.find_entry(hash, |&other| other == id) {
            found.remove();
        }
        self.live -= 1;
        if let Some(entry) = self.entry_mut(id) {
            entry.set_state(EntryState::Doomed);
            entry.pins = 0;
        }
    }

    /// Makes a live entry the most recently used. Pinned ones are not in the order.
    pub(crate) fn touch(&mut self, id: Id) {
        if self.newest != id && self.entry(id).is_some_and(|entry| entry.pins == 0) {
            self.unlink(id);
            self.link_newest(id);
        }
    }

    /// Takes a live entry that is about to be pinned out of the order.
    pub(crate) fn leave_order(&mut self, id: Id) {
        self.unlink(id);
    }

    /// Puts a live entry that is no longer pinned back into the order.
    pub(crate) fn enter_order(&mut self, id: Id) {
        self.link_newest(id);
    }

    /// Live, unpinned entries, least recently used first.
    pub(crate) fn oldest_first(&self) -> impl Iterator<Item = Id> + '_ {
        let step = |id: &Id| self.entry(*id).map(|entry| entry.newer).filter(|&id| id != NONE);
        std::iter::successors(Some(self.oldest).filter(|&id| id != NONE), step)
    }

    fn link_newest(&mut self, id: Id) {
        let before = self.newest;
        if let Some(entry) = self.entry_mut(id) {
            entry.older = before;
            entry.newer = NONE;
        }
        match self.entry_mut(before) {
            Some(entry) => entry.newer = id,
            None => self.oldest = id,
        }
        self.newest = id;
    }

    fn unlink(&mut self, id: Id) {
        let Some(entry) = self.entry_mut(id) else { return };
        let (newer, older) = (entry.newer, entry.older);
        let linked = newer != NONE || older != NONE;
        entry.newer = NONE;
        entry.older = NONE;
        if !linked && self.newest != id {
            return;
        }
        match self.entry_mut(newer) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match self.entry_mut(older) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }

    /// Live objects.
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// All entries that are live, in no order.
    pub(crate) fn live(&self) -> impl Iterator<Item = (Id, &Entry)> {
        (0..self.upper_id())
            .filter_map(|id| self.entry(id).map(|entry| (id, entry)))
            .filter(|(_, entry)| entry.state() == EntryState::Live)
    }

    /// Bytes of memory in use, keys included.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.pages.len() * PAGE_ENTRIES * size_of::<Entry>()
            + self.table.allocation_size()
            + self.blob_bytes
    }

    /// Bytes of keys.
    pub(crate) fn key_bytes(&self) -> usize {
        self.key_bytes
    }
}

fn entry_at(pages: &[Vec<Entry>], id: Id) -> Option<&Entry> {
    pages.get(id as usize / PAGE_ENTRIES)?.get(id as usize % PAGE_ENTRIES)
}

fn hash_entry(pages: &[Vec<Entry>], hasher: &DefaultHashBuilder, id: Id) -> u64 {
    let key = entry_at(pages, id).map(Entry::key).unwrap_or_default();
    canary::weak_hash(key).unwrap_or_else(|| hasher.hash_one(key))
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, VecDeque};

    use proptest::prelude::*;

    use super::*;

    fn record(key: &[u8], generation: u64, len: u32) -> PutRecord {
        let shape = Shape::choose(len, key.len(), 8 << 20, 1).unwrap();
        let at = |chunk| Location { drive: 0, chunk, block: 0 };
        PutRecord {
            key: key.to_vec(),
            generation,
            root: 1,
            expiry: 0,
            shape,
            head: at(9),
            pieces: (0..shape.pieces() as u32).map(at).collect(),
        }
    }

    fn add(index: &mut Index, record: &PutRecord) -> Id {
        let id = index.add();
        index.fill(id, record).unwrap();
        id
    }

    fn put(index: &mut Index, key: &[u8], generation: u64) -> Id {
        let id = add(index, &record(key, generation, 100));
        index.make_live(id);
        id
    }

    #[test]
    fn an_entry_gives_back_its_record() {
        let mut index = Index::default();
        for len in [1, 32 << 20, 33 << 20] {
            let record = record(b"key", 7, len);
            let id = add(&mut index, &record);
            assert_eq!(index.entry(id).unwrap().record().unwrap(), record);
        }
    }

    #[test]
    fn pending_entries_are_not_found_and_doomed_ones_no_longer() {
        let mut index = Index::default();
        let id = add(&mut index, &record(b"", 1, 5));
        assert_eq!(index.find(b""), None);
        index.make_live(id);
        assert_eq!(index.find(b""), Some(id));
        index.doom(id);
        assert_eq!((index.find(b""), index.len()), (None, 0));
        index.free(id);
        assert_eq!(index.add(), id, "entries are reused");
    }

    #[test]
    fn memory_beside_the_key_is_within_the_budget() {
        for (count, len) in [(1_000_000u32, 4096), (200_000, 32 << 20)] {
            let mut index = Index::default();
            for i in 0..count {
                let id = add(&mut index, &record(&i.to_le_bytes(), i.into(), len));
                index.make_live(id);
            }
            let beside = index.memory_bytes() - index.key_bytes();
            let each = beside as f64 / f64::from(count);
            assert!(each <= 96.0, "{each} bytes beside the key for objects of {len} bytes");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn behaves_like_a_map_with_an_order(ops in proptest::collection::vec((0u8..4, 0u8..20), 1..300)) {
            let mut index = Index::default();
            let mut map: HashMap<u8, Id> = HashMap::new();
            let mut order: VecDeque<u8> = VecDeque::new();
            for (i, (op, key)) in ops.into_iter().enumerate() {
                match (op, map.get(&key).copied()) {
                    (0, None) => {
                        map.insert(key, put(&mut index, &[key], i as u64));
                        order.push_back(key);
                    }
                    (1, Some(id)) => {
                        index.doom(id);
                        index.free(id);
                        map.remove(&key);
                        order.retain(|k| *k != key);
                    }
                    (2, Some(id)) => {
                        index.touch(id);
                        order.retain(|k| *k != key);
                        order.push_back(key);
                    }
                    _ => {}
                }
                prop_assert_eq!(index.len(), map.len());
                prop_assert_eq!(index.find(&[key]), map.get(&key).copied());
                let seen: Vec<u8> =
                    index.oldest_first().map(|id| index.entry(id).unwrap().key()[0]).collect();
                prop_assert_eq!(seen, order.iter().copied().collect::<Vec<_>>());
            }
        }
    }
}
