use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gcos_engine::device::{DeviceBuffer, Gpu, Stream};
use gcos_engine::{Demotions, Engine};
use gcos_hw::DmaBuffer;
use gcos_layout::media::BLOCK_BYTES;
use parking_lot::Mutex;

use crate::canary::{self, Canary};
use crate::get::{self, Reading};
use crate::index::Id;
use crate::journal::Waiter;
use crate::maintain::{Maintainer, Sweep};
use crate::object::Range;
use crate::pool::{Member, Pool, count, now_seconds};
use crate::put::{Begun, Writing, check_key};
use crate::retry::{Failed, Retry};
use crate::state::State;
use crate::{
    DeviceGets, DevicePut, DeviceSink, DeviceSource, DriveInfo, Durability, LayerSink, Layers,
    Lookup, MissReason, ObjectInfo, OpenOptions, PoolInfo, PutOptions, PutOutcome, RecoveryReport,
    Sink, Source, Stats, StoreError, format, recover, turns,
};

/// Payload bytes that `put_many` and `get_many` keep under way at a time.
const BATCH_BYTES: u64 = 64 << 20;
/// Passes over the journals in a flush: records written by one may call for records in another, once.
/// What other threads add meanwhile is theirs to flush.
const FLUSH_ROUNDS: usize = 3;
/// Objects that they keep under way at a time.
const BATCH_OBJECTS: usize = 256;

/// An open pool. All methods may be called from many threads at once.
///
/// Dropping a store without [`Store::close`] is like a crash: nothing more is written, relaxed
/// operations of the last moments are lost, and the next open recovers.
#[derive(Debug)]
pub struct Store {
    pub(crate) pool: Arc<Pool>,
    recovery: RecoveryReport,
    sweep: Mutex<Sweep>,
    maintainer: Option<Maintainer>,
}

impl Store {
    /// Opens the pool that the drives, given in any order, belong to, and recovers it.
    ///
    /// # Errors
    /// [`StoreError::NotAPool`], [`StoreError::MixedPools`], [`StoreError::Unopenable`] with what to
    /// do; I/O errors.
    pub fn open(drives: Vec<Arc<dyn Engine>>, options: OpenOptions) -> Result<Self, StoreError> {
        let background = options.background;
        let (pool, recovery) = recover::open(drives, options)?;
        let pool = Arc::new(pool);
        let maintainer = match background {
            true => Some(
                Maintainer::start(Arc::clone(&pool))
                    .map_err(|e| StoreError::invalid("threads", "one more for maintenance", e))?,
            ),
            false => None,
        };
        Ok(Self { pool, recovery, sweep: Mutex::default(), maintainer })
    }

