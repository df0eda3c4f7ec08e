//! Storing objects.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_engine::{Extent, IoError, IoErrorKind, Op, Request, Ticket};
use gcos_layout::media::{
    BLOCK_BYTES, Location, MAX_KEY_BYTES, ObjectHeader, PutRecord, Record, Shape,
};
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::canary::{self, Canary};
use crate::index::{Entry, Id};
use crate::journal::{Item, Waiter};
use crate::memory::Source;
use crate::payload::{From, Segments, unit_bytes};
use crate::pool::{Pool, count, now_seconds};
use crate::retry::Failed;
use crate::staging::Lease;
use crate::state::{Placement, Removal, Shortage, State};
use crate::{Durability, IfExists, PutOptions, PutOutcome, StoreError, turns};

/// Writes of one object in flight.
const WINDOW: usize = 32;
/// Objects doomed at a time once the pool is above its high watermark.
const EVICT_BLOCKS: u64 = 8192;

/// I/O deadlines within which a put gets on: a flush and a frame that others write before its own, and its
/// own two.
const STILL: u32 = 4;
/// I/O deadlines for which a put waits for a key, however many others of that key get on meanwhile.
const AWAIT_KEY: u32 = 64;

/// How a put began.
#[derive(Debug)]
pub(crate) enum Begun {
    /// The key exists and stays. A drive is named if the object's record still waits in its journal.
    Kept(Option<u8>),
    /// Another put of the key is under way.
    Busy,
    /// Its space is taken; the data is being written, or may now be.
    Writing(Writing),
}

/// A put between its first write and its record.
#[derive(Debug)]
pub(crate) struct Writing {
    pool: Arc<Pool>,
    id: Id,
    record: PutRecord,
    /// Drives (bit mask) that hold data of it.
    drives: u64,
    in_flight: VecDeque<(u8, Box<dyn Ticket>, Option<Lease>)>,
    /// Drives (bit mask) on which a write failed.
    failed: u64,
    key: KeyGuard,
}

/// Keeps other puts of a key out. Dropped after the put has ended either way.
#[derive(Debug)]
struct KeyGuard {
    pool: Arc<Pool>,
    key: Vec<u8>,
    /// When the put last got on.
    moved: Arc<Mutex<Instant>>,
}

impl KeyGuard {
    /// The put gets on: whoever waits for the key goes on waiting.
    fn moved(&self) {
        *self.moved.lock() = turns::now();
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        self.pool.state.lock().writing.remove(&self.key);
        self.pool.changed.notify_all();
    }
}

/// Checks what can be checked of a put without touching anything.
pub(crate) fn check_key(key: &[u8]) -> Result<(), StoreError> {
    match key.len() <= MAX_KEY_BYTES {
        true => Ok(()),
        false => Err(StoreError::invalid("key length", "0 to 1,024 bytes", key.len())),
    }
}

fn expiry(ttl: Option<Duration>) -> Result<u32, StoreError> {
    let Some(ttl) = ttl else { return Ok(0) };
    let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    u32::try_from(seconds.saturating_add(now_seconds().into()))
        .map_err(|_| StoreError::invalid("ttl", "an end before the year 2106", format!("{ttl:?}")))
}

impl Pool {
    /// Starts a put: finds room on drives other than `avoid` (bit mask) and submits all writes.
    pub(crate) fn begin_put(
        self: &Arc<Self>,
        key: &[u8],
        source: &Source<'_>,
        options: &PutOptions,
        avoid: u64,
    ) -> Result<Begun, Failed> {
        let mut writing = match self.prepare_put(key, source.len(), options, avoid)? {
            Begun::Writing(writing) => writing,
            other => return Ok(other),
        };
        match writing.submit(&From::new(source), options.pin) {
            Ok(()) => Ok(Begun::Writing(writing)),
            Err(error) => Err(writing.give_up(error)),
        }
    }

