use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gcos_hw::DmaSpace;
use gcos_hw::kernel::{Batch, Carrier, Job, JobOp, Target};
use smallvec::SmallVec;

use super::bounce::{Bounce, BouncePool};
use super::carriers::{Carriers, KernelCarriers};
use super::plan::{self, MAX_TRANSFER, Rules};
use super::ticket::FileTicket;
use super::trust::{SLICE, Trust};
use super::{FileEngineError, FileOptions, KernelPath, words};
use crate::{Ended, Engine, Extent, Geometry, IoError, IoErrorKind, Op, Request, Ticket, Way};

/// Longest deadline that is counted, about a year: longer ones mean the same.
const LONGEST: Duration = Duration::from_secs(1 << 25);

/// Why changes are refused while the kernel holds some that were given up.
const LOOSE: &str = "the kernel still holds an earlier write or deallocation whose deadline has passed, and \
                     may carry it out at any time: nothing is changed until it has ended; reads go on";

/// Moves blocks of a block device or a file through the kernel.
///
/// Its promise differs from that of an engine with queues of its own in one point: the kernel cannot be
/// told to let go. A request whose deadline has passed ends with [`IoErrorKind::Unfinished`], but the kernel
/// may still read from its memory or write into it. The memory therefore stays lent until the kernel is
/// done (a [`gcos_hw::DmaBuffer`] says [`gcos_hw::HwError::Busy`] so long). Where it was to change the
/// target, all further changes and flushes fail with [`IoErrorKind::Device`] until the kernel is done.
///
/// Several engines may be open over one target; what one learns of it (such a change, an fsync that
/// failed) holds for all.
#[derive(Debug)]
pub struct FileEngine {
    shared: Arc<Shared>,
}

/// What tickets need of the engine.
#[derive(Debug)]
pub(super) struct Shared {
    target: Arc<Target>,
    dma: Arc<DmaSpace>,
    pub(super) geometry: Geometry,
    path: KernelPath,
    reason: String,
    carrier: Arc<dyn Carrier>,
    /// Carries deallocations, which an io_uring does not.
    helper: Arc<dyn Carrier>,
    rules: Rules,
    bounces: Arc<BouncePool>,
    trust: Arc<Trust>,
    /// Set when the file system has said that it punches no holes.
    no_discard: AtomicBool,
    closed: AtomicBool,
}

impl FileEngine {
    /// Opens an engine over `target`, for memory of `dma`, which must be memory that the processor
    /// reaches, as that of every space is.
    ///
    /// # Errors
    /// [`FileEngineError`] when the way that was forced cannot be used, or an option does not fit.
    pub fn open(
        target: Arc<Target>,
        dma: Arc<DmaSpace>,
        options: FileOptions,
    ) -> Result<Arc<Self>, FileEngineError> {
        Self::open_with(target, dma, options, &KernelCarriers)
    }

    /// As [`FileEngine::open`], with ways to the kernel from elsewhere: for tests.
    ///
    /// # Errors
    /// As [`FileEngine::open`].
    pub fn open_with(
        target: Arc<Target>,
        dma: Arc<DmaSpace>,
        options: FileOptions,
        carriers: &dyn Carriers,
    ) -> Result<Arc<Self>, FileEngineError> {
        let geometry = geometry(&target, &options)?;
        let drive = || geometry.name.clone();
        let ring = match options.force {
            Some(KernelPath::Posix) => Err("POSIX was asked for".to_owned()),
            _ => carriers.ring(&target, options.depth),
        };
        let mut reasons = Vec::new();
        let (path, carrier) = match (ring, options.force) {
            (Ok(ring), _) => (KernelPath::IoUring, ring),
            (Err(reason), Some(path @ KernelPath::IoUring)) => {
                return Err(FileEngineError::Forced { drive: drive(), path, reason });
            }
            (Err(reason), _) => {
                reasons.push(reason);
                (KernelPath::Posix, carriers.pool(&target, options.workers, options.depth))
            }
        };
        if !target.is_direct() {
            reasons.push(match target.file_system() {
                "" => "through the page cache, as was asked for".to_owned(),
                name => format!("through the page cache ({name})"),
            });
        }
        let helper = match path {
            KernelPath::IoUring => carriers.pool(&target, 1, options.depth),
            KernelPath::Posix => Arc::clone(&carrier),
        };
        let rules = match target.is_direct() {
            true => Rules {
                memory_align: target.memory_align() as usize,
                length_align: target.lba_bytes() as usize,
            },
            false => Rules { memory_align: 1, length_align: 1 },
        };
        let bounces = BouncePool::new()
            .map_err(|source| FileEngineError::Resources { drive: drive(), source })?;
        let trust = Trust::new(&target);
        let no_discard = AtomicBool::new(!geometry.deallocate);
        let shared = Shared {
            dma,
            geometry,
            path,
            reason: reasons.join("; "),
            carrier,
            helper,
            rules,
            bounces,
            trust,
            no_discard,
            closed: AtomicBool::new(false),
            target,
        };
        Ok(Arc::new(Self { shared: Arc::new(shared) }))
    }

