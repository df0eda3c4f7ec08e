use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::errors::ErrorBudget;
use super::gone::GoneRule;
use super::latency::{Class, LatencyRule};
use super::way::Road;
use super::{DemotionReason, DemotionRules, Demotions};
use crate::{Geometry, IoError, IoErrorKind, Request};

/// What the engine shares with its tickets.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) geometry: Geometry,
    /// The best first.
    pub(super) roads: Vec<Road>,
    /// The one in use; the number of ways when none is left.
    current: AtomicUsize,
    closed: AtomicBool,
    /// One for each way: what was usual there is remembered when it is left.
    watches: Vec<Mutex<Watch>>,
    times_latency: bool,
    /// Held while the way changes, so that each change is made, counted and said once.
    stats: Mutex<Demotions>,
    retried: AtomicU64,
    /// Bytes of requests under way: with more of them, a request may take longer.
    in_flight: AtomicU64,
    began: Instant,
}

/// The rules, and what they have seen of a way.
#[derive(Debug)]
struct Watch {
    errors: ErrorBudget,
    gone: GoneRule,
    latency: LatencyRule,
}

impl Watch {
    fn new(rules: &DemotionRules) -> Self {
        Self {
            errors: ErrorBudget::new(rules.max_errors, rules.error_window),
            gone: GoneRule::new(rules.gone),
            latency: LatencyRule::new(rules),
        }
    }

    /// For a way that is taken: what was held against it before is over.
    fn forgive(&mut self) {
        self.errors.forgive();
        self.latency.forgive();
    }
}

impl Shared {
    pub(super) fn new(geometry: Geometry, roads: Vec<Road>, rules: &DemotionRules) -> Self {
        Self {
            geometry,
            current: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            times_latency: rules.latency_multiple > 0,
            watches: roads.iter().map(|_| Mutex::new(Watch::new(rules))).collect(),
            stats: Mutex::default(),
            retried: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            began: Instant::now(),
            roads,
        }
    }

    /// The way in use.
    pub(super) fn current(&self) -> Option<(usize, &Road)> {
        let at = self.current.load(Ordering::Acquire);
        Some((at, self.roads.get(at)?))
    }

    pub(super) fn is_current(&self, at: usize) -> bool {
        self.current.load(Ordering::Acquire) == at
    }

    /// Ends the watch: what fails from now on is no news.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Error of a request that no way is left for; nothing was started.
    pub(super) fn refused(&self, request: &Request) -> IoError {
        let why = self.stats.lock().demoted.clone().unwrap_or_default();
        let detail = format!("the drive was taken out of use: {why}; promote it when it is well");
        request.error(&self.geometry, IoErrorKind::Demoted, detail)
    }

    /// Notes that a request on a way failed; leaves the way if a rule says so.
    pub(super) fn failed(&self, at: usize, error: &IoError) {
        let no_news = matches!(error.kind, IoErrorKind::Invalid | IoErrorKind::Demoted);
        if no_news || !self.is_current(at) || self.closed.load(Ordering::Acquire) {
            return;
        }
        let Some(mut watch) = self.watches.get(at).map(Mutex::lock) else { return };
        let verdict = match watch.gone.failed(error) {
            Some(detail) => Some((DemotionReason::Gone, detail)),
            None => {
                let past = watch.errors.failed(self.began.elapsed());
                past.map(|past| (DemotionReason::Errors, format!("{past}; the last: {error}")))
            }
        };
        drop(watch);
        if let Some((reason, detail)) = verdict {
            self.demote(at, reason, &detail);
        }
    }

    /// An error as the engine's caller is to see it: that a way which was left is gone does not mean that
    /// the drive is, while there is another.
    pub(super) fn outward(&self, at: usize, mut error: IoError) -> IoError {
        let left = !self.is_current(at) && self.current().is_some();
        if left && error.kind == IoErrorKind::Gone {
            error.kind = IoErrorKind::Device;
        }
        error
    }

    /// Notes how long a request on a way took; leaves the way if a rule says so.
    pub(super) fn took(&self, at: usize, class: Class, took: Duration) {
        if !self.times_latency || !self.is_current(at) {
            return;
        }
        let now = self.began.elapsed();
        let said =
            self.watches.get(at).and_then(|watch| watch.lock().latency.took(now, class, took));
        if let Some(detail) = said {
            self.demote(at, DemotionReason::Latency, &detail);
        }
    }

    /// Leaves a way, if it is the one in use.
    pub(super) fn demote(&self, from: usize, reason: DemotionReason, detail: &str) {
        let mut stats = self.stats.lock();
        let Some(road) = self.roads.get(from).filter(|_| self.is_current(from)) else { return };
        let to = self.roads.get(from + 1).map(|road| road.engine.way().name);
        let way = road.engine.way().name;
        stats.count(reason);
        stats.out = to.is_none();
        stats.demoted = Some(format!("{way} left ({reason}): {detail}"));
        self.enter(from + 1);
        let drive = &self.geometry.name;
        tracing::error!(drive, way, to = to.unwrap_or("none"), %reason, detail, "drive demoted");
    }

    /// Goes back to the first way.
    pub(super) fn promote(&self) {
        let mut stats = self.stats.lock();
        if self.is_current(0) {
            return;
        }
        stats.promotions += 1;
        stats.out = false;
        stats.demoted = None;
        self.enter(0);
        let way = self.roads.first().map_or("none", |road| road.engine.way().name);
        tracing::info!(drive = self.geometry.name, way, "drive promoted");
    }

    fn enter(&self, at: usize) {
        if let Some(watch) = self.watches.get(at) {
            watch.lock().forgive();
        }
        self.current.store(at, Ordering::Release);
    }

    pub(super) fn stats(&self) -> Demotions {
        let retried = self.retried.load(Ordering::Relaxed);
        Demotions { retried, ..self.stats.lock().clone() }
    }

    pub(super) fn retried(&self) {
        self.retried.fetch_add(1, Ordering::Relaxed);
    }

    /// Error of a flush: something that was completed on an earlier way, or on this one, is lost.
    pub(super) fn loss(&self, request: &Request) -> Option<IoError> {
        let road = self.roads.iter().find(|road| road.lost())?;
        let detail = format!(
            "a flush of the {} has failed, and what was written before may be lost; open the drive again",
            road.engine.way().name
        );
        Some(request.error(&self.geometry, IoErrorKind::Device, detail))
    }
}

/// Counts the bytes of a request while it is under way.
#[derive(Debug)]
pub(super) struct Load {
    shared: Arc<Shared>,
    bytes: u64,
    /// Bytes that were under way when it was sent.
    pub(super) ahead: u64,
}

impl Load {
    pub(super) fn new(shared: &Arc<Shared>, bytes: u64) -> Self {
        let ahead = shared.in_flight.fetch_add(bytes, Ordering::Relaxed);
        Self { shared: Arc::clone(shared), bytes, ahead }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
