//! What a store may answer: the reference that every answer is compared with.
//!
//! Each write has the time at which it began and ended, counted in events. A read may see a write unless
//! another one, acknowledged, began after it had ended and ended before the read began. What a crash
//! leaves follows by the same rule, with the writes alone that were durable.

use std::collections::HashMap;
use std::fmt;

use fastrand::Rng;

/// When the object of a put expires: its time to live is counted from some moment between the beginning of the put
/// and its end.
#[derive(Debug, Clone, Copy)]
struct Life {
    ttl: u64,
    /// Not before this second.
    least: u64,
    /// From this second on for certain, if the put has ended.
    most: Option<u64>,
}

/// The content of a key: absent, or the payload of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// No object.
    Absent,
    /// A payload.
    Put {
        /// Number of the put.
        id: u32,
        /// Length of the payload.
        len: u32,
    },
}

/// What is excused from now on. Each includes the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Excuse {
    /// Nothing: the drives did what they are for.
    #[default]
    Nothing,
    /// Operations may fail, and gets miss for that reason.
    Errors,
    /// Objects may be lost.
    Losses,
    /// Objects may be lost, and what the last checkpoint had, or what was put since, come back whole at an
    /// open.
    Journal,
    /// Objects may be lost, and old ones come back whole, at an open.
    Anything,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    UnderWay,
    /// Acknowledged.
    Done,
    /// Ended with an error: visible by no means before the next open.
    Failed,
    /// A remove that ended with an error: what it removed is invisible until the next open.
    Hidden,
}

#[derive(Debug, Clone)]
struct Write {
    value: Value,
    start: u64,
    /// `u64::MAX` while it is under way.
    end: u64,
    status: Status,
    /// Whether it survives a crash.
    durable: bool,
    /// Acknowledged relaxed, and perhaps lost with a drive's journal since.
    doubtful: bool,
}

impl Write {
    fn settled(value: Value, at: u64) -> Self {
        let (start, end, status) = (at, at, Status::Done);
        Self { value, start, end, status, durable: true, doubtful: false }
    }

    /// Whether this write, seen at `by`, leaves nothing of `other`.
    fn hides(&self, other: &Self, by: u64) -> bool {
        matches!(self.status, Status::Done | Status::Hidden)
            && other.end < self.start
            && self.end < by
    }

    /// Whether this write leaves nothing of `other` after a crash.
    fn buries(&self, other: &Self) -> bool {
        // A removal names what it removes, which a put that failed is not.
        let names = other.status != Status::Failed || self.value != Value::Absent;
        self.status == Status::Done && self.durable && other.end < self.start && names
    }
}

#[derive(Debug, Clone)]
struct Key {
    writes: Vec<Write>,
    /// All that was ever put.
    ever: Vec<Value>,
    /// What was there at the last checkpoint, and all that was put since: what may come back when journals are
    /// lost.
    back: Vec<Value>,
    /// The put that its owner has pinned.
    pinned: bool,
}

/// Names a write that has begun.
#[derive(Debug, Clone, Copy)]
pub struct WriteId {
    key: u8,
    start: u64,
}

/// What a read returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// These bytes, from this offset of the payload on, of an object of this length if that is known.
    Bytes {
        /// Offset in the payload.
        offset: u32,
        /// What was read.
        bytes: Vec<u8>,
        /// Length of the whole payload.
        len: Option<u32>,
    },
    /// No such key.
    Absent,
    /// A miss because of damage.
    Damaged(String),
    /// A miss because a drive failed or is gone.
    Failed(String),
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Bytes { offset, bytes, len } => {
                write!(f, "{} bytes from {offset} of {len:?}", bytes.len())
            }
            Seen::Absent => f.write_str("absent"),
            Seen::Damaged(why) => write!(f, "damaged ({why})"),
            Seen::Failed(why) => write!(f, "failed ({why})"),
        }
    }
}

