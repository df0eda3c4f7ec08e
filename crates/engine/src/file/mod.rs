//! Block devices and files through the kernel: io_uring where it lets, else preadv2 and pwritev2 by
//! threads.
//!
//! What differs from a drive with queues of our own: the kernel cannot be told to let go. A request whose
//! deadline has passed is given up, but its memory stays lent until the kernel is done, and until then
//! nothing else is written. And an fsync that failed once is never believed again (`trust.rs`).

mod bounce;
mod carriers;
mod engine;
mod error;
mod options;
mod plan;
mod ticket;
mod trust;
mod words;

pub use carriers::{Carriers, KernelCarriers};
pub use engine::FileEngine;
pub use error::FileEngineError;
pub use options::{FileOptions, KernelPath};
