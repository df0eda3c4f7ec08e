//! cuFile in between: its library moves bytes between the drive's file and GPU memory, at best without the
//! processor.
//!
//! Its calls block, and cannot be given up. So they are made by threads of their own, pieces of one transfer at
//! the same time, in the order of the stream by its event and gate. The library's own transfers in a stream
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

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gcos_cuda::cufile::{BufferBudget, CuFileError, CuFileHandle, CuFileMode, RegisteredBuffer};
use gcos_cuda::{Gpu, GpuError, Stream, UnmappedMemory};
use gcos_hw::kernel::{Batch, JobOp, Target};
use parking_lot::{Condvar, Mutex};

use super::chunks::{Chunk, chunks};
use super::mover::{Mover, until_ended};
use super::staged::ByStaging;
use super::{DeviceTransfer, Driver};
use crate::gpu::after;
use crate::{Engine, Extent, FileEngine, Geometry, IoError, IoErrorKind, Op, Request, Ticket};

/// Bytes that one call moves: enough to keep a drive busy, little enough for several threads to share a transfer.
const PIECE_BYTES: usize = 1 << 20;
/// Transfers in a row that cuFile may fail before it is left for good.
const PATIENCE: u32 = 3;
/// Time for a copy on the GPU: far more than it takes.
const COPY: Duration = Duration::from_secs(10);
/// How long the end waits for the threads.
const LET_GO: Duration = Duration::from_secs(2);
/// How long a thread sleeps at most while there is nothing to do.
const IDLE: Duration = Duration::from_millis(500);

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

/// Pieces that wait for a thread.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
    /// Threads that are in a call of cuFile.
    calling: AtomicUsize,
}

#[derive(Debug, Default)]
struct QueueState {
    pieces: VecDeque<Piece>,
    closed: bool,
}

/// One call of cuFile, and the copies that belong to it.
#[derive(Debug)]
struct Piece {
    chunk: Chunk,
    moving: Arc<Moving>,
}

/// What a thread works with.
#[derive(Debug)]
struct Lane {
    queue: Arc<Queue>,
    handle: Arc<CuFileHandle>,
    stream: Stream,
    /// Of [`PIECE_BYTES`].
    own: UnmappedMemory,
    registered: Option<Arc<RegisteredBuffer>>,
    /// Whether a copy between `own` and the memory of a transfer may still be made at any time.
    spoilt: bool,
    /// Time for a copy.
    patience: Duration,
    /// Last, so that it is let go of after the handle.
    _target: Arc<Target>,
}

/// A transfer that threads work for.
#[derive(Debug)]
struct Moving {
    write: bool,
    end: Instant,
    state: Mutex<MovingState>,
    /// Fences a write that was given up, until cuFile has let go.
    fence: Arc<Batch>,
}

#[derive(Debug, Default)]
struct MovingState {
    left: usize,
    /// Pieces that are being copied from or to the memory of the transfer.
    copying: usize,
    /// A copy has not ended, and may still be made.
    loose: bool,
    failed: Option<Failure>,
    /// Nobody waits any more.
    given_up: bool,
}

