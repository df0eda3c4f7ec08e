//! cuFile in between: its library moves bytes between the drive's file and GPU memory, at best without the
//! processor.
//!
//! Its calls block, and cannot be given up. So they are made by threads of their own, pieces of one transfer at
//! the same time, when what is before them in the stream has ended. The library's own transfers in a stream
//! (`cuFileReadAsync`) have neither a deadline nor a way to tell why one failed, and go one behind the other.
//!
//! Each thread has GPU memory of its own, registered with cuFile once. Calls go to and from there; the GPU copies
//! between it and the memory of a transfer, which costs next to nothing beside a drive. A call that comes to
//! its end after its transfer was given up thus touches memory of nobody else. It also makes all calls whole
//! pages at aligned addresses, whatever the pieces of the transfer. Where a copy does not come to its end, the
//! thread goes on with another stream and other memory: what is copied late is what was to be copied then.
//!
//! A thread that is in a call when the engine goes is left to itself. It keeps the target until it comes back,
//! so that nobody else has the file while something may still be written to it.

mod lane;
#[cfg(test)]
mod tests;
mod ticket;

use std::error::Error;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gcos_cuda::cufile::{BufferBudget, CuFileHandle, CuFileMode, RegisteredBuffer};
use gcos_cuda::{Gpu, GpuError, Stream, UnmappedMemory};
use gcos_hw::kernel::Batch;
use parking_lot::Mutex;

use self::lane::{Lane, Moving, MovingState, Piece, Queue, work};
use self::ticket::CuFileTicket;
use super::chunks::chunks;
use super::mover::Mover;
use super::staged::ByStaging;
use super::{DeviceTransfer, Driver};
use crate::gpu::after;
use crate::{Engine, FileEngine, Geometry, IoError, IoErrorKind, Op, Ticket};

/// Bytes that one call moves: enough to keep a drive busy, little enough for several threads to share a transfer.
const PIECE_BYTES: usize = 1 << 20;
/// Time for a copy on the GPU: far more than it takes.
const COPY: Duration = Duration::from_secs(10);
/// How long the end waits for the threads.
const LET_GO: Duration = Duration::from_secs(2);

/// Moves blocks by cuFile.
#[derive(Debug)]
pub(super) struct ByCuFile {
    file: Arc<FileEngine>,
    handle: Arc<CuFileHandle>,
    queue: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// For transfers off the file's pages, and, unless cuFile was asked for, for those that it fails.
    staging: Arc<ByStaging>,
    /// Whether transfers that cuFile fails are done by staging.
    falls_back: bool,
    health: Arc<Mutex<Health>>,
}

/// What a [`ByCuFile`] is given.
#[derive(Debug, Clone, Copy)]
pub(super) struct CuFileRules {
    /// Threads that call cuFile.
    pub(super) workers: usize,
    /// Whether transfers that cuFile fails are done by staging.
    pub(super) falls_back: bool,
    /// Time for a copy on the GPU.
    pub(super) copy: Duration,
}

impl CuFileRules {
    pub(super) fn new(workers: usize, falls_back: bool) -> Self {
        Self { workers, falls_back, copy: COPY }
    }
}

/// Whether cuFile is to be trusted.
#[derive(Debug, Default)]
struct Health {
    in_a_row: u32,
    /// Why it was left.
    left: Option<String>,
}

impl ByCuFile {
    pub(super) fn new(
        file: Arc<FileEngine>,
        handle: Arc<CuFileHandle>,
        gpu: &Arc<Gpu>,
        staging: ByStaging,
        budget: &Arc<BufferBudget>,
        rules: CuFileRules,
    ) -> Result<Self, IoError> {
        let name = file.geometry().name.clone();
        let failed = |detail: String| IoError::about(&name, IoErrorKind::Device, "open", detail);
        let gpu_failed = |error: GpuError| {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            failed(format!("no GPU memory or stream: {error}{cause}"))
        };
        let workers = rules.workers.max(1);
        let own = UnmappedMemory::new(gpu, workers * PIECE_BYTES).map_err(gpu_failed)?;
        let registered = register(&handle, &own, budget);
        let made = Self {
            queue: Arc::default(),
            threads: Mutex::default(),
            staging: Arc::new(staging),
            falls_back: rules.falls_back,
            health: Arc::default(),
            handle,
            file,
        };
        for number in 0..workers {
            let lane = Lane {
                queue: Arc::clone(&made.queue),
                handle: Arc::clone(&made.handle),
                stream: Stream::new(gpu).map_err(gpu_failed)?,
                own: own.slice(number * PIECE_BYTES, PIECE_BYTES).map_err(gpu_failed)?,
                registered: registered.clone(),
                spoilt: false,
                patience: rules.copy,
                _target: Arc::clone(made.file.target()),
            };
            let thread = std::thread::Builder::new().name(format!("gcos-cufile-{number}"));
            let thread = thread.spawn(move || work(lane));
            let thread = thread.map_err(|error| failed(format!("no thread: {error}")))?;
            made.threads.lock().push(thread);
        }
        Ok(made)
    }
}