    /// Which way the blocks go.
    #[must_use]
    pub fn path(&self) -> KernelPath {
        self.shared.path
    }

    /// Why not a better way, in words; "" on the best.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.shared.reason
    }

    /// As the engine does with its own: remembers a change to the target by another way whose deadline
    /// has passed and that may still be made.
    pub(crate) fn fence_given_up(&self, batch: &Arc<Batch>, extents: &[Extent]) {
        self.shared.let_loose(batch, &self.shared.carrier, extents, true);
    }

    /// What has to end before another way may change these blocks.
    pub(crate) fn fence_before(&self, extents: &[Extent]) -> Option<Arc<Batch>> {
        let standing = self.shared.target.standing();
        let first = || standing.given_up().or_else(|| standing.before(&ranges(extents)));
        first().and_then(|_| {
            standing.look();
            first()
        })
    }

    /// The block device or file.
    #[must_use]
    pub fn target(&self) -> &Arc<Target> {
        &self.shared.target
    }
}

/// The drive that `target` is, with what the options say.
fn geometry(target: &Target, options: &FileOptions) -> Result<Geometry, FileEngineError> {
    let name = target.path().display().to_string();
    let option = |what, expected, got| {
        Err(FileEngineError::Option { drive: name.clone(), what, expected, got })
    };
    if !(1..=4096).contains(&options.depth) {
        return option("depth", "1 to 4096".to_owned(), options.depth.into());
    }
    if !(1..=256).contains(&options.workers) {
        return option("threads", "1 to 256".to_owned(), options.workers as u64);
    }
    let own = target.lba_bytes();
    let lba_bytes = options.lba_bytes.unwrap_or(own);
    if !matches!(lba_bytes, 512 | 4096) || lba_bytes < own {
        let expected = if own == 512 { "512 or 4096" } else { "4096" };
        return option("block size in bytes", expected.to_owned(), lba_bytes.into());
    }
    let lba = u64::from(lba_bytes);
    let most = target.capacity() / lba * lba;
    let capacity = options.capacity.unwrap_or(most);
    if capacity == 0 || capacity > most || !capacity.is_multiple_of(lba) {
        let expected = format!(
            "a multiple of {lba_bytes} within the {most} bytes that there are; a file can be made longer \
             (truncate -s, fallocate)"
        );
        return option("capacity in bytes", expected, capacity);
    }
    Ok(Geometry {
        name,
        serial: target.serial().to_owned(),
        model: target.model().to_owned(),
        capacity,
        lba_bytes,
        max_transfer: MAX_TRANSFER,
        volatile_cache: true,
        deallocate: options.deallocate && target.discards(),
    })
}

impl Shared {
    /// Why nothing is acknowledged as durable any more, and what to do.
    pub(super) fn distrusted(&self) -> Option<String> {
        let first = self.target.standing().distrusted()?;
        Some(format!(
            "an earlier fsync or durable write failed ({first}): what it was to make durable may be lost, \
             and the kernel would not say so again; check the drive, then open it anew"
        ))
    }

