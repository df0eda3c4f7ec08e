//! NVMe queue pairs in GPU memory, driven by kernels.

mod bell;
mod engine;
mod flight;
mod forward;
mod lane;
mod plan;
mod shared;
mod slate;
mod stats;

pub use bell::DoorbellChoice;
pub use engine::{GpuEngineError, GpuQueueEngine, GpuQueueOptions, QueuePlace};
pub(crate) use flight::after;
pub use stats::GpuStats;