/// Lets cuFile know the memory, as far as it may. In compatibility mode that would save nothing.
fn register(
    handle: &CuFileHandle,
    own: &UnmappedMemory,
    budget: &Arc<BufferBudget>,
) -> Option<Arc<RegisteredBuffer>> {
    if handle.mode() == CuFileMode::Compatibility {
        return None;
    }
    match handle.cufile().register_buffer(own, budget) {
        Ok(registered) => Some(Arc::new(registered)),
        Err(error) => {
            tracing::info!(%error, "cuFile copies once more: the memory for it is not registered");
            None
        }
    }
}

/// Whether cuFile takes the transfer: it consists of whole pages of the file. What is less it reads, changes and
/// writes back, which may undo what others write beside it.
fn fits(transfer: &DeviceTransfer) -> bool {
    let page = gcos_hw::PAGE_BYTES as u64;
    transfer.extents.iter().all(|extent| (extent.offset | extent.len).is_multiple_of(page))
}

impl Mover for ByCuFile {
    fn geometry(&self) -> &Geometry {
        self.file.geometry()
    }

    fn needs_gpu(&self) -> bool {
        true
    }

    fn driver(&self) -> Driver {
        match &self.health.lock().left {
            None => Driver::CuFile(self.handle.mode()),
            Some(_) => Driver::Staged,
        }
    }

    fn refused(&self) -> Vec<String> {
        self.health.lock().left.iter().cloned().collect()
    }

    fn submit(
        &self,
        transfer: DeviceTransfer,
        deadline: Duration,
    ) -> Result<Box<dyn Ticket>, IoError> {
        if self.health.lock().left.is_some() || !fits(&transfer) {
            return self.staging.submit(transfer, deadline);
        }
        let end = after(Instant::now(), deadline);
        let (write, fua) = match transfer.op {
            Op::Write { fua } => (true, fua),
            _ => (false, false),
        };
        Ok(Box::new(CuFileTicket {
            file: Arc::clone(&self.file),
            staging: self.falls_back.then(|| Arc::clone(&self.staging)),
            health: Arc::clone(&self.health),
            waiting: Some(self.pieces(&transfer, write, end)?),
            queue: Arc::clone(&self.queue),
            moving: None,
            write,
            flush: fua,
            then: None,
            end,
            transfer,
            over: false,
        }))
    }
}

impl ByCuFile {
    fn pieces(
        &self,
        transfer: &DeviceTransfer,
        write: bool,
        end: Instant,
    ) -> Result<Vec<Piece>, IoError> {
        let wrong = |error: GpuError| {
            transfer.error(self.geometry(), IoErrorKind::Invalid, error.to_string())
        };
        let chunks = chunks(transfer, PIECE_BYTES).map_err(wrong)?;
        let state = Mutex::new(MovingState { left: chunks.len(), ..MovingState::default() });
        let fence = Batch::new(1, None);
        let waker = std::thread::current();
        let moving = Arc::new(Moving { write, end, state, fence, waker });
        let piece = |chunk| Piece { chunk, moving: Arc::clone(&moving) };
        Ok(chunks.into_iter().map(piece).collect())
    }
}

impl Drop for ByCuFile {
    fn drop(&mut self) {
        self.queue.state.lock().closed = true;
        self.queue.changed.notify_all();
        // They let go of the file, which others may want to open next. One that the kernel does not let go of must
        // not hold up whoever drops this for long.
        let end = Instant::now() + LET_GO;
        for thread in std::mem::take(&mut *self.threads.lock()) {
            while !thread.is_finished() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() && thread.join().is_err() {
                tracing::error!("a thread of cuFile panicked");
            }
        }
    }
}
