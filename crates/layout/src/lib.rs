//! Every byte that a device, a kernel or the disk sees.
//!
//! [`nvme`] holds the structures of the NVM Express specifications, [`media`] those of the pool
//! format that `docs/format.md` describes byte by byte. No I/O happens here and nothing is unsafe.

pub mod checksum;
pub mod media;
pub mod nvme;
