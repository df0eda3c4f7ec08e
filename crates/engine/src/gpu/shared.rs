//! What an engine and its batches share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use gcos_cuda::{DeviceMemory, Kernels, Stream};
use gcos_hw::DoorbellHolder;
use gcos_nvme::{Controller, NvmeError};
use parking_lot::{Mutex, RwLock};

use super::bell::Bell;
use super::flight::{Claim, Flight, Reason};
use super::lane::{Lane, LaneError};
use super::plan::{Limits, Plan};
use super::slate::{Slate, Slates};
use super::stats::Counts;
use crate::{Geometry, IoError, IoErrorKind};

/// Failures to make a lane's queue pair after which it is not tried again.
const MOST_FAILURES: u32 = 3;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) memory: Arc<DeviceMemory>,
    pub(super) kernels: Arc<Kernels>,
    pub(super) controller: Arc<Controller>,
    pub(super) nsid: u32,
    pub(super) geometry: Geometry,
    pub(super) limits: Limits,
    pub(super) lanes: Vec<Lane>,
    pub(super) stats: Counts,
    pub(super) state: Mutex<State>,
    revoked: AtomicBool,
    /// Read-locked while a batch is launched, until it is on the list.
    pub(super) launching: RwLock<()>,
    // After the lanes, whose pairs it rings.
    pub(super) bell: Bell,
    /// Asked to let go of the doorbells.
    pub(super) holder: Arc<Holder>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// By lane.
    leases: Vec<Lease>,
    pub(super) flights: Vec<Arc<Flight>>,
    pub(super) slates: Slates,
    pub(super) plans: Vec<Plan>,
    pub(super) closed: bool,
    /// Why the host does it all, if it does.
    pub(super) demoted: Option<String>,
}

/// Who has a lane.
#[derive(Debug, Default)]
struct Lease {
    /// Batches that are in flight on it, all in one stream, one after the other.
    users: u32,
    /// That stream. Holding it keeps its handle from being given to another stream.
    owner: Option<Stream>,
    /// Failures in a row to make its queue pair.
    failures: u32,
}

/// What lanes a batch gets.
pub(super) enum Leased {
    /// These.
    Lanes(Vec<usize>),
    /// None is free now.
    None,
    /// None can be had any more.
    Never,
}

/// Stands for the engine towards the function, which may ask for its doorbells back.
#[derive(Debug, Default)]
pub(super) struct Holder(pub(super) OnceLock<Weak<Shared>>);

