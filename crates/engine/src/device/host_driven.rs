//! The rung where the GPU drives no queues: a thread of the host waits for the stream, lets the drive, or what
//! stands between it and the GPU, move the data to and from the GPU's memory, and lets the stream go on.
//!
//! Where nothing but the drive is needed, the stream waits at a gate, and the thread calls nothing of CUDA: calls may
//! wait for all streams, those at gates too. Where the GPU copies, there is no gate, and whoever gives more to the
//! stream waits.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gcos_cuda::{DeviceMemory, Event, Gate, Gpu, GpuError, Stream};
use gcos_hw::{order_stores, relax_spinning};
use parking_lot::{Condvar, Mutex};

use super::mover::{ByEngine, Mover};
use super::{DeviceEngine, DevicePath, DeviceTicket, DeviceTransfer};
use crate::gpu::after;
use crate::{Engine, IoError, IoErrorKind, Ticket};

/// How long the thread sleeps at most while nothing is asked of it.
const IDLE: Duration = Duration::from_millis(500);

/// How often the thread looks after transfers before it lets them wake it.
const RESTLESS: u32 = 200;
/// How long it sleeps at most then: deadlines are looked after by nobody else.
const NAP: Duration = Duration::from_millis(1);

/// Moves blocks between a drive and GPU memory through an engine that the host drives.
#[derive(Debug)]
pub struct HostDriven {
    mover: Arc<dyn Mover>,
    memory: Arc<DeviceMemory>,
    /// To the thread; `None` after a shutdown.
    jobs: Mutex<Option<Sender<Job>>>,
    under_way: Arc<UnderWay>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Counts jobs that have not ended.
#[derive(Debug, Default)]
struct UnderWay {
    count: Mutex<usize>,
    changed: Condvar,
}

/// One call of [`DeviceEngine::start`].
#[derive(Debug)]
struct Job {
    turn: Turn,
    /// When the work before it must have ended.
    patience: Instant,
    transfers: Vec<DeviceTransfer>,
    /// Time for the transfers from their beginning.
    deadline: Duration,
    shared: Arc<Shared>,
    _counted: Counted,
}

/// A job's place in its stream.
#[derive(Debug)]
enum Turn {
    /// The stream waits here for the end of the transfers.
    Gate(Gate),
    /// The end of the work before; the stream goes on.
    After(Event),
}

impl Turn {
    fn has_come(&self) -> Result<bool, GpuError> {
        match self {
            Self::Gate(gate) => Ok(gate.is_reached()),
            Self::After(event) => event.query(),
        }
    }
}

#[derive(Debug)]
struct Counted(Arc<UnderWay>);

impl Counted {
    fn new(under_way: &Arc<UnderWay>) -> Self {
        *under_way.count.lock() += 1;
        Self(Arc::clone(under_way))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.count.lock() -= 1;
        self.0.changed.notify_all();
    }
}

type Results = Vec<Result<(), IoError>>;

/// Where a job's results arrive.
#[derive(Debug, Default)]
struct Shared {
    results: Mutex<Option<Results>>,
    arrived: Condvar,
}

impl HostDriven {
    /// Drives `engine` for the GPU of `memory`, which must be reached by the engine's drive.
    ///
    /// # Errors
    /// [`IoErrorKind::Invalid`] when the memory belongs to another address space than the engine's,
    /// [`IoErrorKind::Device`] when the thread cannot be started.
    pub fn new(engine: Arc<dyn Engine>, memory: Arc<DeviceMemory>) -> Result<Self, IoError> {
        Self::with_reasons(engine, memory, Vec::new())
    }

    /// As [`HostDriven::new`], with the reasons why the GPU does not drive queues itself, for
    /// [`DeviceEngine::path`].
    ///
    /// # Errors
    /// As [`HostDriven::new`].
    pub fn with_reasons(
        engine: Arc<dyn Engine>,
        memory: Arc<DeviceMemory>,
        refused: Vec<String>,
    ) -> Result<Self, IoError> {
        let fail = |kind, detail| IoError::about(&engine.geometry().name, kind, "open", detail);
        if !Arc::ptr_eq(engine.dma(), memory.space()) {
            let detail =
                "expected GPU memory in the address space of the engine's drive".to_owned();
            return Err(fail(IoErrorKind::Invalid, detail));
        }
        Self::over(Arc::new(ByEngine { engine, refused }), memory)
    }

