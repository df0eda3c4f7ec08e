//! Commands in flight: what they own, and the table that the completion's CID leads into.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use gcos_hw::DmaSlice;
use gcos_layout::nvme::Status;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::NvmeError;
use crate::bounce::Bounce;

/// Memory of a request, in order.
pub(crate) type Segments = SmallVec<[DmaSlice; 2]>;

/// What the commands of one request share. Lock order: a queue pair's lock before `outcome`.
#[derive(Debug)]
pub(crate) struct Request {
    /// Commands in flight, plus one while commands are still being posted.
    shares: AtomicU32,
    done: AtomicBool,
    /// Set when the deadline has passed and recovery has begun.
    expired: AtomicBool,
    /// Set with the first error, so that success is known without the lock.
    failed: AtomicBool,
    /// DW0 of the last completion.
    dw0: AtomicU32,
    /// On the function's clock; [`Duration::MAX`] for commands that wait for something to happen.
    deadline: Duration,
    pub(crate) outcome: Mutex<Outcome>,
}

/// How a request went so far, and the memory lent to it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The first error.
    pub(crate) error: Option<NvmeError>,
    /// Given back when the last command has ended.
    pub(crate) memory: Segments,
}

impl Request {
    /// A request with the submitter's share, which [`Request::end_share`] ends.
    pub(crate) fn new(memory: Segments, deadline: Duration) -> Arc<Self> {
        Arc::new(Self {
            shares: AtomicU32::new(1),
            done: AtomicBool::new(false),
            expired: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            dw0: AtomicU32::new(0),
            deadline,
            outcome: Mutex::new(Outcome { error: None, memory }),
        })
    }

    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    pub(crate) fn is_expired(&self) -> bool {
        self.expired.load(Ordering::Relaxed)
    }

    pub(crate) fn expire(&self) {
        self.expired.store(true, Ordering::Relaxed);
    }

    /// Ends a command's share; the last one gives the memory back and ends the request.
    #[inline]
    pub(crate) fn end_share(&self, result: Result<u32, NvmeError>) {
        match result {
            Ok(dw0) => self.dw0.store(dw0, Ordering::Relaxed),
            Err(error) => self.record(error),
        }
        self.drop_share();
    }

    /// Ends the submitter's share, which has no result unless posting failed.
    #[inline]
    pub(crate) fn end_posting(&self, error: Option<NvmeError>) {
        if let Some(error) = error {
            self.record(error);
        }
        self.drop_share();
    }

    fn record(&self, error: NvmeError) {
        self.outcome.lock().error.get_or_insert(error);
        self.failed.store(true, Ordering::Relaxed);
    }

    #[inline]
    fn drop_share(&self) {
        // Release what this share recorded; acquire what the others did.
        if self.shares.fetch_sub(1, Ordering::AcqRel) == 1 {
            let memory = std::mem::take(&mut self.outcome.lock().memory);
            drop(memory);
            self.done.store(true, Ordering::Release);
        }
    }

    /// The result of a request that is done: DW0 of the last completion. The error is there once.
    #[inline]
    pub(crate) fn take_result(&self) -> Result<u32, NvmeError> {
        let dw0 = self.dw0.load(Ordering::Relaxed);
        if !self.failed.load(Ordering::Relaxed) {
            return Ok(dw0);
        }
        self.outcome.lock().error.take().map_or(Ok(dw0), Err)
    }

    /// Leaks the memory: the device may still write to it.
    fn leak_memory(&self) {
        let memory = std::mem::take(&mut self.outcome.lock().memory);
        std::mem::forget(memory);
    }
}

/// What a command is, for messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Label {
    pub(crate) opcode: &'static str,
    pub(crate) nsid: u32,
    pub(crate) lba: u64,
}

impl Label {
    pub(crate) fn failed(self, device: &Arc<str>, status: Status) -> NvmeError {
        let Self { opcode, nsid, lba } = self;
        NvmeError::Command { device: Arc::clone(device), opcode, nsid, lba, status }
    }

    pub(crate) fn timed_out(self, device: &Arc<str>, ended: &'static str) -> NvmeError {
        let Self { opcode, nsid, lba } = self;
        NvmeError::Timeout { device: Arc::clone(device), opcode, nsid, lba, ended }
    }

    pub(crate) fn reset(self, device: &Arc<str>) -> NvmeError {
        let Self { opcode, nsid, lba } = self;
        NvmeError::Reset { device: Arc::clone(device), opcode, nsid, lba }
    }
}

