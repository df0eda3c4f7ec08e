//! Block devices and files through the kernel.

mod engine;
mod error;
mod options;

pub use engine::FileEngine;
pub use error::FileEngineError;
pub use options::{FileOptions, KernelPath};
