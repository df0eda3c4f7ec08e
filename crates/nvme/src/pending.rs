use std::sync::Arc;
use std::time::Duration;

use crate::NvmeError;
use crate::controller::Controller;
use crate::counters::add;
use crate::inflight::Request;

/// A request that was submitted. Dropping it does not stop the I/O: memory stays lent until the I/O
/// ends, and completions are taken by whoever uses the queue next.
#[derive(Debug)]
pub struct Pending {
    controller: Arc<Controller>,
    request: Arc<Request>,
    pair: usize,
    deadline: Duration,
    next_check: Duration,
    taken: bool,
}

impl Pending {
    pub(crate) fn new(
        controller: Arc<Controller>,
        request: Arc<Request>,
        pair: usize,
        deadline: Duration,
    ) -> Self {
        Self { controller, request, pair, deadline, next_check: Duration::ZERO, taken: false }
    }

    /// The controller it was submitted to.
    #[must_use]
    pub fn controller(&self) -> &Arc<Controller> {
        &self.controller
    }

    /// The result if the request has ended, `None` while it runs. Takes completions; once the
    /// deadline has passed it also recovers the controller, which takes a while.
    pub fn poll(&mut self) -> Option<Result<(), NvmeError>> {
        self.progress(false);
        self.request.is_done().then(|| self.take())
    }

    /// Waits until the request has ended: until its deadline, and then for abort and reset at most.
    ///
    /// # Errors
    /// The first error among the request's commands.
    pub fn wait(mut self) -> Result<(), NvmeError> {
        self.progress(true);
        if !self.request.is_done() {
            self.wait_on();
        }
        self.take()
    }

    /// For a request that has not ended already.
    #[cold]
    fn wait_on(&mut self) {
        let mut spins = 0;
        let mut told = true;
        loop {
            let seen = self.interrupts_seen();
            if !told && !self.request.is_done() {
                let found = self.controller.core.reap_after_others(self.controller.pair(self.pair));
                if found > 0 && self.request.is_done() {
                    add(&self.controller.core.counters.interrupts_missed, 1);
                }
            }
            self.progress(true);
            if self.request.is_done() {
                return;
            }
            told = self.pause(spins, seen);
            spins = spins.saturating_add(1);
        }
    }

    /// Takes completions, unless another thread does. A waiter that is going to sleep takes them
    /// itself: the other thread may have looked before the interrupt that this one was woken by, and
    /// there will be no second one.
    #[inline]
    fn look(&self, wait: bool) {
        let pair = self.controller.pair(self.pair);
        if wait && pair.interrupt.is_some() {
            self.controller.core.reap_after_others(pair);
        } else {
            self.controller.core.reap(pair);
        }
    }

    /// Looks at completions; if that does not end the request, at the clock and the controller.
    #[inline]
    fn progress(&mut self, wait: bool) {
        if self.request.is_done() {
            return;
        }
        self.look(wait);
        if self.request.is_done() {
            return;
        }
        let pair = self.controller.pair(self.pair);
        let now = self.controller.now();
        if now >= self.deadline {
            self.controller.expire(pair, &self.request, wait);
        } else {
            self.controller.look_after(pair, now, &mut self.next_check);
        }
    }

    fn interrupts_seen(&self) -> u64 {
        self.controller.pair(self.pair).interrupt.as_ref().map_or(0, |vector| vector.seen())
    }

    /// Whether there is something to look at, and not just time that has passed.
    fn pause(&self, spins: u32, seen: u64) -> bool {
        let controller = &self.controller;
        controller.core.device.function.relax(spins);
        controller.pair(self.pair).interrupt.as_ref().is_none_or(|vector| {
            let left = self.deadline.saturating_sub(controller.now());
            vector.sleep(seen, left)
        })
    }

    fn take(&mut self) -> Result<(), NvmeError> {
        if std::mem::replace(&mut self.taken, true) {
            return Err(NvmeError::Invalid {
                device: Arc::clone(&self.controller.core.device.name),
                what: "result of a request",
                expected: "to be taken once".into(),
                got: 2,
            });
        }
        self.request.take_result().map(drop)
    }
}
