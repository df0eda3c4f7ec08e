//! Reads and writes between the software controller and the memory of the GPU.

use std::sync::Arc;
use std::time::Duration;

use gcos::cuda::ops::{Direction, Memory, ObjectLayout, PageLayout, Table};
use gcos::emulator::{Config, Emulator, Medium, Namespace};
use gcos::engine::device::{DeviceEngine, DeviceSlice, DeviceTransfer, HostDriven, Pinned};
use gcos::engine::{GpuQueueEngine, GpuQueueOptions, HostQueueEngine};
use gcos::nvme::{Controller, Options};
use gcos::units;

use super::{Bench, Figure, SOON, failed};
use crate::args::BenchArgs;
use crate::failure::Failure;
use crate::meter::Meter;

/// Bytes of the medium, and of the memory that transfers go round in.
const MEDIUM: usize = 256 << 20;
/// Most bytes that are on their way together: the processor reads a GPU's memory slowly.
const MOST_TOGETHER: usize = 32 << 20;
const QUEUE_PAIRS: u16 = 8;
const QUEUE_DEPTH: u32 = 1024;
/// An object: 256 tokens of 32 layers, two planes of 2 KiB a token, in pages of 16 tokens.
const LAYERS: u32 = 32;
const TOKENS: u32 = 256;
const TOKEN: u32 = 2048;
const OBJECT: usize = (LAYERS * 2 * TOKENS * TOKEN) as usize;

/// Size of one transfer, and how many go together.
pub(super) type Load = (usize, usize);

/// The combinations of the flags.
pub(super) fn loads(args: &BenchArgs) -> Result<Vec<Load>, Failure> {
    let mut loads = Vec::new();
    for &size in &args.size {
        if size == 0 || size % 4096 != 0 || size > MOST_TOGETHER as u64 {
            let size = units::exact(size);
            let text = format!("--size: expected multiples of 4 KiB up to 32 MiB, got {size}");
            return Err(Failure::usage(text));
        }
        for &depth in &args.qd {
            let load = (size as usize, usize::from(depth).min(MOST_TOGETHER / size as usize));
            if !loads.contains(&load) {
                loads.push(load);
            }
        }
    }
    Ok(loads)
}

/// Rows that [`measure`] gives.
pub(super) fn figures(loads: &[Load]) -> usize {
    2 * 2 * loads.len() + 1
}

/// The drive, the engines, and memory for what they move.
struct Rig {
    by_gpu: Arc<GpuQueueEngine>,
    by_host: HostDriven,
    memory: DeviceSlice,
    staged: Pinned,
    _emulator: Arc<Emulator>,
}

impl Rig {
    fn open(bench: &Bench) -> Result<Self, Failure> {
        let emulator = Emulator::new(Config {
            namespaces: vec![Namespace { lba_bytes: 4096, bytes: MEDIUM as u64 }],
            space: Some(bench.space.clone()),
            spin: Duration::from_micros(200),
            ..Config::new(Medium::ram(MEDIUM as u64).map_err(failed)?)
        })
        .map_err(failed)?;
        let options = Options { lent_queue_pairs: QUEUE_PAIRS, ..Options::default() };
        let controller = Controller::open(emulator.function(), options).map_err(failed)?;
        let host = HostQueueEngine::new(Arc::clone(&controller), 1).map_err(failed)?;
        let options = GpuQueueOptions {
            queue_pairs: QUEUE_PAIRS,
            queue_depth: QUEUE_DEPTH,
            ..GpuQueueOptions::default()
        };
        let by_gpu = GpuQueueEngine::new(&controller, 1, &bench.memory, options);
        let memory = bench.memory.alloc(MEDIUM, 4096).map_err(failed)?.as_slice();
        bench.stream.fill(&memory, 0x5a).map_err(failed)?;
        Ok(Self {
            by_gpu: Arc::new(by_gpu.map_err(failed)?),
            by_host: HostDriven::new(Arc::new(host), Arc::clone(&bench.memory)).map_err(failed)?,
            memory,
            staged: Pinned::new(&bench.gpu, MOST_TOGETHER).map_err(failed)?,
            _emulator: emulator,
        })
    }

    /// Starts transfers of adjacent pieces and waits for them.
    fn go(
        &self,
        bench: &Bench,
        engine: &dyn DeviceEngine,
        (size, depth): Load,
        (write, turn): (bool, usize),
    ) -> Result<u64, Failure> {
        let base = turn * size * depth % (MEDIUM - size * depth + 1) / 4096 * 4096;
        let transfer = |index: usize| {
            let at = base + index * size;
            let slice = self.memory.slice(at, size).map_err(failed)?;
            Ok(if write {
                DeviceTransfer::write(at as u64, slice, false)
            } else {
                DeviceTransfer::read(at as u64, slice)
            })
        };
        let transfers = (0..depth).map(transfer).collect::<Result<Vec<_>, Failure>>()?;
        let ticket = engine.start(&bench.stream, transfers, SOON).map_err(failed)?;
        for result in ticket.wait() {
            result.map_err(failed)?;
        }
        Ok((size * depth) as u64)
    }

