//! `gcos replay`: a KV-cache trace against the pool, every byte verified.

mod blocks;
mod trace;
mod worker;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use gcos::engine::device::Gpu;
use gcos::layout::media::MAX_PAYLOAD_BYTES;
use gcos::{Durability, Stats, Store, units};
use serde::Serialize;

use self::trace::{Request, Trace};
use self::worker::{Plan, Tally, Worker};
use crate::args::{DurabilityArg, Globals, ReplayArgs, Switch};
use crate::failure::{Failure, Outcome};
use crate::meter::{Meter, Unit};
use crate::output::{Output, table};
use crate::pool;

/// Requests read ahead of the workers.
const READ_AHEAD: usize = 64;

/// Device memory of one worker, at least one block.
const BATCH_BYTES: u64 = 16 << 20;
const BATCH_BLOCKS: u64 = 256;

/// `gcos replay`.
pub(crate) fn run(globals: &Globals, args: &ReplayArgs, out: &Output) -> Result<Outcome, Failure> {
    let plan = plan(args)?;
    let trace = Trace::open(&args.trace)?;
    let store = pool::open(globals)?;
    let meter = Meter::new(out, "requests", args.requests, Unit::Things);
    let paths = plan.gpu.as_ref().map(|gpu| store.device_paths(gpu)).unwrap_or_default();
    let start = Instant::now();
    let tally = replay(&store, &plan, trace, args, &meter)?;
    store.flush()?;
    let wall = start.elapsed();
    drop(meter);
    let stats = store.stats();
    store.close()?;
    let report = Report::new(&tally, &stats, &plan, wall, paths);
    out.result(&report, report.text());
    Ok(Outcome::good_if(tally.mismatches == 0))
}

fn plan(args: &ReplayArgs) -> Result<Plan, Failure> {
    let bytes = args.block_bytes;
    if bytes == 0 || bytes > u64::from(MAX_PAYLOAD_BYTES) || !bytes.is_multiple_of(8) {
        let text = format!("--block-bytes: expected a multiple of 8 up to 1 GiB, got {bytes}");
        return Err(Failure::usage(text));
    }
    Ok(Plan {
        block_bytes: bytes as usize,
        batch: (BATCH_BYTES / bytes).clamp(1, BATCH_BLOCKS) as usize,
        durability: match args.durability {
            DurabilityArg::Relaxed => Durability::Relaxed,
            DurabilityArg::Sync => Durability::Sync,
        },
        verify: args.verify == Switch::On,
        gpu: match args.gpu {
            Some(ordinal) => {
                let gpu = Gpu::open(ordinal.into());
                Some(gpu.map_err(|error| blocks::gpu_failure(&error))?)
            }
            None => None,
        },
        layers: args.layers.map(usize::from),
    })
}

/// One thread reads the trace, `args.threads` threads carry requests out in its order.
fn replay<R: std::io::BufRead + Send>(
    store: &Store,
    plan: &Plan,
    mut trace: Trace<R>,
    args: &ReplayArgs,
    meter: &Meter,
) -> Result<Tally, Failure> {
    let (sender, receiver) = sync_channel(READ_AHEAD);
    let shared = Shared { requests: Mutex::new(receiver), stop: AtomicBool::new(false) };
    let mut total = Tally::new()?;
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..args.threads).map(|_| scope.spawn(|| work(store, plan, &shared, meter))).collect();
        let read = feed(&mut trace, args.requests, |request| {
            !shared.stop.load(Ordering::Relaxed) && sender.send(request).is_ok()
        });
        drop(sender);
        for worker in workers {
            match worker.join() {
                Ok(tally) => total.add(&tally?),
                Err(_panic) => return Err(Failure::new("internal", "a worker thread panicked")),
            }
        }
        read
    })?;
    Ok(total)
}

/// Sends requests until the trace or `limit` ends, or nobody takes them any more.
fn feed<R: std::io::BufRead>(
    trace: &mut Trace<R>,
    limit: Option<u64>,
    mut send: impl FnMut(Request) -> bool,
) -> Result<(), Failure> {
    let mut left = limit.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(request) = trace.next()? else { break };
        if !send(request) {
            break;
        }
        left -= 1;
    }
    Ok(())
}

/// What reader and workers share.
struct Shared {
    requests: Mutex<Receiver<Request>>,
    /// A worker has failed: no more requests.
    stop: AtomicBool,
}

impl Shared {
    fn next(&self) -> Option<Request> {
        self.requests.lock().ok()?.recv().ok()
    }
}

