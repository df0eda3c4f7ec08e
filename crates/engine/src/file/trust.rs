//! Whether the kernel's word on durability is still worth something.
//!
//! When the kernel cannot write something back it says so once, to whoever asks first, and forgets what
//! it could not write. An fsync that succeeds after one that failed therefore says nothing. So the first
//! failure is remembered, and from then on nothing is acknowledged as durable.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use gcos_hw::kernel::{Batch, Carrier, JobOp, Observer};
use parking_lot::Mutex;

use super::words;

/// The first failure, and who may ask.
#[derive(Debug)]
pub(super) struct Trust {
    failed: OnceLock<String>,
    /// Through the page cache: a failure is told to one asker alone, so there is one at a time.
    cached: bool,
    asking: Mutex<Option<Arc<Batch>>>,
}

impl Trust {
    pub(super) fn new(cached: bool) -> Arc<Self> {
        Arc::new(Self { failed: OnceLock::new(), cached, asking: Mutex::new(None) })
    }

    /// In words, why nothing is acknowledged as durable any more.
    pub(super) fn lost(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// Lets a batch ask that makes something durable. With the page cache it waits for the one that asks
    /// already, `until` at most: whether it may go on.
    pub(super) fn ask(&self, batch: &Arc<Batch>, carrier: &dyn Carrier, until: Instant) -> bool {
        if !self.cached {
            return true;
        }
        loop {
            let other = {
                let mut asking = self.asking.lock();
                match asking.as_ref().filter(|other| !other.is_finished()) {
                    None => {
                        *asking = Some(Arc::clone(batch));
                        return true;
                    }
                    Some(other) => Arc::clone(other),
                }
            };
            if !carrier.wait(&other, until) {
                return false;
            }
        }
    }

    /// Whether a failed job says that something that was written before may be lost.
    fn is_doubtful(&self, op: JobOp, error: &io::Error) -> bool {
        let errno = error.raw_os_error();
        match (op, errno) {
            // Given up by us before the kernel began.
            (_, Some(words::ECANCELED)) => false,
            (JobOp::Sync, _) => true,
            // Through the page cache it may be the write-back of others that failed.
            (JobOp::Write { durable: true }, _) if self.cached => true,
            // Refused before anything was made durable, or its own place could not be had.
            (JobOp::Write { durable: true }, errno) => !errno.is_some_and(words::is_refusal),
            _ => false,
        }
    }
}

impl Observer for Trust {
    fn failed(&self, op: JobOp, error: &io::Error) {
        if self.is_doubtful(op, error) && self.failed.set(words::of(error)).is_ok() {
            tracing::error!(%error, "making writes durable failed: nothing more is acknowledged as durable");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(cached: bool, op: JobOp, errno: i32) -> bool {
        let trust = Trust::new(cached);
        trust.failed(op, &io::Error::from_raw_os_error(errno));
        trust.lost().is_some()
    }

    #[test]
    fn a_failed_sync_is_never_forgotten_and_a_failed_read_is_no_matter() {
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