    /// What opening found.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.recovery
    }

    /// Identity and size of the pool.
    #[must_use]
    pub fn pool(&self) -> PoolInfo {
        let superblocks: Vec<_> =
            self.pool.present().map(|m| m.drive.superblock.lock().clone()).collect();
        format::pool_info(superblocks.iter())
    }

    /// Memory that the drives reach themselves: puts from it and gets into it move no byte twice.
    ///
    /// # Errors
    /// [`StoreError::Memory`] when it cannot be had.
    pub fn buffer(&self, len: usize) -> Result<DmaBuffer, StoreError> {
        match self.pool.present().next() {
            Some(member) => Ok(member.drive.io.engine.dma().alloc(len)?),
            None => Err(StoreError::Closed),
        }
    }

    /// Stores an object: key of 0 to 1,024 bytes, payload of 1 byte to 1 GiB. Evicts least recently
    /// used objects if it must.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for sizes, [`StoreError::Full`] when nothing can be evicted, I/O errors.
    /// Nothing of the object is visible then.
    pub fn put<'a>(
        &self,
        key: &[u8],
        source: impl Into<Source<'a>>,
        options: &PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        self.put_on_any(key, &source.into(), options, Retry::default())
    }

    /// Puts an object; if a drive fails it in the middle, on another.
    fn put_on_any(
        &self,
        key: &[u8],
        source: &Source<'_>,
        options: &PutOptions,
        mut retry: Retry,
    ) -> Result<PutOutcome, StoreError> {
        loop {
            match self.pool.begin_put(key, source, options, retry.avoid) {
                Ok(Begun::Kept(waits)) => {
                    if self.pool.keep(key, waits, options.durability)? {
                        return Ok(PutOutcome::Kept);
                    }
                }
                Ok(Begun::Busy) => self.pool.await_key(key)?,
                Ok(Begun::Writing(put)) => {
                    let mut results = self.pool.commit_puts(vec![Ok(put)], options.durability);
                    match results.pop() {
                        Some(Err(failed)) => retry.again(&self.pool, failed)?,
                        Some(Ok(outcome)) => return Ok(outcome),
                        None => return Err(StoreError::Closed),
                    }
                }
                Err(failed) => retry.again(&self.pool, failed)?,
            }
        }
    }

    /// Stores several objects with their I/O overlapping and their records in common frames. One result
    /// for each, in order; each is as of [`Store::put`] by itself.
    pub fn put_many(
        &self,
        items: &[(&[u8], Source<'_>)],
        options: &PutOptions,
    ) -> Vec<Result<PutOutcome, StoreError>> {
        let mut results: Vec<Option<Result<PutOutcome, StoreError>>> =
            items.iter().map(|_| None).collect();
        let mut batch: Vec<(usize, Writing)> = Vec::new();
        let mut bytes = 0;
        for (at, (key, source)) in items.iter().enumerate() {
            let mut retry = Retry::default();
            let outcome = loop {
                match self.pool.begin_put(key, source, options, retry.avoid) {
                    Ok(Begun::Writing(put)) => {
                        bytes += source.len();
                        batch.push((at, put));
                        break None;
                    }
                    Ok(Begun::Kept(waits)) => {
                        match self.pool.keep(key, waits, options.durability) {
                            Ok(true) => break Some(Ok(PutOutcome::Kept)),
                            Ok(false) => {}
                            Err(error) => break Some(Err(error)),
                        }
                    }
                    // Never wait for others while they may wait for what this batch holds.
                    Ok(Begun::Busy) | Err(Failed { error: StoreError::Full { .. }, .. })
                        if !batch.is_empty() =>
                    {
                        self.commit_batch(items, &mut batch, &mut results, options);
                        bytes = 0;
                    }
                    Ok(Begun::Busy) => {
                        if let Err(error) = self.pool.await_key(key) {
                            break Some(Err(error));
                        }
                    }
                    Err(failed) => {
                        if let Err(error) = retry.again(&self.pool, failed) {
                            break Some(Err(error));
                        }
                    }
                }
            };
            if let (Some(place), Some(outcome)) = (results.get_mut(at), outcome) {
                *place = Some(outcome);
            }
            if bytes >= BATCH_BYTES || batch.len() >= BATCH_OBJECTS {
                self.commit_batch(items, &mut batch, &mut results, options);
                bytes = 0;
            }
        }
        self.commit_batch(items, &mut batch, &mut results, options);
        results.into_iter().map(|result| result.unwrap_or(Err(StoreError::Closed))).collect()
    }

    fn commit_batch(
        &self,
        items: &[(&[u8], Source<'_>)],
        batch: &mut Vec<(usize, Writing)>,
        results: &mut [Option<Result<PutOutcome, StoreError>>],
        options: &PutOptions,
    ) {
        let (places, puts): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|(at, put)| (at, Ok(put))).unzip();
        let ended = self.pool.commit_puts(puts, options.durability);
        // All of them have ended, so those that a drive failed may wait for others when they begin again.
        for (at, result) in places.into_iter().zip(ended) {
            let result = result.or_else(|failed| {
                let mut retry = Retry::default();
                retry.again(&self.pool, failed)?;
                let (key, source) = items.get(at).ok_or(StoreError::Closed)?;
                self.put_on_any(key, source, options, retry)
            });
            if let Some(place) = results.get_mut(at) {
                *place = Some(result);
            }
        }
    }

    /// Reads an object into memory of exactly its length (ask [`Store::info`]).
    ///
    /// # Errors
    /// [`StoreError::WrongSize`] for memory of another length, [`StoreError::Invalid`] for a key that is
    /// too long. Everything else that goes wrong is a miss.
    pub fn get<'a>(&self, key: &[u8], sink: impl Into<Sink<'a>>) -> Result<Lookup, StoreError> {
        self.read(key, Range::Whole, sink.into())
    }

    /// Reads part of an object, for example one layer: as many bytes as the memory holds, from `offset`
    /// on. Only the grains (64 KiB) that it touches are read and verified.
    ///
    /// # Errors
    /// As [`Store::get`]; [`StoreError::WrongSize`] when the range is not inside the object.
    pub fn get_range<'a>(
        &self,
        key: &[u8],
        offset: u32,
        sink: impl Into<Sink<'a>>,
    ) -> Result<Lookup, StoreError> {
        self.read(key, Range::From(offset), sink.into())
    }

    fn read(&self, key: &[u8], range: Range, sink: Sink<'_>) -> Result<Lookup, StoreError> {
        match self.pool.begin_get(key, range, sink)? {
            get::Begun::Miss(reason) => {
                count(&self.pool.counters.misses, 1);
                Ok(Lookup::Miss(reason))
            }
            get::Begun::Reading(reading) => self.conclude(*reading),
        }
    }

    fn conclude(&self, reading: Reading<'_>) -> Result<Lookup, StoreError> {
        let lookup = self.pool.conclude(reading, true)?;
        if !lookup.is_hit() {
            count(&self.pool.counters.misses, 1);
        }
        Ok(lookup)
    }

    /// Reads several objects with their I/O overlapping. One result for each, in order; each is as of
    /// [`Store::get`] by itself.
    pub fn get_many(&self, items: Vec<(&[u8], Sink<'_>)>) -> Vec<Result<Lookup, StoreError>> {
        let mut results = Vec::with_capacity(items.len());
        let mut under_way = std::collections::VecDeque::new();
        let mut bytes = 0;
        let finish = |(len, begun): (u64, Result<get::Begun<'_>, StoreError>), bytes: &mut u64| {
            *bytes -= len;
            match begun? {
                get::Begun::Miss(reason) => {
                    count(&self.pool.counters.misses, 1);
                    Ok(Lookup::Miss(reason))
                }
                get::Begun::Reading(reading) => self.conclude(*reading),
            }
        };
        for (key, sink) in items {
            let len = sink.len();
            while bytes + len > BATCH_BYTES || under_way.len() >= BATCH_OBJECTS {
                let Some(oldest) = under_way.pop_front() else { break };
                results.push(finish(oldest, &mut bytes));
            }
            bytes += len;
            under_way.push_back((len, self.pool.begin_get(key, Range::Whole, sink)));
        }
        for one in under_way {
            results.push(finish(one, &mut bytes));
        }
        results
    }

    /// Reads an object into new memory.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a key that is too long. The inner error is the reason of a miss.
    pub fn get_vec(&self, key: &[u8]) -> Result<Result<Vec<u8>, MissReason>, StoreError> {
        loop {
            let Some(info) = self.info(key) else {
                count(&self.pool.counters.misses, 1);
                return Ok(Err(MissReason::Absent));
            };
            let mut bytes = vec![0; info.len as usize];
            return match self.get(key, bytes.as_mut_slice()) {
                Ok(Lookup::Hit(_)) => Ok(Ok(bytes)),
                Ok(Lookup::Miss(reason)) => Ok(Err(reason)),
                // Replaced by an object of another length since its length was asked for.
                Err(StoreError::WrongSize { .. }) => continue,
                Err(error) => Err(error),
            };
        }
    }

    /// Reads objects into GPU memory, in the order of a stream: the reads begin when the work before them in
    /// the stream has ended, and the work behind them sees what the drives returned. Where drives reach the
    /// GPU's memory, nothing here waits for the stream; where the GPU has to copy (cuFile, pinned host memory), this
    /// returns when the reads have ended. [`DeviceGets::wait`] says whether the bytes are those that were stored.
    ///
    /// The first use of a GPU takes the time to get memory that it and the drives reach. Memory that drives
    /// reach comes from [`Store::device_buffer`], or from the engines' own.
    ///
    /// # Errors
    /// When the stream takes no work, or the store is closed. Everything else is told of each item.
    pub fn get_on<'k>(
        &self,
        stream: &Stream,
        items: impl IntoIterator<Item = (&'k [u8], DeviceSink)>,
    ) -> Result<DeviceGets, StoreError> {
        let items = items.into_iter().map(|(key, sink)| (key.to_vec(), sink));
        DeviceGets::begin(&self.pool, stream, items)
    }

    /// Stores an object from GPU memory, in the order of a stream: checksums and writes begin when the work
    /// before them in the stream has ended, the work behind them when the payload has been written.
    /// [`DevicePut::wait`] makes the object durable and visible; until then other puts of the key wait, also
    /// those of the same thread: for several objects see [`Store::put_many_on`]. Finding room may take journal
    /// writes, which are waited for here; so are the data's where the GPU has to copy for them.
    ///
    /// # Errors
    /// As [`Store::put`], for what shows before anything is moved.
    pub fn put_on(
        &self,
        stream: &Stream,
        key: &[u8],
        source: impl Into<DeviceSource>,
        options: &PutOptions,
    ) -> Result<DevicePut, StoreError> {
        DevicePut::begin(&self.pool, stream, key, source.into(), options)
    }

    /// Stores several objects from GPU memory and waits for them: their I/O overlaps and their records go in
    /// common frames. Never waits for a put of others while it holds keys itself. One result for each, in
    /// order; each is as of [`Store::put_on`] and [`DevicePut::wait`] by themselves.
    pub fn put_many_on<'k>(
        &self,
        stream: &Stream,
        items: impl IntoIterator<Item = (&'k [u8], DeviceSource)>,
        options: &PutOptions,
    ) -> Vec<Result<PutOutcome, StoreError>> {
        let items = items.into_iter().map(|(key, source)| (key.to_vec(), source));
        DevicePut::put_many(&self.pool, stream, items, options)
    }

    /// Reads objects layer by layer into GPU memory: each layer is a list of ranges of the objects. At most
    /// `prefetch` layers are under way, each in the order of the stream at the time when it was launched, in
    /// streams of the store's own; they are yielded in order, verified. Where the GPU has to copy for transfers, each
    /// launch waits for its layer, so that layers are read one after the other. The grains (64 KiB) that two layers
    /// share are read for each.
    ///
    /// # Errors
    /// [`StoreError::WrongSize`] when a range is not inside its object, [`StoreError::Invalid`] for numbers
    /// without sense; when the stream takes no work. Everything else is told of each layer.
    pub fn get_layers<'s>(
        &self,
        stream: &'s Stream,
        keys: &[&[u8]],
        layers: Vec<LayerSink>,
        prefetch: usize,
    ) -> Result<Layers<'s>, StoreError> {
        Layers::begin(&self.pool, stream, keys, layers, prefetch)
    }

    /// Memory that a GPU and the pool's drives reach: gets into it and puts from it move whole blocks
    /// without a copy. Its content is unspecified.
    ///
    /// # Errors
    /// [`StoreError::Gpu`] when there is no more, [`StoreError::Invalid`] where there is none that both reach.
    pub fn device_buffer(&self, gpu: &Arc<Gpu>, len: usize) -> Result<DeviceBuffer, StoreError> {
        self.pool.device(gpu).buffer(len)
    }

    /// How objects move between each drive, by index, and a GPU: for people. Empty where the host moves
    /// them.
    #[must_use]
    pub fn device_paths(&self, gpu: &Arc<Gpu>) -> Vec<String> {
        self.pool.device(gpu).paths()
    }

    fn with_live<R>(&self, key: &[u8], f: impl FnOnce(&mut State, Id) -> R) -> Option<R> {
        let mut state = self.pool.state.lock();
        let id = state.index.find(key)?;
        if state.index.entry(id)?.expired(now_seconds()) {
            return None;
        }
        Some(f(&mut state, id))
    }

    /// What is known of an object.
    #[must_use]
    pub fn info(&self, key: &[u8]) -> Option<ObjectInfo> {
        self.with_live(key, |state, id| state.index.entry(id).map(ObjectInfo::of))?
    }

    /// Whether an object is there. A get may still miss, if a drive fails or the object is damaged.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.with_live(key, |_, _| ()).is_some()
    }

    /// How many keys from the start of the list are there without a gap: the longest cached prefix of
    /// a chain of blocks. One lock for the whole list.
    #[must_use]
    pub fn prefix(&self, keys: &[&[u8]]) -> usize {
        let now = now_seconds();
        let state = self.pool.state.lock();
        let there = |key: &&&[u8]| {
            let entry = state.index.find(key).and_then(|id| state.index.entry(id));
            entry.is_some_and(|entry| !entry.expired(now))
        };
        keys.iter().take_while(there).count()
    }

    /// Protects an object from eviction until as many [`Store::unpin`] calls. Pins do not survive the
    /// store. `false` when there is no such object or it has 65,535 pins.
    pub fn pin(&self, key: &[u8]) -> bool {
        self.with_live(key, State::pin).unwrap_or(false)
    }

    /// Takes one pin back. `false` when there is no such object or it is not pinned.
    pub fn unpin(&self, key: &[u8]) -> bool {
        self.with_live(key, State::unpin).unwrap_or(false)
    }

    /// Marks an object as just used. `false` when there is none.
    pub fn touch(&self, key: &[u8]) -> bool {
        self.with_live(key, |state, id| state.index.touch(id)).is_some()
    }

    /// Removes an object, pinned or not. Reads under way still end with its bytes. `false` when there is
    /// none.
    ///
    /// # Errors
    /// With [`Durability::Sync`]: when the removal could not be made durable, or an older object of the
    /// key lies on a drive that cannot be written. The object is invisible all the same, but it or the
    /// older one may be back at the next open.
    pub fn remove(&self, key: &[u8], durability: Durability) -> Result<bool, StoreError> {
        self.pool.check_open()?;
        check_key(key)?;
        let mut state = self.pool.state.lock();
        let Some(id) = state.index.find(key) else { return Ok(false) };
        let Some(mut removal) = state.remove(id) else { return Ok(false) };
        let drive = removal.drive;
        let sync = durability == Durability::Sync && !canary::on(Canary::RelaxedAsSync);
        let waiter = sync.then(Arc::<Waiter>::default);
        removal.item.waiter.clone_from(&waiter);
        self.pool.enqueue([removal]);
        let haunted = state.is_haunted(key);
        drop(state);
        count(&self.pool.counters.removed, 1);
        if let Some(waiter) = waiter {
            self.pool.await_record(drive, &waiter)?;
            // A drive may have failed meanwhile that was to be told of an older object's end.
            if haunted || self.pool.state.lock().is_haunted(key) {
                return Err(StoreError::DriveFailed {
                    drive: "a drive that cannot be written".to_owned(),
                    reason:
                        "it holds an older object of this key, which may come back when the pool \
                             is opened again"
                            .to_owned(),
                });
            }
        }
        Ok(true)
    }

    /// Objects whose keys start with `prefix`, in key order, after the key `after`, at most `limit`.
    /// Looks at every object: for people and tools, not for serving.
    #[must_use]
    pub fn list(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Vec<(Vec<u8>, ObjectInfo)> {
        let now = now_seconds();
        let state = self.pool.state.lock();
        let mut found: Vec<(&[u8], Id)> = state
            .index
            .live()
            .filter(|(_, entry)| !entry.expired(now) && entry.key().starts_with(prefix))
            .filter(|(_, entry)| after.is_none_or(|after| entry.key() > after))
            .map(|(id, entry)| (entry.key(), id))
            .collect();
        if limit < found.len() {
            found.select_nth_unstable(limit);
            found.truncate(limit);
        }
        found.sort_unstable();
        let info =
            |(key, id): (&[u8], Id)| Some((key.to_vec(), ObjectInfo::of(state.index.entry(id)?)));
        found.into_iter().filter_map(info).collect()
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let pool = &self.pool;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let c = &pool.counters;
        let online = pool.present().filter(|m| m.drive.online()).count();
        let state = pool.state.lock();
        let (used, all) = state.blocks(u64::MAX);
        let (spill_used, spill_all) = state.blocks(pool.spill);
        let demotions: Vec<_> = pool.present().map(|m| m.drive.io.engine.demotions()).collect();
        let demoted = |reason: fn(&Demotions) -> u64| demotions.iter().map(reason).sum();
        let spaces = || state.spaces.iter().flatten();
        Stats {
            objects: state.index.len() as u64,
            payload_bytes: state.payload_bytes,
            used_bytes: used * BLOCK_BYTES as u64,
            capacity_bytes: all * BLOCK_BYTES as u64,
            meta_used_bytes: spaces().map(|s| s.meta_used).sum(),
            meta_capacity_bytes: spaces().map(|s| s.meta_capacity).sum(),
            pinned: state.pinned,
            index_bytes: state.index.memory_bytes() as u64,
            key_bytes: state.index.key_bytes() as u64,
            puts: get(&c.puts),
            puts_kept: get(&c.puts_kept),
            puts_failed: get(&c.puts_failed),
            put_bytes: get(&c.put_bytes),
            hits: get(&c.hits),
            misses: get(&c.misses),
            misses_damaged: get(&c.misses_damaged),
            misses_io: get(&c.misses_io),
            get_bytes: get(&c.get_bytes),
            removed: get(&c.removed),
            evicted: get(&c.evicted),
            evicted_bytes: get(&c.evicted_bytes),
            expired: get(&c.expired),
            journal_frames: get(&c.journal_frames),
            journal_records: get(&c.journal_records),
            checkpoints: get(&c.checkpoints),
            chunks_deallocated: get(&c.chunks_deallocated),
            staged_bytes: get(&c.staged_bytes),
            device_gets: get(&c.device_gets),
            device_puts: get(&c.device_puts),
            device_fallbacks: get(&c.device_fallbacks),
            drives_online: online as u64,
            drives_lost: (pool.members.len() - online) as u64,
            demoted_errors: demoted(|d| d.errors),
            demoted_gone: demoted(|d| d.gone),
            demoted_latency: demoted(|d| d.latency),
            demoted_asked: demoted(|d| d.asked),
            demoted_unwritable: pool.present().filter(|m| m.drive.in_doubt()).count() as u64,
            promotions: demoted(|d| d.promotions),
            requests_retried: demoted(|d| d.retried),
            puts_retried: get(&c.puts_retried),
            spilled: get(&c.spilled),
            spill_used_bytes: spill_used * BLOCK_BYTES as u64,
            spill_capacity_bytes: spill_all * BLOCK_BYTES as u64,
        }
    }

    /// What is known of each drive of the pool, by index.
    #[must_use]
    pub fn drives(&self) -> Vec<DriveInfo> {
        self.pool.drives()
    }

    /// Takes a drive into use again that its engine took out of use, and lets an engine that left a way go
    /// back to it ([`gcos_engine::DemotingEngine`]), if that is well. Objects on it are hits again; it is
    /// told of those that were removed or replaced meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Io`] when its way is not well. [`StoreError::DriveFailed`] when a write or flush of
    /// its own records failed, so that only another open can tell what it holds. Nothing changes then.
    pub fn promote(&self, drive: u8) -> Result<(), StoreError> {
        self.pool.check_open()?;
        self.pool.promote(drive)
    }

    /// Makes everything acknowledged so far durable.
    ///
    /// # Errors
    /// When a drive could not confirm it; [`StoreError::RelaxedLost`], once, when relaxed operations
    /// since the last flush were lost because of a drive's failure.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.pool.check_open()?;
        // A durable record may call for another one on a drive whose turn is over.
        let waiting = |m: &Member| m.drive.online() && m.journal.waiting() > 0;
        let mut result = Ok(());
        for _ in 0..FLUSH_ROUNDS {
            result = self.pool.write_journals(u64::MAX);
            if result.is_err() || !self.pool.present().any(waiting) {
                break;
            }
        }
        match self.pool.take_lost_relaxed() {
            true => result.and(Err(StoreError::RelaxedLost)),
            false => result,
        }
    }

    /// Writes a checkpoint of every drive, so that the next open has little to replay.
    ///
    /// # Errors
    /// When a drive could not be written; what is there stays valid.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        self.flush()?;
        for member in self.pool.present().filter(|m| m.drive.online()) {
            self.pool.checkpoint(member)?;
        }
        Ok(())
    }

    /// One pass of what the maintenance thread does (see [`OpenOptions::background`]).
    ///
    /// # Errors
    /// The first thing that failed; the rest is tried in the next pass.
    pub fn maintain(&self) -> Result<(), StoreError> {
        self.pool.check_open()?;
        self.pool.maintain(&mut turns::lock(&self.sweep))
    }

    /// Ends use of the pool in order: everything is made durable, checkpoints are written, the pool is
    /// marked as closed in order and the drives are shut down.
    ///
    /// # Errors
    /// The first thing that failed. Nothing acknowledged is lost by it, the next open recovers.
    pub fn close(mut self) -> Result<(), StoreError> {
        if let Some(maintainer) = &mut self.maintainer {
            maintainer.stop();
        }
        let written = self.checkpoint();
        self.pool.closed.store(true, Ordering::Release);
        let mut result = written;
        // GPUs give the drives' queues back first.
        for device in self.pool.devices.lock().iter() {
            result = result.and(device.shutdown(self.pool.options.io_deadline));
        }
        for member in self.pool.present() {
            if !member.drive.online() {
                result = result.and(Err(member.drive.failed("it could not be closed in order")));
            } else if result.is_ok() {
                result = member.drive.update_superblock(|superblock| superblock.clean = true);
            }
            let deadline = self.pool.options.io_deadline;
            let down = member.drive.io.engine.shutdown(deadline).map_err(StoreError::from);
            result = result.and(down);
        }
        result
    }
}
