//! What the folder's file system does with the same sizes and nothing in between.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos::hw::{FileIo, MemoryRange, SharedMemory};

use super::shape;
use crate::failure::Failure;

/// Time of writing (each object durable before the next) and of reading `objects` objects.
#[derive(Debug)]
pub(super) struct Ceiling {
    pub(super) write: Duration,
    pub(super) read: Duration,
    /// Whether the page cache was out of the way.
    pub(super) direct: bool,
}

/// Measures with a file of its own in `folder`, which is removed again.
pub(super) fn measure(folder: &Path, objects: u64) -> Result<Ceiling, Failure> {
    let path = folder.join("ceiling.bin");
    let fail = |error: std::io::Error| Failure::file("measure with", &path, &error);
    OpenOptions::new().write(true).create_new(true).open(&path).map_err(fail)?;
    let measured = FileIo::open(&path, true).and_then(|file| {
        let memory = SharedMemory::anonymous(shape::OBJECT_BYTES).map_err(std::io::Error::other)?;
        transfer(&file, memory, objects)
    });
    let removed = std::fs::remove_file(&path);
    let ceiling = measured.map_err(fail)?;
    removed.map_err(fail)?;
    Ok(ceiling)
}

fn transfer(file: &FileIo, memory: SharedMemory, objects: u64) -> std::io::Result<Ceiling> {
    memory.fill(0, memory.len(), 0xa5).map_err(std::io::Error::other)?;
    let len = shape::OBJECT_BYTES;
    // As in a pool, the file has its size before anything is written to it.
    file.file().set_len(objects * len as u64)?;
    let range = [MemoryRange { memory: Arc::new(memory), offset: 0, len }];
    let start = Instant::now();
    for object in 0..objects {
        file.write_at(&range, object * len as u64)?;
        file.sync()?;
    }
    let write = start.elapsed();
    let start = Instant::now();
    for object in 0..objects {
        file.read_at(&range, object * len as u64)?;
    }
    Ok(Ceiling { write, read: start.elapsed(), direct: file.is_direct() })
}
