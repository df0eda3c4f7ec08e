//! Plans under way on a stream.

use std::sync::Arc;
use std::time::Duration;

use gcos_engine::device::ops::{ChecksumTicket, Copy, Memory, OpTicket, Run};
use gcos_engine::device::{
    DeviceBuffer, DeviceSlice, DeviceTicket, DeviceTransfer, Event, Pinned, Stream,
};
use gcos_engine::{Extent, IoError, IoErrorKind, Op};
use smallvec::SmallVec;

use super::context::{Device, Direct};
use super::memory::{DeviceRun, DeviceSegment};
use super::plan::{HEADERS, Item, Plan, Round, SEGMENTS, ZEROS};
use crate::StoreError;
use crate::pool::Pool;

/// Everything that was given to streams for one plan, and what it needs until it has ended.
///
/// Memory is safe whenever this is dropped: tickets and streams hold what they use. The space of objects
/// is not, so whoever holds that gives both to [`super::reaper::Reaper`] until this has ended.
#[derive(Debug)]
pub(super) struct Flight {
    device: Arc<Device>,
    items: Vec<Item>,
    starts: Vec<Start>,
    /// By item: the first transfer of it that failed.
    failed: Vec<Option<Failed>>,
    /// Why not everything was launched, or what the GPU failed with.
    broken: Option<String>,
    copies: Vec<OpTicket>,
    checksums: Option<ChecksumTicket>,
    sums: Vec<u32>,
    headers: Option<Headers>,
    /// The end of everything, in the caller's stream.
    landed: Option<Event>,
    lanes: Vec<Stream>,
    over: bool,
    _staging: Vec<DeviceBuffer>,
}

/// Where the host finds headers that were read.
#[derive(Debug)]
enum Headers {
    /// In memory that they were copied to from the GPU's.
    Copied(Pinned),
    /// Where they came to lie: in host memory.
    InPlace(DeviceSlice),
}

/// A transfer that failed: on which drive, and with what.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) drive: u8,
    pub(super) error: StoreError,
}

/// Transfers on one drive.
#[derive(Debug)]
struct Start {
    drive: u8,
    /// By transfer: its item.
    items: Vec<usize>,
    ticket: Option<Box<dyn DeviceTicket>>,
}

/// The memories of a plan.
struct Memories<'a> {
    staging: [Option<DeviceBuffer>; 3],
    zeros: &'a DeviceSlice,
    segments: Vec<&'a DeviceSegment>,
}

impl<'a> Memories<'a> {
    fn new(direct: &'a Direct, plan: &Plan, runs: &[&'a DeviceRun]) -> Result<Self, StoreError> {
        let mut staging = [None, None, None];
        for (slot, &len) in staging.iter_mut().zip(&plan.staging) {
            if len > 0 {
                *slot = Some(direct.alloc(len)?);
            }
        }
        let segments = runs.iter().flat_map(|run| run.segments()).collect();
        Ok(Self { staging, zeros: &direct.zeros, segments })
    }

    /// A memory that drives reach.
    fn reached(&self, memory: usize) -> Option<DeviceSlice> {
        match (memory, self.staging.get(memory)) {
            (_, Some(staging)) => staging.as_ref().map(|buffer| buffer.as_slice()),
            (ZEROS, None) => Some(self.zeros.clone()),
            (_, None) => match self.segments.get(memory.checked_sub(SEGMENTS)?)? {
                DeviceSegment::Reached(slice) => Some(slice.clone()),
                DeviceSegment::Foreign(_) => None,
            },
        }
    }

    /// All of them, for the kernels, by their numbers.
    fn all(&self) -> Vec<Memory> {
        let unused = || Memory::of(self.zeros);
        let staging = self.staging.iter().map(|buffer| match buffer {
            Some(buffer) => Memory::of(&buffer.as_slice()),
            None => unused(),
        });
        let segments = self.segments.iter().map(|segment| match segment {
            DeviceSegment::Reached(slice) => Memory::of(slice),
            DeviceSegment::Foreign(memory) => Memory::of(memory),
        });
        staging.chain([unused()]).chain(segments).collect()
    }
}

/// Gives a plan to streams.
pub(super) struct Launch<'a> {
    pool: &'a Pool,
    device: &'a Arc<Device>,
    direct: &'a Direct,
    stream: &'a Stream,
    memories: Memories<'a>,
    flight: Flight,
}

