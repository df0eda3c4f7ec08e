//! The driver and the store against QEMU's NVMe controller, over qtest: another implementation of the
//! specification than our own, in as many shapes as it offers.
#![cfg(feature = "qemu")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faults;
mod life;
mod pools;
mod refusals;
mod rig;
mod suites;
