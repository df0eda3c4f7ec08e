//! NVMe controller bring-up, queues, PRP and SGL building, deadlines and recovery.
//!
//! [`Controller::open`] takes a PCI function through the bring-up sequence and creates I/O queue
//! pairs; [`Controller::submit`] moves blocks. Every command has a deadline. One that misses it is
//! aborted; if that does not end it the controller is reset, and then every command in flight ends
//! with an error, each exactly once. Memory is lent to a command until the device can no longer
//! touch it; where the device cannot be stopped, the memory is leaked and counted rather than freed.
//!
//! Nothing here runs by itself: completions, deadlines and events are looked at by whoever polls or
//! waits for a [`Pending`].

mod admin;
mod bounce;
mod bring_up;
mod cmb;
mod controller;
mod counters;
mod device;
mod error;
mod events;
mod identify;
mod inflight;
mod lent;
mod namespace;
mod options;
mod pair;
mod pending;
mod pointer;
mod queue_memory;
mod recovery;
mod request;
mod ring;
mod shadow;
mod shutdown;
mod split;
mod submit;
#[cfg(test)]
mod test_device;
mod vector;

pub use controller::Controller;
pub use counters::CounterValues;
pub use error::{ErrorKind, NvmeError};
pub use events::Health;
pub use lent::LentQueuePair;
pub use namespace::Namespace;
pub use options::{Cmb, Completion, Options, PointerChoice, ShadowDoorbells, WriteCache};
pub use pending::Pending;
pub use queue_memory::QueueMemory;
pub use request::{BlockRange, IoOp, IoRequest};
pub use ring::{CompletionRing, SubmissionRing};