impl<'a> Launch<'a> {
    fn new(
        pool: &'a Pool,
        device: &'a Arc<Device>,
        stream: &'a Stream,
        plan: &Plan,
        runs: &[&'a DeviceRun],
    ) -> Result<Self, StoreError> {
        let direct = device.direct.as_ref().ok_or(StoreError::Closed)?;
        let memories = Memories::new(direct, plan, runs)?;
        let flight = Flight {
            device: Arc::clone(device),
            items: plan.items.clone(),
            starts: Vec::new(),
            failed: plan.items.iter().map(|_| None).collect(),
            broken: None,
            copies: Vec::new(),
            checksums: None,
            sums: Vec::new(),
            headers: None,
            landed: None,
            lanes: Vec::new(),
            over: false,
            _staging: Vec::new(),
        };
        Ok(Self { pool, device, direct, stream, memories, flight })
    }

    /// Reads by plan: transfers, copies, then the checksums of what has arrived, all in the order of the
    /// stream. Waits for the transfers where the GPU has to copy for them ([`DeviceTicket::settle`]).
    ///
    /// # Errors
    /// When there is no memory for it; nothing was started then.
    pub(super) fn read(
        pool: &'a Pool,
        device: &'a Arc<Device>,
        stream: &'a Stream,
        plan: &Plan,
        runs: &[&'a DeviceRun],
    ) -> Result<Flight, StoreError> {
        let mut launch = Self::new(pool, device, stream, plan, runs)?;
        let launched = launch.read_rounds(plan);
        Ok(launch.end(launched))
    }

    fn read_rounds(&mut self, plan: &Plan) -> Result<(), StoreError> {
        for round in &plan.rounds {
            self.transfers(round)?;
            self.copies(round)?;
        }
        let len = usize::try_from(plan.staging[HEADERS]).unwrap_or(usize::MAX);
        if let Some(headers) = self.memories.reached(HEADERS) {
            self.flight.headers = Some(if self.direct.is_in_host_memory() {
                // CUDA would not copy them behind anybody's back: it would wait, for transfers that need CUDA.
                Headers::InPlace(headers)
            } else {
                let pinned = self.device.pinned(len)?;
                self.stream.copy(&headers.slice(0, len)?, &pinned.slice(0, len)?)?;
                Headers::Copied(pinned)
            });
        }
        self.checksums(plan)
    }

    /// Writes by plan: checksums beside copies and transfers. What is given to the stream later comes behind them if
    /// they are `ordered`, for which this may wait as [`Launch::read`] does; else it waits for none of the last round.
    ///
    /// # Errors
    /// As [`Launch::read`].
    pub(super) fn write(
        pool: &'a Pool,
        device: &'a Arc<Device>,
        stream: &'a Stream,
        plan: &Plan,
        run: &'a DeviceRun,
        ordered: bool,
    ) -> Result<Flight, StoreError> {
        let mut launch = Self::new(pool, device, stream, plan, &[run])?;
        let launched = launch.write_rounds(plan, ordered);
        Ok(launch.end(launched))
    }

    fn write_rounds(&mut self, plan: &Plan, ordered: bool) -> Result<(), StoreError> {
        // The checksums go beside the first transfers, whose drives have streams of their own.
        for (index, round) in plan.rounds.iter().enumerate() {
            self.copies(round)?;
            let forked = self.fork(round)?;
            if index == 0 {
                self.checksums(plan)?;
            }
            self.start_all(round, Op::Write { fua: false }, &forked);
            // The next round uses the same staging memory.
            if ordered || index + 1 < plan.rounds.len() {
                self.join(&forked)?;
            }
        }
        Ok(())
    }

    /// Starts the reads of a round; what comes behind them in the stream waits for them.
    fn transfers(&mut self, round: &Round) -> Result<(), StoreError> {
        match drives(round).as_slice() {
            [] => Ok(()),
            [drive] => {
                let stream = self.stream.clone();
                self.start(round, Op::Read, *drive, &stream);
                self.settle();
                Ok(())
            }
            _ => {
                let forked = self.fork(round)?;
                self.start_all(round, Op::Read, &forked);
                self.join(&forked)
            }
        }
    }

    /// A stream for each drive of a round, which waits for what is in the caller's stream by now.
    fn fork(&mut self, round: &Round) -> Result<Vec<(u8, Stream)>, StoreError> {
        let before = self.stream.record()?;
        let mut forked = Vec::new();
        for (index, drive) in drives(round).into_iter().enumerate() {
            if self.flight.lanes.len() <= index {
                self.flight.lanes.push(self.device.lane()?);
            }
            if let Some(lane) = self.flight.lanes.get(index) {
                lane.wait(&before)?;
                forked.push((drive, lane.clone()));
            }
        }
        Ok(forked)
    }

    /// Starts the transfers of a round, each drive's in its stream.
    fn start_all(&mut self, round: &Round, op: Op, forked: &[(u8, Stream)]) {
        for (drive, lane) in forked {
            self.start(round, op, *drive, lane);
        }
    }

    /// The caller's stream waits for these from now on.
    fn join(&mut self, forked: &[(u8, Stream)]) -> Result<(), StoreError> {
        self.settle();
        for (_, lane) in forked {
            self.stream.wait(&lane.record()?)?;
        }
        Ok(())
    }

    /// What is given to streams from now on comes behind the transfers that were started.
    fn settle(&mut self) {
        let tickets = self.flight.starts.iter_mut().filter_map(|start| start.ticket.as_mut());
        tickets.for_each(|ticket| ticket.settle());
    }

    /// Starts the transfers of one drive. What cannot be started has failed, each for itself.
    fn start(&mut self, round: &Round, op: Op, drive: u8, stream: &Stream) {
        let (mut items, mut transfers) = (Vec::new(), Vec::new());
        for transfer in round.transfers.iter().filter(|it| it.slot.drive == drive) {
            match self.transfer(transfer, op) {
                Ok(made) => {
                    items.push(transfer.item);
                    transfers.push(made);
                }
                Err(error) => self.flight.fail(transfer.item, drive, error),
            }
        }
        let Some(engine) = self.direct.engine(drive) else {
            items.iter().for_each(|&item| self.flight.fail(item, drive, StoreError::Closed));
            return;
        };
        if transfers.is_empty() {
            return;
        }
        match engine.start(stream, transfers, self.pool.options.io_deadline) {
            Ok(ticket) => self.flight.starts.push(Start { drive, items, ticket: Some(ticket) }),
            Err(error) => {
                // The first item gets the error itself, the others its words.
                let again = |error: &IoError| IoError {
                    kind: error.kind,
                    drive: error.drive.clone(),
                    op: error.op,
                    offset: error.offset,
                    len: error.len,
                    detail: error.detail.clone(),
                    source: None,
                };
                items.dedup();
                for &item in &items {
                    self.flight.fail(item, drive, again(&error).into());
                }
            }
        }
    }

    fn transfer(
        &self,
        transfer: &super::plan::Transfer,
        op: Op,
    ) -> Result<DeviceTransfer, StoreError> {
        let drive = self.pool.drive(transfer.slot.drive).ok_or(StoreError::Closed)?;
        let mut segments: SmallVec<[DeviceSlice; 2]> = SmallVec::new();
        for part in &transfer.parts {
            let memory = self.memories.reached(part.memory).ok_or(StoreError::Closed)?;
            segments.push(memory.slice(to_usize(part.offset), to_usize(part.len))?);
        }
        let len = transfer.parts.iter().map(|part| part.len).sum();
        let offset = drive.offset(transfer.slot, transfer.at)?;
        let extents = SmallVec::from_buf([Extent { offset, len }]);
        Ok(DeviceTransfer { op, extents, segments })
    }

    fn copies(&mut self, round: &Round) -> Result<(), StoreError> {
        if round.copies.is_empty() {
            return Ok(());
        }
        let copies: Vec<Copy> = round
            .copies
            .iter()
            .map(|copy| Copy {
                source: to_u32(copy.from.memory),
                source_offset: copy.from.offset,
                target: to_u32(copy.to.memory),
                target_offset: copy.to.offset,
                bytes: copy.from.len,
            })
            .collect();
        let ticket = self.direct.ops.copy(self.stream, self.memories.all(), &copies)?;
        self.flight.copies.push(ticket);
        Ok(())
    }

    fn checksums(&mut self, plan: &Plan) -> Result<(), StoreError> {
        if plan.runs.is_empty() {
            return Ok(());
        }
        let runs: Vec<Run> = plan
            .runs
            .iter()
            .map(|run| Run {
                memory: to_u32(run.bytes.memory),
                offset: run.bytes.offset,
                // At most a grain.
                bytes: to_u32(to_usize(run.bytes.len)),
                grain: to_u32(run.grain),
            })
            .collect();
        let ticket = self.direct.ops.checksum(self.stream, self.memories.all(), &runs)?;
        self.flight.checksums = Some(ticket);
        Ok(())
    }

    /// Marks the end. If something could not be launched, what was is awaited all the same.
    fn end(mut self, launched: Result<(), StoreError>) -> Flight {
        if let Err(error) = launched {
            self.flight.broken = Some(error.chain());
            // Lanes that the caller's stream does not wait for yet.
            for lane in &self.flight.lanes {
                if let Err(error) = lane.record().and_then(|event| self.stream.wait(&event)) {
                    tracing::debug!(%error, "a stream could not be joined");
                }
            }
        }
        match self.stream.record() {
            Ok(event) => self.flight.landed = Some(event),
            Err(error) => self.flight.broken = Some(error.to_string()),
        }
        self.flight._staging = self.memories.staging.into_iter().flatten().collect();
        self.flight
    }
}

/// The drives of a round.
fn drives(round: &Round) -> Vec<u8> {
    let mut drives: Vec<u8> = round.transfers.iter().map(|it| it.slot.drive).collect();
    drives.sort_unstable();
    drives.dedup();
    drives
}

fn to_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

impl Flight {
    fn fail(&mut self, item: usize, drive: u8, error: StoreError) {
        if let Some(failed) = self.failed.get_mut(item) {
            // Whoever asked has to hear of what is still under way.
            let late = error.io_kind() == Some(IoErrorKind::Unfinished);
            if late || failed.is_none() {
                *failed = Some(Failed { drive, error });
            }
        }
    }

    /// Whether everything has ended, and takes the results that are there. Never waits.
    pub(super) fn ended(&mut self) -> bool {
        if self.over {
            return true;
        }
        let mut failures = Vec::new();
        let mut ended = true;
        for start in &mut self.starts {
            let Some(ticket) = &mut start.ticket else { continue };
            let Some(results) = ticket.poll() else {
                ended = false;
                continue;
            };
            start.ticket = None;
            let missing = start.items.len() - results.len().min(start.items.len());
            let mut results = results.into_iter();
            for &item in &start.items {
                match results.next() {
                    Some(Ok(())) => {}
                    Some(Err(error)) => failures.push((item, start.drive, error.into())),
                    None => failures.push((item, start.drive, StoreError::Closed)),
                }
            }
            debug_assert_eq!(missing, 0, "one result for each transfer");
        }
        for (item, drive, error) in failures {
            self.fail(item, drive, error);
        }
        if !ended {
            return false;
        }
        match self.landed.as_ref().map(Event::query) {
            Some(Ok(true)) => {}
            Some(Ok(false)) => return false,
            // Nothing runs any more in a context that has failed.
            Some(Err(error)) => self.broken = Some(error.to_string()),
            None => {}
        }
        self.take_ops();
        self.over = true;
        true
    }

    /// Takes what the kernels say; they have ended with the stream.
    fn take_ops(&mut self) {
        for mut ticket in self.copies.drain(..) {
            if let Some(Err(error)) = ticket.poll() {
                self.broken = Some(error.to_string());
            }
        }
        if let Some(mut ticket) = self.checksums.take() {
            match ticket.poll() {
                Some(Ok(sums)) => self.sums = sums,
                Some(Err(error)) => self.broken = Some(error.to_string()),
                None => self.broken = Some("checksums did not arrive".to_owned()),
            }
        }
    }

    /// Waits until everything has ended, at most so long. `false` if it has not.
    pub(super) fn wait(&mut self, patience: Duration) -> bool {
        let end = std::time::Instant::now() + patience;
        let mut spins = 0;
        loop {
            if self.ended() {
                return true;
            }
            if std::time::Instant::now() > end {
                return false;
            }
            gcos_hw::relax_spinning(spins);
            spins += 1;
        }
    }

    /// When everything has landed, in the caller's stream: what is there then is not verified.
    pub(super) fn landed(&self) -> Option<&Event> {
        self.landed.as_ref()
    }

    /// What there is to verify an item with, once everything has ended.
    pub(super) fn item(&mut self, index: usize) -> Result<Arrived, Failed> {
        if let Some(failed) = self.failed.get_mut(index).and_then(Option::take) {
            return Err(failed);
        }
        let failed = |detail: &str| Failed {
            drive: u8::MAX,
            error: StoreError::invalid("GPU", "work that ends well", detail),
        };
        if let Some(why) = &self.broken {
            return Err(failed(why));
        }
        let item = self.items.get(index).ok_or_else(|| failed("an item that was not planned"))?;
        let sums = self.sums.get(item.grains.clone()).ok_or_else(|| failed("too few checksums"))?;
        Ok(Arrived { first_grain: item.first_grain, sums: sums.to_vec(), header: item.header })
    }

    /// Bytes of a header that has arrived.
    pub(super) fn header(&self, at: u64, len: u32) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; len as usize];
        match self.headers.as_ref().ok_or(StoreError::Closed)? {
            Headers::Copied(pinned) => pinned.memory().read(to_usize(at), &mut bytes)?,
            Headers::InPlace(slice) => slice.dma().read(to_usize(at), &mut bytes)?,
        }
        Ok(bytes)
    }
}

/// What there is to verify an item with.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) first_grain: usize,
    pub(super) sums: Vec<u32>,
    /// Offset of its header, if it was read.
    pub(super) header: Option<u64>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        // After a failure of the GPU nobody knows what a stream still does: nothing is used again.
        if !self.over || self.broken.is_some() {
            return;
        }
        if let Some(Headers::Copied(pinned)) = self.headers.take() {
            self.device.give_pinned(pinned);
        }
        self.device.give_lanes(self.lanes.drain(..));
    }
}
