//! Files and GPU memory of anybody, beside the store.

use std::ffi::{c_char, c_void};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use gcos::Status;
use gcos::cuda::{Gpu, Stream};
use gcos::fileio::{self, StorageMode};
use parking_lot::Mutex;

use crate::args::{Out, text};
use crate::call::{Failure, guard};
use crate::device::check_fork;
use crate::types::{GCOS_MODE_COMPATIBILITY, GCOS_MODE_GDS_DIRECT, GCOS_MODE_STAGING, gcos_status};

/// GPUs that were used.
static GPUS: Mutex<Vec<Arc<Gpu>>> = Mutex::new(Vec::new());

fn gpu(device: i32) -> Result<Arc<Gpu>, Failure> {
    let Ok(ordinal) = usize::try_from(device) else {
        return Err(Failure::invalid("device", "the number of a GPU, from 0", device));
    };
    check_fork()?;
    let mut gpus = GPUS.lock();
    if let Some(gpu) = gpus.iter().find(|gpu| gpu.ordinal() == ordinal) {
        return Ok(Arc::clone(gpu));
    }
    let gpu = Gpu::open(ordinal)?;
    gpus.push(Arc::clone(&gpu));
    Ok(gpu)
}

fn mode(mode: StorageMode) -> i32 {
    match mode {
        StorageMode::GdsDirect => GCOS_MODE_GDS_DIRECT,
        StorageMode::Compatibility => GCOS_MODE_COMPATIBILITY,
        StorageMode::Staging => GCOS_MODE_STAGING,
    }
}

fn failed(path: &Path, source: &std::io::Error) -> Failure {
    use std::io::ErrorKind as Kind;
    let status = match source.kind() {
        Kind::StorageFull | Kind::QuotaExceeded => Status::Full,
        _ => Status::Io,
    };
    Failure::new(status, format!("{} cannot be made: {source}", path.display()))
}

/// Makes a file for its owner alone, with room for size bytes. A file that is there is left as it is: created (may be
/// null) is 0 then, else 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_create_file(
    path: *const c_char,
    size: u64,
    created: *mut i32,
) -> gcos_status {
    guard(|| {
        // SAFETY: as the header asks of callers.
        let (path, created) = unsafe { (text("path", path)?, Out::maybe("created", created)?) };
        let path = Path::new(path);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = match file {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                created.put(0);
                return Ok(());
            }
            Err(error) => return Err(failed(path, &error)),
        };
        let room = match size {
            0 => Ok(()),
            _ => match gcos::hw::allocate(&file, size) {
                Err(error) if error.kind() == std::io::ErrorKind::Unsupported => file.set_len(size),
                other => other,
            },
        };
        if let Err(error) = room {
            let failure = failed(path, &error);
            drop(std::fs::remove_file(path));
            return Err(failure);
        }
        created.put(1);
        Ok(())
    })
}

/// Writes size bytes of a GPU's memory to a file from offset on, after the work that is in the stream (cudaStream_t or
/// CUstream; null is the default stream), and returns when they are written, not when they survive the loss of power. The
/// file is made if it does not exist. Any file, no pool. mode (may be null) gets GCOS_MODE_.... GCOS_FORKED in a child of
/// a process that has used GPUs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_gpu_file_write(
    path: *const c_char,
    device: i32,
    data: *const c_void,
    size: usize,
    offset: u64,
    stream: *mut c_void,
    mode: *mut i32,
) -> gcos_status {
    guard(|| {
        // SAFETY: as the header asks of callers.
        let (path, mode) = unsafe { (text("path", path)?, Out::maybe("mode", mode)?) };
        let gpu = gpu(device)?;
        // SAFETY: as above.
        let stream = unsafe { Stream::borrow(&gpu, stream as usize as u64)? };
        let address = data as usize as u64;
        let path = Path::new(path);
        let done = fileio::gpu_file_write(&gpu, path, address, size, offset, &stream)?;
        mode.put(self::mode(done.mode));
        Ok(())
    })
}

/// Reads size bytes of a file from offset on to a GPU's memory, after the work that is in the stream, and returns when
/// they are there. GCOS_WRONG_SIZE when the file ends before. As gcos_gpu_file_write else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_gpu_file_read(
    path: *const c_char,
    device: i32,
    data: *mut c_void,
    size: usize,
    offset: u64,
    stream: *mut c_void,
    mode: *mut i32,
) -> gcos_status {
    guard(|| {
        // SAFETY: as the header asks of callers.
        let (path, mode) = unsafe { (text("path", path)?, Out::maybe("mode", mode)?) };
        let gpu = gpu(device)?;
        // SAFETY: as above.
        let stream = unsafe { Stream::borrow(&gpu, stream as usize as u64)? };
        let address = data as usize as u64;
        let path = Path::new(path);
        let done = fileio::gpu_file_read(&gpu, path, address, size, offset, &stream)?;
        mode.put(self::mode(done.mode));
        Ok(())
    })
}
