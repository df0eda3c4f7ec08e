//! Puts whose drive fails in the middle, on another drive.

use crate::StoreError;
use crate::pool::{Pool, count};

/// A put that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: StoreError,
    /// Drives (bit mask) that failed it. None: it would fail anywhere.
    pub(crate) drives: u64,
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self { error, drives: 0 }
    }
}

/// The tries of one put. Nothing of a try that failed is visible, and its key is free between two, so each
/// begins from the start.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    /// Drives (bit mask) that have failed it.
    pub(crate) avoid: u64,
    first: Option<StoreError>,
}

impl Retry {
    /// After a try that failed: whether there is another drive to try.
    ///
    /// # Errors
    /// The first error, if there is not.
    pub(crate) fn again(&mut self, pool: &Pool, failed: Failed) -> Result<(), StoreError> {
        let Failed { error, drives } = failed;
        let fresh = drives & !self.avoid != 0;
        self.avoid |= drives;
        if !fresh || pool.targets(self.avoid).first == 0 {
            return Err(self.first.take().unwrap_or(error));
        }
        tracing::warn!(%error, "put begun again on another drive");
        count(&pool.counters.puts_retried, 1);
        self.first.get_or_insert(error);
        Ok(())
    }
}

/// Drives (bit masks) that a put may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Targets {
    pub(crate) first: u64,
    /// Where the first have no room.
    pub(crate) then: u64,
    /// Whether that comes before room is made on the first: a drive is out of use, so what the others hold
    /// is all that is left.
    pub(crate) degraded: bool,
}

impl Pool {
    /// Where a put goes that some drives (bit mask) have failed.
    pub(crate) fn targets(&self, avoid: u64) -> Targets {
        let writable = self.writable() & !avoid;
        let all = u64::MAX >> (64 - self.members.len().clamp(1, 64));
        let (usual, spill) = (writable & !self.spill, writable & self.spill);
        match usual {
            0 => Targets { first: spill, then: 0, degraded: true },
            _ => Targets { first: usual, then: spill, degraded: usual != all & !self.spill },
        }
    }
}
