//! Every byte that a device, a kernel or the disk sees.
//!
//! [`nvme`] holds the structures of the NVM Express specifications, [`media`] those of the pool
//! format that `docs/format.md` describes byte by byte, [`gpu`] those that the
//! host shares with the kernels. No I/O happens here and nothing is unsafe.

pub mod checksum;
pub mod gpu;
pub mod media;
pub mod nvme;