impl DoorbellHolder for Holder {
    fn let_go(&self, patience: Duration) -> bool {
        match self.0.get().and_then(Weak::upgrade) {
            Some(shared) => shared.revoke(patience),
            None => true,
        }
    }
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "its parts, once")]
    pub(super) fn new(
        memory: Arc<DeviceMemory>,
        kernels: Arc<Kernels>,
        controller: Arc<Controller>,
        nsid: u32,
        geometry: Geometry,
        limits: Limits,
        lanes: Vec<Lane>,
        (bell, holder): (Bell, Arc<Holder>),
    ) -> Arc<Self> {
        let leases = lanes.iter().map(|_| Lease::default()).collect();
        let shared = Arc::new(Self {
            memory,
            kernels,
            controller,
            nsid,
            geometry,
            limits,
            lanes,
            stats: Counts::default(),
            state: Mutex::new(State { leases, ..State::default() }),
            revoked: AtomicBool::new(false),
            launching: RwLock::new(()),
            bell,
            holder,
        });
        let _ = shared.holder.0.set(Arc::downgrade(&shared));
        shared
    }

    pub(super) fn name(&self) -> &str {
        &self.geometry.name
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// The doorbells must not be rung any more: whether no kernel will.
    fn revoke(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        self.revoked.store(true, Ordering::Release);
        // A launch that has begun ends, and is on the list; none begins after that.
        let Some(_none) = self.launching.try_write_for(patience) else { return false };
        let mut spins = 0;
        loop {
            let flights = self.state.lock().flights.clone();
            let left = end.saturating_duration_since(Instant::now());
            let mut all = true;
            for flight in &flights {
                all &= flight.abort(Reason::Surrendered);
            }
            if all || left.is_zero() {
                return all;
            }
            gcos_hw::relax_spinning(spins);
            spins += 1;
        }
    }

    pub(super) fn is_lane_lost(&self, lane: usize) -> bool {
        self.lanes.get(lane).is_some_and(Lane::is_lost)
    }

    pub(super) fn is_lane_broken(&self, lane: usize) -> bool {
        self.lanes.get(lane).is_some_and(Lane::is_broken_on_gpu)
    }

    /// Deletes the queue pair of a lane: afterwards the drive reaches no memory through it.
    pub(super) fn delete_lane(&self, lane: usize) -> Result<(), LaneError> {
        self.stats.deleted.add(1);
        self.lanes.get(lane).map_or(Ok(()), |lane| lane.delete(&self.bell))
    }

    /// The same, under a kernel that may be running.
    pub(super) fn stop_lane(&self, lane: usize) -> Result<(), LaneError> {
        self.lanes.get(lane).map_or(Ok(()), |lane| lane.stop(&self.bell))
    }

    /// Whether no batch but the one that is about to be launched has the lane.
    fn is_alone(&self, lane: usize) -> bool {
        self.state.lock().leases.get(lane).is_some_and(|lease| lease.users == 1)
    }

    /// Goes on with batches in flight, whoever waits for them.
    pub(super) fn reap(&self) {
        let flights = self.state.lock().flights.clone();
        for flight in flights {
            flight.progress();
        }
    }

    /// A batch has ended: what it has taken is free.
    pub(super) fn release(&self, flight: &Flight, slate: Slate) {
        let mut state = self.state.lock();
        let slate = state.slates.give(slate);
        state.flights.retain(|other| !std::ptr::eq(Arc::as_ptr(other), flight));
        let lanes = flight.lanes.iter().map(|(lane, _)| *lane);
        let ended = Self::give_back(&mut state, lanes);
        drop(state);
        // Streams and memory end outside the lock: that may take the driver long.
        drop((ended, slate));
        self.bell.end();
    }

    /// Whether a batch that was launched before, on one of the same lanes, has not ended: then this one, which
    /// is behind it in its stream, has not begun.
    pub(super) fn is_behind_another(&self, flight: &Flight) -> bool {
        let flights = self.state.lock().flights.clone();
        let before = flights.iter().take_while(|other| !std::ptr::eq(Arc::as_ptr(other), flight));
        before.into_iter().any(|other| other.is_before(flight))
    }

    /// Lanes go back: the streams that have none any more.
    #[must_use]
    fn give_back(state: &mut State, lanes: impl IntoIterator<Item = usize>) -> Vec<Stream> {
        let mut ended = Vec::new();
        for lane in lanes {
            if let Some(lease) = state.leases.get_mut(lane) {
                lease.users = lease.users.saturating_sub(1);
                if lease.users == 0 {
                    ended.extend(lease.owner.take());
                }
            }
        }
        ended
    }

    /// Lanes of a batch that was not given to the GPU after all.
    pub(super) fn unlease(&self, lanes: &[usize]) {
        let ended = Self::give_back(&mut self.state.lock(), lanes.iter().copied());
        drop(ended);
    }

    /// Takes up to `want` lanes for a batch in this stream: those that the stream has already, since batches
    /// of one stream follow each other, then free ones.
    pub(super) fn lease(&self, stream: &Stream, want: usize) -> Leased {
        let chosen = {
            let mut state = self.state.lock();
            let usable = |lease: &Lease| lease.failures < MOST_FAILURES;
            if self.is_revoked() || !state.leases.iter().any(usable) {
                return Leased::Never;
            }
            let own =
                |lease: &Lease| lease.owner.as_ref().is_some_and(|it| it.raw() == stream.raw());
            let free = |lease: &Lease| lease.users == 0;
            let mut chosen = Vec::with_capacity(want);
            for fits in [&own as &dyn Fn(&Lease) -> bool, &free] {
                for (index, lease) in state.leases.iter_mut().enumerate() {
                    if chosen.len() < want
                        && usable(lease)
                        && fits(lease)
                        && !chosen.contains(&index)
                    {
                        // A lane of the stream whose pair broke is of use again when it has no user. While
                        // its pair is made it is not ready.
                        let ready = self.lanes.get(index).is_some_and(Lane::is_ready);
                        if lease.users > 0 && !ready {
                            continue;
                        }
                        lease.users += 1;
                        lease.owner.get_or_insert_with(|| stream.clone());
                        chosen.push(index);
                    }
                }
            }
            chosen
        };
        if chosen.is_empty() {
            return Leased::None;
        }
        // Outside the lock: making a pair takes admin commands.
        let (ready, failed): (Vec<usize>, Vec<usize>) =
            chosen.into_iter().partition(|&lane| self.make(lane));
        if failed.is_empty() {
            return Leased::Lanes(ready);
        }
        self.unlease(&failed);
        match ready.is_empty() {
            true => Leased::None,
            false => Leased::Lanes(ready),
        }
    }

    /// Sees to it that a lane that was leased has a queue pair: whether it has.
    fn make(&self, index: usize) -> bool {
        let Some(lane) = self.lanes.get(index) else { return false };
        // A batch in flight on it, of the same stream, has to go by itself first. See `lease` for why nobody
        // can join after the question.
        let made = lane.make_if(&self.controller, &self.bell, || self.is_alone(index));
        let mut state = self.state.lock();
        let Some(lease) = state.leases.get_mut(index) else { return false };
        match made {
            Ok(new) => {
                self.stats.made.add(u64::from(new));
                lease.failures = 0;
                true
            }
            Err(LaneError::InUse) => false,
            Err(error) => {
                let gone =
                    matches!(&error, LaneError::Nvme(NvmeError::Gone { .. }) | LaneError::Stuck);
                lease.failures = if gone { MOST_FAILURES } else { lease.failures + 1 };
                tracing::warn!(drive = self.name(), %error, "a queue pair for a GPU cannot be made");
                false
            }
        }
    }

    /// An error about a transfer.
    pub(super) fn error(
        &self,
        claim: &Claim,
        kind: IoErrorKind,
        detail: &str,
        source: Option<NvmeError>,
    ) -> IoError {
        let kind = match kind {
            // Whatever became of the command: there is nobody left to ask.
            IoErrorKind::Timeout if !self.controller.is_usable() => IoErrorKind::Gone,
            kind => kind,
        };
        IoError {
            kind,
            drive: self.name().to_owned(),
            op: claim.op,
            offset: claim.offset,
            len: claim.len,
            detail: detail.to_owned(),
            source: source.map(Into::into),
        }
    }
}
