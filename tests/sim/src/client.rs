//! One client: carries its operations out and has the model judge each answer.

use std::time::Duration;

use gcos_store::{
    Durability, IfExists, Lookup, MissReason, PutOptions, PutOutcome, Sink, Source, Store,
    StoreError,
};
use parking_lot::{Mutex, MutexGuard};

use crate::keys::key_bytes;
use crate::model::{Excuse, Model, Seen, WriteId};
use crate::plan::{FIRST_SHARED, Fault, FaultKind, Op};
use crate::world::World;

/// What all clients of a round share.
#[derive(Debug)]
pub struct Shared<'a> {
    /// The store under test.
    pub store: &'a Store,
    /// The drives.
    pub world: &'a World,
    /// What may be.
    pub model: &'a Mutex<Model>,
    /// The first thing that went wrong.
    pub failure: &'a Mutex<Option<String>>,
    /// Faults that have not taken effect, the last one first.
    pub faults: &'a Mutex<Vec<Fault>>,
    /// Operations begun in the round.
    pub begun: &'a Mutex<u32>,
    /// Whether the pool has several drives.
    pub several: bool,
    /// Told of every operation.
    pub verbose: bool,
}

impl Shared<'_> {
    /// Carries out the operations of a client, until one shows that something is wrong.
    pub fn run(&self, client: usize, ops: &[Op]) {
        for op in ops {
            if self.failure.lock().is_some() || self.world.is_over() {
                return;
            }
            self.arm();
            let result = self.one(op);
            self.world.note(client as u64);
            if self.verbose {
                tell(&format!("  client {client} {op:?}: {result:?}"));
            }
            if let Err(wrong) = result {
                let mut failure = self.failure.lock();
                failure.get_or_insert(format!("client {client}: {op:?}: {wrong}"));
                return;
            }
            self.look();
        }
    }

    /// The model, told what time it is.
    fn model(&self) -> MutexGuard<'_, Model> {
        let mut model = self.model.lock();
        model.wall = self.world.wall();
        model
    }

    /// Lets faults take effect whose time has come.
    fn arm(&self) {
        let mut begun = self.begun.lock();
        let mut faults = self.faults.lock();
        while let Some(fault) = faults.pop_if(|fault| fault.after <= *begun) {
            self.model().excuse(excuse_of(fault.kind));
            self.world.arm(&fault);
        }
        *begun += 1;
    }

    /// What the store says about itself.
    fn look(&self) {
        let stats = self.store.stats();
        let mut model = self.model();
        model.evicted |= stats.evicted > 0;
        if stats.drives_lost > 0 && self.world.is_disturbed() {
            model.excuse(if self.several { Excuse::Anything } else { Excuse::Errors });
        }
    }

    /// Whether this error may be.
    fn allowed(&self, error: &StoreError) -> Result<(), String> {
        self.look();
        match error {
            StoreError::Full { .. } => Ok(()),
            StoreError::RelaxedLost if self.world.is_disturbed() => {
                self.model().relaxed_lost();
                Ok(())
            }
            StoreError::Io(_) | StoreError::DriveFailed { .. } if self.world.is_disturbed() => {
                Ok(())
            }
            // Waiting for another client's put of the key took too long.
            StoreError::TimedOut { .. } if self.world.is_disturbed() => Ok(()),
            other => Err(format!("unexpected error: {other} ({other:?})")),
        }
    }

    fn one(&self, op: &Op) -> Result<(), String> {
        match op {
            Op::Put { key, len, sync, keep, pin, direct, ttl } => {
                let if_exists = if *keep { IfExists::Keep } else { IfExists::Replace };
                let ttl = (*ttl > 0).then(|| Duration::from_secs((*ttl).into()));
                let options = PutOptions { if_exists, pin: *pin, ttl, ..put_options(*sync) };
                let (write, bytes) = {
                    let mut model = self.model();
                    let begun = model.begin_put(*key, *len);
                    if let Some(ttl) = ttl {
                        model.mortal(begun.0, ttl.as_secs());
                    }
                    begun
                };
                let name = key_bytes(*key);
                let result = if *direct {
                    let mut buffer =
                        self.store.buffer(bytes.len()).map_err(|error| error.to_string())?;
                    let memory = buffer.bytes_mut().map_err(|error| error.to_string())?;
                    memory.copy_from_slice(&bytes);
                    self.store.put(&name, Source::Buffer(&buffer), &options)
                } else {
                    self.store.put(&name, Source::Bytes(&bytes), &options)
                };
                let stored = matches!(result, Ok(PutOutcome::Stored));
                self.end_put(*key, write, *sync, result)?;
                if stored && *pin && *key < FIRST_SHARED {
                    self.model().pin(*key, true);
                }
                Ok(())
            }
            Op::PutMany { items, sync } => self.put_many(items, *sync),
            Op::Get { key } => self.get(*key),
            Op::GetRange { key, from, part } => self.get_range(*key, *from, *part),
            Op::GetMany { keys } => self.get_many(keys),
            Op::Remove { key, sync } => self.remove(*key, *sync),
            Op::Pin { key } => {
                let pinned = self.store.pin(&key_bytes(*key));
                self.model().pin(*key, pinned);
                Ok(())
            }
            Op::Unpin { key } => {
                while self.store.unpin(&key_bytes(*key)) {}
                self.model().pin(*key, false);
                Ok(())
            }
            Op::Wait { seconds } => {
                self.world.pass((*seconds).into());
                Ok(())
            }
            Op::Flush => self.barrier(Store::flush).map(|_| ()),
            Op::Checkpoint => self.checkpoint(),
            // Chunks are deallocated by a pass that finds as many as the one before.
            Op::Maintain => match self.store.maintain().and_then(|()| self.store.maintain()) {
                Ok(()) => Ok(()),
                Err(error) => self.allowed(&error),
            },
        }
    }

    fn end_put(
        &self,
        key: u8,
        write: WriteId,
        sync: bool,
        result: Result<PutOutcome, StoreError>,
    ) -> Result<(), String> {
        match result {
            Ok(PutOutcome::Stored) => self.model().done(write, sync),
            Ok(PutOutcome::Kept) => {
                let mut model = self.model();
                model.kept(write)?;
                let since = model.begin_read();
                model.forget(write);
                if sync && key < FIRST_SHARED {
                    model.kept_sync(key, since);
                }
            }
            Err(error) => {
                self.model().failed(write);
                self.allowed(&error)?;
            }
        }
        Ok(())
    }

    fn put_many(&self, items: &[(u8, u32)], sync: bool) -> Result<(), String> {
        let options = PutOptions { if_exists: IfExists::Replace, ..put_options(sync) };
        let begun: Vec<_> = {
            let mut model = self.model();
            items.iter().map(|&(key, len)| (key, model.begin_put(key, len))).collect()
        };
        let names: Vec<_> = begun.iter().map(|(key, _)| key_bytes(*key)).collect();
        let sources: Vec<(&[u8], Source<'_>)> = names
            .iter()
            .zip(&begun)
            .map(|(name, (_, (_, bytes)))| (name.as_slice(), Source::Bytes(bytes)))
            .collect();
        let results = self.store.put_many(&sources, &options);
        if results.len() != items.len() {
            return Err(format!("{} results for {} puts", results.len(), items.len()));
        }
        for ((key, (write, _)), result) in begun.into_iter().zip(results) {
            self.end_put(key, write, sync, result)?;
        }
        Ok(())
    }

    fn get(&self, key: u8) -> Result<(), String> {
        let since = self.model().begin_read();
        let seen = read_whole(self.store, key)?;
        self.note(&seen);
        self.judge(key, since, &seen)
    }

    fn note(&self, seen: &Seen) {
        self.world.note(match seen {
            Seen::Bytes { bytes, .. } => gcos_layout::checksum::crc32c(bytes).into(),
            Seen::Absent => 1,
            Seen::Damaged(_) => 2,
            Seen::Failed(_) => 3,
        });
    }

    /// Has the model judge what was read.
    fn judge(&self, key: u8, since: u64, seen: &Seen) -> Result<(), String> {
        // The store may have found room, or a failure, meanwhile.
        self.look();
        let failed = matches!(seen, Seen::Failed(_));
        // A read that another client's put overtakes, or that evicts the object, may end so when it has to read
        // again.
        let mut model = self.model();
        let evicted = model.evicted && !model.pinned(key);
        let overtaken = self.world.misreads() && (key >= FIRST_SHARED || evicted);
        if failed && (self.world.is_over() || overtaken) {
            return Ok(());
        }
        model.check(key, since, seen)
    }

    fn get_range(&self, key: u8, from: u16, part: u16) -> Result<(), String> {
        let name = key_bytes(key);
        let since = self.model().begin_read();
        let Some(info) = self.store.info(&name) else {
            return self.judge(key, since, &Seen::Absent);
        };
        let offset = u64::from(info.len - 1) * u64::from(from) / 1000;
        let left = u64::from(info.len) - offset;
        let mut bytes = vec![0; (left * u64::from(part)).div_ceil(1000) as usize];
        let offset = offset as u32;
        let seen = match self.store.get_range(&name, offset, Sink::Bytes(&mut bytes)) {
            Ok(Lookup::Hit(info)) => Seen::Bytes { offset, bytes, len: Some(info.len) },
            Ok(Lookup::Miss(reason)) => miss(&reason),
            // Another client has replaced it meanwhile.
            Err(StoreError::WrongSize { .. }) if key >= FIRST_SHARED => return Ok(()),
            Err(error) => return Err(format!("unexpected error: {error}")),
        };
        self.note(&seen);
        self.judge(key, since, &seen)
    }

    fn get_many(&self, keys: &[u8]) -> Result<(), String> {
        let since = self.model().begin_read();
        let names: Vec<_> = keys.iter().map(|&key| key_bytes(key)).collect();
        let mut there = Vec::new();
        for (&key, name) in keys.iter().zip(&names) {
            match self.store.info(name) {
                Some(info) => there.push((key, name, vec![0; info.len as usize])),
                None => self.judge(key, since, &Seen::Absent)?,
            }
        }
        let items = there
            .iter_mut()
            .map(|(_, name, bytes)| (name.as_slice(), Sink::Bytes(bytes)))
            .collect();
        let results = self.store.get_many(items);
        if results.len() != there.len() {
            return Err(format!("{} results for {} gets", results.len(), there.len()));
        }
        for ((key, _, bytes), result) in there.into_iter().zip(results) {
            let seen = match result {
                Ok(Lookup::Hit(info)) => Seen::Bytes { offset: 0, bytes, len: Some(info.len) },
                Ok(Lookup::Miss(reason)) => miss(&reason),
                Err(StoreError::WrongSize { .. }) if key >= FIRST_SHARED => continue,
                Err(error) => return Err(format!("unexpected error: {error}")),
            };
            self.note(&seen);
            self.judge(key, since, &seen)?;
        }
        Ok(())
    }

    fn remove(&self, key: u8, sync: bool) -> Result<(), String> {
        let durability = if sync { Durability::Sync } else { Durability::Relaxed };
        let (since, write) = {
            let mut model = self.model();
            (model.begin_read(), model.begin_remove(key))
        };
        match self.store.remove(&key_bytes(key), durability) {
            Ok(true) => self.model().done(write, sync),
            Ok(false) => {
                self.model().forget(write);
                return self.judge(key, since, &Seen::Absent);
            }
            Err(error) => {
                self.model().failed(write);
                self.allowed(&error)?;
            }
        }
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), String> {
        let written = self.barrier(Store::checkpoint)?;
        // A drive that has failed takes none.
        if let Some(since) = written
            && self.store.stats().drives_lost == 0
        {
            self.model().checkpointed(since);
        }
        Ok(())
    }

    /// When it began, if it has ended well.
    fn barrier(
        &self,
        act: impl Fn(&Store) -> Result<(), StoreError>,
    ) -> Result<Option<u64>, String> {
        let since = self.model().begin_read();
        match act(self.store) {
            Ok(()) => {
                self.model().flushed(since);
                Ok(Some(since))
            }
            Err(error) => {
                // What could not be made durable may be lost, and is not asked for again.
                self.model().relaxed_lost();
                self.allowed(&error)?;
                Ok(None)
            }
        }
    }
}