    /// Checks a put, reserves its key and takes room for it on drives other than `avoid` (bit mask).
    /// Nothing is written yet.
    pub(crate) fn prepare_put(
        self: &Arc<Self>,
        key: &[u8],
        len: u64,
        options: &PutOptions,
        avoid: u64,
    ) -> Result<Begun, StoreError> {
        self.check_open()?;
        check_key(key)?;
        let expiry = expiry(options.ttl)?;
        let writable = self.targets(avoid).first;
        let chunk = self.present().next().map_or(0, |m| m.drive.zones.chunks.data);
        let shape = u32::try_from(len)
            .map_err(|_| StoreError::invalid("payload length", "1 byte to 1 GiB", len))
            .and_then(|len| {
                Shape::choose(len, key.len(), chunk, writable.count_ones() as usize).map_err(|e| {
                    StoreError::invalid("payload length", e.to_string(), format!("{len} bytes"))
                })
            })?;
        let guard = match self.reserve_key(key, options)? {
            Ok(guard) => guard,
            Err(begun) => return Ok(begun),
        };
        let (id, place) = self.allocate(&guard, &shape, avoid)?;
        guard.moved();
        let record = PutRecord {
            key: key.to_vec(),
            generation: self.generation(),
            root: 0,
            expiry,
            shape,
            head: place.head,
            pieces: place.pieces,
        };
        let drives =
            record.pieces.iter().fold(1 << place.head.drive, |mask, p| mask | 1 << p.drive);
        let (pool, in_flight) = (Arc::clone(self), VecDeque::new());
        let writing = Writing { pool, id, record, drives, in_flight, failed: 0, key: guard };
        Ok(Begun::Writing(writing))
    }

    fn reserve_key(
        self: &Arc<Self>,
        key: &[u8],
        options: &PutOptions,
    ) -> Result<Result<KeyGuard, Begun>, StoreError> {
        let mut state = self.state.lock();
        if state.writing.contains_key(key) {
            return Ok(Err(Begun::Busy));
        }
        if options.if_exists == IfExists::Keep
            && let Some(id) = state.index.find(key)
        {
            let entry = state.index.entry(id);
            let expired = entry.is_some_and(|entry| entry.expired(now_seconds()));
            let readable = entry.is_some_and(|entry| {
                entry.pieces().chain([entry.head()]).all(|place| self.readable(place.drive))
            });
            if expired {
                let removal = state.remove(id);
                self.enqueue(removal);
                count(&self.counters.expired, 1);
            } else if readable {
                state.index.touch(id);
                count(&self.counters.puts_kept, 1);
                let waits = state.index.entry(id).filter(|entry| !entry.durable());
                return Ok(Err(Begun::Kept(waits.map(|entry| entry.head().drive))));
            }
            // An object on a drive that is gone is a miss: the new one takes its place.
        }
        let moved = Arc::new(Mutex::new(turns::now()));
        state.writing.insert(key.to_vec(), Arc::clone(&moved));
        drop(state);
        Ok(Ok(KeyGuard { pool: Arc::clone(self), key: key.to_vec(), moved }))
    }

    /// Waits until nobody writes this key. A put may take any number of I/O deadlines, and be followed by
    /// others, so it counts whether the one that has the key gets on.
    pub(crate) fn await_key(&self, key: &[u8]) -> Result<(), StoreError> {
        let begun = turns::now();
        let (still, longest) =
            (self.options.io_deadline * STILL, self.options.io_deadline * AWAIT_KEY);
        let mut state = self.state.lock();
        while let Some(moved) = state.writing.get(key).map(|moved| *moved.lock()) {
            let now = turns::now();
            if now > moved + still || now > begun + longest {
                let waited = now.saturating_duration_since(begun);
                return Err(StoreError::TimedOut { what: "another put of the same key", waited });
            }
            self.wait_changed(&mut state);
        }
        Ok(())
    }