/// The reference model.
#[derive(Debug, Clone)]
pub struct Model {
    keys: Vec<Key>,
    clock: u64,
    next: u32,
    /// Distinguishes payloads of different histories.
    salt: u64,
    /// What may go wrong without being the store's fault.
    pub excuse: Excuse,
    /// Whether objects that are not pinned may have been evicted.
    pub evicted: bool,
    /// Wall-clock time in seconds. Never set back.
    pub wall: u64,
    /// Events from which on another second counted, and the second.
    walls: Vec<(u64, u64)>,
    /// Of the puts that expire, by number.
    lives: HashMap<u32, Life>,
}

/// Bytes that a generator makes at a time.
const WORD: usize = 8;

/// Makes the bytes of a put.
fn generator(salt: u64, key: u8, id: u32) -> Rng {
    Rng::with_seed(salt ^ u64::from(id) << 8 ^ u64::from(key))
}

/// The bytes of a put.
#[must_use]
pub fn payload(salt: u64, key: u8, id: u32, len: u32) -> Vec<u8> {
    let mut rng = generator(salt, key, id);
    let words = (len as usize).div_ceil(WORD);
    let mut out: Vec<u8> = Vec::with_capacity(words * WORD);
    for _ in 0..words {
        out.extend_from_slice(&rng.u64(..).to_ne_bytes());
    }
    out.truncate(len as usize);
    out
}

