use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use smallvec::SmallVec;

use crate::DmaSlice;

/// What the kernel is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobOp {
    /// Target to memory.
    Read,
    /// Memory to target.
    Write {
        /// Durable when it has ended (`RWF_DSYNC`).
        durable: bool,
    },
    /// Completed writes become durable (`fdatasync`).
    Sync,
    /// The range is no longer needed.
    Discard,
}

/// One contiguous range of a target: the unit that is handed to the kernel.
#[derive(Debug)]
pub struct Job {
    /// What to do.
    pub op: JobOp,
    /// First byte on the target.
    pub offset: u64,
    /// Number of bytes; for reads and writes that of `memory`.
    pub len: u64,
    /// Where in memory, in order. Held until the kernel is done with it.
    pub memory: SmallVec<[DmaSlice; 2]>,
    /// What it is a part of.
    pub batch: Arc<Batch>,
}

/// Who wants to know how jobs of a batch end, also after whoever waited has given up.
pub trait Observer: Send + Sync + fmt::Debug {
    /// A job has ended, with this error. Called before its batch shows it, by whichever thread found out;
    /// it must not wait.
    fn failed(&self, op: JobOp, error: &io::Error);
}

/// A place to wait at, for any number of threads, with calls to come and look.
#[derive(Debug, Default)]
pub(super) struct Spot {
    calls: Mutex<u64>,
    changed: Condvar,
}

impl Spot {
    /// Ends the waits of all who have asked for [`Spot::seen`] before.
    pub(super) fn call(&self) {
        *self.calls.lock() += 1;
        self.changed.notify_all();
    }

    /// What to give to [`Spot::wait`]; to be asked for before looking whether there is reason to wait.
    pub(super) fn seen(&self) -> u64 {
        *self.calls.lock()
    }

    /// Waits for a call after `seen`, `until` at most.
    pub(super) fn wait(&self, seen: u64, until: Instant) {
        let mut calls = self.calls.lock();
        while *calls == seen {
            if self.changed.wait_until(&mut calls, until).timed_out() {
                break;
            }
        }
    }
}

/// Jobs that are waited for together.
#[derive(Debug)]
pub struct Batch {
    left: AtomicUsize,
    cancelled: AtomicBool,
    error: Mutex<Option<io::Error>>,
    observer: Option<Arc<dyn Observer>>,
    spot: Arc<Spot>,
}

impl Batch {
    /// A batch of `jobs` jobs.
    #[must_use]
    pub fn new(jobs: usize, observer: Option<Arc<dyn Observer>>) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicUsize::new(jobs),
            cancelled: AtomicBool::new(false),
            error: Mutex::new(None),
            observer,
            spot: Arc::default(),
        })
    }

    /// Ends one job. The first error is kept.
    pub fn end(&self, op: JobOp, result: io::Result<()>) {
        if let (Err(error), Some(observer)) = (&result, &self.observer) {
            observer.failed(op, error);
        }
        self.count(result);
    }

    /// Ends one job that the kernel never got: the observer, to whom the kernel's word matters, is not told.
    pub fn refuse(&self, error: io::Error) {
        self.count(Err(error));
    }

    fn count(&self, result: io::Result<()>) {
        if let Err(error) = result {
            self.error.lock().get_or_insert(error);
        }
        // Whoever sees 0 sees what was read, and the error.
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.spot.call();
        }
    }

    /// Whether all jobs have ended: the kernel holds none of their memory any more.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }

    /// The first error, once.
    #[must_use]
    pub fn take_error(&self) -> Option<io::Error> {
        self.error.lock().take()
    }

    /// From now on jobs that the kernel gives back unfinished are not handed to it again.
    pub(super) fn give_up(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    pub(super) fn spot(&self) -> &Arc<Spot> {
        &self.spot
    }
}
