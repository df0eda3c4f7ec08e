//! One PCI function as the driver sees it: registers, DMA memory and interrupts.
//!
//! Everything above this crate talks to a controller through [`Function`] and moves bytes through
//! [`DmaSpace`]; whether a software controller or a real drive is behind them does not show.
//! Memory that a device may touch is never handed out as a Rust reference while it may do so: see
//! [`SharedMemory`] and [`DmaBuffer`].

mod allocate;
mod dma;
mod doorbells;
mod error;
mod event;
mod file;
mod function;
pub mod kernel;
mod lines;
mod lock;
mod memory;
mod order;
pub mod pci;
pub mod vfio;

pub use allocate::allocate;
pub use dma::{DmaBuffer, DmaMapper, DmaSlice, DmaSpace, Holder};
pub use doorbells::{DoorbellHolder, DoorbellMemory, Doorbells};
pub use error::{HwError, OutOfBounds};
pub use event::EventFd;
pub use file::{FileIo, MemoryRange, open_at_once};
pub use function::{Function, Intercept, relax_spinning};
pub use lines::LineLoads;
pub use lock::{Sharing, lock};
pub use memory::SharedMemory;
pub use order::order_stores;

/// Host page size that DMA mappings are aligned to, in bytes.
///
/// NVMe's memory page size (CC.MPS = 0) and the IOMMU's smallest page are both 4 KiB on every
/// platform that GCOS supports.
pub const PAGE_BYTES: usize = 4096;
