//! GPU memory that drives reach: few large windows, from which parts are given out.

mod free;
mod pool;
mod rung;
mod slice;

pub use pool::{DeviceMemory, MemoryOptions, MemoryStats};
pub use rung::{Probe, Refusal, Rung};
pub use slice::{DeviceBuffer, DeviceSlice};
