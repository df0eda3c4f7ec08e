//! Objects in GPU memory: gets and puts in the order of a GPU's stream, and objects layer by layer.
//!
//! The GPU moves payloads and computes checksums; the host looks keys up, compares checksums with headers,
//! and makes puts durable. Where the GPU's path fails, the host does the same by itself.

mod context;
mod gets;
mod held;
mod launch;
mod layers;
mod memory;
mod plan;
mod put;
mod reaper;
mod spans;

pub(crate) use context::Device;
pub use gets::DeviceGets;
pub use layers::{Layer, LayerPart, LayerSink, Layers};
pub use memory::{DeviceRun, DeviceSegment, DeviceSink, DeviceSource};
pub use put::DevicePut;
pub(crate) use reaper::Reaper;
