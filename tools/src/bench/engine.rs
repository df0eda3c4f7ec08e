//! Reads and writes through an engine, as many in flight as asked for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos::engine::{Engine, Request, Ticket};
use gcos::hw::{DmaBuffer, DmaSpace};

use super::plan::Load;
use crate::failure::Failure;

const DEADLINE: Duration = Duration::from_secs(30);

/// What was moved, and how long it took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moved {
    pub(super) count: u64,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
}

impl Moved {
    pub(super) fn rate(&self) -> f64 {
        self.bytes as f64 / self.seconds.max(1e-9)
    }

    pub(super) fn per_second(&self) -> f64 {
        self.count as f64 / self.seconds.max(1e-9)
    }
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
    /// A write that is not done before it is durable.
    DurableWrite,
}

/// Runs `work` on a thread for each of `states`; what they did together, by the wall clock. What is
/// made ready beforehand, in the states, is not part of the time.
pub(super) fn on_threads<S: Send>(
    states: Vec<S>,
    work: impl Fn(usize, S) -> Result<(u64, u64), Failure> + Sync,
) -> Result<Moved, Failure> {
    let start = Instant::now();
    let parts = std::thread::scope(|scope| {
        let work = &work;
        let spawn = |(index, state)| scope.spawn(move || work(index, state));
        let handles: Vec<_> = states.into_iter().enumerate().map(spawn).collect();
        let join = |handle: std::thread::ScopedJoinHandle<'_, _>| {
            handle.join().unwrap_or_else(|_| Err(Failure::new("internal", "a thread panicked")))
        };
        handles.into_iter().map(join).collect::<Result<Vec<(u64, u64)>, Failure>>()
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let (count, bytes) = parts.iter().fold((0, 0), |(c, b), (count, bytes)| (c + count, b + bytes));
    Ok(Moved { count, bytes, seconds })
}

/// Random, aligned offsets within `span`.
pub(super) fn offsets(seed: u64, span: u64, size: usize) -> impl FnMut() -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let slots = (span / size as u64).max(1);
    move || random.u64(0..slots) * size as u64
}

/// Device memory of a load, one buffer for each thread, touched already.
pub(super) fn buffers(dma: &Arc<DmaSpace>, load: Load) -> Result<Vec<DmaBuffer>, Failure> {
    let mut buffers = Vec::with_capacity(load.threads);
    for _ in 0..load.threads {
        let mut buffer = dma.alloc(load.size * load.depth)?;
        buffer.bytes_mut()?.fill(0x5a);
        buffers.push(buffer);
    }
    Ok(buffers)
}

/// One measurement.
pub(super) fn run(
    engine: &Arc<dyn Engine>,
    buffers: &[DmaBuffer],
    load: Load,
    direction: Direction,
    span: u64,
    time: Duration,
) -> Result<Moved, Failure> {
    on_threads(buffers.iter().collect(), |index, buffer| {
        let offset = offsets(index as u64, span, load.size);
        keep_busy(engine.as_ref(), buffer, load, direction, offset, time)
    })
}

fn keep_busy(
    engine: &dyn Engine,
    buffer: &DmaBuffer,
    load: Load,
    direction: Direction,
    mut offset: impl FnMut() -> u64,
    time: Duration,
) -> Result<(u64, u64), Failure> {
    let mut start = |slot: usize| -> Result<Box<dyn Ticket>, Failure> {
        let memory = buffer.slice(slot * load.size, load.size)?;
        let request = match direction {
            Direction::Read => Request::read(offset(), memory, DEADLINE),
            Direction::Write => Request::write(offset(), memory, false, DEADLINE),
            Direction::DurableWrite => Request::write(offset(), memory, true, DEADLINE),
        };
        Ok(engine.submit(request)?)
    };
    let end = Instant::now() + time;
    let mut flights = Vec::with_capacity(load.depth);
    for slot in 0..load.depth {
        flights.push(start(slot)?);
    }
    let mut count = 0u64;
    while Instant::now() < end {
        let before = count;
        for (slot, flight) in flights.iter_mut().enumerate() {
            if let Some(result) = flight.poll() {
                result?;
                count += 1;
                *flight = start(slot)?;
            }
        }
        if count == before {
            std::thread::yield_now();
        }
    }
    for flight in flights {
        flight.wait()?;
        count += 1;
    }
    Ok((count, count * load.size as u64))
}
