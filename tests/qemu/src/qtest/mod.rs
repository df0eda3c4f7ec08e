//! QEMU's NVMe controllers without a guest: this process plays the processor.
//!
//! QEMU's `qtest` protocol reads and writes the machine's ports and memory over a socket. The machine's
//! RAM is a file that this process maps, so DMA buffers are plain memory on both sides. The machine's
//! own processor halts at its first instruction.

mod function;
mod interrupts;
mod link;
mod pci;
mod ram;

pub use function::QtestFunction;
pub use link::Link;

pub(crate) use interrupts::Interrupts;
pub(crate) use link::locked;
pub(crate) use pci::bring_up;
pub(crate) use ram::{RAM_BYTES, Ram};
