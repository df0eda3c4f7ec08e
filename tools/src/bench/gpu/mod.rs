//! `gcos bench --gpu`: what a GPU does for objects in its memory, beside its own copies in the same run, and
//! what moves between it and the software controller through queues that it drives, beside host queues.

mod ops;
mod transfers;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos::cuda::ops::Ops;
use gcos::emulator::AddressSpace;
use gcos::engine::device::{DeviceMemory, Gpu, Kernels, MemoryOptions, Stream};
use gcos::units;
use serde::Serialize;
use serde_json::json;

use super::engine::Moved;
use super::{ROUNDS, median};
use crate::args::BenchArgs;
use crate::failure::{Failure, Outcome};
use crate::meter::{Meter, Unit};
use crate::output::{Output, table};

/// Longest wait for anything on the GPU.
const SOON: Duration = Duration::from_secs(60);
/// Bytes of the memory that copies and checksums go round in: far beyond any cache of a GPU.
const WORKSPACE: usize = 512 << 20;

/// One row: medians of all rounds.
#[derive(Debug, Serialize)]
struct Figure {
    what: String,
    /// Bytes of one operation.
    size: usize,
    /// Operations on their way together.
    depth: usize,
    /// Time of one operation, or of all that are on their way together, in microseconds.
    microseconds: f64,
    bytes_per_second: f64,
    /// What it is compared with, measured in turn with it.
    beside: &'static str,
    beside_bytes_per_second: f64,
    ratio: f64,
}

/// What all measurements share.
struct Bench {
    gpu: Arc<Gpu>,
    stream: Stream,
    space: AddressSpace,
    memory: Arc<DeviceMemory>,
    ops: Arc<Ops>,
    time: Duration,
}

/// `gcos bench --gpu`.
pub(super) fn run(args: &BenchArgs, ordinal: u16, out: &Output) -> Result<Outcome, Failure> {
    let loads = transfers::loads(args)?;
    if !(0.01..=3600.0).contains(&args.seconds) {
        let text = format!("--seconds: expected 0.01 to 3600, got {}", args.seconds);
        return Err(Failure::usage(text));
    }
    let bench = Bench::open(ordinal, Duration::from_secs_f64(args.seconds / f64::from(ROUNDS)))?;
    let total = ops::FIGURES + transfers::figures(&loads);
    let meter = Meter::new(out, "figures", Some(total as u64), Unit::Things);
    let mut figures = ops::measure(&bench, &meter)?;
    let (path, more) = transfers::measure(&bench, &loads, &meter)?;
    figures.extend(more);
    drop(meter);
    report(&bench, &path, &figures, out);
    Ok(Outcome::Good)
}

/// A failure of the GPU or of what is built on it, with its sources.
fn failed(error: impl Error + 'static) -> Failure {
    Failure::chain("gpu", &error)
}

impl Bench {
    fn open(ordinal: u16, time: Duration) -> Result<Self, Failure> {
        let gpu = Gpu::open(ordinal.into()).map_err(failed)?;
        let kernels = Kernels::load(&gpu).map_err(failed)?;
        let space = AddressSpace::new()?;
        let options = MemoryOptions { window_bytes: WORKSPACE, ..MemoryOptions::default() };
        Ok(Self {
            stream: Stream::new(&gpu).map_err(failed)?,
            memory: DeviceMemory::new(&gpu, &space.dma, options).map_err(failed)?,
            ops: Ops::new(&kernels).map_err(failed)?,
            space,
            gpu,
            time,
        })
    }

    /// Measures something beside something else, in turn. Both say how many bytes one call moves.
    fn figure(
        &self,
        (what, size, depth): (String, usize, usize),
        beside: &'static str,
        mut ours: impl FnMut() -> Result<u64, Failure>,
        mut theirs: impl FnMut() -> Result<u64, Failure>,
    ) -> Result<Figure, Failure> {
        ours()?;
        theirs()?;
        let (mut mine, mut other) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            mine.push(repeat(self.time, &mut ours)?);
            other.push(repeat(self.time, &mut theirs)?);
        }
        let (mine, other) = (median(mine), median(other));
        Ok(Figure {
            what,
            size,
            depth,
            microseconds: 1e6 / mine.per_second().max(1e-9),
            bytes_per_second: mine.rate(),
            beside,
            beside_bytes_per_second: other.rate(),
            ratio: mine.rate() / other.rate().max(1.0),
        })
    }
}

/// Does it again and again for a while, once at least.
fn repeat(
    time: Duration,
    work: &mut impl FnMut() -> Result<u64, Failure>,
) -> Result<Moved, Failure> {
    let start = Instant::now();
    let (mut count, mut bytes) = (0, 0);
    loop {
        bytes += work()?;
        count += 1;
        if start.elapsed() >= time {
            return Ok(Moved { count, bytes, seconds: start.elapsed().as_secs_f64() });
        }
    }
}

fn report(bench: &Bench, path: &str, figures: &[Figure], out: &Output) {
    let row = |figure: &Figure| {
        let gigabytes = |rate: f64| format!("{:.2}", rate / 1e9);
        vec![
            figure.what.clone(),
            units::exact(figure.size as u64),
            figure.depth.to_string(),
            format!("{:.1}", figure.microseconds),
            gigabytes(figure.bytes_per_second),
            figure.beside.to_owned(),
            gigabytes(figure.beside_bytes_per_second),
            format!("{:.0} %", figure.ratio * 100.0),
        ]
    };
    let header = ["what", "size", "together", "µs", "GB/s", "beside", "GB/s", "ratio"];
    let (name, ordinal) = (bench.gpu.name(), bench.gpu.ordinal());
    let text = format!(
        "GPU {ordinal}: {name}\npath: {path}\n{}\nThe drive is the software controller over memory: its \
         thread copies every byte.",
        table(&header, figures.iter().map(row).collect(), &[1, 2, 3, 4, 6, 7])
    );
    let document = json!({ "gpu": name, "ordinal": ordinal, "path": path,
        "memory": bench.memory.rung().to_string(), "rounds": ROUNDS, "figures": figures });
    out.result(&document, text);
}