    /// Lets `mover` move the blocks of transfers when their turn has come.
    pub(super) fn over(mover: Arc<dyn Mover>, memory: Arc<DeviceMemory>) -> Result<Self, IoError> {
        let fail = |kind, detail| IoError::about(&mover.geometry().name, kind, "open", detail);
        let (jobs, receive) = channel();
        let worker = Arc::clone(&mover);
        let thread = std::thread::Builder::new()
            .name("gpu-host-driven".to_owned())
            .spawn(move || work(&*worker, &receive))
            .map_err(|error| fail(IoErrorKind::Device, format!("no thread: {error}")))?;
        Ok(Self {
            mover,
            memory,
            jobs: Mutex::new(Some(jobs)),
            under_way: Arc::default(),
            thread: Mutex::new(Some(thread)),
        })
    }

    fn failed(&self, kind: IoErrorKind, detail: impl Into<String>) -> IoError {
        IoError::about(&self.mover.geometry().name, kind, "start", detail.into())
    }
}

impl DeviceEngine for HostDriven {
    fn gpu(&self) -> &Arc<Gpu> {
        self.memory.gpu()
    }

    fn memory(&self) -> &Arc<DeviceMemory> {
        &self.memory
    }

    fn path(&self) -> DevicePath {
        DevicePath {
            driver: self.mover.driver(),
            memory: self.memory.rung(),
            doorbell: None,
            refused: self.mover.refused(),
        }
    }

    fn start(
        &self,
        stream: &Stream,
        transfers: Vec<DeviceTransfer>,
        deadline: Duration,
    ) -> Result<Box<dyn DeviceTicket>, IoError> {
        if !stream.gpu().same(self.gpu()) {
            let detail = "the stream belongs to another GPU than this engine serves";
            return Err(self.failed(IoErrorKind::Invalid, detail));
        }
        for transfer in &transfers {
            transfer.check(self.mover.geometry(), self.gpu())?;
        }
        let jobs = self.jobs.lock().clone();
        let Some(jobs) = jobs else {
            return Err(self.failed(IoErrorKind::Gone, "the engine was shut down"));
        };
        let shared = Arc::<Shared>::default();
        let count = transfers.len();
        let gpu_failed = |error: GpuError| {
            let detail = format!("the stream takes no work: {error}");
            self.failed(IoErrorKind::Device, detail)
        };
        let waits = !self.mover.needs_gpu();
        let turn = match waits {
            true => stream.gate().map(Turn::Gate),
            false => stream.record().map(Turn::After),
        };
        let job = Job {
            turn: turn.map_err(gpu_failed)?,
            patience: after(Instant::now(), deadline),
            transfers,
            deadline,
            shared: Arc::clone(&shared),
            _counted: Counted::new(&self.under_way),
        };
        // A job that comes back is dropped, which opens its gate.
        match jobs.send(job) {
            Ok(()) => {
                if let Some(thread) = &*self.thread.lock() {
                    thread.thread().unpark();
                }
                let drive = self.mover.geometry().name.clone();
                Ok(Box::new(HostDrivenTicket {
                    shared,
                    drive,
                    count,
                    settled: waits,
                    taken: false,
                }))
            }
            Err(_) => Err(self.failed(IoErrorKind::Gone, "the engine's thread has ended")),
        }
    }

    fn shutdown(&self, deadline: Duration) -> Result<(), IoError> {
        *self.jobs.lock() = None;
        let end = after(Instant::now(), deadline);
        let mut count = self.under_way.count.lock();
        while *count > 0 {
            if self.under_way.changed.wait_until(&mut count, end).timed_out() && *count > 0 {
                let detail = format!("{} batches did not end within {deadline:?}", *count);
                return Err(self.failed(IoErrorKind::Timeout, detail));
            }
        }
        Ok(())
    }
}

impl Drop for HostDriven {
    fn drop(&mut self) {
        *self.jobs.lock() = None;
        // It ends when its jobs have, each of which has a deadline.
        if let Some(thread) = self.thread.lock().take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the thread that drives a GPU's transfers panicked");
        }
    }
}

#[derive(Debug)]
struct HostDrivenTicket {
    shared: Arc<Shared>,
    drive: String,
    /// Number of transfers.
    count: usize,
    /// Whether the stream waits, or need not any more.
    settled: bool,
    /// Whether the results were given.
    taken: bool,
}

impl HostDrivenTicket {
    /// The results of a job that is gone without any: its thread has panicked.
    fn lost(&self) -> Option<Results> {
        if Arc::strong_count(&self.shared) > 1 {
            return None;
        }
        let detail = "the thread that drives the GPU's transfers has ended";
        let lost = |_| Err(IoError::about(&self.drive, IoErrorKind::Device, "start", detail));
        Some((0..self.count).map(lost).collect())
    }
}

impl DeviceTicket for HostDrivenTicket {
    fn settle(&mut self) {
        if self.settled || self.taken {
            return;
        }
        // The thread ends every job within its deadlines.
        let mut results = self.shared.results.lock();
        while results.is_none() && self.lost().is_none() {
            self.shared.arrived.wait_for(&mut results, IDLE);
        }
        self.settled = true;
    }