    /// The same bytes by the GPU's copy engine, from or to host memory: what the link gives.
    fn link(&self, bench: &Bench, (size, depth): Load, write: bool) -> Result<u64, Failure> {
        let bytes = size * depth;
        let device = self.memory.slice(0, bytes).map_err(failed)?;
        let host = self.staged.slice(0, bytes).map_err(failed)?;
        let copied = if write {
            bench.stream.copy(&device, &host)
        } else {
            bench.stream.copy(&host, &device)
        };
        copied.and_then(|()| bench.stream.synchronize(SOON)).map_err(failed)?;
        Ok(bytes as u64)
    }
}

/// Which way things went, and all rows.
pub(super) fn measure(
    bench: &Bench,
    loads: &[Load],
    meter: &Meter,
) -> Result<(String, Vec<Figure>), Failure> {
    let rig = Rig::open(bench)?;
    // Every block once, so that no read finds a hole of the medium.
    for turn in 0..MEDIUM / MOST_TOGETHER {
        rig.go(bench, &rig.by_host, (MOST_TOGETHER / 8, 8), (true, turn))?;
    }
    let mut figures = Vec::new();
    for &load in loads {
        for write in [false, true] {
            let engines: [(&dyn DeviceEngine, &str); 2] =
                [(&*rig.by_gpu, "GPU queues"), (&rig.by_host, "host queues")];
            for (engine, name) in engines {
                let what = format!("{} by {name}", if write { "write" } else { "read" });
                let mut turn = 0;
                let ours = || {
                    turn += 1;
                    rig.go(bench, engine, load, (write, turn))
                };
                let theirs = || rig.link(bench, load, write);
                figures.push(bench.figure((what, load.0, load.1), "link", ours, theirs)?);
                meter.add(1);
            }
        }
    }
    figures.push(object(bench, &rig)?);
    meter.add(1);
    let path = rig.by_gpu.path().to_string();
    rig.by_gpu.shutdown(SOON).map_err(failed)?;
    Ok((path, figures))
}

/// A read of an object and its copy to pages, behind each other in the stream, beside the read alone.
fn object(bench: &Bench, rig: &Rig) -> Result<Figure, Failure> {
    let blocks = TOKENS / 16 * 2;
    let layout = PageLayout::planes_first(blocks, 16, TOKEN);
    let layer_bytes = OBJECT / LAYERS as usize * 2;
    let layers = (0..LAYERS as usize)
        .map(|index| rig.memory.slice(2 * OBJECT + index * layer_bytes, layer_bytes))
        .map(|slice| slice.map(|slice| Memory::of(&slice)))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    let kv = bench.ops.paged_kv(&bench.memory, layers, layout).map_err(failed)?;
    let mut order: Vec<u32> = (0..blocks).collect();
    fastrand::Rng::with_seed(2).shuffle(&mut order);
    let at = ObjectLayout::planes_first(&layout, LAYERS, TOKENS);
    let target = rig.memory.slice(0, OBJECT).map_err(failed)?;
    let pieces = 32;
    let read = |turn: usize| {
        let size = OBJECT / pieces;
        let base = turn % (MEDIUM / OBJECT) * OBJECT;
        let piece = |index: usize| {
            let slice = target.slice(index * size, size).map_err(failed)?;
            Ok(DeviceTransfer::read((base + index * size) as u64, slice))
        };
        let transfers = (0..pieces).map(piece).collect::<Result<Vec<_>, Failure>>()?;
        rig.by_gpu.start(&bench.stream, transfers, SOON).map_err(failed)
    };
    let mut turn = 0;
    let into_pages = || {
        turn += 1;
        let ticket = read(turn)?;
        let table = Table::Blocks { blocks: &order, first_slot: 0 };
        let object = (Memory::of(&target), at);
        let copy = bench.ops.paged(&bench.stream, Direction::Scatter, &kv, table, object, TOKENS);
        let copy = copy.map_err(failed)?;
        for result in ticket.wait() {
            result.map_err(failed)?;
        }
        copy.wait(SOON).map_err(failed)?;
        Ok(OBJECT as u64)
    };
    let mut turn = 0;
    let alone = || {
        turn += 1;
        for result in read(turn)?.wait() {
            result.map_err(failed)?;
        }
        Ok(OBJECT as u64)
    };
    let what = "read of an object into pages of 16 tokens".to_owned();
    bench.figure((what, OBJECT, pieces), "contiguous read", into_pages, alone)
}