/// A command in flight. It owns a share of its request, and with it the memory, until it is spent by
/// [`Command::complete`], [`Command::fail`] or [`Command::leak`].
#[derive(Debug)]
pub(crate) struct Command {
    /// `None` once spent.
    request: Option<Arc<Request>>,
    label: Label,
    pub(crate) bounce: Option<Box<Bounce>>,
}

impl Command {
    /// A command of `request`, of which it takes a new share.
    pub(crate) fn new(request: &Arc<Request>, label: Label, bounce: Option<Box<Bounce>>) -> Self {
        request.shares.fetch_add(1, Ordering::Relaxed);
        Self { request: Some(Arc::clone(request)), label, bounce }
    }

    pub(crate) fn belongs_to(&self, request: &Request) -> bool {
        self.request.as_ref().is_some_and(|own| std::ptr::eq(Arc::as_ptr(own), request))
    }

    /// The controller has completed it. Returns whether it succeeded, and the bounce buffer.
    pub(crate) fn complete(
        mut self,
        device: &Arc<str>,
        status: Status,
        dw0: u32,
    ) -> (bool, Option<Box<Bounce>>) {
        let bounce = self.bounce.take();
        let Some(request) = self.request.take() else { return (true, bounce) };
        let result = if status.is_success() {
            match &bounce {
                Some(bounce) => bounce.copy_back(device, &request.outcome.lock().memory),
                None => Ok(()),
            }
            .map(|()| dw0)
        } else if request.is_expired() && status.code() == Status::ABORT_REQUESTED {
            Err(self.label.timed_out(device, "it was aborted"))
        } else {
            Err(self.label.failed(device, status))
        };
        let good = result.is_ok();
        request.end_share(result);
        (good, bounce)
    }

    /// The controller has been stopped or is gone; the command ends with an error.
    pub(crate) fn fail(mut self, error: impl FnOnce(Label, bool) -> NvmeError) {
        if let Some(request) = self.request.take() {
            let error = error(self.label, request.is_expired());
            request.end_share(Err(error));
        }
    }

    /// The controller could not be stopped: the command ends with an error, its memory never.
    pub(crate) fn leak(mut self, error: impl FnOnce(Label, bool) -> NvmeError) {
        std::mem::forget(self.bounce.take());
        if let Some(request) = &self.request {
            request.leak_memory();
        }
        self.fail(error);
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            // Only a bug gets here; whoever waits must still learn that the command ended.
            tracing::error!(label = ?self.label, "a command in flight was dropped unspent");
            let device = Arc::from("unknown");
            request.end_share(Err(self.label.reset(&device)));
        }
    }
}

/// One place of the table.
#[derive(Debug, Default)]
struct Slot {
    /// Upper part of the CID, changed with each use, so that a late or repeated completion of an
    /// earlier command does not end a later one.
    generation: u16,
    command: Option<Command>,
}

/// The commands in flight on one queue pair: a CID is a slot index and a generation.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    free: Vec<u16>,
    index_bits: u32,
}

