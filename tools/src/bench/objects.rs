//! Puts and gets of objects, some at a time.

use std::time::{Duration, Instant};

use gcos::hw::{DmaBuffer, DmaSlice};
use gcos::{Durability, IfExists, PutOptions, Sink, Source, Store};

use super::engine::{Direction, Moved, on_threads};
use super::plan::Load;
use crate::failure::Failure;

/// Bytes of the objects that touch the medium: whole chunks.
const TOUCH: usize = 8 << 20;

/// Device memory of a load, one buffer for each thread, touched already.
pub(super) fn buffers(store: &Store, load: Load) -> Result<Vec<DmaBuffer>, Failure> {
    let mut buffers = Vec::with_capacity(load.threads);
    for _ in 0..load.threads {
        let mut buffer = store.buffer(load.size * load.depth)?;
        buffer.bytes_mut()?.fill(0x5a);
        buffers.push(buffer);
    }
    Ok(buffers)
}

/// One measurement. Puts replace objects of earlier ones, so that the pool does not fill; gets take
/// what puts of the same load left, so measure puts first.
pub(super) fn run(
    store: &Store,
    buffers: &[DmaBuffer],
    load: Load,
    direction: Direction,
    time: Duration,
) -> Result<Moved, Failure> {
    on_threads(buffers.iter().collect(), |index, buffer| {
        let segments = segments(buffer, load)?;
        let keys: Vec<_> = (0..load.depth).map(|slot| key(load, index, slot)).collect();
        let start = Instant::now();
        let mut count = 0u64;
        while start.elapsed() < time {
            match direction {
                Direction::Write => put(store, &keys, &segments, Durability::Relaxed)?,
                Direction::DurableWrite => put(store, &keys, &segments, Durability::Sync)?,
                Direction::Read => get(store, &keys, &segments)?,
            }
            count += load.depth as u64;
        }
        Ok((count, count * load.size as u64))
    })
}

/// Fills the pool and empties it again: formatting has deallocated the data zone, and no figure should
/// hold first touches of memory or of file blocks.
pub(super) fn touch(store: &Store) -> Result<(), Failure> {
    let mut buffer = store.buffer(TOUCH)?;
    buffer.bytes_mut()?.fill(0x5a);
    let segment = [buffer.slice(0, TOUCH)?];
    let options = PutOptions { durability: Durability::Relaxed, ..PutOptions::default() };
    let capacity = store.stats().capacity_bytes;
    let mut keys = Vec::new();
    // Less than the watermark from which on the pool evicts.
    while (store.stats().used_bytes + TOUCH as u64) * 100 < capacity * 94 {
        let key = format!("touch/{}", keys.len());
        store.put(key.as_bytes(), Source::Segments(&segment), &options)?;
        keys.push(key);
    }
    for key in keys {
        store.remove(key.as_bytes(), Durability::Relaxed)?;
    }
    Ok(store.flush()?)
}

/// Removes what [`run`] put.
pub(super) fn clean(store: &Store, load: Load) -> Result<(), Failure> {
    for thread in 0..load.threads {
        for slot in 0..load.depth {
            store.remove(key(load, thread, slot).as_bytes(), Durability::Relaxed)?;
        }
    }
    Ok(store.flush()?)
}

fn put(
    store: &Store,
    keys: &[String],
    segments: &[DmaSlice],
    durability: Durability,
) -> Result<(), Failure> {
    let options = PutOptions { durability, if_exists: IfExists::Replace, ..PutOptions::default() };
    let sources = keys.iter().zip(segments.chunks(1));
    let items: Vec<_> =
        sources.map(|(key, segment)| (key.as_bytes(), Source::Segments(segment))).collect();
    for result in store.put_many(&items, &options) {
        result?;
    }
    Ok(())
}

fn get(store: &Store, keys: &[String], segments: &[DmaSlice]) -> Result<(), Failure> {
    let sinks = keys.iter().zip(segments.chunks(1));
    let items = sinks.map(|(key, segment)| (key.as_bytes(), Sink::Segments(segment))).collect();
    for result in store.get_many(items) {
        if !result?.is_hit() {
            return Err(Failure::new("device", "an object that was just put is a miss"));
        }
    }
    Ok(())
}

fn segments(buffer: &DmaBuffer, load: Load) -> Result<Vec<DmaSlice>, Failure> {
    let slices = (0..load.depth).map(|slot| buffer.slice(slot * load.size, load.size));
    Ok(slices.collect::<Result<_, _>>()?)
}

fn key(load: Load, thread: usize, slot: usize) -> String {
    format!("bench/{}/{thread}/{slot}", load.size)
}
