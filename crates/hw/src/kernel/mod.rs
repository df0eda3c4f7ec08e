//! Block devices and plain files, through the kernel.
//!
//! A [`Target`] is one of them, open and owned by this process alone.

mod error;
mod host;
mod target;

pub use error::KernelError;
pub use host::host_space;
pub use target::{Direct, Target, TargetOptions};