    /// An entry with places for an object, on drives other than `avoid` (bit mask); evicts until there is
    /// room. The drive for spill comes second: see [`Pool::targets`].
    fn allocate(
        &self,
        guard: &KeyGuard,
        shape: &Shape,
        avoid: u64,
    ) -> Result<(Id, Placement), StoreError> {
        let key_len = guard.key.len();
        let needs: Vec<u32> = (0..shape.pieces())
            .map(|index| shape.piece_blocks(index))
            .chain([shape.head_blocks(key_len)])
            .collect();
        let blocks: u64 = needs.iter().map(|&n| u64::from(n)).sum();
        let give_up = self.patience();
        let mut written = false;
        // Whether the first choice has no room and never will.
        let mut over = false;
        loop {
            guard.moved();
            let mut state = self.state.lock();
            let targets = self.targets(avoid);
            let (writable, then) = match over && targets.then != 0 {
                true => (targets.then, 0),
                false => (targets.first, targets.then),
            };
            let id = state.index.add();
            let spill_first = then != 0 && targets.degraded;
            let mut place = |drives| {
                state.place(shape, key_len, id, drives).map(|placement| (placement, drives))
            };
            let placed = place(writable).or_else(|shortage| {
                let spilled = spill_first.then(|| place(then));
                spilled.and_then(Result::ok).ok_or(shortage)
            });
            let shortage = match placed {
                Ok((placement, drives)) => {
                    // What the drives that are left hold stays while there is room for spill.
                    if !spill_first || drives == then {
                        self.evict_above_watermark(&mut state, &needs, drives);
                    }
                    return Ok((id, placement));
                }
                Err(shortage) => shortage,
            };
            state.index.free(id);
            if writable == 0 {
                let (drive, reason) = ("the pool".to_owned(), "no drive can be written".to_owned());
                return Err(StoreError::DriveFailed { drive, reason });
            }
            let late = turns::now() > give_up;
            if late || !state.can_ever_fit(&needs, writable) {
                if then == 0 {
                    return Err(self.full(&state, blocks));
                }
                (over, written) = (true, false);
                continue;
            }
            if state.deallocating > 0 {
                self.wait_changed(&mut state);
                continue;
            }
            let freeing = state.doomed > state.stuck;
            if freeing && !written {
                // What was doomed earlier may be enough, once that is on record.
                written = true;
            } else {
                let victims = state.evict(shortage, blocks, writable);
                if victims.is_empty() && !freeing {
                    if then == 0 {
                        return Err(self.full(&state, blocks));
                    }
                    (over, written) = (true, false);
                    continue;
                }
                if victims.is_empty() {
                    // Readers hold what is doomed, or others are writing its records.
                    self.wait_changed(&mut state);
                }
                self.enqueue_evicted(&state, victims);
            }
            drop(state);
            // A journal that fails takes its drive out of `writable`; the others may have room.
            if let Err(error) = self.write_journals(writable) {
                tracing::warn!(%error, "room could not be made on every drive");
            }
        }
    }

    fn full(&self, state: &State, blocks: u64) -> StoreError {
        let (used, all) = state.blocks(u64::MAX);
        let bytes = |blocks: u64| blocks * BLOCK_BYTES as u64;
        StoreError::Full {
            needed: bytes(blocks),
            used: bytes(used),
            capacity: bytes(all),
            pinned: state.pinned,
        }
    }

    /// Dooms some objects when the pool is fuller than it should be, so that later puts find room that
    /// is free already. Their records go with the next frame.
    fn evict_above_watermark(&self, state: &mut State, needs: &[u32], writable: u64) {
        // The drive for spill is a house of its own.
        let house = if writable & self.spill == 0 { !self.spill } else { self.spill };
        let (used, all) = state.blocks_to_stay(house);
        if used * 100 <= all * u64::from(self.options.high_watermark) {
            return;
        }
        let excess = used.saturating_sub(all * u64::from(self.options.low_watermark) / 100);
        // Chunks are emptied only when that is the only way, so one at a time here.
        let largest = needs.iter().copied().max().map_or(Shortage::Records, Shortage::Blocks);
        let victims = state.evict(largest, excess.min(EVICT_BLOCKS), writable);
        self.enqueue_evicted(state, victims);
    }