    /// Whether a deallocation failed only because there is no such thing here.
    pub(super) fn refuses_discard(&self, error: &io::Error) -> bool {
        let refuses = error.raw_os_error() == Some(words::EOPNOTSUPP);
        if refuses {
            self.no_discard.store(true, Ordering::Relaxed);
        }
        refuses
    }

    /// Whether there is anything for the kernel to do, or what is wrong with the request.
    fn is_work(&self, request: &Request) -> Result<bool, IoError> {
        let fail = |kind, detail: &str| Err(request.error(&self.geometry, kind, detail));
        if let Err(error) = request.check(&self.geometry) {
            return fail(IoErrorKind::Invalid, &error.to_string());
        }
        if self.closed.load(Ordering::Acquire) {
            return fail(IoErrorKind::Gone, "shut down");
        }
        let read_only = self.target.is_read_only();
        match request.op {
            Op::Flush if read_only => return Ok(false),
            Op::Write { .. } | Op::Deallocate if read_only => {
                return fail(IoErrorKind::Device, "opened for reading alone");
            }
            Op::Deallocate if self.no_discard.load(Ordering::Relaxed) => return Ok(false),
            Op::Flush | Op::Write { fua: true } => {
                if let Some(reason) = self.distrusted() {
                    return fail(IoErrorKind::Device, &reason);
                }
            }
            _ => {}
        }
        Ok(true)
    }

    /// Refuses changes while the kernel holds some that were given up: they may land at any time, and on a
    /// place that belongs to somebody else by then. Waits for those to the same blocks that nobody waits
    /// for but whose time has not passed.
    fn pass_loose(&self, request: &Request, until: Instant) -> Result<(), IoError> {
        if request.op == Op::Read {
            return Ok(());
        }
        let standing = self.target.standing();
        let fail = |kind, detail| Err(request.error(&self.geometry, kind, detail));
        if standing.given_up().is_some() {
            standing.look();
            if standing.given_up().is_some() {
                return fail(IoErrorKind::Device, LOOSE);
            }
        }
        let ranges = ranges(&request.extents);
        while let Some(batch) = standing.before(&ranges) {
            // It may be with another way to the same target, which nobody may use any more.
            standing.look();
            if !self.carrier.wait(&batch, until.min(Instant::now() + SLICE))
                && Instant::now() >= until
            {
                let detail = "an earlier write or deallocation of these blocks has not ended yet";
                return fail(IoErrorKind::Timeout, detail);
            }
        }
        Ok(())
    }

    /// Remembers a change that nobody waits for any more.
    pub(super) fn let_loose(
        &self,
        batch: &Arc<Batch>,
        carrier: &Arc<dyn Carrier>,
        extents: &[Extent],
        given_up: bool,
    ) {
        self.target.standing().let_loose(batch, carrier, ranges(extents), given_up);
    }

    /// What the kernel is to do for a request, and the memory in between.
    fn jobs(&self, request: &Request) -> Result<(Vec<NewJob>, Vec<Bounce>), IoError> {
        let fail = |kind, detail: String| request.error(&self.geometry, kind, detail);
        let op = match request.op {
            Op::Read => JobOp::Read,
            Op::Write { fua } => JobOp::Write { durable: fua },
            Op::Flush => {
                return Ok((vec![NewJob { op: JobOp::Sync, ..NewJob::default() }], Vec::new()));
            }
            Op::Deallocate => {
                let discard = |e: &Extent| {
                    let (op, memory) = (JobOp::Discard, SmallVec::new());
                    NewJob { op, offset: e.offset, len: e.len, memory }
                };
                return Ok((request.extents.iter().map(discard).collect(), Vec::new()));
            }
        };
        let pieces =
            plan::pieces(request).map_err(|e| fail(IoErrorKind::Invalid, e.to_string()))?;
        let mut jobs = Vec::with_capacity(pieces.len());
        let mut bounces = Vec::new();
        for piece in pieces {
            let plain = self.rules.allow(&piece);
            let (offset, len) = (piece.extent.offset, piece.extent.len);
            let mut memory = piece.memory;
            if !plain {
                let bounce = self.bounces.take(len as usize, memory);
                let bounce = bounce.map_err(|e| fail(IoErrorKind::Device, e.to_string()))?;
                if op != JobOp::Read {
                    bounce.copy_in().map_err(|e| fail(IoErrorKind::Invalid, e.to_string()))?;
                }
                memory = bounce.slice().into_iter().collect();
                bounces.push(bounce);
            }
            jobs.push(NewJob { op, offset, len, memory });
        }
        Ok((jobs, bounces))
    }
}

