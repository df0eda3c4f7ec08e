//! The engine over block devices and files: one suite for every way to the kernel, and faults between it
//! and the kernel.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a step that fails fails its test; what was not tested is said"
)]

mod blocks;
mod faults;
mod frozen;
mod rig;
