//! One trait over the ways to move blocks between drives and memory.
//!
//! A [`Request`] names media extents and memory segments; an [`Engine`] carries it out, many at a
//! time, each within its deadline. The store above does not see whether NVMe queues driven by the
//! host, by a GPU, or a file are behind it.

mod counted;
mod demote;
pub mod device;
mod ended;
mod error;
pub mod file;
pub mod fileio;
mod gpu;
mod host;
mod noop;
mod request;

pub use counted::CountedEngine;
pub use demote::{DemotingEngine, DemotionReason, DemotionRules, Demotions};
pub use ended::Ended;
pub use error::{IoError, IoErrorKind};
pub use file::{FileEngine, FileEngineError, FileOptions, KernelPath};
pub use gpu::{
    DoorbellChoice, GpuEngineError, GpuQueueEngine, GpuQueueOptions, GpuStats, QueuePlace,
};
pub use host::{HostQueueEngine, HostQueueOptions};
pub use noop::NoopEngine;
pub use request::{Extent, Op, Request, RequestError};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use gcos_cuda::Gpu;
use gcos_hw::DmaSpace;

use crate::device::DeviceEngine;

/// What a drive is, as far as the layers above need to know. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    /// What to call the drive in messages: its PCI address or path.
    pub name: String,
    /// Serial number as the controller reports it, trimmed.
    pub serial: String,
    /// Model number as the controller reports it, trimmed.
    pub model: String,
    /// Usable capacity in bytes, a multiple of `lba_bytes`.
    pub capacity: u64,
    /// Logical block size: 512 or 4096.
    pub lba_bytes: u32,
    /// Largest transfer that one command of the drive moves, in bytes; larger requests are split by
    /// the engine.
    pub max_transfer: usize,
    /// Whether completed writes may be lost on power failure until a flush (a volatile write cache
    /// is present and enabled). Without one, [`Op::Flush`] costs nothing and FUA is implied.
    pub volatile_cache: bool,
    /// Whether [`Op::Deallocate`] does anything.
    pub deallocate: bool,
}

/// What moves the blocks of a drive now, for whoever wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// "NVMe driver", "io_uring", "POSIX", "cuFile" and the like.
    pub name: &'static str,
    /// Why not a better one, in words; "" on the best that there is for the drive.
    pub reason: String,
}

/// Reads, writes and deallocations that the host has asked for and that have not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// How many.
    pub requests: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Claim to the result of a submitted request. Dropping it does not stop the I/O; memory stays lent
/// until the I/O ends.
pub trait Ticket: Send + fmt::Debug {
    /// The result if the request has ended, `None` while it runs. Makes progress on completions, so
    /// it may be called in a loop.
    fn poll(&mut self) -> Option<Result<(), IoError>>;

    /// Whether the thread that submitted the request is unparked when [`Ticket::poll`] has something new to find;
    /// deadlines excepted.
    fn wakes(&self) -> bool {
        false
    }

    /// Waits until the request has ended. Returns at the latest when the request's deadline and the
    /// time for recovering the device (abort, then reset) are over, both twice where the request is
    /// carried out once more; the device then no longer touches the request's memory.
    ///
    /// # Errors
    /// Why the request failed. A failed write may have changed any part of its extents.
    fn wait(self: Box<Self>) -> Result<(), IoError>;
}

/// A way to move blocks between one drive and memory.
pub trait Engine: Send + Sync + fmt::Debug {
    /// The drive behind.
    fn geometry(&self) -> &Geometry;

    /// What moves the blocks now, and why.
    fn way(&self) -> Way {
        Way { name: "other", reason: String::new() }
    }

    /// The address space whose buffers this engine reaches. Segments of a request must come from it.
    /// Drives of one pool share one space.
    fn dma(&self) -> &Arc<DmaSpace>;

    /// Starts a request. Blocks only while the drive's queues are full, and then no longer than the
    /// request's deadline. Requests may complete in any order.
    ///
    /// # Errors
    /// [`IoError`] when the request does not fit the drive or the drive is gone; nothing was started
    /// then.
    fn submit(&self, request: Request) -> Result<Box<dyn Ticket>, IoError>;

    /// Submits and waits.
    ///
    /// # Errors
    /// As [`Engine::submit`] and [`Ticket::wait`].
    fn run(&self, request: Request) -> Result<(), IoError> {
        self.submit(request)?.wait()
    }

    /// The way to move blocks between this drive and the memory of `gpu`, in the order of its streams;
    /// `None` where none was opened for that GPU.
    fn device(&self, gpu: &Arc<Gpu>) -> Option<Arc<dyn DeviceEngine>> {
        let _ = gpu;
        None
    }

    /// What the host has under way, if this is a [`CountedEngine`] or has one inside that it asks; else none.
    fn under_way(&self) -> UnderWay {
        UnderWay::default()
    }

    /// How often and why this engine has left a way that was not well for another one.
    fn demotions(&self) -> Demotions {
        Demotions::default()
    }

    /// Goes back to the first way, if that is well: nothing else does. Whoever returns `Ok` has kept what was
    /// completed before, or says so at the next flush.
    ///
    /// # Errors
    /// [`IoError`] when it is not well, or when it is not known whether everything that was completed is
    /// durable: the drive must be opened again then. An engine with one way that it never leaves has nothing
    /// to go back to, and says [`IoErrorKind::Invalid`].
    fn promote(&self, deadline: Duration) -> Result<(), IoError> {
        let _ = deadline;
        let (name, detail) = (&self.geometry().name, "it has one way; open the drive again");
        Err(IoError::about(name, IoErrorKind::Invalid, "promote", detail))
    }

    /// Ends use of the drive in order: later requests fail, cached writes are made durable and the
    /// controller is shut down, within `deadline`. Idempotent.
    ///
    /// # Errors
    /// [`IoError`] when the drive did not confirm in time.
    fn shutdown(&self, deadline: Duration) -> Result<(), IoError>;
}
