//! Orderly shutdown (Base, section 3.6.1).

use std::time::Duration;

use crate::NvmeError;
use crate::controller::{Controller, State};

/// Time for a shutdown when the controller does not state one (RTD3E = 0).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Most time for a shutdown whatever the controller states: RTD3E can say over an hour.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

impl Controller {
    /// Ends use of the controller: new requests fail, those in flight are waited for, the queues are
    /// deleted and the controller is told to shut down. `timeout` is for all of it; without one the
    /// controller's own time applies (RTD3E, at most a minute). Whatever happens, the controller is then disabled and
    /// no command is left in flight. A second call does nothing.
    ///
    /// # Errors
    /// [`NvmeError::NotReady`] when commands or the controller did not end in time,
    /// [`NvmeError::Gone`] when the controller was gone before.
    pub fn shutdown(&self, timeout: Option<Duration>) -> Result<(), NvmeError> {
        let _recovering = self.recovery_lock();
        match self.state() {
            State::ShutDown => return Ok(()),
            State::Gone => return Err(self.gone()),
            State::Live | State::Resetting => {}
        }
        self.set_state(State::ShutDown, "it was shut down");
        let end = self.now().saturating_add(timeout.unwrap_or_else(|| self.stated_timeout()));
        let result = self.drain(end).and_then(|()| {
            self.delete_all_queues(end);
            self.core.device.shut_down(end.saturating_sub(self.now()))
        });
        self.core.stop(|_, _| self.gone());
        result
    }

    fn stated_timeout(&self) -> Duration {
        match self.facts.identity.rtd3_entry_us {
            0 => DEFAULT_TIMEOUT,
            micros => Duration::from_micros(micros.into()).clamp(DEFAULT_TIMEOUT, LONGEST_TIMEOUT),
        }
    }

    /// Waits until no I/O command is in flight.
    fn drain(&self, end: Duration) -> Result<(), NvmeError> {
        let began = self.now();
        self.core.pairs.iter().for_each(|pair| {
            self.ring_again(pair);
        });
        let mut spins = 0;
        loop {
            let late = self.now() >= end;
            self.core.pairs.iter().for_each(|pair| self.core.reap(pair));
            if self.core.pairs.iter().all(|pair| pair.lock().slots.in_flight() == 0) {
                return Ok(());
            }
            let csts = self.core.device.csts();
            if late || csts.is_removed() || csts.cfs() || !csts.rdy() {
                let what = "ending the commands in flight";
                let waited = self.now().saturating_sub(began);
                return Err(self.core.device.not_ready(what, waited, csts));
            }
            self.core.device.function.relax(spins);
            spins = spins.saturating_add(1);
        }
    }

    fn delete_all_queues(&self, end: Duration) {
        for pair in &self.core.pairs {
            let left = end.saturating_sub(self.now()).min(self.options.admin_timeout);
            if let Err(error) = self.core.delete_queues(pair.qid, left) {
                // The shutdown itself does without.
                let error = error.into_inner();
                tracing::warn!(device = %self.name(), %error, "queue not deleted before shutdown");
                return;
            }
        }
    }
}
