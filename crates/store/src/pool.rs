//! What an open store consists of, and how records become durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gcos_engine::{IoErrorKind, Request};
use gcos_layout::media::{Record, Uuid};
use parking_lot::{Condvar, Mutex};

use crate::canary::{self, Canary};
use crate::device::{Device, Reaper};
use crate::drive::{Drive, DriveStatus};
use crate::index::Id;
use crate::journal::{Item, Journal, Waiter, Written};
use crate::staging::Staging;
use crate::state::{Removal, State};
use crate::trailing::Trailing;
use crate::{OpenOptions, StoreError, checkpoint, turns};

/// Waiting records of relaxed operations at which the caller helps to write them.
const RELAXED_BACKLOG: usize = 2048;
/// Counters behind [`crate::Stats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) puts: AtomicU64,
    pub(crate) puts_kept: AtomicU64,
    pub(crate) puts_failed: AtomicU64,
    pub(crate) put_bytes: AtomicU64,
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) misses_damaged: AtomicU64,
    pub(crate) misses_io: AtomicU64,
    pub(crate) get_bytes: AtomicU64,
    pub(crate) removed: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) evicted_bytes: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) journal_frames: AtomicU64,
    pub(crate) journal_records: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) chunks_deallocated: AtomicU64,
    pub(crate) staged_bytes: AtomicU64,
    pub(crate) device_gets: AtomicU64,
    pub(crate) device_puts: AtomicU64,
    pub(crate) device_fallbacks: AtomicU64,
    pub(crate) puts_retried: AtomicU64,
    pub(crate) spilled: AtomicU64,
}

/// Adds to a counter. Counters order nothing.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// What is known of records that were given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// They are not on the drive.
    NotWritten,
    /// They may be.
    Unknown,
}

/// A drive of the pool with its journal.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) drive: Drive,
    pub(crate) journal: Journal,
    checkpointing: Mutex<()>,
}

impl Member {
    pub(crate) fn new(drive: Drive, journal: Journal) -> Self {
        Self { drive, journal, checkpointing: Mutex::new(()) }
    }
}

/// An open pool. Lock order: a journal's writer, then the state, then a journal's queue.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) uuid: Uuid,
    /// By drive index; `None` for a missing drive.
    pub(crate) members: Vec<Option<Member>>,
    pub(crate) state: Mutex<State>,
    /// Signalled when a key is no longer being written or a doomed object is freed.
    pub(crate) changed: Condvar,
    pub(crate) staging: Arc<Staging>,
    pub(crate) options: OpenOptions,
    pub(crate) counters: Counters,
    pub(crate) closed: AtomicBool,
    /// What there is for each GPU that was used.
    pub(crate) devices: Mutex<Vec<Arc<Device>>>,
    pub(crate) reaper: Reaper,
    /// Drives (bit mask) for spill.
    pub(crate) spill: u64,
    trailing: Trailing,
    lost_relaxed: AtomicBool,
    /// The generation of what is put next.
    next_generation: AtomicU64,
}

impl Pool {
    pub(crate) fn new(
        uuid: Uuid,
        members: Vec<Option<Member>>,
        state: State,
        staging: Arc<Staging>,
        options: OpenOptions,
        next_generation: u64,
        spill: u64,
    ) -> Self {
        Self {
            uuid,
            members,
            state: Mutex::new(state),
            changed: Condvar::new(),
            staging,
            options,
            counters: Counters::default(),
            closed: AtomicBool::new(false),
            devices: Mutex::default(),
            reaper: Reaper::default(),
            spill,
            trailing: Trailing::default(),
            lost_relaxed: AtomicBool::new(false),
            next_generation: AtomicU64::new(next_generation),
        }
    }