impl Model {
    /// A model of an empty pool.
    #[must_use]
    pub fn new(keys: u8, salt: u64) -> Self {
        let key = |_| Key {
            writes: vec![Write::settled(Value::Absent, 0)],
            ever: Vec::new(),
            back: Vec::new(),
            pinned: false,
        };
        let keys = (0..keys).map(key).collect();
        Self {
            keys,
            clock: 1,
            next: 1,
            salt,
            excuse: Excuse::Nothing,
            evicted: false,
            wall: 0,
            walls: vec![(0, 0)],
            lives: HashMap::new(),
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        if self.walls.last().is_none_or(|&(_, wall)| wall != self.wall) {
            self.walls.push((self.clock, self.wall));
        }
        self.clock
    }

    /// The second at an event.
    fn wall_at(&self, event: u64) -> u64 {
        let before = self.walls.partition_point(|&(from, _)| from <= event);
        self.walls.get(before.saturating_sub(1)).map_or(0, |&(_, wall)| wall)
    }

    fn life(&self, value: Value) -> Option<Life> {
        let Value::Put { id, .. } = value else { return None };
        self.lives.get(&id).copied()
    }

    /// Whether an object had expired at an event for certain.
    fn expired_at(&self, value: Value, event: u64) -> bool {
        let most = self.life(value).and_then(|life| life.most);
        most.is_some_and(|most| self.wall_at(event) >= most)
    }

    /// A put that has begun gives its object so many seconds to live.
    pub fn mortal(&mut self, write: WriteId, ttl: u64) {
        let writes = &self.keys[usize::from(write.key)].writes;
        let value = writes.iter().find(|w| w.start == write.start).map(|w| w.value);
        if let Some(Value::Put { id, .. }) = value {
            self.lives.insert(id, Life { ttl, least: self.wall + ttl, most: None });
        }
    }

    /// Notes that more may go wrong.
    pub fn excuse(&mut self, excuse: Excuse) {
        self.excuse = self.excuse.max(excuse);
    }

    /// A put begins: its payload.
    pub fn begin_put(&mut self, key: u8, len: u32) -> (WriteId, Vec<u8>) {
        let id = self.next;
        self.next += 1;
        let value = Value::Put { id, len };
        (self.begin(key, value), payload(self.salt, key, id, len))
    }

    /// A remove begins.
    pub fn begin_remove(&mut self, key: u8) -> WriteId {
        self.begin(key, Value::Absent)
    }

    fn begin(&mut self, key: u8, value: Value) -> WriteId {
        let start = self.tick();
        let entry = &mut self.keys[usize::from(key)];
        entry.pinned = false;
        entry.ever.push(value);
        entry.back.push(value);
        let (end, status) = (u64::MAX, Status::UnderWay);
        entry.writes.push(Write { value, start, end, status, durable: false, doubtful: false });
        WriteId { key, start }
    }

    fn end(&mut self, write: WriteId, status: Status, durable: bool) {
        let end = self.tick();
        let writes = &mut self.keys[usize::from(write.key)].writes;
        if let Some(found) = writes.iter_mut().find(|w| w.start == write.start) {
            (found.end, found.status, found.durable) = (end, status, durable);
            if let Value::Put { id, .. } = found.value
                && let Some(life) = self.lives.get_mut(&id)
            {
                life.most = Some(self.wall + life.ttl);
            }
        }
    }

    /// A write was acknowledged.
    pub fn done(&mut self, write: WriteId, sync: bool) {
        self.end(write, Status::Done, sync);
    }

    /// A write ended with an error.
    pub fn failed(&mut self, write: WriteId) {
        let writes = &self.keys[usize::from(write.key)].writes;
        let remove = writes.iter().any(|w| w.start == write.start && w.value == Value::Absent);
        self.end(write, if remove { Status::Hidden } else { Status::Failed }, false);
    }

    /// A write has turned out to be none: a put that kept what was there, a remove of nothing.
    pub fn forget(&mut self, write: WriteId) {
        self.keys[usize::from(write.key)].writes.retain(|w| w.start != write.start);
        self.tick();
    }

    /// A put kept what is there.
    ///
    /// # Errors
    /// That nothing can have been there.
    pub fn kept(&mut self, write: WriteId) -> Result<(), String> {
        let writes = &self.keys[usize::from(write.key)].writes;
        let there = |w: &&Write| {
            w.start != write.start
                && w.value != Value::Absent
                && (w.status != Status::Failed || w.end > write.start)
                && !writes.iter().any(|x| x.hides(w, write.start))
                && !self.expired_at(w.value, write.start)
        };
        match writes.iter().any(|w| there(&w)) {
            true => Ok(()),
            false => Err(format!("a put keeps what is not there: {writes:?}")),
        }
    }

    /// A synchronous put kept what is there: that is durable.
    pub fn kept_sync(&mut self, key: u8, since: u64) {
        self.make_durable(usize::from(key), since);
    }

    /// An operation that reads begins.
    pub fn begin_read(&mut self) -> u64 {
        self.tick()
    }

    /// A flush that began at `since` has ended well.
    pub fn flushed(&mut self, since: u64) {
        for key in 0..self.keys.len() {
            self.make_durable(key, since);
        }
    }

    fn make_durable(&mut self, key: usize, since: u64) {
        let writes = self.keys[key].writes.iter_mut();
        for write in writes.filter(|w| w.status == Status::Done && w.end < since && !w.doubtful) {
            write.durable = true;
        }
    }

    /// Checkpoints of all drives have been written, after a flush, by what began at `since`: what was gone by
    /// then is in neither of them.
    pub fn checkpointed(&mut self, since: u64) {
        for Key { writes, back, .. } in &mut self.keys {
            let buried = |w: &Write| writes.iter().any(|x| x.end < since && x.buries(w));
            let there: Vec<Value> = writes.iter().filter(|w| !buried(w)).map(|w| w.value).collect();
            back.retain(|value| there.contains(value));
        }
    }

    /// Relaxed operations were lost with a drive's journal.
    pub fn relaxed_lost(&mut self) {
        for key in &mut self.keys {
            key.writes.iter_mut().filter(|w| !w.durable).for_each(|w| w.doubtful = true);
        }
    }

    /// The owner of a key has pinned what is there, or let it go.
    pub fn pin(&mut self, key: u8, pinned: bool) {
        self.keys[usize::from(key)].pinned = pinned;
    }

    /// Whether the owner of a key has pinned it.
    #[must_use]
    pub fn pinned(&self, key: u8) -> bool {
        self.keys[usize::from(key)].pinned
    }

    /// Compares what a read that began at `since` and ends now has returned.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&mut self, key: u8, since: u64, seen: &Seen) -> Result<(), String> {
        self.judge(key, since, seen).map(|_| ())
    }

