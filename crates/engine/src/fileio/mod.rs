//! Files and GPU memory of anybody: a path, an address, a size, an offset, a stream.
//!
//! This is beside the store: no pool, no drive of GCOS, ordinary files. cuFile moves the bytes where it works,
//! else they go through pinned host memory, each transfer for itself; the result says which it was.

mod error;
mod gds;
mod open;
mod staging;

use std::path::Path;
use std::sync::{Arc, LazyLock};

use gcos_cuda::{Gpu, Stream};
use parking_lot::Mutex;

pub use error::FileIoError;
pub use gds::{GdsFileIo, GdsOptions, StorageMode, Transferred};

/// One for each GPU of the process, made when it is first asked for.
static SHARED: LazyLock<Mutex<Vec<Arc<GdsFileIo>>>> = LazyLock::new(Mutex::default);

fn shared(gpu: &Arc<Gpu>) -> Arc<GdsFileIo> {
    let mut shared = SHARED.lock();
    if let Some(found) = shared.iter().find(|io| io.gpu().same(gpu)) {
        return Arc::clone(found);
    }
    let made = Arc::new(GdsFileIo::new(gpu, GdsOptions::default()));
    shared.push(Arc::clone(&made));
    made
}

/// Writes `size` bytes of GPU memory at `address` to a file, which is made if it does not exist, after the work
/// before it in the stream. Returns when they are written. As [`GdsFileIo::write_to_file`], with the defaults.
///
/// # Errors
/// As there.
pub fn gpu_file_write(
    gpu: &Arc<Gpu>,
    path: &Path,
    address: u64,
    size: usize,
    offset: u64,
    stream: &Stream,
) -> Result<Transferred, FileIoError> {
    shared(gpu).write_to_file(path, address, size, offset, stream, None)
}

/// Reads `size` bytes of a file to GPU memory at `address`, after the work before it in the stream. Returns when
/// they are there. As [`GdsFileIo::read_file`], with the defaults.
///
/// # Errors
/// As there.
pub fn gpu_file_read(
    gpu: &Arc<Gpu>,
    path: &Path,
    address: u64,
    size: usize,
    offset: u64,
    stream: &Stream,
) -> Result<Transferred, FileIoError> {
    shared(gpu).read_file(path, address, size, offset, stream, None)
}
