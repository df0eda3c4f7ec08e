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

/// One copy of each request's bytes, from or to random places of `span` bytes, and with `checksum` one
/// CRC-32C pass over them.
pub(super) fn memory(
    load: Load,
    direction: Direction,
    checksum: bool,
    span: u64,
    time: Duration,
) -> Result<Moved, Failure> {
    let share = (span as usize / load.threads).max(load.size);
    let state = |_| (vec![0x11u8; share], vec![0x22u8; load.size * load.depth]);
    on_threads((0..load.threads).map(state).collect(), |index, (mut medium, mut buffer)| {
        let mut offset = offsets(index as u64, share as u64, load.size);
        let (mut count, mut slot) = (0u64, 0usize);
        let start = Instant::now();
        while start.elapsed() < time {
            let at = offset() as usize;
            let from = slot * load.size;
            slot = (slot + 1) % load.depth;
            let (Some(place), Some(mine)) =
                (medium.get_mut(at..at + load.size), buffer.get_mut(from..from + load.size))
            else {
                break;
            };
            match direction {
                Direction::Read => mine.copy_from_slice(place),
                Direction::Write => place.copy_from_slice(mine),
            }
            if checksum {
                black_box(crc32c(mine));
            }
            black_box(&mine);
            count += 1;
        }
        Ok((count, count * load.size as u64))
    })
}

/// Plain direct I/O on a file of its own: one thread for each request in flight.
pub(super) fn file(
    path: &Path,
    load: Load,
    direction: Direction,
    span: u64,
    time: Duration,
) -> Result<Moved, Failure> {
    let fail = |error: std::io::Error| Failure::file("measure with", path, &error);
    let file = FileIo::open(path, true).map_err(fail)?;
    let mut memories = Vec::new();
    for _ in 0..load.threads * load.depth {
        let memory = SharedMemory::anonymous(load.size)?;
        memory.fill(0, load.size, 0x5a)?;
        memories.push(Arc::new(memory));
    }
    on_threads(memories, |index, memory| {
        let range = [MemoryRange { memory, offset: 0, len: load.size }];
        let mut offset = offsets(index as u64, span, load.size);
        let start = Instant::now();
        let mut count = 0u64;
        while start.elapsed() < time {
            let moved = match direction {
                Direction::Read => file.read_at(&range, offset()),
                Direction::Write => file.write_at(&range, offset()),
            };
            moved.map_err(fail)?;
            count += 1;
        }
        Ok((count, count * load.size as u64))
    })
}