    fn enqueue_evicted(&self, state: &State, victims: Vec<Removal>) {
        count(&self.counters.evicted, victims.len() as u64);
        let bytes = victims
            .iter()
            .flat_map(|v| &v.item.release)
            .filter_map(|&id| state.index.entry(id).map(|entry| u64::from(entry.payload_len())));
        count(&self.counters.evicted_bytes, bytes.sum());
        self.enqueue(victims);
    }

    /// Ends a put that keeps the object that is there: acknowledging it says that it is as durable as
    /// was asked for. `false` when the object went away meanwhile: then the put begins again.
    pub(crate) fn keep(
        &self,
        key: &[u8],
        waits: Option<u8>,
        durability: Durability,
    ) -> Result<bool, StoreError> {
        let (Some(drive), Durability::Sync) = (waits, durability) else { return Ok(true) };
        self.write_journals(1 << drive)?;
        let state = self.state.lock();
        let entry = state.index.find(key).and_then(|id| state.index.entry(id));
        let durable = entry.is_some_and(Entry::durable);
        // Its record may have been given up before it was waited for.
        match self.drive(drive).filter(|drive| !durable && !drive.online()) {
            Some(drive) => Err(drive.failed("the record of the object that is there was lost")),
            None => Ok(durable),
        }
    }

    /// Makes written puts durable and visible. One result for each, in order.
    pub(crate) fn commit_puts(
        &self,
        puts: Vec<Result<Writing, StoreError>>,
        durability: Durability,
    ) -> Vec<Result<PutOutcome, Failed>> {
        let written: Vec<Result<_, Failed>> =
            puts.into_iter().map(|put| put?.finish_writes()).collect();
        let recorded: Vec<Result<_, Failed>> = written
            .into_iter()
            .map(|put| put.and_then(|put| Ok(self.record_put(put, durability)?)))
            .collect();
        recorded.into_iter().map(|put| put.and_then(|put| self.acknowledge(put))).collect()
    }

    /// Hands the record of a written object to the journal.
    fn record_put(&self, put: Writing, durability: Durability) -> Result<Recorded, StoreError> {
        let drive = put.record.head.drive;
        let member = self.member(drive).ok_or(StoreError::Closed)?;
        let sync = durability == Durability::Sync && !canary::on(Canary::RelaxedAsSync);
        let waiter = sync.then(Arc::<Waiter>::default);
        let len = put.record.shape.payload_len();
        let mut state = self.state.lock();
        let mut item = Item {
            record: Record::Put(put.record),
            flush: put.drives,
            entry: Some(put.id),
            make_live: waiter.is_some(),
            release: SmallVec::new(),
            waiter: waiter.clone(),
        };
        if waiter.is_none() {
            item.release.extend(state.make_live(put.id));
        }
        let waiting = member.journal.enqueue(item);
        drop(state);
        put.key.moved();
        let drives = put.drives;
        Ok(Recorded { drive, drives, waiter, waiting, len, _key: put.key })
    }

    fn acknowledge(&self, put: Recorded) -> Result<PutOutcome, Failed> {
        match &put.waiter {
            Some(waiter) => self.await_record(put.drive, waiter).map_err(|error| {
                let known = matches!(waiter.result(), Some((false, _)));
                // Whoever failed to make it durable is out of use now.
                let drives = if known { put.drives & !self.writable() } else { 0 };
                Failed { error, drives }
            })?,
            None if self.backlog(put.waiting) => self.write_journals(1 << put.drive)?,
            None => {}
        }
        count(&self.counters.puts, 1);
        count(&self.counters.put_bytes, put.len.into());
        count(&self.counters.spilled, u64::from(self.spill & (1 << put.drive) != 0));
        Ok(PutOutcome::Stored)
    }
}

