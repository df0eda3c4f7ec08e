//! A way that fails as it is told, to a drive that does not.
#![allow(dead_code, reason = "each of the tests that share it uses a part of it")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gcos_engine::device::{DeviceEngine, Gpu};
use gcos_engine::{
    DemotionReason, Ended, Engine, Geometry, IoError, IoErrorKind, Op, Request, Ticket, Way,
};
use gcos_hw::DmaSpace;

/// Where a request fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// It is not taken.
    Start,
    /// It is taken and nothing of it is done.
    Before,
    /// Half of it is done, where it can be divided.
    Half,
    /// All of it is done, and that is not told.
    After,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) op: &'static str,
    pub(crate) at: At,
    pub(crate) kind: IoErrorKind,
    pub(crate) times: u32,
}

#[derive(Debug)]
pub(crate) struct Faulty {
    inner: Arc<dyn Engine>,
    name: &'static str,
    faults: Mutex<Vec<Fault>>,
    /// How much longer each request takes.
    slow: Mutex<Duration>,
    requests: AtomicU64,
    flushes: AtomicU64,
}

impl Faulty {
    pub(crate) fn new(inner: &Arc<dyn Engine>, name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::clone(inner),
            name,
            faults: Mutex::default(),
            slow: Mutex::default(),
            requests: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
        })
    }

    pub(crate) fn fail(&self, op: &'static str, at: At, kind: IoErrorKind, times: u32) {
        lock(&self.faults).push(Fault { op, at, kind, times });
    }

    /// Every request takes so much longer from now on.
    pub(crate) fn slow(&self, by: Duration) {
        *lock(&self.slow) = by;
    }

    /// Nothing more goes wrong.
    pub(crate) fn heal(&self) {
        lock(&self.faults).clear();
        self.slow(Duration::ZERO);
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::SeqCst)
    }

    fn fault(&self, op: Op) -> Option<Fault> {
        let mut faults = lock(&self.faults);
        let fits = |f: &&mut Fault| f.times > 0 && (f.op.is_empty() || f.op == op.name());
        let fault = faults.iter_mut().find(fits)?;
        fault.times = fault.times.saturating_sub(1);
        Some(*fault)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first half of a request.
fn half(request: &Request) -> Option<Request> {
    let len = request.extents.first()?.len / 8192 * 4096;
    let segment = request.segments.first()?.slice(0, usize::try_from(len).ok()?).ok()?;
    let mut half = request.clone();
    half.extents.truncate(1);
    half.extents.first_mut()?.len = len;
    half.segments.truncate(1);
    *half.segments.first_mut()? = segment;
    (len > 0).then_some(half)
}

#[derive(Debug)]
struct Late {
    inner: Box<dyn Ticket>,
    until: Instant,
    error: Option<IoError>,
}

impl Ticket for Late {
    fn poll(&mut self) -> Option<Result<(), IoError>> {
        if Instant::now() < self.until {
            return None;
        }
        let result = self.inner.poll()?;
        Some(self.error.take().map_or(result, Err))
    }

    fn wait(self: Box<Self>) -> Result<(), IoError> {
        std::thread::sleep(self.until.saturating_duration_since(Instant::now()));
        let result = self.inner.wait();
        self.error.map_or(result, Err)
    }
}

impl Engine for Faulty {
    fn geometry(&self) -> &Geometry {
        self.inner.geometry()
    }

    fn way(&self) -> Way {
        Way { name: self.name, reason: String::new() }
    }

    fn dma(&self) -> &Arc<DmaSpace> {
        self.inner.dma()
    }

    fn submit(&self, request: Request) -> Result<Box<dyn Ticket>, IoError> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        if request.op == Op::Flush {
            self.flushes.fetch_add(1, Ordering::SeqCst);
        }
        let until = Instant::now() + *lock(&self.slow);
        let Some(fault) = self.fault(request.op) else {
            let inner = self.inner.submit(request)?;
            return Ok(Box::new(Late { inner, until, error: None }));
        };
        let error = request.error(self.geometry(), fault.kind, format!("planted {:?}", fault.at));
        let inner: Box<dyn Ticket> = match fault.at {
            At::Start => return Err(error),
            At::Before => Ended::ticket(Ok(())),
            At::Half => match half(&request) {
                Some(half) => self.inner.submit(half)?,
                None => Ended::ticket(Ok(())),
            },
            At::After => self.inner.submit(request)?,
        };
        Ok(Box::new(Late { inner, until, error: Some(error) }))
    }

    fn device(&self, gpu: &Arc<Gpu>) -> Option<Arc<dyn DeviceEngine>> {
        self.inner.device(gpu)
    }

    /// The drive is another way's, too.
    fn shutdown(&self, deadline: Duration) -> Result<(), IoError> {
        let takes = *lock(&self.slow);
        std::thread::sleep(takes.min(deadline));
        let late = || Request::flush(deadline).error(self.geometry(), IoErrorKind::Timeout, "late");
        if takes > deadline { Err(late()) } else { Ok(()) }
    }
}

/// The reason of the only demotion.
pub(crate) fn reason(engine: &dyn Engine) -> Option<DemotionReason> {
    let stats = engine.demotions();
    assert!(stats.total() <= 1, "{stats:?}");
    [
        (stats.errors, DemotionReason::Errors),
        (stats.gone, DemotionReason::Gone),
        (stats.latency, DemotionReason::Latency),
        (stats.asked, DemotionReason::Asked),
    ]
    .into_iter()
    .find_map(|(count, reason)| (count > 0).then_some(reason))
}
