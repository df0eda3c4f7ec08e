//! Block devices and plain files, through the kernel.
//!
//! A [`Target`] is one of them, open and owned by this process alone. A [`Carrier`] takes [`Job`]s on it to
//! the kernel: [`Ring`] by an io_uring, [`Pool`] by threads with preadv2 and pwritev2. Memory of a job
//! stays lent until the kernel is done with it, whatever becomes of whoever asked.

mod carrier;
mod cursor;
mod error;
mod file_system;
mod host;
mod job;
mod lead;
mod owner;
mod pool;
mod ring;
mod standing;
mod sysfs;
mod target;

pub use carrier::Carrier;
pub use error::KernelError;
pub use host::host_space;
pub use job::{Batch, Job, JobOp, Observer};
pub use pool::{Pool, PoolOptions};
pub use ring::{Ring, RingOptions};
pub use standing::Standing;
pub use target::{Direct, Target, TargetOptions};