/// A put whose record is with the journal.
struct Recorded {
    drive: u8,
    /// Drives (bit mask) that hold data of it, that one included.
    drives: u64,
    waiter: Option<Arc<Waiter>>,
    waiting: usize,
    len: u32,
    _key: KeyGuard,
}

impl Writing {
    /// Submits all writes: pieces first, so that the drive works while the checksums for the header
    /// are computed.
    pub(crate) fn submit(&mut self, from: &From<'_>, pin: bool) -> Result<(), StoreError> {
        let shape = self.record.shape;
        let mut grains = Vec::with_capacity(shape.grains() as usize);
        let pieces = self.record.pieces.clone();
        let mut payload_offset = 0;
        for (index, piece) in pieces.into_iter().enumerate() {
            let len = shape.piece_len(index);
            self.write_run(from, piece, 0, payload_offset, len, &mut grains)?;
            payload_offset += len;
        }
        let tail = shape.tail_len();
        let header_bytes = self.header_bytes();
        // What of the tail goes with the header in one write; the rest goes ahead.
        let first = tail.min(self.unit_bytes());
        let (head, rest) = (self.record.head, header_bytes + first);
        let mut behind = Vec::new();
        self.write_run(from, head, rest, payload_offset + first, tail - first, &mut behind)?;
        from.grains(payload_offset as usize, first as usize, &mut grains)?;
        grains.append(&mut behind);
        self.write_head(from, header_bytes, payload_offset, first, grains)?;
        self.enter(pin)
    }

    /// What the record says so far: places, shape, key.
    pub(crate) fn record(&self) -> &PutRecord {
        &self.record
    }

    /// For data that others have written: writes the header with the checksums of its grains.
    pub(crate) fn submit_header(&mut self, grains: Vec<u32>, pin: bool) -> Result<(), StoreError> {
        let header_bytes = self.header_bytes();
        self.write_head(&From::Bytes(&[]), header_bytes, 0, 0, grains)?;
        self.enter(pin)
    }

    /// Bytes of the header in front of the tail.
    pub(crate) fn header_bytes(&self) -> u32 {
        self.record.shape.header_blocks(self.record.key.len()) * BLOCK_BYTES as u32
    }

    /// Payload bytes of one write.
    fn unit_bytes(&self) -> u32 {
        unit_bytes(self.record.shape.payload_len())
    }

    /// Tells the index what the object is; nobody sees it yet.
    fn enter(&mut self, pin: bool) -> Result<(), StoreError> {
        let mut state = self.pool.state.lock();
        let filled = state.index.fill(self.id, &self.record);
        if let Some(entry) = state.index.entry_mut(self.id) {
            entry.pins = pin.into();
        }
        filled.map_err(|e| StoreError::invalid("object", "encodable places", e))
    }

    /// Writes `len` bytes of payload, unit by unit, at `at` bytes into a slot.
    fn write_run(
        &mut self,
        from: &From<'_>,
        slot: Location,
        at: u32,
        payload_offset: u32,
        len: u32,
        grains: &mut Vec<u32>,
    ) -> Result<(), StoreError> {
        let (unit, mut done) = (self.unit_bytes(), 0);
        while done < len {
            let take = (len - done).min(unit);
            let start = (payload_offset + done) as usize;
            let staged = from.stage(&self.pool.staging, 0, start, take as usize)?;
            count(&self.pool.counters.staged_bytes, staged.copied);
            self.submit_write(slot, u64::from(at + done), staged.segments, staged.front)?;
            from.grains(start, take as usize, grains)?;
            done += take;
        }
        Ok(())
    }