    /// As [`Model::check`]: the payload that was read, if there was one.
    fn judge(&mut self, key: u8, since: u64, seen: &Seen) -> Result<Option<Value>, String> {
        self.tick();
        let (excuse, evicted) = (self.excuse, self.evicted);
        let entry = &self.keys[usize::from(key)];
        let visible = |w: &&Write| {
            w.status != Status::Failed && !entry.writes.iter().any(|x| x.hides(w, since))
        };
        // A put that failed while the read was under way may have been seen.
        let under_way = |w: &&Write| w.status == Status::Failed && w.end > since;
        let candidates: Vec<&Write> =
            entry.writes.iter().filter(|w| visible(w) || under_way(w)).collect();
        let wrong = |what: &str| {
            let values: Vec<Value> = candidates.iter().map(|w| w.value).collect();
            Err(format!("key {key} is {seen}, {what}: it may be {values:?}"))
        };
        match seen {
            Seen::Bytes { .. } => {
                let fits = |w: &&&Write| is_of(self.salt, key, w.value, seen);
                if let Some(found) = candidates.iter().find(fits) {
                    return match self.expired_at(found.value, since) {
                        true => wrong("which had expired"),
                        false => Ok(Some(found.value)),
                    };
                }
                match entry.ever.iter().find(|&&value| is_of(self.salt, key, value, seen)) {
                    Some(old) => wrong(&format!("which is {old:?}, not what is there")),
                    None => wrong("bytes that were never put"),
                }
            }
            Seen::Absent => {
                let absent = candidates.iter().any(|w| w.value == Value::Absent);
                let lost = candidates.iter().any(|w| !w.durable) && excuse >= Excuse::Errors;
                let old = |w: &&&Write| self.life(w.value).is_some_and(|l| l.least <= self.wall);
                let absent = absent || candidates.iter().any(|w| old(&w));
                let gone = (evicted && !entry.pinned) || excuse >= Excuse::Losses || lost;
                if absent || gone { Ok(None) } else { wrong("a lost object") }
            }
            Seen::Damaged(_) if excuse >= Excuse::Losses => Ok(None),
            Seen::Damaged(_) => wrong("without any damage"),
            Seen::Failed(_) if excuse >= Excuse::Errors => Ok(None),
            Seen::Failed(_) => wrong("without any failure"),
        }
    }

    /// The store is gone. What was not durable may be there or not. `orderly`: it was closed, and
    /// everything acknowledged is durable.
    pub fn crash(&mut self, orderly: bool) {
        let now = self.tick();
        if orderly {
            self.flushed(now);
        }
        for life in self.lives.values_mut() {
            life.most.get_or_insert(self.wall + life.ttl);
        }
        let excuse = self.excuse;
        for key in &mut self.keys {
            key.pinned = false;
            let survives = |w: &&Write| !key.writes.iter().any(|x| x.buries(w));
            let survivors = key.writes.iter().filter(survives).map(|w| w.value);
            let mut values: Vec<Value> = match excuse {
                Excuse::Anything => key.ever.iter().copied().chain([Value::Absent]).collect(),
                Excuse::Journal => {
                    survivors.chain(key.back.clone()).chain([Value::Absent]).collect()
                }
                _ => survivors.collect(),
            };
            values.dedup();
            key.writes = values.into_iter().map(|value| Write::settled(value, now)).collect();
        }
    }

    /// After an open: what a key was found to be, which it stays.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn observe(&mut self, key: u8, since: u64, seen: &Seen) -> Result<(), String> {
        let found = self.judge(key, since, seen)?;
        let now = self.tick();
        let value = match seen {
            Seen::Bytes { .. } => found,
            // Excused or not: what an open does not find stays away.
            Seen::Absent => Some(Value::Absent),
            // It is there and cannot be read: which of them it is does not show.
            _ => None,
        };
        if let Some(value) = value {
            self.keys[usize::from(key)].writes = vec![Write::settled(value, now)];
        }
        Ok(())
    }
}

