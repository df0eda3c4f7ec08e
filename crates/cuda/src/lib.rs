//! NVIDIA GPUs: memory that a drive can reach, streams, kernels.
//!
//! A drive needs I/O virtual addresses for GPU memory, and the kernel maps what has a mapping in this
//! process. [`VramWindow`] makes one without a kernel module: memory of CUDA's virtual memory management
//! is exported as a file descriptor, imported into Vulkan, and mapped there for the CPU. The mapping is of
//! the GPU's BAR, and goes to [`gcos_hw::DmaSpace::adopt`] like any other peer's. [`DeviceMemory`] allocates
//! from a few such windows, or from the next best where there are none ([`Rung`]).
//!
//! Work is given to a [`Stream`] and never awaited by a blocking call: streams and events are asked, with
//! a deadline. What work in a stream uses is kept alive until the stream has passed it.
//!
//! With the feature `played` there is a GPU that host threads play (`Gpu::played`): the same interface,
//! kernels included, where there is no GPU.
//!
//! No library of NVIDIA is linked: the CUDA driver and the Vulkan loader are looked for at run time.

mod bounce;
mod context;
pub mod cufile;
mod error;
mod event;
mod foreign;
mod gate;
mod gdr;
mod gpu;
mod kept;
mod kernels;
mod memory;
pub mod ops;
mod pinned;
#[cfg(feature = "played")]
mod played;
mod poll;
mod range;
mod stream;
mod unmapped;
mod vmm;
mod vulkan;
mod window;

pub use error::{CudaCall, GpuError};
pub use event::Event;
pub use foreign::ForeignMemory;
pub use gate::Gate;
pub use gpu::{Gpu, MemoryInfo, gpus};
pub use kernels::{
    BuiltKernel, KernelAttributes, Kernels, LaunchShape, built_kernels, kernel_compiler,
};
pub use memory::{
    DeviceBuffer, DeviceMemory, DeviceSlice, MemoryOptions, MemoryStats, Probe, Refusal, Rung,
};
pub use pinned::{Pinned, PinnedSlice};
#[cfg(feature = "played")]
pub use played::{CuFileCount, CuFileFault, PlayedCuFile, PlayedOptions, PlayedStall};
pub use range::{GpuRange, Hold};
pub use stream::Stream;
pub use unmapped::UnmappedMemory;
pub use window::VramWindow;
