//! NVIDIA GPU memory that a drive can reach, without a kernel module.
//!
//! A drive needs I/O virtual addresses for GPU memory, and the kernel maps what has a mapping in this
//! process. [`VramWindow`] makes one: memory of CUDA's virtual memory management is exported as a file
//! descriptor, imported into Vulkan, and mapped there for the CPU. The mapping is of the GPU's BAR, and
//! goes to [`gcos_hw::DmaSpace::adopt`] like any other peer's.
//!
//! No library of NVIDIA is linked: the CUDA driver and the Vulkan loader are looked for at run time.

mod error;
mod gpu;
mod vmm;
mod vulkan;
mod window;

pub use error::{CudaCall, GpuError};
pub use gpu::{Gpu, gpus};
pub use window::VramWindow;