    fn poll(&mut self) -> Option<Results> {
        if self.taken {
            return None;
        }
        let found = {
            // Whoever has results puts them here before he goes.
            let mut results = self.shared.results.lock();
            results.take().or_else(|| self.lost())
        };
        self.taken = found.is_some();
        found
    }

    fn wait(self: Box<Self>) -> Results {
        // The thread ends every job within its deadlines.
        let mut results = self.shared.results.lock();
        loop {
            if let Some(results) = results.take() {
                return results;
            }
            if let Some(results) = self.lost() {
                return results;
            }
            self.shared.arrived.wait_for(&mut results, IDLE);
        }
    }
}

/// A job whose requests were submitted.
#[derive(Debug)]
struct Running {
    tickets: Vec<Option<Box<dyn Ticket>>>,
    results: Vec<Option<Result<(), IoError>>>,
    left: usize,
    turn: Option<Turn>,
    shared: Arc<Shared>,
    _counted: Counted,
}

/// The thread: until the engine is gone and all its jobs have ended.
fn work(mover: &dyn Mover, jobs: &Receiver<Job>) {
    let (mut waiting, mut running) = (Vec::<Job>::new(), Vec::<Running>::new());
    let (mut spins, mut open) = (0, true);
    while open || !waiting.is_empty() || !running.is_empty() {
        if open && waiting.is_empty() && running.is_empty() {
            match jobs.recv_timeout(IDLE) {
                Ok(job) => waiting.push(job),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
        }
        while open {
            match jobs.try_recv() {
                Ok(job) => waiting.push(job),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => open = false,
            }
        }
        let before = (waiting.len(), running.len());
        for job in waiting.extract_if(.., |job| !matches!(is_due(job), Due::NotYet)) {
            running.push(begin(mover, job));
        }
        running.iter_mut().for_each(Running::poll);
        running.retain(|job| job.left > 0);
        spins = if before == (waiting.len(), running.len()) { spins + 1 } else { 0 };
        // Gates and the work before a job wake nobody.
        if spins > RESTLESS && waiting.is_empty() && running.iter().all(Running::wakes) {
            std::thread::park_timeout(NAP);
        } else {
            relax_spinning(spins);
        }
    }
}

/// Whether the work before a job has ended.
enum Due {
    NotYet,
    Now,
    Failed(IoErrorKind, String),
}

fn is_due(job: &Job) -> Due {
    match job.turn.has_come() {
        Ok(true) => Due::Now,
        Ok(false) if Instant::now() < job.patience => Due::NotYet,
        Ok(false) => {
            let detail =
                "the work before it in the stream did not end in time; nothing was started";
            Due::Failed(IoErrorKind::Timeout, detail.into())
        }
        Err(error) => {
            Due::Failed(IoErrorKind::Device, format!("the stream failed before it: {error}"))
        }
    }
}

fn begin(mover: &dyn Mover, job: Job) -> Running {
    let due = is_due(&job);
    let Job { turn, transfers, deadline, shared, _counted, .. } = job;
    let count = transfers.len();
    let mut started = Running {
        tickets: Vec::with_capacity(count),
        results: Vec::with_capacity(count),
        left: count,
        turn: Some(turn),
        shared,
        _counted,
    };
    for transfer in transfers {
        let submitted = match &due {
            Due::Failed(kind, detail) => {
                Err(transfer.error(mover.geometry(), *kind, detail.clone()))
            }
            Due::Now | Due::NotYet => mover.submit(transfer, deadline),
        };
        match submitted {
            Ok(ticket) => {
                started.tickets.push(Some(ticket));
                started.results.push(None);
            }
            Err(error) => {
                started.tickets.push(None);
                started.results.push(Some(Err(error)));
                started.left -= 1;
            }
        }
    }
    if started.left == 0 {
        started.finish();
    }
    started
}

impl Running {
    /// Whether the thread is woken when one of its transfers goes on.
    fn wakes(&self) -> bool {
        self.tickets.iter().flatten().all(|ticket| ticket.wakes())
    }

    fn poll(&mut self) {
        if self.left == 0 {
            return;
        }
        for (slot, result) in self.tickets.iter_mut().zip(&mut self.results) {
            if let Some(ticket) = slot
                && let Some(ended) = ticket.poll()
            {
                *slot = None;
                *result = Some(ended);
                self.left -= 1;
            }
        }
        if self.left == 0 {
            self.finish();
        }
    }

    fn finish(&mut self) {
        // What was copied into a window by processors is gathered on its way there.
        order_stores();
        // The stream first: whoever learns of the end may ask it.
        drop(self.turn.take());
        let results = std::mem::take(&mut self.results).into_iter().flatten().collect();
        *self.shared.results.lock() = Some(results);
        self.shared.arrived.notify_all();
    }
}
