//! What the machine does without GCOS: the same bytes, the same sizes, the same concurrency.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos::hw::{FileIo, MemoryRange, SharedMemory};
use gcos::layout::checksum::crc32c;

use super::engine::{Direction, Moved, offsets, on_threads};
use super::plan::Load;
use crate::failure::Failure;

/// The medium of a ceiling, made once for the run, with the memory of one load.
#[derive(Debug)]
pub(super) struct Ceiling {
    span: u64,
    load: Load,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Copies; one buffer for each thread.
    Memory { medium: Vec<u8>, buffers: Vec<Vec<u8>> },
    /// Plain direct I/O; one memory, and one thread, for each request in flight.
    File { file: FileIo, memories: Vec<Arc<SharedMemory>> },
}

impl Ceiling {
    /// The ceiling of memory: `span` bytes that are copied from and to.
    pub(super) fn memory(span: u64, load: Load) -> Self {
        let medium = vec![0x11u8; span as usize];
        Self { span, load, kind: Kind::Memory { medium, buffers: Vec::new() } }
    }

    /// The ceiling of a file: the first `span` bytes of one that is there.
    pub(super) fn file(path: &Path, span: u64, load: Load) -> Result<Self, Failure> {
        let file = FileIo::open(path, true)
            .map_err(|error| Failure::file("measure with", path, &error))?;
        Ok(Self { span, load, kind: Kind::File { file, memories: Vec::new() } })
    }

    /// What it is, in words. Only objects have checksums.
    pub(super) fn name(&self, object: bool, direction: Direction) -> &'static str {
        match &self.kind {
            Kind::File { file, .. } if direction == Direction::DurableWrite => {
                if file.is_direct() {
                    "direct I/O + fdatasync"
                } else {
                    "buffered I/O + fdatasync"
                }
            }
            Kind::Memory { .. } if object => "memcpy + crc32c",
            Kind::Memory { .. } => "memcpy",
            Kind::File { file, .. } if file.is_direct() => "direct I/O",
            Kind::File { .. } => "buffered I/O",
        }
    }

    /// Makes the memory of a load, so that no figure holds first touches of it.
    pub(super) fn prepare(&mut self, load: Load) -> Result<(), Failure> {
        self.load = load;
        match &mut self.kind {
            Kind::Memory { medium, buffers } => {
                // Every thread has a part of its own, of one request at least.
                medium.resize(medium.len().max(load.size * load.threads), 0x11);
                buffers.clear();
                buffers.resize_with(load.threads, || vec![0x22u8; load.size * load.depth]);
            }
            Kind::File { memories, .. } => {
                memories.clear();
                for _ in 0..load.threads * load.depth {
                    let memory = SharedMemory::anonymous(load.size)?;
                    memory.fill(0, load.size, 0x5a)?;
                    memories.push(Arc::new(memory));
                }
            }
        }
        Ok(())
    }

    /// One measurement of the load that was prepared.
    pub(super) fn run(
        &mut self,
        direction: Direction,
        object: bool,
        time: Duration,
    ) -> Result<Moved, Failure> {
        let Self { span, load, kind } = self;
        let (span, load) = (*span, *load);
        match kind {
            Kind::Memory { medium, buffers } => {
                let share = medium.len() / load.threads;
                let states = medium.chunks_exact_mut(share).zip(buffers).collect();
                on_threads(states, |index, (medium, buffer)| {
                    let offset = offsets(index as u64, share as u64, load.size);
                    Ok(copy(medium, buffer, load, direction, object, offset, time))
                })
            }
            Kind::File { file, memories } => on_threads(memories.clone(), |index, memory| {
                let offset = offsets(index as u64, span, load.size);
                transfer(file, memory, load.size, direction, offset, time)
            }),
        }
    }
}

/// One copy of each request's bytes, from or to random places, and with `checksum` one CRC-32C pass
/// over them.
fn copy(
    medium: &mut [u8],
    buffer: &mut [u8],
    load: Load,
    direction: Direction,
    checksum: bool,
    mut offset: impl FnMut() -> u64,
    time: Duration,
) -> (u64, u64) {
    let (mut count, mut slot) = (0u64, 0usize);
    let start = Instant::now();
    while start.elapsed() < time {
        let (at, from) = (offset() as usize, slot * load.size);
        slot = (slot + 1) % load.depth;
        let (Some(place), Some(mine)) =
            (medium.get_mut(at..at + load.size), buffer.get_mut(from..from + load.size))
        else {
            break;
        };
        match direction {
            Direction::Read => mine.copy_from_slice(place),
            Direction::Write | Direction::DurableWrite => place.copy_from_slice(mine),
        }
        if checksum {
            black_box(crc32c(mine));
        }
        black_box(&mine);
        count += 1;
    }
    (count, count * load.size as u64)
}

fn transfer(
    file: &FileIo,
    memory: Arc<SharedMemory>,
    size: usize,
    direction: Direction,
    mut offset: impl FnMut() -> u64,
    time: Duration,
) -> Result<(u64, u64), Failure> {
    let range = [MemoryRange { memory, offset: 0, len: size }];
    let start = Instant::now();
    let mut count = 0u64;
    while start.elapsed() < time {
        let moved = match direction {
            Direction::Read => file.read_at(&range, offset()),
            Direction::Write => file.write_at(&range, offset()),
            Direction::DurableWrite => file.write_at(&range, offset()).and_then(|()| file.sync()),
        };
        moved.map_err(|error| Failure::new("io", format!("the ceiling's file: {error}")))?;
        count += 1;
    }
    Ok((count, count * size as u64))
}