fn ranges(extents: &[Extent]) -> Vec<Range<u64>> {
    extents.iter().map(|e| e.offset..e.offset.saturating_add(e.len)).collect()
}

/// A job before it belongs to a batch.
#[derive(Debug)]
struct NewJob {
    op: JobOp,
    offset: u64,
    len: u64,
    memory: SmallVec<[gcos_hw::DmaSlice; 2]>,
}

impl Default for NewJob {
    fn default() -> Self {
        Self { op: JobOp::Sync, offset: 0, len: 0, memory: SmallVec::new() }
    }
}

/// Starts a request that has been looked at.
fn start(shared: &Arc<Shared>, request: Request) -> Result<Box<dyn Ticket>, IoError> {
    let until = Instant::now() + request.deadline.min(LONGEST);
    shared.pass_loose(&request, until)?;
    let carrier = match request.op {
        Op::Deallocate => &shared.helper,
        _ => &shared.carrier,
    };
    let (jobs, bounces) = shared.jobs(&request)?;
    let observer: Arc<Trust> = Arc::clone(&shared.trust);
    let batch = Batch::new(jobs.len(), Some(observer));
    if matches!(request.op, Op::Flush | Op::Write { fua: true })
        && !shared.trust.ask(&batch, carrier, until)
    {
        let detail = "an earlier flush or durable write of this drive has not ended yet";
        return Err(request.error(&shared.geometry, IoErrorKind::Timeout, detail));
    }
    let mut jobs = jobs.into_iter();
    for (started, job) in jobs.by_ref().enumerate() {
        let NewJob { op, offset, len, memory } = job;
        let job = Job { op, offset, len, memory, batch: Arc::clone(&batch) };
        if let Err(error) = carrier.start(job, until) {
            let (kind, detail) = (words::kind(&error), words::of(&error));
            batch.refuse(error);
            if started == 0 {
                jobs.for_each(|job| batch.end(job.op, Ok(())));
                return Err(request.error(&shared.geometry, kind, detail));
            }
            break;
        }
    }
    carrier.go();
    // Not begun, because one before could not be: its error is that of the request.
    jobs.for_each(|job| batch.end(job.op, Ok(())));
    Ok(Box::new(FileTicket::new(shared, carrier, batch, request, bounces, until)))
}

impl Engine for FileEngine {
    fn geometry(&self) -> &Geometry {
        &self.shared.geometry
    }

    fn dma(&self) -> &Arc<DmaSpace> {
        &self.shared.dma
    }

    fn way(&self) -> Way {
        Way { name: self.shared.path.name(), reason: self.shared.reason.clone() }
    }

    fn submit(&self, request: Request) -> Result<Box<dyn Ticket>, IoError> {
        match self.shared.is_work(&request)? {
            false => Ok(Ended::ticket(Ok(()))),
            true => start(&self.shared, request),
        }
    }

    fn shutdown(&self, deadline: Duration) -> Result<(), IoError> {
        let shared = &self.shared;
        // One that has failed is no reason to say of the next that all is durable: it does everything again.
        shared.closed.store(true, Ordering::Release);
        let until = Instant::now() + deadline.min(LONGEST);
        let error =
            |kind, detail: String| IoError::about(&shared.geometry.name, kind, "shutdown", detail);
        if !shared.carrier.drain(until) || !shared.helper.drain(until) {
            let detail = format!("the kernel still holds transfers after {deadline:?}");
            return Err(error(IoErrorKind::Timeout, detail));
        }
        if shared.target.is_read_only() {
            return Ok(());
        }
        if let Some(reason) = shared.distrusted() {
            return Err(error(IoErrorKind::Device, reason));
        }
        start(shared, Request::flush(until.saturating_duration_since(Instant::now())))?.wait()
    }
}
