//! Moving blocks between a drive and GPU memory, in the order of a GPU's stream.
//!
//! A [`DeviceEngine`] belongs to one drive and one GPU. [`DeviceEngine::start`] places transfers in a
//! stream: they begin when the work before them in the stream has ended, and work that is given to the stream after
//! [`DeviceTicket::settle`] sees what they have read. Where drives reach the GPU's memory nobody waits for that but
//! who asks the [`DeviceTicket`]. Where the GPU itself has to copy, nothing else can be in order with it: a stream
//! that waits for the host must not wait for what needs the GPU ([`gcos_cuda::Gate`]).

mod attached;
mod chunks;
mod cufile;
mod file;
mod host_driven;
mod mover;
mod path;
mod staged;
mod transfer;

pub use attached::Attached;
pub use file::{CuFileUse, FileDeviceOptions, file_device};
pub use gcos_cuda::ops;
pub use gcos_cuda::{
    DeviceBuffer, DeviceMemory, DeviceSlice, Event, ForeignMemory, Gpu, GpuError, GpuRange,
    Kernels, MemoryOptions, Pinned, PinnedSlice, Rung, Stream,
};
pub use host_driven::HostDriven;
pub use path::{DevicePath, Doorbell, Driver};
pub use transfer::DeviceTransfer;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::IoError;

/// A way to move blocks between one drive and the memory of one GPU.
pub trait DeviceEngine: Send + Sync + fmt::Debug {
    /// The GPU.
    fn gpu(&self) -> &Arc<Gpu>;

    /// Where memory comes from that both the GPU and the drive reach.
    fn memory(&self) -> &Arc<DeviceMemory>;

    /// Who drives the queues, and where everything lies: as it is now.
    fn path(&self) -> DevicePath;

    /// Places transfers in a stream: they begin when the work before them in the stream has ended; work that is
    /// given to the stream once they are settled ([`DeviceTicket::settle`]) begins when they have ended, well or
    /// not. They go in any order among themselves. Never waits for the stream; waits only while all queues are
    /// taken by other streams, and then no longer than `deadline`.
    ///
    /// `deadline` is the time for the transfers from their beginning. The work before them has as much time
    /// again, from now: if it has not ended then, or has failed, they are given up.
    ///
    /// # Errors
    /// [`IoError`] when a transfer does not fit the drive or the GPU, or the drive is gone. Nothing was
    /// started then.
    fn start(
        &self,
        stream: &Stream,
        transfers: Vec<DeviceTransfer>,
        deadline: Duration,
    ) -> Result<Box<dyn DeviceTicket>, IoError>;

    /// Takes no more transfers and waits for those under way, within `deadline`. Idempotent.
    ///
    /// # Errors
    /// [`IoError`] when they did not end in time; their memory stays lent.
    fn shutdown(&self, deadline: Duration) -> Result<(), IoError>;
}

/// Claim to the results of transfers. Dropping it does not stop them; memory stays lent until they have
/// ended.
pub trait DeviceTicket: Send + fmt::Debug {
    /// From its return on, work given to the stream comes behind the transfers. It returns at once where the stream
    /// waits for them by itself. Where the GPU has to copy for them, it waits until they have ended, as
    /// [`DeviceTicket::wait`] does, and leaves the results where they are: call it when all that is to be under way
    /// at the same time was started.
    fn settle(&mut self) {}

    /// One result for each transfer, in order, once all have ended; `None` while they run, and after the
    /// results were taken. The drive touches the memory no more then. May be called in a loop; does not
    /// wait, except to recover the drive from transfers that did not end.
    fn poll(&mut self) -> Option<Vec<Result<(), IoError>>>;

    /// Waits until all transfers have ended: at the latest after twice the deadline given to
    /// [`DeviceEngine::start`] and the time for recovering the drive.
    fn wait(self: Box<Self>) -> Vec<Result<(), IoError>>;
}