fn work(store: &Store, plan: &Plan, shared: &Shared, meter: &Meter) -> Result<Tally, Failure> {
    let mut worker = Worker::new(store, plan.clone()).inspect_err(|_| abandon(shared))?;
    while let Some(request) = shared.next() {
        worker.request(&request).inspect_err(|_| abandon(shared))?;
        meter.add(1);
    }
    Ok(worker.tally)
}

/// Stops the reader, and takes what it has read, so that it does not wait for a thread that is gone.
fn abandon(shared: &Shared) {
    shared.stop.store(true, Ordering::Relaxed);
    while shared.next().is_some() {}
}

/// What a replay found, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    requests: u64,
    blocks: u64,
    block_bytes: usize,
    hits: u64,
    hit_rate: f64,
    lost: u64,
    stored: u64,
    mismatches: u64,
    verified: bool,
    evicted: u64,
    get_bytes_per_second: f64,
    put_bytes_per_second: f64,
    wall_seconds: f64,
    request_microseconds: Percentiles,
    /// Null when the blocks were in the host's memory.
    gpu: Option<OnGpu>,
}

/// What is told of a replay with blocks in a GPU's memory.
#[derive(Debug, Serialize)]
struct OnGpu {
    name: String,
    /// How blocks moved between each drive and the GPU.
    paths: Vec<String>,
    /// Layers in which each block was fetched; null: whole.
    layers: Option<usize>,
    device_gets: u64,
    device_puts: u64,
    device_fallbacks: u64,
}

#[derive(Debug, Serialize)]
struct Percentiles {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Report {
    fn new(tally: &Tally, stats: &Stats, plan: &Plan, wall: Duration, paths: Vec<String>) -> Self {
        let rate = |blocks: u64, time: Duration| {
            blocks as f64 * plan.block_bytes as f64 / time.as_secs_f64().max(1e-9)
        };
        let at = |quantile| tally.latency_ns.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            requests: tally.requests,
            blocks: tally.blocks,
            block_bytes: plan.block_bytes,
            hits: tally.hits,
            hit_rate: tally.hits as f64 / tally.blocks.max(1) as f64,
            lost: tally.lost,
            stored: tally.stored,
            mismatches: tally.mismatches,
            verified: plan.verify,
            evicted: stats.evicted,
            get_bytes_per_second: rate(tally.hits, tally.get_time),
            put_bytes_per_second: rate(tally.stored, tally.put_time),
            wall_seconds: wall.as_secs_f64(),
            request_microseconds: Percentiles {
                p50: at(0.5),
                p99: at(0.99),
                p999: at(0.999),
                max: tally.latency_ns.max() as f64 / 1000.0,
            },
            gpu: plan.gpu.as_ref().map(|gpu| OnGpu {
                name: gpu.name().to_owned(),
                paths,
                layers: plan.layers,
                device_gets: stats.device_gets,
                device_puts: stats.device_puts,
                device_fallbacks: stats.device_fallbacks,
            }),
        }
    }

    fn text(&self) -> String {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let gigabytes = |rate: f64| format!("{:.2} GB/s", rate / 1e9);
        let times = &self.request_microseconds;
        let verified = if self.verified { "" } else { " (not verified)" };
        let mut rows = vec![
            row("requests", format!("{} in {:.1} s", self.requests, self.wall_seconds)),
            row("blocks", format!("{} of {}", self.blocks, units::exact(self.block_bytes as u64))),
            row("hits", format!("{} ({:.1} %)", self.hits, self.hit_rate * 100.0)),
            row("stored", format!("{}, {} evicted", self.stored, self.evicted)),
            row("lost in between", self.lost.to_string()),
            row("get", gigabytes(self.get_bytes_per_second)),
            row("put", gigabytes(self.put_bytes_per_second)),
            row(
                "store time per request",
                format!(
                    "p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us",
                    times.p50, times.p99, times.p999
                ),
            ),
            row("mismatches", format!("{}{verified}", self.mismatches)),
        ];
        if let Some(gpu) = &self.gpu {
            rows.push(row("GPU", gpu.name.clone()));
            rows.extend(gpu.paths.iter().map(|path| row("path", path.clone())));
            let by_host = gpu.device_fallbacks;
            let moved = format!("{} gets, {} puts", gpu.device_gets, gpu.device_puts);
            rows.push(row("by GPU and drives", format!("{moved}; {by_host} left to the host")));
        }
        table(&[], rows, &[])
    }
}