    /// The next generation: higher than any before, in this run and in earlier ones.
    pub(crate) fn generation(&self) -> u64 {
        self.next_generation.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn member(&self, drive: u8) -> Option<&Member> {
        self.members.get(usize::from(drive))?.as_ref()
    }

    pub(crate) fn drive(&self, drive: u8) -> Option<&Drive> {
        self.member(drive).map(|member| &member.drive)
    }

    pub(crate) fn present(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().flatten()
    }

    /// Whether objects on a drive can be read, as far as is known.
    pub(crate) fn readable(&self, drive: u8) -> bool {
        let out =
            |drive: &Drive| matches!(drive.status(), DriveStatus::Gone | DriveStatus::Demoted);
        self.drive(drive).is_some_and(|drive| !out(drive))
    }

    /// Name of a drive for messages.
    pub(crate) fn drive_name(&self, drive: u8) -> String {
        match self.drive(drive) {
            Some(drive) => drive.io.name().to_owned(),
            None => format!("drive {drive}"),
        }
    }

    /// Drives (bit mask) that may be written.
    pub(crate) fn writable(&self) -> u64 {
        self.present()
            .filter(|member| member.drive.online())
            .fold(0, |mask, member| mask | 1 << member.drive.index)
    }

    pub(crate) fn check_open(&self) -> Result<(), StoreError> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(StoreError::Closed),
            false => Ok(()),
        }
    }

    /// Adds removals to their journals. Call with the state locked, so that the records of one key
    /// stay in order.
    pub(crate) fn enqueue(&self, removals: impl IntoIterator<Item = Removal>) {
        for removal in removals {
            if let Some(member) = self.member(removal.drive) {
                self.trailing.begin(removal.drive, &removal.item.record);
                member.journal.enqueue(removal.item);
            }
        }
    }

    /// Writes what waits in the journals of these drives (bit mask).
    pub(crate) fn write_journals(&self, drives: u64) -> Result<(), StoreError> {
        let mut result = Ok(());
        for member in self.present().filter(|m| drives & (1 << m.drive.index) != 0) {
            if let Err(error) = self.write_journal(member, None) {
                result = Err(error);
            }
        }
        result
    }

    /// Waits until the record that `waiter` stands for is durable, writing it if nobody else does.
    pub(crate) fn await_record(&self, drive: u8, waiter: &Waiter) -> Result<(), StoreError> {
        let member = self.member(drive).ok_or(StoreError::Closed)?;
        let mut last = Ok(());
        // Whoever takes a record from the queue posts its result before letting the writer go, so
        // once the writer was ours either the result is there or the record still waits; it does so
        // only if records before it failed, at most once for each drive.
        for _ in 0..=self.members.len() {
            if let Some((durable, follow)) = waiter.result() {
                if !durable {
                    return Err(last.err().unwrap_or_else(|| {
                        member.drive.failed("the record could not be made durable")
                    }));
                }
                // The new object is durable and counts, whatever becomes of the old one's drive.
                if let Err(error) = self.write_journals(follow) {
                    tracing::warn!(%error, "an older object's drive could not be told of its end");
                }
                return Ok(());
            }
            last = self.write_journal(member, Some(waiter));
        }
        Err(last.err().unwrap_or(StoreError::Closed))
    }

    /// Writes the records that wait now, or until `waiter` has its result: what others add meanwhile is
    /// theirs to write, or this would never end.
    fn write_journal(&self, member: &Member, waiter: Option<&Waiter>) -> Result<(), StoreError> {
        let give_up = self.patience();
        let mut left = member.journal.waiting();
        loop {
            let mut writer = member.journal.writer();
            if waiter.is_some_and(|waiter| waiter.result().is_some()) {
                return Ok(());
            }
            if !member.drive.online() {
                if member.journal.waiting() == 0 {
                    return Ok(());
                }
                self.fail(member, member.journal.abandon_all(), Outcome::NotWritten);
                return Err(member.drive.failed("no record can be written"));
            }
            let flush = |mask| self.flush_drives(mask);
            match member.journal.write_frame(&mut writer, &member.drive.io, flush) {
                Written::Nothing => return Ok(()),
                Written::Frame(items) => {
                    left = left.saturating_sub(items.len());
                    self.apply(member, items);
                    if left == 0 && waiter.is_none() {
                        return Ok(());
                    }
                }
                Written::Full => {
                    drop(writer);
                    self.make_room_in_ring(member, give_up);
                }
                Written::NotFlushed(drives, error) => {
                    self.fail(member, member.journal.abandon(drives), Outcome::NotWritten);
                    return Err(error);
                }
                Written::Failed(items, error) if error.io_kind() == Some(IoErrorKind::Demoted) => {
                    // The frame was not started: the next one follows the one before.
                    member.drive.note(&error);
                    self.fail(member, items, Outcome::NotWritten);
                    self.fail(member, member.journal.abandon_all(), Outcome::NotWritten);
                    return Err(error);
                }
                Written::Failed(items, error) => {
                    // The frame may be on the drive or not, so nothing may ever follow it.
                    member.drive.demote(DriveStatus::ReadOnly, &error);
                    self.fail(member, items, Outcome::Unknown);
                    self.fail(member, member.journal.abandon_all(), Outcome::NotWritten);
                    return Err(error);
                }
            }
        }
    }

    /// Takes a checkpoint, unless another thread has just done so. Each frees what the one before it
    /// needed, so a second may be necessary.
    fn make_room_in_ring(&self, member: &Member, give_up: Instant) {
        let one_at_a_time = turns::lock(&member.checkpointing);
        if member.journal.writer().has_room_for_a_frame() {
            return;
        }
        let result = match turns::now() < give_up {
            true => self.write_checkpoint(member),
            false => {
                Err(member.drive.failed("its journal stays full although checkpoints are written"))
            }
        };
        drop(one_at_a_time);
        if let Err(error) = result
            && member.drive.online()
        {
            member.drive.demote(DriveStatus::ReadOnly, &error);
        }
    }

    /// Carries out what waited for these records to be durable. Called with the writer held, so that a
    /// checkpoint that starts after the frame finds its objects in the index.
    fn apply(&self, member: &Member, items: Vec<Item>) {
        count(&self.counters.journal_frames, 1);
        count(&self.counters.journal_records, items.len() as u64);
        let mut state = self.state.lock();
        for item in items {
            let mut old = None;
            if let Some(id) = item.entry {
                if let Some(entry) = state.index.entry_mut(id) {
                    entry.set_recorded();
                }
                old = item.make_live.then(|| state.make_live(id)).flatten();
            }
            for id in item.release.into_iter().chain(old) {
                self.retire(&mut state, member.drive.index, id, item.waiter.as_deref());
            }
            let trailing = self.trailing.end(member.drive.index, &item.record);
            if let Some(waiter) = item.waiter {
                waiter.follow(trailing);
                waiter.finish(true);
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// A doomed object's successor or removal is durable in the journal of `drive`. If its own record is
    /// in another journal, that one must learn of its end first.
    fn retire(&self, state: &mut State, drive: u8, id: Id, waiter: Option<&Waiter>) {
        let Some(removal) = state.removal(id) else { return };
        if removal.drive == drive || canary::on(Canary::FollowForgotten) {
            state.end(id);
        } else if self.drive(removal.drive).is_some_and(Drive::online) {
            if let Some(waiter) = waiter {
                waiter.follow(1 << removal.drive);
            }
            self.enqueue([removal]);
        } else {
            state.haunt(id, true);
        }
    }

    /// Tells the waiters of records that will not be written. What they were to free stays taken, since
    /// the drive's journal still has it. What they were to make visible is free again, unless its record
    /// may be on the drive after all: then a recovery may find it, and whole.
    fn fail(&self, member: &Member, items: Vec<Item>, outcome: Outcome) {
        let mut state = self.state.lock();
        for item in items {
            self.trailing.end(member.drive.index, &item.record);
            let over = matches!(item.record, Record::Remove(_));
            item.release.iter().for_each(|&id| state.haunt(id, over));
            if let (Some(id), Outcome::Unknown) = (item.entry, outcome) {
                state.doubt(id);
            }
            if let (Some(id), Outcome::NotWritten) = (item.entry, outcome) {
                match item.make_live {
                    true if canary::on(Canary::FailedPutVisible) => drop(state.make_live(id)),
                    true => state.release_entry(id),
                    false => state.lose(id),
                }
            }
            match item.waiter {
                Some(waiter) => waiter.finish(false),
                None => self.lost_relaxed.store(true, Ordering::Release),
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Whether relaxed operations that were acknowledged have been lost since the last call.
    pub(crate) fn take_lost_relaxed(&self) -> bool {
        self.lost_relaxed.swap(false, Ordering::AcqRel)
    }

    /// Makes what was written to these drives (bit mask) durable; names those that failed. A drive whose
    /// flush failed once is never asked again: what it answers then says nothing about earlier writes.
    fn flush_drives(&self, drives: u64) -> Result<(), (u64, StoreError)> {
        let mut tickets = Vec::new();
        let mut failed: Option<(u64, StoreError)> = None;
        let fail = |failed: &mut Option<(u64, StoreError)>, drive: &Drive, error: StoreError| {
            drive.note(&error);
            // One that was not asked has not failed.
            if drive.online() || error.io_kind().is_some_and(|kind| kind != IoErrorKind::Demoted) {
                drive.demote(DriveStatus::ReadOnly, &error);
            }
            let mask = failed.as_ref().map_or(0, |(mask, _)| *mask) | 1 << drive.index;
            *failed = Some((mask, error));
        };
        for member in self.present().filter(|m| drives & (1 << m.drive.index) != 0) {
            let drive = &member.drive;
            if !drive.online() {
                fail(&mut failed, drive, drive.failed("what was written to it may be lost"));
                continue;
            }
            // Always asked for: only the engine knows whether the drive caches at this moment.
            match drive.io.engine.submit(Request::flush(self.options.io_deadline)) {
                Ok(ticket) => tickets.push((drive, ticket)),
                Err(error) => fail(&mut failed, drive, error.into()),
            }
        }
        for (drive, ticket) in tickets {
            match ticket.wait() {
                Err(error) => fail(&mut failed, drive, error.into()),
                // Another flush of the drive failed meanwhile: what this one says proves nothing.
                Ok(()) if drive.in_doubt() => {
                    fail(&mut failed, drive, drive.failed("what was written to it may be lost"));
                }
                Ok(()) => (),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Writes a checkpoint of one drive.
    pub(crate) fn checkpoint(&self, member: &Member) -> Result<(), StoreError> {
        let _one_at_a_time = turns::lock(&member.checkpointing);
        self.write_checkpoint(member)
    }

    fn write_checkpoint(&self, member: &Member) -> Result<(), StoreError> {
        if !member.drive.online() {
            return Err(member.drive.failed("no checkpoint can be written"));
        }
        let (number, start) = {
            let writer = member.journal.writer();
            (writer.checkpoint + 1, writer.next)
        };
        let written = checkpoint::write(&member.drive, &self.state, number, start);
        if let Err(error) = &written {
            member.drive.note(error);
        }
        written?;
        member.journal.writer().checkpointed(number, start);
        count(&self.counters.checkpoints, 1);
        Ok(())
    }

    /// Whether the journal's backlog of relaxed records has grown so long that the caller should help.
    pub(crate) fn backlog(&self, waiting: usize) -> bool {
        waiting >= RELAXED_BACKLOG
    }

    /// Waits a little for a doomed object to be freed or a key to be written.
    pub(crate) fn wait_changed(&self, state: &mut parking_lot::MutexGuard<'_, State>) {
        turns::wait(&self.changed, state, Duration::from_millis(20));
    }

    /// When to give up waiting for space or for another writer of the same key.
    pub(crate) fn patience(&self) -> Instant {
        turns::now() + self.options.io_deadline
    }
}

/// Seconds since 1970.
pub(crate) fn now_seconds() -> u32 {
    u32::try_from(turns::seconds()).unwrap_or(u32::MAX)
}
