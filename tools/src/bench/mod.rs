//! `gcos bench`: a path beside its own ceiling, measured in turn with it.

mod ceiling;
mod device;
mod driver_cost;
mod engine;
mod gpu;
mod objects;
mod plan;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gcos::engine::device::DeviceMemory;
use gcos::engine::{Engine, Geometry, NoopEngine};
use gcos::hw::{DmaBuffer, FileIo};
use gcos::{Store, open_drives, units};
use serde::Serialize;
use serde_json::json;

use self::ceiling::Ceiling;
use self::device::Lanes;
use self::engine::{Direction, Moved};
use self::plan::{Load, Plan, Target};
use crate::args::BenchArgs;
use crate::failure::{Failure, Outcome};
use crate::meter::{Meter, Unit};
use crate::output::{Output, table};

/// Measurements of each figure, subject and ceiling in turn.
const ROUNDS: u32 = 5;

/// `gcos bench`.
pub(crate) fn run(args: &BenchArgs, out: &Output) -> Result<Outcome, Failure> {
    if let Some(ordinal) = args.gpu {
        return gpu::run(args, ordinal, out);
    }
    let plan = Plan::new(args)?;
    if args.driver_cost {
        return driver_cost::run(&plan, out);
    }
    let objects = if plan.has_objects() { OBJECT_OPERATIONS.len() } else { 0 };
    let figures_of_each = (ENGINE_OPERATIONS.len() + objects) as u64;
    let total = plan.loads.len() as u64 * figures_of_each;
    let meter = Meter::new(out, "figures", Some(total), Unit::Things);
    let files = Files::make(&plan)?;
    let figures = measure(&plan, &files, &meter)?;
    drop(meter);
    drop(files);
    report(&plan, args, &figures, out);
    Ok(Outcome::Good)
}

/// Files made for the run, removed with this value.
#[derive(Debug, Default)]
struct Files {
    images: Vec<PathBuf>,
    ceiling: Option<PathBuf>,
}

impl Files {
    fn make(plan: &Plan) -> Result<Self, Failure> {
        let images: Vec<_> =
            plan.targets.iter().filter_map(Target::file).map(Path::to_owned).collect();
        let Some(first) = images.first() else { return Ok(Self::default()) };
        let mut name = first.clone().into_os_string();
        name.push(".ceiling");
        let ceiling = PathBuf::from(name);
        let fail = |error: std::io::Error| Failure::file("create", &ceiling, &error);
        let file = std::fs::File::create_new(&ceiling).map_err(fail)?;
        let files = Self { images, ceiling: Some(ceiling.clone()) };
        file.set_len(plan.span).map_err(fail)?;
        fill(&ceiling, plan.span).map_err(fail)?;
        Ok(files)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for file in self.images.iter().chain(&self.ceiling) {
            match std::fs::remove_file(file) {
                // The run may have ended before it was made.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(?file, %error, "file of the benchmark left behind"),
                Ok(()) => {}
            }
        }
    }
}

/// Writes a file once, so that reads find blocks and not holes.
fn fill(path: &std::path::Path, span: u64) -> std::io::Result<()> {
    let len = 8usize << 20;
    let memory = gcos::hw::SharedMemory::anonymous(len).map_err(std::io::Error::other)?;
    memory.fill(0, len, 0x5a).map_err(std::io::Error::other)?;
    let file = FileIo::open(path, true)?;
    let memory = Arc::new(memory);
    for offset in (0..span).step_by(len) {
        let len = len.min((span - offset) as usize);
        let range = gcos::hw::MemoryRange { memory: Arc::clone(&memory), offset: 0, len };
        file.write_at(&[range], offset)?;
    }
    file.sync()
}

/// One row: the medians of all rounds.
#[derive(Debug, Serialize)]
struct Figure {
    /// What was measured.
    path: &'static str,
    level: &'static str,
    operation: &'static str,
    size: usize,
    queue_depth: usize,
    threads: usize,
    per_second: f64,
    bytes_per_second: f64,
    /// What the ceiling is.
    ceiling: Option<&'static str>,
    ceiling_bytes_per_second: Option<f64>,
    ratio: Option<f64>,
}

/// The median of measurements, by bytes per second.
fn median(mut rounds: Vec<Moved>) -> Moved {
    rounds.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
    rounds.get(rounds.len() / 2).copied().unwrap_or_default()
}

