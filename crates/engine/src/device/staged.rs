//! Host memory in between: the file's engine moves blocks to and from memory that is pinned for the GPU, the
//! GPU's copy engines go on from there. Several pieces are under way at a time, so that the drive and the GPU's
//! link work at the same time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_cuda::{DeviceMemory, Event, Gpu, GpuError, Pinned, PinnedSlice, Stream};
use gcos_hw::{DmaBuffer, DmaSpace, SharedMemory};
use parking_lot::Mutex;

use super::chunks::{Chunk, chunks};
use super::mover::{Mover, until_ended};
use super::{DeviceTransfer, Driver};
use crate::gpu::after;
use crate::{Engine, Geometry, IoError, IoErrorKind, Op, Request, Ticket};

/// Bytes of one piece: long enough for a drive, short enough that reading one and copying another overlap.
const CHUNK_BYTES: usize = 1 << 20;
/// Fewest pieces under way at a time.
const FEWEST_SLOTS: usize = 2;

/// Moves blocks by way of pinned host memory.
#[derive(Debug)]
pub(super) struct ByStaging {
    engine: Arc<dyn Engine>,
    slots: Arc<Slots>,
    /// One stream for each direction, so that copies of both go at the same time.
    to_gpu: Stream,
    from_gpu: Stream,
    refused: Vec<String>,
}

/// Pinned memory for pieces. It is made when it is first needed.
#[derive(Debug)]
struct Slots {
    gpu: Arc<Gpu>,
    space: Arc<DmaSpace>,
    most: usize,
    state: Mutex<SlotState>,
}

#[derive(Debug, Default)]
struct SlotState {
    idle: Vec<Slot>,
    /// Made and not given up.
    made: usize,
}

#[derive(Debug)]
struct Slot {
    dma: DmaBuffer,
    pinned: Pinned,
}

/// A slot in use. It goes back when this is dropped, unless the kernel may still touch it.
#[derive(Debug)]
struct Taken {
    slots: Arc<Slots>,
    slot: Option<Slot>,
}

impl Slots {
    /// A slot, if there is one.
    fn take(self: &Arc<Self>) -> Result<Option<Taken>, GpuError> {
        {
            let mut state = self.state.lock();
            if let Some(slot) = state.idle.pop() {
                return Ok(Some(Taken { slots: Arc::clone(self), slot: Some(slot) }));
            }
            if state.made >= self.most {
                return Ok(None);
            }
            state.made += 1;
        }
        match self.make() {
            Ok(slot) => Ok(Some(Taken { slots: Arc::clone(self), slot: Some(slot) })),
            Err(error) => {
                let mut state = self.state.lock();
                state.made -= 1;
                // With others in use it goes on, slower.
                if state.made > 0 { Ok(None) } else { Err(error) }
            }
        }
    }

    fn make(&self) -> Result<Slot, GpuError> {
        let failed = |source| GpuError::Memory { ordinal: self.gpu.ordinal(), source };
        let memory = Arc::new(SharedMemory::anonymous(CHUNK_BYTES).map_err(failed)?);
        let pinned = Pinned::register(&self.gpu, Arc::clone(&memory))?;
        let dma = self.space.adopt(memory).map_err(failed)?;
        Ok(Slot { dma, pinned })
    }
}

impl Taken {
    /// The kernel may still write to it: another takes its place, and its memory goes when the kernel lets go.
    fn lose(mut self) {
        self.slot = None;
        self.slots.state.lock().made -= 1;
    }

    fn dma(&self, len: usize) -> Result<gcos_hw::DmaSlice, String> {
        let slot = self.slot.as_ref().ok_or("no slot")?;
        slot.dma.slice(0, len).map_err(|error| error.to_string())
    }

    fn pinned(&self, offset: usize, len: usize) -> Result<PinnedSlice, GpuError> {
        match &self.slot {
            Some(slot) => slot.pinned.slice(offset, len),
            None => Err(GpuError::Stream {
                ordinal: self.slots.gpu.ordinal(),
                reason: "no slot".to_owned(),
            }),
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.slots.state.lock().idle.push(slot);
        }
    }
}

