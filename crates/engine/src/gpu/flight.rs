//! A batch on its way: from the launch of its kernel to its results.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gcos_cuda::{DeviceSlice, Event};
use gcos_layout::gpu::{Share, outcome};
use gcos_layout::nvme::Status;
use gcos_nvme::NvmeError;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::shared::Shared;
use super::slate::Slate;
use crate::device::DeviceTicket;
use crate::host::kind_of;
use crate::{IoError, IoErrorKind, Op};

/// How long a kernel may take to heed the abort flag.
const HEED: Duration = Duration::from_secs(2);
/// Time beside the deadlines before a batch is told to give up: the kernel keeps its own budget.
const MARGIN: Duration = Duration::from_millis(200);
/// How often the GPU is asked whether it works at all.
const ASK: Duration = Duration::from_millis(2);

/// So long from now; what no clock can say is a year.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    let year = Duration::from_secs(365 * 24 * 3600);
    now.checked_add(wait).unwrap_or(now + year)
}

pub(super) type Results = Vec<Result<(), IoError>>;

/// What a transfer was, for its error.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) op: &'static str,
    pub(super) opcode: &'static str,
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Number of its commands.
    pub(super) commands: usize,
}

/// A batch that was given to the GPU.
#[derive(Debug)]
pub(super) struct Flight {
    shared: Arc<Shared>,
    /// Lanes with the commands that each was given.
    pub(super) lanes: SmallVec<[(usize, Share); 4]>,
    claims: Vec<Claim>,
    /// First logical block of each command.
    lbas: Vec<u64>,
    /// Comes when the kernel, and the copies behind it, have ended.
    ended: Event,
    /// Whether results wait for `ended`: bounced data is copied behind the kernel.
    copies: bool,
    give_up: Instant,
    /// The kernel has ended: whoever has the state locked gives the results.
    ending: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    slate: Option<Slate>,
    /// What the transfers use, until the drive cannot reach it any more.
    held: Vec<DeviceSlice>,
    /// Since when, and why, the kernel has been told to give up.
    aborted: Option<(Instant, Reason)>,
    next_ask: Instant,
    /// What was read may not be where it belongs, whatever the drive says.
    spoilt: bool,
    results: Option<Results>,
    /// Whether the results are there, or were.
    concluded: bool,
}

/// Why a batch was told to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Its time is over.
    Late,
    /// Its queue pair is not there any more.
    PairLost,
    /// The drive is being given back.
    Surrendered,
    /// The GPU has failed.
    GpuFailed,
}

impl Reason {
    fn text(self) -> &'static str {
        match self {
            Self::Late => "it did not end in time",
            Self::PairLost => {
                "its queue pair was deleted, by a controller reset or because of an earlier command"
            }
            Self::Surrendered => "the drive was given back",
            Self::GpuFailed => "the GPU failed",
        }
    }

    fn kind(self) -> IoErrorKind {
        match self {
            Self::Late | Self::PairLost => IoErrorKind::Timeout,
            Self::Surrendered => IoErrorKind::Gone,
            Self::GpuFailed => IoErrorKind::Device,
        }
    }
}

/// Everything that a flight is made of.
pub(super) struct Parts {
    pub(super) lanes: SmallVec<[(usize, Share); 4]>,
    pub(super) claims: Vec<Claim>,
    pub(super) lbas: Vec<u64>,
    pub(super) slate: Slate,
    pub(super) held: Vec<DeviceSlice>,
    pub(super) ended: Event,
    pub(super) copies: bool,
    pub(super) spoilt: bool,
    pub(super) deadline: Duration,
}

