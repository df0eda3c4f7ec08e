//! cuFile: NVIDIA's library that moves bytes between files and GPU memory.
//!
//! `libcufile` is loaded when it is asked for ([`CuFile::open`]) and never linked. Where the kernel module
//! nvidia-fs is loaded, drives write into the GPU's memory themselves; without, the library works all the same,
//! in its compatibility mode: it reads and writes the file with the processor and copies
//! ([`CuFileMode`] tells which).
//!
//! Calls here block for as long as the kernel takes: they cannot be given up. Whoever needs a deadline makes
//! them on a thread of his own.

mod abi;
mod batch;
mod buffer;
mod code;
mod driver;
mod error;
mod handle;
mod library;
mod stream;
mod udev;

pub use batch::{Batch, BatchDone, BatchOp};
pub use buffer::{BufferBudget, RegisteredBuffer};
pub use code::CuFileCode;
pub use driver::{CuFile, CuFileMode, DriverProperties};
pub use error::CuFileError;
pub use handle::CuFileHandle;
pub use library::{LIBRARY_VARIABLE, places};
pub use stream::{AsyncIo, CuFileStream};
pub use udev::UdevGap;
