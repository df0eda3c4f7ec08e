//! What happens when the controller does not answer: abort, then reset, then the end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use gcos_layout::nvme::AdminCommand;
use parking_lot::MutexGuard;

use crate::NvmeError;
use crate::admin::AdminError;
use crate::controller::{Controller, State};
use crate::counters::add;
use crate::device::{ALL_ONES, CHECK_INTERVAL, Disabled};
use crate::inflight::{Label, Request};
use crate::pair::QueuePair;

impl Controller {
    /// Resets the controller: every command in flight ends with an error, the queues are created
    /// anew.
    ///
    /// # Errors
    /// [`NvmeError::Gone`] when the controller does not come back.
    pub fn reset(&self) -> Result<(), NvmeError> {
        self.reset_because("asked for");
        self.check_usable()
    }

    /// Waits until nobody else recovers the controller, as everybody waits for it: a controller in steps
    /// would do none otherwise.
    pub(crate) fn recovery_lock(&self) -> MutexGuard<'_, ()> {
        let mut spins = 0;
        loop {
            if let Some(guard) = self.recovery.try_lock() {
                return guard;
            }
            self.core.device.function.relax(spins);
            spins = spins.saturating_add(1);
        }
    }

    /// Resets the controller unless somebody else does so meanwhile.
    pub(crate) fn reset_because(&self, why: &str) {
        let epoch = self.epoch.load(Ordering::Acquire);
        let _recovering = self.recovery_lock();
        if self.epoch.load(Ordering::Acquire) == epoch {
            self.reset_locked(why);
        }
    }

    /// Ends a request whose deadline has passed: when this returns it is done, unless another thread
    /// recovers and the caller does not `wait`.
    pub(crate) fn expire(&self, pair: &QueuePair, request: &Request, wait: bool) {
        let recovering = if wait { Some(self.recovery_lock()) } else { self.recovery.try_lock() };
        if recovering.is_none() || request.is_done() {
            return;
        }
        self.core.reap(pair);
        if request.is_done() || self.is_ended_by_ringing(pair, request) {
            return;
        }
        request.expire();
        if self.state() == State::Live {
            self.abort(pair, request);
        }
        if !request.is_done() {
            self.reset_locked("a command missed its deadline and was not ended by an abort");
        }
    }

    /// A controller that missed a shadow doorbell gets a last chance.
    fn is_ended_by_ringing(&self, pair: &QueuePair, request: &Request) -> bool {
        if self.state() != State::Live || !self.ring_again(pair) {
            return false;
        }
        let end = self.now().saturating_add(CHECK_INTERVAL);
        let mut spins = 0;
        while self.now() < end {
            self.core.device.function.relax(spins);
            self.core.reap(pair);
            if request.is_done() {
                return true;
            }
            spins = spins.saturating_add(1);
        }
        false
    }

    /// Rings doorbell registers that shadow doorbells have spared: whether there were any.
    pub(crate) fn ring_again(&self, pair: &QueuePair) -> bool {
        let rung = pair.ring_again(&self.core.device);
        if rung {
            add(&self.core.counters.doorbells_repeated, 1);
        }
        rung
    }

    /// Asks the controller to abort a request's commands and gives it some time to do so (Base,
    /// section 5.1).
    fn abort(&self, pair: &QueuePair, request: &Request) {
        let function = &self.core.device.function;
        let end = self.now().saturating_add(self.options.abort_timeout);
        let cids = pair.lock().slots.cids_of(request);
        tracing::warn!(device = %self.name(), qid = pair.qid, commands = cids.len(), "aborting");
        for cid in cids {
            let left = end.saturating_sub(self.now());
            add(&self.core.counters.aborts, 1);
            let command = AdminCommand::Abort { sqid: pair.qid, cid };
            match self.core.path().run(command, 0, None, left) {
                Ok(_) => {}
                Err(AdminError::Ended(error) | AdminError::Closed(error)) => {
                    tracing::debug!(%error, "abort was refused");
                }
                Err(AdminError::Hung(_)) => return,
            }
        }
        let mut spins = 0;
        loop {
            self.core.reap(pair);
            if request.is_done() || self.now() >= end {
                return;
            }
            function.relax(spins);
            spins = spins.saturating_add(1);
        }
    }

    /// Resets the controller (Base, section 3.7.2). The caller holds the recovery lock. Afterwards
    /// no command that was in flight before is: each has ended.
    pub(crate) fn reset_locked(&self, why: &str) {
        if self.state() != State::Live {
            return;
        }
        self.set_state(State::Resetting, why);
        self.core.all_pairs().for_each(QueuePair::close);
        add(&self.core.counters.resets, 1);
        tracing::warn!(device = %self.name(), why, "resetting the controller");
        match self.core.device.disable() {
            Disabled::Stopped => {
                // From here on the controller touches no memory.
                self.core.stopped.store(true, Ordering::Release);
                self.core.fail_all(|label, expired| self.ended_by_reset(label, expired));
                self.come_back();
            }
            Disabled::Removed => {
                self.core.stopped.store(true, Ordering::Release);
                self.give_up(ALL_ONES);
            }
            Disabled::Stuck => self.give_up_on_stuck(),
        }
    }

    fn ended_by_reset(&self, label: Label, expired: bool) -> NvmeError {
        let device = &self.core.device.name;
        if expired {
            label.timed_out(device, "a controller reset ended it")
        } else {
            label.reset(device)
        }
    }

    /// Brings a stopped controller up again.
    fn come_back(&self) {
        let result = self
            .core
            .device
            .check_same()
            .and_then(|()| self.core.start_admin())
            .and_then(|()| self.core.check_same(&self.facts, self.options.admin_timeout))
            .and_then(|()| self.core.start_io(&self.options, &self.facts.identity));
        match result {
            Ok(volatile_cache) => {
                self.set_volatile_cache(volatile_cache);
                // Before the state: queues of the old epoch are at no moment taken for live ones.
                self.epoch.fetch_add(1, Ordering::AcqRel);
                self.set_state(State::Live, "");
                self.arm_events();
                tracing::info!(device = %self.name(), "the controller is back after a reset");
            }
            Err(error) => self.give_up(&format!("it did not come back from a reset: {error}")),
        }
    }

    /// Ends everything: no more use of this controller.
    fn give_up(&self, reason: &str) {
        tracing::error!(device = %self.name(), reason, "the controller is given up");
        self.set_state(State::Gone, reason);
        self.core.stop(|_, _| self.gone());
    }

    fn give_up_on_stuck(&self) {
        let reason = "it could not be stopped (CSTS.RDY stays 1); its memory is leaked";
        tracing::error!(device = %self.name(), reason, "the controller is given up");
        self.set_state(State::Gone, reason);
        self.core.leak_all(|_, _| self.gone());
        // Everything that it may touch is leaked: nothing is left to stop it for.
        self.core.stopped.store(true, Ordering::Release);
    }

    /// Called now and then by whoever waits: looks whether the controller has failed or gone, whether
    /// commands that nobody waits for are overdue, and at events.
    #[inline]
    pub(crate) fn look_after(&self, pair: &QueuePair, now: Duration, next_check: &mut Duration) {
        if now < *next_check {
            return;
        }
        let first = next_check.is_zero();
        *next_check = now.saturating_add(CHECK_INTERVAL);
        // Most waits are short: the first look comes only after an interval.
        if !first {
            self.check_health(pair, now);
        }
    }

    fn check_health(&self, pair: &QueuePair, now: Duration) {
        if self.state() != State::Live {
            return;
        }
        // Before CSTS, so that a reset between the two is not taken for a failure.
        let epoch = self.epoch.load(Ordering::Acquire);
        let csts = self.core.device.csts();
        if csts.is_removed() || csts.cfs() || !csts.rdy() {
            let Some(_recovering) = self.recovery.try_lock() else { return };
            if self.epoch.load(Ordering::Acquire) == epoch {
                self.reset_locked(match (csts.is_removed(), csts.cfs()) {
                    (true, _) => ALL_ONES,
                    (_, true) => "it reports a fatal status (CSTS.CFS)",
                    _ => "it is no longer ready (CSTS.RDY = 0)",
                });
            }
            return;
        }
        self.ring_again(pair);
        let overdue = pair.lock().slots.overdue(now);
        if let Some(request) = overdue {
            self.expire(pair, &request, false);
        }
        self.poll_events();
    }
}