impl ByStaging {
    /// Moves blocks of `engine` to and from `memory` through at most `staging_bytes` of host memory.
    pub(super) fn new(
        engine: Arc<dyn Engine>,
        memory: &Arc<DeviceMemory>,
        staging_bytes: usize,
        refused: Vec<String>,
    ) -> Result<Self, IoError> {
        let gpu = memory.gpu();
        let failed = |error: GpuError| {
            let name = &engine.geometry().name;
            IoError::about(name, IoErrorKind::Device, "open", format!("no stream: {error}"))
        };
        let (to_gpu, from_gpu) =
            (Stream::new(gpu).map_err(failed)?, Stream::new(gpu).map_err(failed)?);
        let slots = Arc::new(Slots {
            gpu: Arc::clone(gpu),
            space: Arc::clone(engine.dma()),
            most: (staging_bytes / CHUNK_BYTES).max(FEWEST_SLOTS),
            state: Mutex::default(),
        });
        Ok(Self { engine, slots, to_gpu, from_gpu, refused })
    }
}

impl Mover for ByStaging {
    fn geometry(&self) -> &Geometry {
        self.engine.geometry()
    }

    fn needs_gpu(&self) -> bool {
        true
    }

    fn driver(&self) -> Driver {
        Driver::Staged
    }

    fn refused(&self) -> Vec<String> {
        self.refused.clone()
    }

    fn submit(
        &self,
        transfer: DeviceTransfer,
        deadline: Duration,
    ) -> Result<Box<dyn Ticket>, IoError> {
        let wrong = |error: GpuError| {
            transfer.error(self.geometry(), IoErrorKind::Invalid, error.to_string())
        };
        let waiting = VecDeque::from(chunks(&transfer, CHUNK_BYTES).map_err(wrong)?);
        let (write, fua) = match transfer.op {
            Op::Write { fua } => (true, fua),
            _ => (false, false),
        };
        let alone = waiting.len() == 1;
        Ok(Box::new(StagedTicket {
            engine: Arc::clone(&self.engine),
            slots: Arc::clone(&self.slots),
            stream: if write { &self.from_gpu } else { &self.to_gpu }.clone(),
            transfer,
            waiting,
            active: Vec::new(),
            failed: None,
            write,
            // One piece is made durable with its write, several with one flush behind them.
            fua_writes: fua && alone,
            flush: fua && !alone,
            flushing: None,
            end: after(Instant::now(), deadline),
            over: false,
        }))
    }
}

/// What becomes of a piece.
#[derive(Debug)]
enum Step {
    /// The drive works for it.
    Drive(Box<dyn Ticket>),
    /// A copy does.
    Copy(Event),
}

#[derive(Debug)]
struct Active {
    step: Step,
    slot: Taken,
    chunk: Chunk,
}

/// A transfer under way.
#[derive(Debug)]
struct StagedTicket {
    engine: Arc<dyn Engine>,
    slots: Arc<Slots>,
    stream: Stream,
    transfer: DeviceTransfer,
    waiting: VecDeque<Chunk>,
    active: Vec<Active>,
    failed: Option<IoError>,
    write: bool,
    fua_writes: bool,
    flush: bool,
    flushing: Option<Box<dyn Ticket>>,
    end: Instant,
    over: bool,
}

/// Where a piece is after it was looked at.
enum Next {
    /// Where it was.
    Same(Active),
    /// A step further.
    Step(Active),
    Done,
    Failed(IoError),
}

impl StagedTicket {
    fn error(&self, kind: IoErrorKind, detail: impl Into<String>) -> IoError {
        self.transfer.error(self.engine.geometry(), kind, detail)
    }

    /// A copy of the GPU failed, so nobody knows whether it is over: it may still write what a read was to bring.
    fn gpu_failed(&self, error: &GpuError) -> IoError {
        let kind = if self.write { IoErrorKind::Device } else { IoErrorKind::Unfinished };
        self.error(kind, format!("a copy of the GPU failed: {error}"))
    }

    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Gives the drive its part of a piece.
    fn drive(&self, chunk: Chunk, slot: Taken) -> Next {
        let dma = match slot.dma(chunk.len) {
            Ok(dma) => dma,
            Err(detail) => return Next::Failed(self.error(IoErrorKind::Invalid, detail)),
        };
        let request = match self.write {
            true => Request::write(chunk.offset, dma, self.fua_writes, self.left()),
            false => Request::read(chunk.offset, dma, self.left()),
        };
        match self.engine.submit(request) {
            Ok(ticket) => Next::Step(Active { step: Step::Drive(ticket), slot, chunk }),
            Err(error) => Next::Failed(error),
        }
    }