    /// Writes the header, and with it the first `len` bytes of the tail.
    fn write_head(
        &mut self,
        from: &From<'_>,
        header_bytes: u32,
        payload_offset: u32,
        len: u32,
        grains: Vec<u32>,
    ) -> Result<(), StoreError> {
        let header = ObjectHeader {
            pool_uuid: self.pool.uuid,
            generation: self.record.generation,
            expiry: self.record.expiry,
            shape: self.record.shape,
            head: self.record.head,
            pieces: self.record.pieces.clone(),
            key: self.record.key.clone(),
            grains,
        };
        let (bytes, root) =
            header.encode().map_err(|e| StoreError::invalid("object", "an encodable header", e))?;
        self.record.root = root;
        let front = header_bytes as usize;
        let staged =
            from.stage(&self.pool.staging, front, payload_offset as usize, len as usize)?;
        count(&self.pool.counters.staged_bytes, staged.copied);
        if let Some(lease) = &staged.front {
            lease.slice(0, front)?.write(0, &bytes)?;
        }
        self.submit_write(self.record.head, 0, staged.segments, staged.front)
    }

    fn submit_write(
        &mut self,
        slot: Location,
        at: u64,
        segments: Segments,
        lease: Option<Lease>,
    ) -> Result<(), StoreError> {
        if self.in_flight.len() >= WINDOW {
            self.finish_oldest()?;
        }
        let pool = Arc::clone(&self.pool);
        let drive = pool.drive(slot.drive).ok_or(StoreError::Closed)?;
        let len = segments.iter().map(|s| s.len() as u64).sum();
        let extents = SmallVec::from_buf([Extent { offset: drive.offset(slot, at)?, len }]);
        let deadline = self.pool.options.io_deadline;
        let request = Request { op: Op::Write { fua: false }, extents, segments, deadline };
        let ticket = match drive.io.engine.submit(request) {
            Ok(ticket) => ticket,
            Err(error) => return Err(self.failed_on(slot.drive, error)),
        };
        self.key.moved();
        self.in_flight.push_back((slot.drive, ticket, lease));
        Ok(())
    }

    fn finish_oldest(&mut self) -> Result<(), StoreError> {
        let Some((drive, ticket, _lease)) = self.in_flight.pop_front() else { return Ok(()) };
        let ended = ticket.wait();
        self.key.moved();
        ended.map_err(|error| self.failed_on(drive, error))
    }

    /// Notes a write that failed, and what that says about its drive.
    fn failed_on(&mut self, drive: u8, error: IoError) -> StoreError {
        // What does not fit one drive fits none.
        if error.kind != IoErrorKind::Invalid {
            self.failed |= 1 << drive;
        }
        let error = error.into();
        if let Some(drive) = self.pool.drive(drive) {
            drive.note(&error);
        }
        error
    }

    /// Waits for all writes.
    fn finish_writes(mut self) -> Result<Self, Failed> {
        if canary::on(Canary::JournalBeforeData) {
            self.in_flight.clear();
        }
        let mut result = Ok(());
        while !self.in_flight.is_empty() {
            let one = self.finish_oldest();
            result = result.and(one);
        }
        match result {
            Ok(()) => Ok(self),
            Err(error) => Err(self.give_up(error)),
        }
    }

    /// Abandons it, and tells which drives are to blame.
    pub(crate) fn give_up(mut self, error: StoreError) -> Failed {
        while !self.in_flight.is_empty() {
            // The first failure is the one reported; all of them are noted.
            let _ = self.finish_oldest();
        }
        let drives = self.failed;
        self.abandon(&error);
        Failed { error, drives }
    }

    /// Gives the space back, but only once nothing writes to it any more.
    pub(crate) fn abandon(mut self, why: &StoreError) {
        tracing::warn!(error = %why, "put given up");
        while !self.in_flight.is_empty() {
            // The first failure is the one reported.
            let _ = self.finish_oldest();
        }
        count(&self.pool.counters.puts_failed, 1);
        let mut state = self.pool.state.lock();
        // The entry must name its places for them to be freed.
        let leaks = canary::on(Canary::FailedPutLeaks);
        if state.index.fill(self.id, &self.record).is_ok() && !leaks {
            state.release_entry(self.id);
        }
    }
}
