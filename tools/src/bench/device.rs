//! Requests between a file and the memory of a GPU: as many together as are asked for, and the
//! next ones when all of them have ended, since that is how a stream takes them.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos::engine::Engine;
use gcos::engine::device::{DeviceEngine, DeviceMemory, DeviceSlice, DeviceTransfer, Stream};

use super::engine::{Direction, Moved, offsets, on_threads};
use super::plan::Load;
use crate::failure::Failure;

const DEADLINE: Duration = Duration::from_secs(30);

/// Memory of a load on a GPU: a stream and a piece of memory for each thread.
#[derive(Debug)]
pub(super) struct Lanes {
    memory: Arc<DeviceMemory>,
    lanes: Vec<Lane>,
}

#[derive(Debug)]
struct Lane {
    stream: Stream,
    slots: Vec<DeviceSlice>,
}

fn failed(error: impl Error + 'static) -> Failure {
    Failure::chain("gpu", &error)
}

impl Lanes {
    pub(super) fn new(memory: &Arc<DeviceMemory>, load: Load) -> Result<Self, Failure> {
        let lane = |_| {
            let stream = Stream::new(memory.gpu()).map_err(failed)?;
            let all = memory.alloc(load.size * load.depth, 4096).map_err(failed)?.as_slice();
            stream.fill(&all, 0x5a).map_err(failed)?;
            let slots = (0..load.depth).map(|slot| all.slice(slot * load.size, load.size));
            let slots = slots.collect::<Result<_, _>>().map_err(failed)?;
            stream.synchronize(DEADLINE).map_err(failed)?;
            Ok(Lane { stream, slots })
        };
        let lanes = (0..load.threads).map(lane).collect::<Result<_, Failure>>()?;
        Ok(Self { memory: Arc::clone(memory), lanes })
    }

    /// One measurement.
    pub(super) fn run(
        &self,
        engine: &Arc<dyn Engine>,
        load: Load,
        direction: Direction,
        span: u64,
        time: Duration,
    ) -> Result<Moved, Failure> {
        let engine = engine.device(self.memory.gpu());
        let engine =
            engine.ok_or_else(|| Failure::new("gpu", "the GPU does not reach the file"))?;
        on_threads(self.lanes.iter().collect(), |index, lane| {
            let mut offset = offsets(index as u64, span, load.size);
            repeat(load, time, || lane.go(engine.as_ref(), direction, &mut offset))
        })
    }
}

/// Does something with all slots of a load again and again for a while: how often with one, and how many bytes.
fn repeat(
    load: Load,
    time: Duration,
    mut all: impl FnMut() -> Result<(), Failure>,
) -> Result<(u64, u64), Failure> {
    let start = Instant::now();
    let mut count = 0u64;
    while start.elapsed() < time {
        all()?;
        count += load.depth as u64;
    }
    Ok((count, count * load.size as u64))
}

impl Lane {
    fn go(
        &self,
        engine: &dyn DeviceEngine,
        direction: Direction,
        mut offset: impl FnMut() -> u64,
    ) -> Result<(), Failure> {
        let transfer = |slot: &DeviceSlice| match direction {
            Direction::Read => DeviceTransfer::read(offset(), slot.clone()),
            Direction::Write => DeviceTransfer::write(offset(), slot.clone(), false),
            Direction::DurableWrite => DeviceTransfer::write(offset(), slot.clone(), true),
        };
        let transfers = self.slots.iter().map(transfer).collect();
        let results = engine.start(&self.stream, transfers, DEADLINE)?.wait();
        Ok(results.into_iter().collect::<Result<(), _>>()?)
    }
}