    /// Lets the GPU copy a piece.
    fn copy(&self, chunk: Chunk, slot: Taken) -> Next {
        let mut offset = 0;
        let mut given = Ok(());
        for part in &chunk.parts {
            given = slot.pinned(offset, part.len()).and_then(|host| match self.write {
                true => self.stream.copy(part, &host),
                false => self.stream.copy(&host, part),
            });
            offset += part.len();
            if given.is_err() {
                break;
            }
        }
        match given.and_then(|()| self.stream.record()) {
            Ok(event) => Next::Step(Active { step: Step::Copy(event), slot, chunk }),
            Err(error) => {
                // Copies that were given already still use it.
                self.stream.keep(slot);
                Next::Failed(self.gpu_failed(&error))
            }
        }
    }

    /// Looks at a piece, and takes it further if it can go.
    fn advance(&self, active: Active) -> Next {
        let Active { step, slot, chunk } = active;
        match step {
            Step::Drive(mut ticket) => match ticket.poll() {
                None => Next::Same(Active { step: Step::Drive(ticket), slot, chunk }),
                Some(Ok(())) if self.write => Next::Done,
                // A read that was given up elsewhere is of no use to anybody.
                Some(Ok(())) if self.failed.is_some() => Next::Done,
                Some(Ok(())) => self.copy(chunk, slot),
                Some(Err(mut error)) => {
                    slot.lose();
                    if !self.write && error.kind == IoErrorKind::Unfinished {
                        // What comes late lands in the slot.
                        error.kind = IoErrorKind::Timeout;
                    }
                    Next::Failed(error)
                }
            },
            Step::Copy(event) => match event.query() {
                Ok(true) if !self.write || self.failed.is_some() => Next::Done,
                Ok(true) => self.drive(chunk, slot),
                Ok(false) if self.left() > Duration::ZERO => {
                    Next::Same(Active { step: Step::Copy(event), slot, chunk })
                }
                Ok(false) => {
                    self.stream.keep((slot, chunk));
                    let kind =
                        if self.write { IoErrorKind::Timeout } else { IoErrorKind::Unfinished };
                    Next::Failed(self.error(kind, "a copy of the GPU did not end in time"))
                }
                Err(error) => {
                    // Nobody knows whether the copy is over.
                    self.stream.keep((slot, chunk));
                    Next::Failed(self.gpu_failed(&error))
                }
            },
        }
    }

    /// Takes every piece as far as it goes now, and begins new ones.
    fn go_on(&mut self) {
        for active in std::mem::take(&mut self.active) {
            let next = self.advance(active);
            self.put(next);
        }
        while self.failed.is_none() && !self.waiting.is_empty() {
            if self.left() == Duration::ZERO {
                let detail = format!("{} pieces were not begun in time", self.waiting.len());
                self.failed = Some(self.error(IoErrorKind::Timeout, detail));
                break;
            }
            let slot = match self.slots.take() {
                Ok(Some(slot)) => slot,
                Ok(None) => break,
                Err(error) => {
                    let detail = format!("no pinned memory: {error}");
                    self.failed = Some(self.error(IoErrorKind::Device, detail));
                    break;
                }
            };
            let Some(chunk) = self.waiting.pop_front() else { break };
            let next = if self.write { self.copy(chunk, slot) } else { self.drive(chunk, slot) };
            self.put(next);
        }
    }

    fn put(&mut self, next: Next) {
        match next {
            Next::Same(active) | Next::Step(active) => self.active.push(active),
            Next::Done => {}
            Next::Failed(error) => {
                self.waiting.clear();
                // Whoever asked has to hear of what is still under way.
                if error.kind == IoErrorKind::Unfinished {
                    self.failed = Some(error);
                } else {
                    self.failed.get_or_insert(error);
                }
            }
        }
    }

    /// The flush behind several writes.
    fn flushed(&mut self) -> Option<Result<(), IoError>> {
        if !self.flush {
            return Some(Ok(()));
        }
        if self.flushing.is_none() {
            match self.engine.submit(Request::flush(self.left())) {
                Ok(ticket) => self.flushing = Some(ticket),
                Err(error) => return Some(Err(error)),
            }
        }
        self.flushing.as_mut().and_then(|ticket| ticket.poll())
    }
}

impl Ticket for StagedTicket {
    fn poll(&mut self) -> Option<Result<(), IoError>> {
        if self.over {
            return None;
        }
        self.go_on();
        if !self.active.is_empty() || !self.waiting.is_empty() {
            return None;
        }
        let result = match self.failed.take() {
            Some(error) => Err(error),
            None => self.flushed()?,
        };
        self.over = true;
        Some(result)
    }

    fn wait(mut self: Box<Self>) -> Result<(), IoError> {
        if self.over {
            return Err(self.error(IoErrorKind::Invalid, "the result was taken already"));
        }
        until_ended(&mut *self)
    }
}
