//! Drives behind Linux VFIO: the IOMMU on, no kernel module of our own.
//!
//! A [`VfioSpace`] is a VFIO container with the type 1 (v2) IOMMU backend; drives that are bound to
//! `vfio-pci` open in it as [`VfioFunction`]s. See Linux `Documentation/driver-api/vfio.rst`.
//!
//! Memory of a *peer* device, such as a window into GPU memory, becomes reachable through
//! [`crate::DmaSpace::adopt`]. The kernel takes no reference on such memory and is not told when its
//! device goes away, so the order is: quiesce, delete the queues, disable the controller, unmap, and
//! only then let go of the peer. `DmaBuffer` and `DmaSlice` hold the CPU mapping until the I/O mapping
//! has ended; [`PeerBar`] keeps the peer's memory decoding in view.

mod container;
mod cure;
mod device;
mod error;
mod function;
mod group;
mod interrupts;
mod ioctl;
mod iova;
mod peer;
mod removed;
mod space;

pub use container::Mapped;
pub use error::VfioError;
pub use function::VfioFunction;
pub use peer::{PeerBar, PeerError};
pub use space::VfioSpace;