impl Slots {
    /// A table of `count` slots, at most 4095.
    pub(crate) fn new(count: u32) -> Self {
        Self {
            slots: (0..count).map(|_| Slot::default()).collect(),
            free: (0..count as u16).rev().collect(),
            index_bits: u32::BITS - count.saturating_sub(1).leading_zeros(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// A free slot's index and the CID that a command in it has. Without [`Slots::fill`] it stays
    /// free.
    #[inline]
    pub(crate) fn next_free(&self) -> Option<(usize, u16)> {
        let index = *self.free.last()?;
        let slot = self.slots.get(usize::from(index))?;
        Some((usize::from(index), self.cid(index, slot.generation)))
    }

    #[inline]
    fn cid(&self, index: u16, generation: u16) -> u16 {
        (u32::from(generation) << self.index_bits) as u16 | index
    }

    /// Puts a command into the slot that [`Slots::next_free`] named.
    #[inline]
    pub(crate) fn fill(&mut self, command: Command) {
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(usize::from(index))
        {
            slot.command = Some(command);
        }
    }

    /// Takes the command of a CID out, if it is in flight.
    #[inline]
    pub(crate) fn take(&mut self, cid: u16) -> Option<Command> {
        let index = cid & ((1u32 << self.index_bits) - 1) as u16;
        let slot = self.slots.get(usize::from(index))?;
        if self.cid(index, slot.generation) != cid {
            return None;
        }
        self.take_slot(index)
    }

    #[inline]
    fn take_slot(&mut self, index: u16) -> Option<Command> {
        let bits = self.index_bits;
        let slot = self.slots.get_mut(usize::from(index))?;
        let command = slot.command.take()?;
        // FFFFh means "no command" in the error log (Base, Figure 206): no command may have it.
        slot.generation = slot.generation.wrapping_add(1) & (u16::MAX >> bits);
        if (u32::from(slot.generation) << bits) as u16 | index == u16::MAX {
            slot.generation = 0;
        }
        self.free.push(index);
        Some(command)
    }

    /// CIDs of the commands in flight that belong to `request`.
    pub(crate) fn cids_of(&self, request: &Request) -> Vec<u16> {
        let mine = |slot: &Slot| slot.command.as_ref().is_some_and(|c| c.belongs_to(request));
        let slots = self.slots.iter().enumerate();
        slots.filter(|(_, s)| mine(s)).map(|(i, s)| self.cid(i as u16, s.generation)).collect()
    }

    /// A request whose deadline has passed and that still has a command here.
    pub(crate) fn overdue(&self, now: Duration) -> Option<Arc<Request>> {
        let requests = self.slots.iter().filter_map(|s| s.command.as_ref()?.request.as_ref());
        requests.into_iter().find(|request| request.deadline <= now).cloned()
    }

    /// Takes every command out.
    pub(crate) fn drain(&mut self) -> Vec<Command> {
        (0..self.slots.len() as u16).filter_map(|index| self.take_slot(index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: Label = Label { opcode: "Read", nsid: 1, lba: 5 };

    fn request() -> Arc<Request> {
        Request::new(Segments::new(), Duration::MAX)
    }

    fn end(command: Command) {
        let device = Arc::from("test");
        let _ = command.complete(&device, Status::SUCCESS, 0);
    }

    #[test]
    fn a_cid_is_good_for_one_completion() {
        for count in [1, 2, 31, 64, 4095] {
            let mut slots = Slots::new(count);
            let request = request();
            let mut seen = std::collections::HashSet::new();
            for _ in 0..16 {
                let (_, cid) = slots.next_free().unwrap();
                assert_ne!(cid, u16::MAX);
                slots.fill(Command::new(&request, LABEL, None));
                end(slots.take(cid).unwrap());
                assert!(slots.take(cid).is_none(), "a repeated completion");
                seen.insert(cid);
            }
            assert!(seen.len() >= 15, "{count} slots: the generation is in the CID");
        }
    }

    #[test]
    fn every_slot_can_be_in_flight_and_unknown_cids_take_nothing() {
        let mut slots = Slots::new(5);
        let request = request();
        let cids: Vec<u16> = (0..5)
            .map(|_| {
                let cid = slots.next_free().unwrap().1;
                slots.fill(Command::new(&request, LABEL, None));
                cid
            })
            .collect();
        assert!(slots.next_free().is_none());
        assert_eq!(slots.in_flight(), 5);
        for cid in (0..=u16::MAX).filter(|cid| !cids.contains(cid)) {
            assert!(slots.take(cid).is_none());
        }
        assert_eq!(slots.cids_of(&request).len(), 5);
        slots.drain().into_iter().for_each(end);
        assert_eq!(slots.in_flight(), 0);
    }

    #[test]
    fn a_request_is_done_after_its_last_share_with_the_first_error() {
        let device: Arc<str> = Arc::from("test");
        let request = request();
        let commands: Vec<_> = (0..3).map(|_| Command::new(&request, LABEL, None)).collect();
        request.end_posting(None);
        let statuses = [Status::SUCCESS, Status::WRITE_FAULT, Status::INTERNAL_ERROR];
        for (command, status) in commands.into_iter().zip(statuses) {
            assert!(!request.is_done());
            let _ = command.complete(&device, status, 0);
        }
        assert!(request.is_done());
        let error = request.take_result().unwrap_err();
        assert_eq!(error.status(), Some(Status::WRITE_FAULT));
    }

    #[test]
    fn a_dropped_command_still_ends_its_request() {
        let request = request();
        let command = Command::new(&request, LABEL, None);
        request.end_posting(None);
        drop(command);
        assert!(request.is_done());
    }
}
