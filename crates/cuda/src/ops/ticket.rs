use std::sync::Arc;
use std::time::Duration;

use super::scratch::{DONE_AT, Lease, REFUSED_AT};
use crate::{Event, GpuError, poll};

/// Looks at the word for each question to the driver, which tells of failures.
const LOOKS: u32 = 64;

/// A kernel under way.
#[derive(Debug)]
pub(super) struct Flight {
    event: Event,
    lease: Arc<Lease>,
    looks: u32,
}

impl Flight {
    pub(super) fn new(event: Event, lease: Arc<Lease>) -> Self {
        Self { event, lease, looks: 0 }
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Whether the stream has passed it. Never waits.
    pub(super) fn ended(&mut self) -> Result<bool, GpuError> {
        if self.lease.counter(DONE_AT)? != 0 {
            return Ok(true);
        }
        self.looks += 1;
        if !self.looks.is_multiple_of(LOOKS) || !self.event.query()? {
            return Ok(false);
        }
        if self.lease.counter(DONE_AT)? != 0 {
            return Ok(true);
        }
        let reason = "the stream has passed an operation whose end it did not write";
        let ordinal = self.event.gpu().ordinal();
        Err(GpuError::Stream { ordinal, reason: reason.to_owned() })
    }

    /// Asks until it has ended, or for as long as `deadline`.
    pub(super) fn wait(&mut self, deadline: Duration) -> Result<(), GpuError> {
        let ordinal = self.event.gpu().ordinal();
        if poll::until(deadline, || self.ended())? {
            return Ok(());
        }
        Err(GpuError::TimedOut { ordinal, what: "an operation", after: deadline })
    }

    /// Refuses a result where tokens were left out.
    pub(super) fn nothing_refused(&self) -> Result<(), GpuError> {
        match self.lease.counter(REFUSED_AT)? {
            0 => Ok(()),
            _ => Err(GpuError::Stream {
                ordinal: self.event.gpu().ordinal(),
                reason:
                    "a table in device memory names blocks or slots that the cache does not have; \
                         their tokens were left out, all others copied"
                        .to_owned(),
            }),
        }
    }
}

/// A copy under way. Dropping it does not stop the copy; the memory stays held until the copy has ended.
#[derive(Debug)]
#[must_use = "whether it went well is known only by asking"]
pub struct OpTicket {
    /// `None` when there was nothing to do.
    pub(super) flight: Option<Flight>,
}

impl OpTicket {
    /// Whether it has ended, and how. Never waits.
    ///
    /// An error says that what was to be written may not have been, wholly or in part.
    pub fn poll(&mut self) -> Option<Result<(), GpuError>> {
        let Some(flight) = &mut self.flight else { return Some(Ok(())) };
        match flight.ended() {
            Ok(false) => None,
            Ok(true) => Some(flight.nothing_refused()),
            Err(error) => Some(Err(error)),
        }
    }

    /// Asks until it has ended.
    ///
    /// # Errors
    /// [`GpuError::TimedOut`] when it has not within `deadline`: it may still go on.
    /// [`GpuError::Cuda`] or [`GpuError::Stream`] when work on the GPU failed, or a table in device memory
    /// named what the cache does not have.
    pub fn wait(self, deadline: Duration) -> Result<(), GpuError> {
        let Some(mut flight) = self.flight else { return Ok(()) };
        flight.wait(deadline)?;
        flight.nothing_refused()
    }
}
