//! The controller's clock: real, or simulated.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) enum Clock {
    Real(Instant),
    /// Nanoseconds.
    Simulated(AtomicU64),
}

impl Clock {
    pub(crate) fn now(&self) -> Duration {
        match self {
            Self::Real(start) => start.elapsed(),
            Self::Simulated(nanos) => Duration::from_nanos(nanos.load(Ordering::SeqCst)),
        }
    }

    /// Moves simulated time on; real time moves by itself.
    pub(crate) fn advance(&self, step: Duration) {
        if let Self::Simulated(nanos) = self {
            nanos.fetch_add(u64::try_from(step.as_nanos()).unwrap_or(0), Ordering::SeqCst);
        }
    }
}