impl Flight {
    pub(super) fn new(shared: &Arc<Shared>, parts: Parts) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            shared: Arc::clone(shared),
            lanes: parts.lanes,
            claims: parts.claims,
            lbas: parts.lbas,
            ended: parts.ended,
            copies: parts.copies,
            give_up: after(now, parts.deadline.saturating_mul(2).saturating_add(MARGIN)),
            ending: AtomicBool::new(false),
            state: Mutex::new(State {
                slate: Some(parts.slate),
                held: parts.held,
                aborted: None,
                next_ask: now + ASK,
                spoilt: parts.spoilt,
                results: None,
                concluded: false,
            }),
        })
    }

    /// Goes on with it, unless somebody else does: whether it is over, so that nobody needs to look any more.
    pub(super) fn progress(&self) -> bool {
        match self.state.try_lock() {
            Some(mut state) => self.look(&mut state),
            None => false,
        }
    }

    /// Whether results are there or were taken.
    pub(super) fn is_concluded(&self) -> bool {
        self.state.lock().concluded
    }

    /// Tells the kernel to give up, and says whether it has ended, as seen now. Where somebody else sees to
    /// the batch at this moment, and not for its end, the answer is no: ask again.
    pub(super) fn abort(&self, reason: Reason) -> bool {
        let Some(mut state) = self.state.try_lock_for(ASK) else {
            // Recovery may take him long. The kernel rings no more.
            return self.ending.load(Ordering::Acquire);
        };
        Self::abort_locked(&mut state, reason);
        state.slate.as_ref().is_none_or(Slate::is_done)
    }

    fn abort_locked(state: &mut State, reason: Reason) {
        if let Some(slate) = &state.slate
            && state.aborted.is_none()
        {
            slate.abort();
            state.aborted = Some((Instant::now(), reason));
        }
    }

    fn look(&self, state: &mut State) -> bool {
        let Some(slate) = &state.slate else { return true };
        if slate.is_done() {
            match self.copies.then(|| self.ended.query()) {
                None | Some(Ok(true)) => {
                    self.conclude(state);
                    return true;
                }
                // Its copies are under way.
                Some(Ok(false)) => {}
                Some(Err(error)) => {
                    tracing::error!(drive = self.shared.name(), %error, "the GPU failed under a batch");
                    state.spoilt = true;
                    self.conclude(state);
                    return true;
                }
            }
        }
        let now = Instant::now();
        if now >= state.next_ask {
            state.next_ask = now + ASK;
            self.ask(state, now);
        }
        if let Some((since, reason)) = state.aborted
            && !state.concluded
            && now > since + HEED
        {
            // The stream has not come to it, or the GPU hangs. It stays on the list, with all that it has; but
            // who gets the results must know that the drive reaches the memory no more.
            self.keep_drive_off(state);
            tracing::error!(
                drive = self.shared.name(),
                commands = self.lbas.len(),
                "a batch on a GPU does not end: its memory and queue pairs stay taken"
            );
            let error = |claim| Err(self.shared.error(claim, reason.kind(), reason.text(), None));
            state.results = Some(self.claims.iter().map(error).collect());
            state.concluded = true;
            self.shared.stats.overdue.add(1);
        }
        false
    }

    /// Deletes the queue pairs under a kernel that may hang. One behind another batch has not begun, and
    /// finds that it is not wanted.
    fn keep_drive_off(&self, state: &State) {
        let done = state.slate.as_ref().is_none_or(Slate::is_done);
        if done || self.shared.is_behind_another(self) {
            return;
        }
        for &(lane, _) in &self.lanes {
            if let Err(error) = self.shared.stop_lane(lane) {
                tracing::error!(drive = self.shared.name(), %error, "memory of a batch is leaked");
            }
        }
    }

    /// Whether it uses a lane of the other, and its kernel has not ended.
    pub(super) fn is_before(&self, other: &Self) -> bool {
        let uses = |&(lane, _): &(usize, Share)| other.lanes.iter().any(|&(its, _)| its == lane);
        if !self.lanes.iter().any(uses) || self.ending.load(Ordering::Acquire) {
            return false;
        }
        // A look at it is short, unless its kernel has ended.
        let state = self.state.try_lock_for(ASK * 10);
        state.is_some_and(|state| state.slate.as_ref().is_some_and(|slate| !slate.is_done()))
    }

    /// What need not be looked at each time.
    fn ask(&self, state: &mut State, now: Instant) {
        match self.ended.query() {
            // Between the two looks the kernel may have ended as it should.
            Ok(true) if state.slate.as_ref().is_some_and(Slate::is_done) => return,
            Ok(false) => {}
            ended => {
                if let Err(error) = ended {
                    tracing::error!(drive = self.shared.name(), %error, "the GPU failed under a batch");
                }
                // No kernel runs any more. What its status words do not say, nobody will.
                state.spoilt = true;
                Self::abort_locked(state, Reason::GpuFailed);
                self.conclude(state);
                return;
            }
        }
        if now >= self.give_up {
            Self::abort_locked(state, Reason::Late);
        } else if self.shared.is_revoked() {
            Self::abort_locked(state, Reason::Surrendered);
        } else if self.lanes.iter().any(|(lane, _)| self.shared.is_lane_lost(*lane)) {
            Self::abort_locked(state, Reason::PairLost);
        }
    }

    /// The kernel has ended: recovers queue pairs that are broken, then gives the results and the memory.
    fn conclude(&self, state: &mut State) {
        let Some(slate) = state.slate.take() else { return };
        self.ending.store(true, Ordering::Release);
        let mut stuck = false;
        for &(lane, ref share) in &self.lanes {
            let mut commands = share.first as usize..(share.first + share.count) as usize;
            let open = |command| {
                let kind = slate.outcome(command).map(|(kind, _)| kind);
                // What was never started leaves the pair as it was, which the batch behind may be using.
                let ended = [outcome::COMPLETED, outcome::BAD_COMMAND, outcome::NOT_STARTED];
                !kind.is_some_and(|kind| ended.contains(&kind))
            };
            let broken = commands.any(open) || self.shared.is_lane_broken(lane);
            if broken && let Err(error) = self.shared.delete_lane(lane) {
                tracing::error!(drive = self.shared.name(), %error, "memory of a batch is leaked");
                stuck = true;
            }
        }
        let held = std::mem::take(&mut state.held);
        if stuck {
            std::mem::forget(held);
            self.shared.stats.leaked.add(1);
        }
        if !state.concluded {
            let reason = state.aborted.map(|(_, reason)| reason);
            state.results = Some(self.results(&slate, reason, state.spoilt));
            state.concluded = true;
        }
        self.shared.release(self, slate);
    }

    fn results(&self, slate: &Slate, reason: Option<Reason>, spoilt: bool) -> Results {
        let mut command = 0;
        let mut results = Vec::with_capacity(self.claims.len());
        for claim in &self.claims {
            let mut commands = command..command + claim.commands;
            command = commands.end;
            let failed = commands.find_map(|index| self.failure(claim, index, slate, reason));
            let lost = || {
                let detail = "what was read may not have been copied to its place: the GPU failed";
                let is = spoilt && self.copies && claim.op == Op::Read.name();
                is.then(|| self.shared.error(claim, IoErrorKind::Device, detail, None))
            };
            results.push(failed.or_else(lost).map_or(Ok(()), Err));
        }
        results
    }

    /// Why a command failed, if it did.
    fn failure(
        &self,
        claim: &Claim,
        command: usize,
        slate: &Slate,
        reason: Option<Reason>,
    ) -> Option<IoError> {
        let shared = &self.shared;
        let stats = &shared.stats;
        let timed_out = |words: &'static str| {
            stats.timeouts.add(1);
            let kind = reason.map_or(IoErrorKind::Timeout, Reason::kind);
            let detail = reason.map_or(words, Reason::text);
            Some(shared.error(claim, kind, detail, None))
        };
        match slate.outcome(command) {
            Some((outcome::COMPLETED, 0)) => None,
            Some((outcome::COMPLETED, status)) => {
                stats.failed.add(1);
                let error = NvmeError::Command {
                    device: Arc::from(shared.name()),
                    opcode: claim.opcode,
                    nsid: shared.nsid,
                    lba: self.lbas.get(command).copied().unwrap_or(0),
                    status: Status(status),
                };
                let detail = error.to_string();
                Some(shared.error(claim, kind_of(&error), &detail, Some(error)))
            }
            Some((outcome::TIMED_OUT | outcome::ABORTED, _)) | None => {
                timed_out("it missed its deadline; its queue pair was deleted")
            }
            Some((outcome::NOT_STARTED, _)) => {
                timed_out("it was never started: its queue pair had been broken by another command")
            }
            Some((outcome::BAD_COMPLETION, _)) => {
                stats.failed.add(1);
                let detail =
                    "the completions of its queue pair made no sense; the pair was deleted";
                Some(shared.error(claim, IoErrorKind::Device, detail, None))
            }
            Some((kind, _)) => {
                stats.failed.add(1);
                let detail = format!("the kernel refused its descriptor (outcome {kind})");
                Some(shared.error(claim, IoErrorKind::Invalid, &detail, None))
            }
        }
    }
}

/// Claim to a batch's results.
#[derive(Debug)]
pub(super) struct GpuTicket(pub(super) Arc<Flight>);

impl DeviceTicket for GpuTicket {
    fn poll(&mut self) -> Option<Results> {
        let flight = &self.0;
        let mut state = flight.state.lock();
        if !state.concluded {
            flight.look(&mut state);
        }
        state.results.take()
    }

    fn wait(mut self: Box<Self>) -> Results {
        // It ends: `look` gives up by the clock.
        let mut spins = 0;
        loop {
            if let Some(results) = self.poll() {
                return results;
            }
            if self.0.is_concluded() {
                return Vec::new();
            }
            gcos_hw::relax_spinning(spins);
            spins = spins.saturating_add(1);
        }
    }
}
