use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use gcos_cuda::cufile::{CuFileError, CuFileHandle, RegisteredBuffer};
use gcos_cuda::{GpuError, Stream, UnmappedMemory};
use gcos_hw::kernel::{Batch, JobOp, Target};
use parking_lot::{Condvar, Mutex};

use super::PIECE_BYTES;
use crate::device::chunks::Chunk;

/// How long a thread sleeps at most while there is nothing to do.
const IDLE: Duration = Duration::from_millis(500);

/// Pieces that wait for a thread.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) state: Mutex<QueueState>,
    pub(super) changed: Condvar,
    /// Threads that are in a call of cuFile.
    pub(super) calling: AtomicUsize,
}

#[derive(Debug, Default)]
pub(super) struct QueueState {
    pub(super) pieces: VecDeque<Piece>,
    pub(super) closed: bool,
}

/// One call of cuFile, and the copies that belong to it.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) chunk: Chunk,
    pub(super) moving: Arc<Moving>,
}

/// What a thread works with.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) queue: Arc<Queue>,
    pub(super) handle: Arc<CuFileHandle>,
    pub(super) stream: Stream,
    /// Of [`PIECE_BYTES`].
    pub(super) own: UnmappedMemory,
    pub(super) registered: Option<Arc<RegisteredBuffer>>,
    /// Whether a copy between `own` and the memory of a transfer may still be made at any time.
    pub(super) spoilt: bool,
    /// Time for a copy.
    pub(super) patience: Duration,
    /// Last, so that it is let go of after the handle.
    pub(super) _target: Arc<Target>,
}

/// A transfer that threads work for.
#[derive(Debug)]
pub(super) struct Moving {
    pub(super) write: bool,
    pub(super) end: Instant,
    pub(super) state: Mutex<MovingState>,
    /// Fences a write that was given up, until cuFile has let go.
    pub(super) fence: Arc<Batch>,
    /// Who asked for it, woken at the end.
    pub(super) waker: Thread,
}

#[derive(Debug, Default)]
pub(super) struct MovingState {
    pub(super) left: usize,
    /// Pieces that are being copied from or to the memory of the transfer.
    pub(super) copying: usize,
    /// A copy has not ended, and may still be made.
    pub(super) loose: bool,
    pub(super) failed: Option<Failure>,
    /// Nobody waits any more.
    pub(super) given_up: bool,
}

/// Why a piece failed.
#[derive(Debug)]
pub(super) enum Failure {
    CuFile(CuFileError),
    Gpu(GpuError),
    NotBegun,
}

/// A thread: until the engine is gone and nothing waits.
pub(super) fn work(mut lane: Lane) {
    while let Some(piece) = lane.queue.next() {
        piece.run(&mut lane);
    }
}

impl Queue {
    /// The next piece; none after the end.
    fn next(&self) -> Option<Piece> {
        let mut state = self.state.lock();
        loop {
            let piece = state.pieces.pop_front();
            if piece.is_some() || state.closed {
                return piece;
            }
            self.changed.wait_for(&mut state, IDLE);
        }
    }
}

impl Lane {
    /// Takes another stream and other memory where a copy has not ended: the stream keeps the old ones until it
    /// has. They are not registered with cuFile, which costs it a copy.
    fn mend(&mut self) -> Result<(), GpuError> {
        if !self.spoilt {
            return Ok(());
        }
        let gpu = Arc::clone(self.stream.gpu());
        let own = UnmappedMemory::new(&gpu, PIECE_BYTES)?.slice(0, PIECE_BYTES)?;
        (self.stream, self.own, self.registered) = (Stream::new(&gpu)?, own, None);
        self.spoilt = false;
        Ok(())
    }

    /// Calls cuFile, to or from `len` bytes of the thread's memory.
    fn call<T>(
        &self,
        len: usize,
        call: impl FnOnce(&UnmappedMemory, Option<&RegisteredBuffer>) -> Result<T, CuFileError>,
    ) -> Result<T, Failure> {
        let own = self.own.slice(0, len).map_err(Failure::Gpu)?;
        self.queue.calling.fetch_add(1, Ordering::Relaxed);
        let result = call(&own, self.registered.as_deref());
        self.queue.calling.fetch_sub(1, Ordering::Relaxed);
        result.map_err(Failure::CuFile)
    }
}

impl Piece {
    pub(super) fn run(self, lane: &mut Lane) {
        let Self { chunk, moving } = self;
        let mended = lane.mend().map_err(Failure::Gpu);
        let result = mended.and_then(|()| match moving.write {
            true => write(lane, chunk, &moving),
            false => read(lane, chunk, &moving),
        });
        let mut state = moving.state.lock();
        if let Err(failure) = result
            && matches!(state.failed, None | Some(Failure::NotBegun))
        {
            // The first that says something.
            state.failed = Some(failure);
        }
        state.left -= 1;
        if state.left == 0 {
            moving.fence.end(JobOp::Discard, Ok(()));
            drop(state);
            moving.waker.unpark();
        }
    }
}

fn read(lane: &mut Lane, chunk: Chunk, moving: &Moving) -> Result<(), Failure> {
    if !moving.is_wanted() {
        return Err(Failure::NotBegun);
    }
    let (offset, wanted) = (chunk.offset, chunk.len);
    let moved = lane.call(wanted, |own, registered| lane.handle.read(own, offset, registered))?;
    if moved != wanted {
        let (wanted, moved) = (wanted as u64, moved as u64);
        let call = "cuFileRead";
        return Err(Failure::CuFile(CuFileError::Short { call, offset, wanted, moved }));
    }
    copy(lane, &chunk, moving)
}

fn write(lane: &mut Lane, chunk: Chunk, moving: &Moving) -> Result<(), Failure> {
    copy(lane, &chunk, moving)?;
    let (offset, len) = (chunk.offset, chunk.len);
    // From here on the memory of the transfer is not needed.
    drop(chunk);
    lane.call(len, |own, registered| lane.handle.write(own, offset, registered))
}

/// Copies between the thread's memory and that of the transfer, unless that was given up. It is not given up
/// meanwhile.
fn copy(lane: &mut Lane, chunk: &Chunk, moving: &Moving) -> Result<(), Failure> {
    {
        let mut state = moving.state.lock();
        if !state.is_wanted(moving.end) {
            return Err(Failure::NotBegun);
        }
        state.copying += 1;
    }
    let mut offset = 0;
    let given = chunk.parts.iter().try_for_each(|part| {
        let own = lane.own.slice(offset, part.len())?;
        offset += part.len();
        match moving.write {
            true => lane.stream.copy(part, &own),
            false => lane.stream.copy(&own, part),
        }
    });
    // What was given is awaited even if not all was.
    let ended = lane.stream.record().and_then(|event| event.synchronize(lane.patience));
    lane.spoilt = ended.is_err();
    let mut state = moving.state.lock();
    state.copying -= 1;
    state.loose |= lane.spoilt;
    drop(state);
    given.and(ended).map_err(Failure::Gpu)
}

impl Moving {
    fn is_wanted(&self) -> bool {
        self.state.lock().is_wanted(self.end)
    }
}

impl MovingState {
    /// Whether it is of use to go on.
    fn is_wanted(&self, end: Instant) -> bool {
        !self.given_up && self.failed.is_none() && Instant::now() < end
    }
}