/// Why a piece failed.
#[derive(Debug)]
enum Failure {
    CuFile(CuFileError),
    Gpu(GpuError),
    NotBegun,
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
        let moving = Arc::new(Moving { write, end, state, fence });
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

/// A thread: until the engine is gone and nothing waits.
fn work(mut lane: Lane) {
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
    fn run(self, lane: &mut Lane) {
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

/// A transfer under way.
#[derive(Debug)]
struct CuFileTicket {
    file: Arc<FileEngine>,
    /// What does it if cuFile does not.
    staging: Option<Arc<ByStaging>>,
    health: Arc<Mutex<Health>>,
    queue: Arc<Queue>,
    transfer: DeviceTransfer,
    /// Pieces that threads do not have yet.
    waiting: Option<Vec<Piece>>,
    moving: Option<Arc<Moving>>,
    write: bool,
    flush: bool,
    /// What goes on after cuFile: a flush, or staging.
    then: Option<Box<dyn Ticket>>,
    end: Instant,
    over: bool,
}

impl CuFileTicket {
    fn error(&self, kind: IoErrorKind, detail: impl Into<String>) -> IoError {
        self.transfer.error(self.file.geometry(), kind, detail)
    }

    fn extents(&self) -> &[Extent] {
        &self.transfer.extents
    }

    /// Gives the pieces to the threads. A write is refused while one that was given up may still reach the drive,
    /// as the file's engine refuses its own.
    fn begin(&mut self) -> Option<Result<(), IoError>> {
        if self.write && self.waiting.is_some() && self.file.fence_before(self.extents()).is_some()
        {
            let detail = "a change that was given up is still with the kernel; nothing is written until it ends";
            return Some(Err(self.error(IoErrorKind::Device, detail)));
        }
        if let Some(pieces) = self.waiting.take() {
            self.moving = pieces.first().map(|piece| Arc::clone(&piece.moving));
            self.queue.state.lock().pieces.extend(pieces);
            self.queue.changed.notify_all();
        }
        None
    }

    /// How the threads' work ended, if it has or nobody waits any longer.
    fn moved(&mut self) -> Option<Result<(), Failed>> {
        let moving = self.moving.as_ref()?;
        let mut state = moving.state.lock();
        if state.loose && !self.write && (state.left == 0 || Instant::now() >= self.end) {
            state.given_up = true;
            return Some(Err(Failed::Loose));
        }
        if state.left == 0 {
            return Some(match state.failed.take() {
                None => Ok(()),
                Some(Failure::CuFile(error)) => Err(Failed::CuFile(error)),
                Some(Failure::Gpu(error)) => Err(Failed::Gpu(error)),
                Some(Failure::NotBegun) => Err(Failed::Late { hanging: false }),
            });
        }
        if Instant::now() < self.end {
            return None;
        }
        state.given_up = true;
        if state.copying > 0 {
            // Soon over; then nothing touches the memory of the transfer any more.
            return None;
        }
        if self.write {
            self.file.fence_given_up(&moving.fence, &self.transfer.extents);
        }
        let hanging = self.queue.calling.load(Ordering::Relaxed) > 0;
        Some(Err(Failed::Late { hanging }))
    }

    /// What follows an end of the threads' work.
    fn after(&mut self, ended: Result<(), Failed>) -> Result<Option<Box<dyn Ticket>>, IoError> {
        let left = self.end.saturating_duration_since(Instant::now());
        match ended {
            Ok(()) => {
                self.health.lock().in_a_row = 0;
                if !self.flush {
                    return Ok(None);
                }
                self.file.submit(Request::flush(left)).map(Some)
            }
            Err(Failed::Late { hanging }) => {
                // Nothing is done again: the call may still come to its end.
                if hanging && self.staging.is_some() {
                    self.blame(&"its calls do not come back in time");
                }
                let detail = "cuFile did not end it in time; the call itself cannot be given up";
                // A read that comes late ends in memory of the thread's own.
                let kind = match self.write {
                    true => IoErrorKind::Unfinished,
                    false => IoErrorKind::Timeout,
                };
                Err(self.error(kind, detail))
            }
            Err(Failed::Loose) => {
                let detail = "a copy on the GPU has not ended, and may still be made";
                Err(self.error(IoErrorKind::Unfinished, detail))
            }
            Err(Failed::Gpu(error)) => {
                let detail = format!("a copy on the GPU failed: {error}");
                Err(self.error(IoErrorKind::Device, detail))
            }
            Err(Failed::CuFile(error)) => {
                let failed = self.failed(&error);
                let Some(staging) = self.staging.clone().filter(|_| is_its_own(&error)) else {
                    return Err(failed);
                };
                self.blame(&error);
                staging.submit(self.transfer.clone(), left).map(Some)
            }
        }
    }

    /// Counts a failure of cuFile's own, and leaves it after several in a row.
    fn blame(&self, error: &dyn fmt::Display) {
        let mut health = self.health.lock();
        health.in_a_row += 1;
        if health.in_a_row >= PATIENCE && health.left.is_none() {
            let reason = format!("cuFile failed {PATIENCE} times in a row: {error}");
            tracing::warn!(
                drive = self.file.geometry().name,
                reason,
                "a GPU's transfers go through host memory from now on"
            );
            health.left = Some(reason);
        }
    }

    fn failed(&self, error: &CuFileError) -> IoError {
        let kind = match error {
            CuFileError::Os { source, .. } => kind_of(source),
            CuFileError::Short { .. } if !self.write => IoErrorKind::Media,
            _ => IoErrorKind::Device,
        };
        let mut text = error.to_string();
        if let Some(source) = error.os() {
            text = format!("{text}: {source}");
        }
        self.error(kind, text)
    }
}

/// Why the threads did not do it.
enum Failed {
    CuFile(CuFileError),
    Gpu(GpuError),
    Late {
        /// Threads are in calls of cuFile that may be the cause.
        hanging: bool,
    },
    /// A copy to the memory of the transfer may still be made.
    Loose,
}

/// Whether it is the library that failed, not the drive: the same transfer may go well without it.
fn is_its_own(error: &CuFileError) -> bool {
    error.os().is_none_or(|source| kind_of(source) == IoErrorKind::Invalid)
}

/// What an error of the system says of the drive. The numbers are those of Linux.
fn kind_of(error: &std::io::Error) -> IoErrorKind {
    const MEDIA: [i32; 6] = [5, 61, 74, 84, 117, 121];
    const GONE: [i32; 4] = [6, 19, 108, 123];
    const INVALID: [i32; 3] = [14, 22, 95];
    match error.raw_os_error() {
        Some(number) if MEDIA.contains(&number) => IoErrorKind::Media,
        Some(number) if GONE.contains(&number) => IoErrorKind::Gone,
        Some(number) if INVALID.contains(&number) => IoErrorKind::Invalid,
        _ => IoErrorKind::Device,
    }
}

impl Ticket for CuFileTicket {
    fn poll(&mut self) -> Option<Result<(), IoError>> {
        if self.over {
            return None;
        }
        if let Some(then) = &mut self.then {
            let ended = then.poll()?;
            self.over = true;
            return Some(ended);
        }
        if let Some(failed) = self.begin() {
            self.over = true;
            return Some(failed);
        }
        let ended = self.moved()?;
        match self.after(ended) {
            Ok(Some(then)) => {
                self.then = Some(then);
                self.poll()
            }
            Ok(None) => {
                self.over = true;
                Some(Ok(()))
            }
            Err(error) => {
                self.over = true;
                Some(Err(error))
            }
        }
    }

    fn wait(mut self: Box<Self>) -> Result<(), IoError> {
        if self.over {
            return Err(self.error(IoErrorKind::Invalid, "the result was taken already"));
        }
        until_ended(&mut *self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gcos_cuda::cufile::CuFile;
    use gcos_cuda::{CuFileFault, DeviceBuffer, DeviceMemory, MemoryOptions, PlayedCuFile};
    use gcos_hw::kernel::{Direct, TargetOptions, host_space};

    use crate::FileOptions;

    const PAGE: usize = 4096;

    fn read_of(offset: u64, into: &DeviceBuffer) -> (Piece, Arc<Moving>) {
        let parts = std::iter::once(into.slice(0, PAGE).unwrap()).collect();
        let state = Mutex::new(MovingState { left: 1, ..MovingState::default() });
        let end = Instant::now() + Duration::from_secs(20);
        let moving = Arc::new(Moving { write: false, end, state, fence: Batch::new(1, None) });
        let chunk = Chunk { offset, len: PAGE, parts };
        (Piece { chunk, moving: Arc::clone(&moving) }, moving)
    }

    fn content(buffer: &DeviceBuffer) -> [u8; PAGE] {
        let mut out = [0; PAGE];
        buffer.copy_out(0, &mut out).unwrap();
        out
    }

    /// A read whose copies on the GPU are stuck, of as many pieces as there are transfers.
    #[test]
    fn what_may_still_be_copied_is_unfinished_whatever_else_failed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; 2 * PIECE_BYTES]).unwrap();
        let options = TargetOptions { direct: Direct::Prefer, ..TargetOptions::default() };
        let target = Target::open(file.path(), &options).unwrap();
        let (gpu, space) = (Gpu::played(), host_space().unwrap());
        let file = FileEngine::open(target, Arc::clone(&space), FileOptions::default()).unwrap();
        let memory = DeviceMemory::new(&gpu, &space, MemoryOptions::default()).unwrap();
        let played = PlayedCuFile::new().unwrap();
        let fd = file.target().fd().try_clone_to_owned().unwrap();
        let handle = CuFileHandle::register(&CuFile::open_at(played.path()).unwrap(), fd).unwrap();
        let staging = ByStaging::new(Arc::clone(&file) as _, &memory, 0, Vec::new()).unwrap();
        let budget = BufferBudget::of_mib(0);
        let rules = CuFileRules { workers: 2, falls_back: true, copy: Duration::from_millis(50) };
        let mover = ByCuFile::new(file, handle, &gpu, staging, &budget, rules).unwrap();
        let buffer = memory.alloc(2 * PIECE_BYTES, PAGE).unwrap();
        let read = |pieces: usize| {
            let into = buffer.slice(0, pieces * PIECE_BYTES).unwrap();
            until_ended(&mut *mover.submit(DeviceTransfer::read(0, into), COPY).unwrap())
        };
        let mut bytes = vec![0; 2 * PIECE_BYTES];
        for turn in 0..12 {
            // Of two pieces the drive fails one, before the other is being copied or meanwhile.
            let pieces = 1 + turn % 2;
            buffer.copy_in(0, &vec![1; 2 * PIECE_BYTES]).unwrap();
            let stall = gpu.stall_copies().unwrap();
            played.fault(CuFileFault::Skip, 1).unwrap();
            played.fault(CuFileFault::ReadErrno, 5).unwrap();
            let error = read(pieces).unwrap_err();
            assert!(pieces == 2 || error.kind == IoErrorKind::Unfinished, "{error}");
            assert_eq!(content(&buffer), [1; PAGE]);
            drop(stall);
            let late = error.kind == IoErrorKind::Unfinished;
            let begun = Instant::now();
            let patience = if late { COPY } else { Duration::from_millis(20) };
            let mut comes = false;
            while !comes && begun.elapsed() < patience {
                buffer.copy_out(0, &mut bytes).unwrap();
                comes = bytes.contains(&7);
            }
            assert_eq!(comes, late, "{error}");
            played.fault(CuFileFault::ReadErrno, 0).unwrap();
            read(2).unwrap();
            assert_eq!(content(&buffer), [7; PAGE]);
        }
    }

    #[test]
    fn memory_that_a_copy_has_not_let_go_of_is_not_used_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [[1; PAGE], [2; PAGE]].concat()).unwrap();
        let options = TargetOptions { direct: Direct::Prefer, ..TargetOptions::default() };
        let target = Target::open(file.path(), &options).unwrap();
        let played = PlayedCuFile::new().unwrap();
        let fd = target.fd().try_clone_to_owned().unwrap();
        let handle = CuFileHandle::register(&CuFile::open_at(played.path()).unwrap(), fd).unwrap();
        let (gpu, space) = (Gpu::played(), host_space().unwrap());
        let memory = DeviceMemory::new(&gpu, &space, MemoryOptions::default()).unwrap();
        let [first, second] = [0; 2].map(|_| memory.alloc(PAGE, PAGE).unwrap());
        let stream = Stream::new(&gpu).unwrap();
        let mut lane = Lane {
            queue: Arc::default(),
            handle,
            stream: stream.clone(),
            own: UnmappedMemory::new(&gpu, PIECE_BYTES).unwrap(),
            registered: None,
            spoilt: false,
            patience: Duration::from_millis(30),
            _target: target,
        };

        let gate = stream.gate().unwrap();
        let (piece, late) = read_of(0, &first);
        piece.run(&mut lane);
        assert!(matches!(late.state.lock().failed, Some(Failure::Gpu(_))));
        lane.patience = COPY;
        let (piece, well) = read_of(PAGE as u64, &second);
        piece.run(&mut lane);
        assert!(well.state.lock().failed.is_none() && well.fence.is_finished());
        assert_eq!(content(&second), [2; PAGE]);

        // What comes late is what was asked for, not what the thread has read since.
        gate.open();
        stream.synchronize(COPY).unwrap();
        assert_eq!(content(&first), [1; PAGE]);
    }
}