/// Whether bytes that were read are those of a value.
fn is_of(salt: u64, key: u8, value: Value, seen: &Seen) -> bool {
    let (Value::Put { id, len }, Seen::Bytes { offset, bytes, len: known }) = (value, seen) else {
        return false;
    };
    let (from, len) = (*offset as usize, len as usize);
    known.is_none_or(|known| known as usize == len)
        && from + bytes.len() <= len
        && is_part(generator(salt, key, id), from, bytes)
}

/// Whether the bytes from `from` on that a generator makes are these. Most are told apart by the first few,
/// so no more are made than needed.
fn is_part(mut rng: Rng, from: usize, bytes: &[u8]) -> bool {
    for _ in 0..from / WORD {
        rng.u64(..);
    }
    let first = from % WORD;
    let (head, rest) = bytes.split_at(bytes.len().min((WORD - first) % WORD));
    if !head.is_empty() && !rng.u64(..).to_ne_bytes()[first..].starts_with(head) {
        return false;
    }
    let (words, tail) = rest.as_chunks::<WORD>();
    words.iter().all(|word| u64::from_ne_bytes(*word) == rng.u64(..))
        && (tail.is_empty() || rng.u64(..).to_ne_bytes().starts_with(tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(model: &Model, key: u8, id: u32, len: u32) -> Seen {
        Seen::Bytes { offset: 0, bytes: payload(model.salt, key, id, len), len: Some(len) }
    }

    fn put(model: &mut Model, len: u32, sync: bool) {
        let (write, _) = model.begin_put(0, len);
        model.done(write, sync);
    }

    #[test]
    fn parts_of_a_payload_are_known_and_one_changed_byte_is_noticed() {
        let mut rng = Rng::with_seed(1);
        for len in [1u32, 7, 8, 9, 15, 16, 17, 100, 4096] {
            let whole = payload(7, 3, 5, len);
            let mut filled = vec![0; len as usize];
            generator(7, 3, 5).fill(&mut filled);
            assert_eq!(whole, filled, "payloads are what they always were");
            for _ in 0..200 {
                let from = rng.usize(0..len as usize);
                let to = rng.usize(from + 1..=len as usize);
                let mut bytes = whole[from..to].to_vec();
                assert!(is_part(generator(7, 3, 5), from, &bytes), "{from}..{to} of {len}");
                let at = rng.usize(0..bytes.len());
                bytes[at] ^= 1;
                assert!(!is_part(generator(7, 3, 5), from, &bytes), "{from}..{to} of {len}");
            }
        }
    }

    #[test]
    fn an_acknowledged_put_hides_the_one_before_and_a_concurrent_one_does_not() {
        let mut model = Model::new(1, 7);
        put(&mut model, 10, true);
        put(&mut model, 20, true);
        let since = model.begin_read();
        let (old, new) = (bytes(&model, 0, 1, 10), bytes(&model, 0, 2, 20));
        assert!(model.check(0, since, &new).is_ok());
        assert!(model.check(0, since, &old).is_err());
        assert!(model.check(0, since, &Seen::Absent).is_err());
        let since = model.begin_read();
        put(&mut model, 30, true);
        let newest = bytes(&model, 0, 3, 30);
        assert!(model.check(0, since, &new).is_ok() && model.check(0, since, &newest).is_ok());
    }

    #[test]
    fn a_crash_keeps_what_was_durable_and_may_keep_what_was_not() {
        let mut model = Model::new(1, 7);
        put(&mut model, 10, true);
        put(&mut model, 20, false);
        model.crash(false);
        let since = model.begin_read();
        let (old, new) = (bytes(&model, 0, 1, 10), bytes(&model, 0, 2, 20));
        assert!(model.check(0, since, &Seen::Absent).is_err());
        assert!(model.check(0, since, &new).is_ok());
        assert!(model.observe(0, since, &old).is_ok());
        let since = model.begin_read();
        assert!(model.check(0, since, &new).is_err(), "it was seen to be gone");
    }

    #[test]
    fn a_flush_and_a_close_make_relaxed_operations_durable() {
        for close in [false, true] {
            let mut model = Model::new(1, 7);
            put(&mut model, 10, true);
            put(&mut model, 20, false);
            let since = model.begin_read();
            if !close {
                model.flushed(since);
            }
            model.crash(close);
            let since = model.begin_read();
            let old = bytes(&model, 0, 1, 10);
            assert!(model.check(0, since, &old).is_err());
        }
    }

    #[test]
    fn an_object_is_there_until_it_expires_and_never_after_in_any_run() {
        let mut model = Model::new(1, 7);
        model.wall = 100;
        let (write, _) = model.begin_put(0, 10);
        model.mortal(write, 5);
        model.wall = 101;
        model.done(write, true);
        let seen = bytes(&model, 0, 1, 10);
        for crash in [false, true] {
            // From 105 on it may have expired, from 106 on it has.
            let mut model = model.clone();
            for (wall, there, gone) in [(104, true, false), (105, true, true), (106, false, true)] {
                model.wall = wall;
                if crash {
                    model.crash(false);
                }
                let since = model.begin_read();
                assert_eq!(model.check(0, since, &seen).is_ok(), there, "{wall}");
                assert_eq!(model.check(0, since, &Seen::Absent).is_ok(), gone, "{wall}");
                let (again, _) = model.begin_put(0, 10);
                assert_eq!(model.kept(again).is_ok(), there, "{wall}");
                model.forget(again);
            }
        }
    }

    #[test]
    fn an_object_that_expires_leaves_nothing_of_the_one_that_it_replaced() {
        let mut model = Model::new(1, 7);
        put(&mut model, 10, true);
        let (write, _) = model.begin_put(0, 20);
        model.mortal(write, 5);
        model.done(write, true);
        model.wall = 50;
        model.crash(false);
        let since = model.begin_read();
        let (old, new) = (bytes(&model, 0, 1, 10), bytes(&model, 0, 2, 20));
        assert!(model.check(0, since, &old).is_err() && model.check(0, since, &new).is_err());
        assert!(model.check(0, since, &Seen::Absent).is_ok());
    }

    #[test]
    fn misses_need_an_excuse_and_wrong_bytes_have_none() {
        let mut model = Model::new(1, 7);
        put(&mut model, 10, true);
        model.excuse(Excuse::Anything);
        model.crash(false);
        let since = model.begin_read();
        assert!(model.check(0, since, &Seen::Damaged(String::new())).is_ok());
        assert!(model.check(0, since, &Seen::Absent).is_ok());
        let wrong = Seen::Bytes { offset: 0, bytes: vec![1; 10], len: Some(10) };
        assert!(model.check(0, since, &wrong).is_err());
    }

    #[test]
    fn what_a_checkpoint_has_buried_does_not_come_back_with_a_lost_journal() {
        for excuse in [Excuse::Journal, Excuse::Anything] {
            let mut model = Model::new(1, 7);
            put(&mut model, 10, true);
            put(&mut model, 20, true);
            let since = model.begin_read();
            model.flushed(since);
            model.checkpointed(since);
            put(&mut model, 30, true);
            put(&mut model, 40, true);
            model.excuse(excuse);
            model.crash(false);
            let since = model.begin_read();
            for (id, len) in [(2, 20), (3, 30), (4, 40)] {
                let seen = bytes(&model, 0, id, len);
                assert!(model.check(0, since, &seen).is_ok(), "{len} may be back");
            }
            let buried = bytes(&model, 0, 1, 10);
            assert_eq!(model.check(0, since, &buried).is_ok(), excuse == Excuse::Anything);
        }
    }

    #[test]
    fn a_put_that_failed_is_invisible_until_a_crash() {
        let mut model = Model::new(1, 7);
        let (write, _) = model.begin_put(0, 10);
        model.failed(write);
        let remove = model.begin_remove(0);
        model.done(remove, true);
        let since = model.begin_read();
        let seen = bytes(&model, 0, 1, 10);
        assert!(model.check(0, since, &seen).is_err());
        model.crash(false);
        let since = model.begin_read();
        assert!(model.check(0, since, &seen).is_ok(), "the removal does not name it");
    }
}