fn put_options(sync: bool) -> PutOptions {
    let durability = if sync { Durability::Sync } else { Durability::Relaxed };
    PutOptions { durability, ..PutOptions::default() }
}

/// Reads an object whole.
///
/// # Errors
/// An error that no read may have.
pub fn read_whole(store: &Store, key: u8) -> Result<Seen, String> {
    match store.get_vec(&key_bytes(key)) {
        Ok(Ok(bytes)) => {
            let len = u32::try_from(bytes.len()).ok();
            Ok(Seen::Bytes { offset: 0, bytes, len })
        }
        Ok(Err(reason)) => Ok(miss(&reason)),
        Err(error) => Err(format!("unexpected error: {error}")),
    }
}

fn miss(reason: &MissReason) -> Seen {
    match reason {
        MissReason::Absent | MissReason::Expired => Seen::Absent,
        MissReason::Damaged { .. } => Seen::Damaged(reason.to_string()),
        other => Seen::Failed(other.to_string()),
    }
}

/// What a fault excuses.
fn excuse_of(kind: FaultKind) -> Excuse {
    use crate::plan::Region::{Data, Journal};
    match kind {
        kind if !kind.disturbs() => Excuse::Nothing,
        FaultKind::Unreadable(_)
        | FaultKind::LostWrite(Data)
        | FaultKind::Misdirected(_)
        | FaultKind::RotsAfterWrite(Data) => Excuse::Losses,
        FaultKind::LostWrite(Journal) | FaultKind::RotsAfterWrite(Journal) => Excuse::Journal,
        FaultKind::LostWrite(_) | FaultKind::RotsAfterWrite(_) | FaultKind::LyingFlush => {
            Excuse::Anything
        }
        _ => Excuse::Errors,
    }
}

/// Says something to whoever watches.
#[expect(clippy::print_stdout, reason = "asked for on the command line")]
pub fn tell(text: &str) {
    println!("{text}");
}
