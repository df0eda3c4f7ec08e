//! Whether the kernel's word on durability is still worth something.
//!
//! When the kernel cannot write something back it says so once, to whoever asks first, and forgets what
//! it could not write. An fsync that succeeds after one that failed therefore says nothing. So the first
//! failure is remembered, and from then on nothing is acknowledged as durable.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_hw::kernel::{Batch, Carrier, JobOp, Observer, Target};

use super::words;

/// Longest wait before other ways to the same target are asked to look.
pub(super) const SLICE: Duration = Duration::from_millis(5);

/// Keeps the first failure in the target's [`gcos_hw::kernel::Standing`], where every way to it finds it.
#[derive(Debug)]
pub(super) struct Trust {
    target: Arc<Target>,
    /// Through the page cache: a failure is told to one asker alone, so there is one at a time.
    cached: bool,
}

impl Trust {
    pub(super) fn new(target: &Arc<Target>) -> Arc<Self> {
        Arc::new(Self { target: Arc::clone(target), cached: !target.is_direct() })
    }

    /// Lets a batch ask that makes something durable. With the page cache it waits for the one that asks
    /// already, `until` at most: whether it may go on.
    pub(super) fn ask(
        &self,
        batch: &Arc<Batch>,
        carrier: &Arc<dyn Carrier>,
        until: Instant,
    ) -> bool {
        if !self.cached {
            return true;
        }
        let standing = self.target.standing();
        while let Err(other) = standing.ask_alone(batch, carrier) {
            // It may be with another way to the same target, which nobody may use any more.
            standing.look();
            if !carrier.wait(&other, until.min(Instant::now() + SLICE)) && Instant::now() >= until {
                return false;
            }
        }
        true
    }

    /// Whether a failed job says that something that was written before may be lost.
    fn is_doubtful(cached: bool, op: JobOp, error: &io::Error) -> bool {
        let errno = error.raw_os_error();
        match (op, errno) {
            // Given up by us before the kernel began.
            (_, Some(words::ECANCELED)) => false,
            (JobOp::Sync, _) => true,
            // Through the page cache it may be the write-back of others that failed.
            (JobOp::Write { durable: true }, _) if cached => true,
            // Refused before anything was made durable, or its own place could not be had.
            (JobOp::Write { durable: true }, errno) => !errno.is_some_and(words::is_refusal),
            _ => false,
        }
    }
}

impl Observer for Trust {
    fn failed(&self, op: JobOp, error: &io::Error) {
        let doubtful = Self::is_doubtful(self.cached, op, error);
        if doubtful && self.target.standing().distrust(words::of(error)) {
            let path = self.target.path().display();
            tracing::error!(%error, %path, "making writes durable failed: nothing more is acknowledged as durable");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(cached: bool, op: JobOp, errno: i32) -> bool {
        Trust::is_doubtful(cached, op, &io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn a_failed_sync_is_doubtful_and_a_failed_read_is_no_matter() {
        const EIO: i32 = 5;
        const ENOSPC: i32 = 28;
        for cached in [false, true] {
            assert!(after(cached, JobOp::Sync, EIO));
            assert!(after(cached, JobOp::Sync, ENOSPC));
            assert!(after(cached, JobOp::Write { durable: true }, EIO));
            assert_eq!(after(cached, JobOp::Write { durable: true }, ENOSPC), cached);
            assert!(!after(cached, JobOp::Write { durable: false }, EIO));
            assert!(!after(cached, JobOp::Read, EIO));
            assert!(!after(cached, JobOp::Sync, words::ECANCELED));
        }
    }
}
