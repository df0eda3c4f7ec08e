use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::{Batch, Job};

/// A way for jobs to the kernel and back.
///
/// Any thread may call anything at any time. A job's memory is held until the kernel is done with it;
/// giving up on a job, and dropping the carrier, do not change that.
pub trait Carrier: Send + Sync + fmt::Debug {
    /// Hands a job over; how it ends is told to its batch. Blocks while as many are under way as may be,
    /// but not past `until`. The kernel may learn of it only with [`Carrier::go`].
    ///
    /// # Errors
    /// The job was not handed over, and its batch not told: `ErrorKind::TimedOut` when there was no
    /// room until then, or the system's error.
    fn start(&self, job: Job, until: Instant) -> io::Result<()>;

    /// Sees to it that the kernel knows of all that was handed over: once behind several jobs.
    fn go(&self);

    /// Learns of jobs that have ended, without waiting.
    fn poll(&self);

    /// Waits until the batch is finished, `until` at most: whether it is.
    fn wait(&self, batch: &Arc<Batch>, until: Instant) -> bool;

    /// Asks the kernel to give up what is left of a batch. It ends when the kernel says so, which may
    /// be never.
    fn cancel(&self, batch: &Arc<Batch>);

    /// Waits until nothing is under way, `until` at most: whether nothing is.
    fn drain(&self, until: Instant) -> bool;
}