/// Measures all subjects and the ceiling in turn, so that all see the same moods of the machine. One
/// figure for each subject.
fn figures(
    plan: &Plan,
    [level, operation]: [&'static str; 2],
    load: Load,
    direction: Direction,
    ceiling: &mut Option<Ceiling>,
    mut subject: impl FnMut(usize, Duration) -> Result<Moved, Failure>,
) -> Result<Vec<Figure>, Failure> {
    let object = level == OBJECT;
    let time = Duration::from_secs_f64(plan.seconds / f64::from(ROUNDS));
    let mut ours = vec![Vec::new(); plan.targets.len()];
    let mut theirs = Vec::new();
    for _ in 0..ROUNDS {
        for (index, rounds) in ours.iter_mut().enumerate() {
            rounds.push(subject(index, time)?);
        }
        if let Some(ceiling) = ceiling {
            theirs.push(ceiling.run(direction, object, time)?);
        }
    }
    let reached = (!theirs.is_empty()).then(|| median(theirs).rate());
    let figure = |(target, rounds): (&Target, Vec<Moved>)| {
        let moved = median(rounds);
        Figure {
            path: target.name(),
            level,
            operation,
            size: load.size,
            queue_depth: load.depth,
            threads: load.threads,
            per_second: moved.per_second(),
            bytes_per_second: moved.rate(),
            ceiling: ceiling.as_ref().map(|ceiling| ceiling.name(object, direction)),
            ceiling_bytes_per_second: reached,
            ratio: reached.map(|reached| moved.rate() / reached.max(1.0)),
        }
    };
    Ok(plan.targets.iter().zip(ours).map(figure).collect())
}

fn measure(plan: &Plan, files: &Files, meter: &Meter) -> Result<Vec<Figure>, Failure> {
    let mut ceiling = ceiling(plan, files)?;
    let (mut configs, mut opened, mut engines) = (Vec::new(), Vec::new(), Vec::new());
    for target in &plan.targets {
        let Some(config) = plan.config(target)? else {
            let noop = Subject { engine: noop(plan)?, gpu: None };
            return engine_figures(plan, &mut None, &[noop], meter);
        };
        let drives = open_drives(&config, true)?;
        let engine = drives.engines.first().cloned();
        let engine = engine.ok_or_else(|| Failure::new("internal", "no drive was opened"))?;
        warm(plan, &engine)?;
        configs.push(config);
        engines.push(Subject { engine, gpu: drives.gpus.first().cloned() });
        opened.push(drives);
    }
    let mut figures = engine_figures(plan, &mut ceiling, &engines, meter)?;
    drop(engines);
    if !plan.has_objects() {
        return Ok(figures);
    }
    let mut stores = Vec::new();
    for (config, drives) in configs.iter().zip(opened) {
        let options = gcos::FormatOptions { force: true, ..config.format_options(true) };
        gcos::store::format(&drives.engines, &options)?;
        let store = Store::open(drives.engines, config.open_options())?;
        objects::touch(&store)?;
        stores.push(store);
    }
    figures.extend(object_figures(plan, &mut ceiling, &stores, meter)?);
    stores.into_iter().try_for_each(Store::close)?;
    Ok(figures)
}

/// An engine that is measured.
struct Subject {
    engine: Arc<dyn Engine>,
    /// The GPU whose memory the data is in, where it is not in the host's.
    gpu: Option<Arc<DeviceMemory>>,
}

/// Where the data of a load is.
enum Memory {
    Host(Vec<DmaBuffer>),
    Gpu(Lanes),
}

impl Subject {
    fn memory(&self, load: Load) -> Result<Memory, Failure> {
        match &self.gpu {
            Some(gpu) => Lanes::new(gpu, load).map(Memory::Gpu),
            None => engine::buffers(self.engine.dma(), load).map(Memory::Host),
        }
    }
}

fn ceiling(plan: &Plan, files: &Files) -> Result<Option<Ceiling>, Failure> {
    let Some(&load) = plan.loads.first() else { return Ok(None) };
    match (plan.targets.first(), &files.ceiling) {
        (Some(Target::Ram), _) => Ok(Some(Ceiling::memory(plan.span, load))),
        (_, Some(file)) => Ceiling::file(file, plan.span, load).map(Some),
        _ => Ok(None),
    }
}

fn noop(plan: &Plan) -> Result<Arc<dyn Engine>, Failure> {
    let space = gcos::emulator::AddressSpace::new()?;
    let geometry = Geometry {
        name: "noop".to_owned(),
        serial: String::new(),
        model: String::new(),
        capacity: plan.capacity,
        lba_bytes: 4096,
        max_transfer: 2 << 20,
        volatile_cache: false,
        deallocate: false,
    };
    Ok(Arc::new(NoopEngine::new(geometry, space.dma)))
}

/// Writes the whole medium once, so that no figure holds first touches of memory or of file blocks.
fn warm(plan: &Plan, engine: &Arc<dyn Engine>) -> Result<(), Failure> {
    let len = 8usize << 20;
    let buffer = engine.dma().alloc(len)?;
    let deadline = Duration::from_secs(30);
    for offset in (0..plan.capacity).step_by(len) {
        let memory = buffer.slice(0, len.min((plan.capacity - offset) as usize))?;
        engine.run(gcos::engine::Request::write(offset, memory, false, deadline))?;
    }
    Ok(())
}

const ENGINE: &str = "engine";
const OBJECT: &str = "object";

const ENGINE_OPERATIONS: [(Direction, &str); 2] =
    [(Direction::Write, "write"), (Direction::Read, "read")];

const OBJECT_OPERATIONS: [(Direction, &str); 3] = [
    (Direction::Write, "put relaxed"),
    (Direction::DurableWrite, "put sync"),
    (Direction::Read, "get"),
];

fn engine_figures(
    plan: &Plan,
    ceiling: &mut Option<Ceiling>,
    engines: &[Subject],
    meter: &Meter,
) -> Result<Vec<Figure>, Failure> {
    let mut all = Vec::new();
    for &load in &plan.loads {
        let memories = engines.iter().map(|subject| subject.memory(load));
        let memories = memories.collect::<Result<Vec<_>, _>>()?;
        let subjects: Vec<_> =
            engines.iter().map(|subject| &subject.engine).zip(&memories).collect();
        ceiling.as_mut().map_or(Ok(()), |ceiling| ceiling.prepare(load))?;
        for (direction, name) in ENGINE_OPERATIONS {
            let subject = |index: usize, time| match subjects.get(index) {
                Some((engine, Memory::Host(buffers))) => {
                    engine::run(engine, buffers, load, direction, plan.span, time)
                }
                Some((engine, Memory::Gpu(lanes))) => {
                    lanes.run(engine, load, direction, plan.span, time)
                }
                None => Ok(Moved::default()),
            };
            all.extend(figures(plan, [ENGINE, name], load, direction, ceiling, subject)?);
            meter.add(1);
        }
    }
    Ok(all)
}

fn object_figures(
    plan: &Plan,
    ceiling: &mut Option<Ceiling>,
    stores: &[Store],
    meter: &Meter,
) -> Result<Vec<Figure>, Failure> {
    let mut all = Vec::new();
    for &load in &plan.loads {
        let buffers = stores.iter().map(|store| objects::buffers(store, load));
        let buffers = buffers.collect::<Result<Vec<_>, _>>()?;
        let subjects: Vec<_> = stores.iter().zip(&buffers).collect();
        ceiling.as_mut().map_or(Ok(()), |ceiling| ceiling.prepare(load))?;
        for (direction, name) in OBJECT_OPERATIONS {
            let subject = |index: usize, time| match subjects.get(index) {
                Some((store, buffers)) => objects::run(store, buffers, load, direction, time),
                None => Ok(Moved::default()),
            };
            all.extend(figures(plan, [OBJECT, name], load, direction, ceiling, subject)?);
            meter.add(1);
        }
        for store in stores {
            objects::clean(store, load)?;
        }
    }
    Ok(all)
}

fn report(plan: &Plan, args: &BenchArgs, figures: &[Figure], out: &Output) {
    let row = |figure: &Figure| {
        let gigabytes = |rate: f64| format!("{:.2}", rate / 1e9);
        vec![
            figure.path.to_owned(),
            figure.level.to_owned(),
            figure.operation.to_owned(),
            units::exact(figure.size as u64),
            figure.queue_depth.to_string(),
            figure.threads.to_string(),
            format!("{:.0}", figure.per_second),
            gigabytes(figure.bytes_per_second),
            figure.ceiling.unwrap_or("-").to_owned(),
            figure.ceiling_bytes_per_second.map_or("-".to_owned(), gigabytes),
            figure.ratio.map_or("-".to_owned(), |ratio| format!("{:.0} %", ratio * 100.0)),
        ]
    };
    let header = [
        "path", "level", "op", "size", "qd", "threads", "per s", "GB/s", "ceiling", "GB/s", "ratio",
    ];
    let rows = figures.iter().map(row).collect();
    let mut text = table(&header, rows, &[3, 4, 5, 6, 7, 9, 10]);
    if plan.left_out > 0 {
        let (left_out, what) = (plan.left_out, "combinations that need more than 512 MiB");
        text += &format!("\nLeft out: {left_out} {what}, or than the medium has.");
    }
    let document = json!({ "path": args.path.join(","), "seconds": plan.seconds, "rounds": ROUNDS, "figures": figures,
        "left_out": plan.left_out });
    out.result(&document, text);
}
