//! How long it takes from a doorbell of the GPU to the completion that it sees, with queues in GPU memory and
//! the software controller at the other end, beside the floor: a bare word there and back, and one fetch of a
//! queue entry through the window. Prints JSON.
//!
//! Usage: `round_trip [ROUNDS] [played]`. With `played` host threads play the GPU: it runs, and its times
//! mean nothing.
#![expect(clippy::print_stdout, reason = "what it finds is its output")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gcos_cuda::{
    DeviceMemory, DeviceSlice, Gpu, Kernels, LaunchShape, MemoryOptions, Pinned, Stream,
};
use gcos_emulator::{AddressSpace, Config, Emulator, Medium, Namespace};
use gcos_gpu_tests::samples::Samples;
use gcos_gpu_tests::smaps::mapping_of;
use gcos_hw::{LineLoads, order_stores};
use gcos_layout::gpu::{QueuePair, RoundTrip};
use gcos_layout::nvme::IoOpcode;
use gcos_nvme::{Controller, Options};
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error>>;

const PAGE: usize = 4096;
const ENTRIES: u32 = 64;
/// Time in which a measurement must have ended.
const BUDGET: Duration = Duration::from_secs(20);

/// A GPU, its kernels, and memory.
struct Bench {
    gpu: Arc<Gpu>,
    kernels: Arc<Kernels>,
    memory: Arc<DeviceMemory>,
    space: AddressSpace,
    rounds: u32,
}

impl Bench {
    fn new(rounds: u32, played: bool) -> Outcome<Self> {
        let gpu = if played { Gpu::played() } else { Gpu::open(0)? };
        let kernels = Kernels::load(&gpu)?;
        let space = AddressSpace::new()?;
        let options = MemoryOptions { window_bytes: 16 << 20, ..MemoryOptions::default() };
        let memory = DeviceMemory::new(&gpu, &space.dma, options)?;
        Ok(Self { gpu, kernels, memory, space, rounds })
    }

    /// Runs the kernel: nanoseconds of each round.
    fn run(&self, trip: RoundTrip) -> Outcome<Samples> {
        let words = self.rounds as usize * 4;
        let times = Pinned::new(&self.gpu, words + 2 * PAGE)?;
        let at = |offset: usize| times.device_address() + offset as u64;
        let trip = RoundTrip {
            times: at(0),
            abort: at(words.next_multiple_of(128)),
            ended: at(words.next_multiple_of(128) + 128),
            budget_ns: BUDGET.as_nanos() as u64,
            rounds: self.rounds,
            ..trip
        };
        let stream = Stream::new(&self.gpu)?;
        let shape = LaunchShape { grid: 1, block: 32, shared_bytes: 0 };
        self.kernels.launch(&stream, "gcos_round_trip", shape, &trip.to_bytes())?;
        stream.synchronize(BUDGET + Duration::from_secs(10))?;
        let word = |offset| times.memory().load_u32(offset, Ordering::Acquire);
        let ended = word(words.next_multiple_of(128) + 128)?;
        if ended != self.rounds {
            return Err(format!("{ended} of {} rounds ended well", self.rounds).into());
        }
        // The first rounds warm everything up.
        let first = self.rounds as usize / 10;
        let nanoseconds = (first..self.rounds as usize).map(|round| word(round * 4).map(u64::from));
        Ok(Samples::new(nanoseconds.collect::<Result<_, _>>()?))
    }

    /// A word to the host and a word back into GPU memory.
    fn bare(&self) -> Outcome<Samples> {
        let bell = Pinned::new(&self.gpu, PAGE)?;
        let answer = self.memory.alloc(PAGE, PAGE)?.as_slice();
        answer.dma().fill(0, PAGE, 0)?;
        order_stores();
        let stop = AtomicBool::new(false);
        let trip = RoundTrip {
            bell: bell.device_address(),
            answer: answer.device_address(),
            ..RoundTrip::default()
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut last, end) = (0, Instant::now() + 2 * BUDGET);
                let mut looks = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    let rung = bell.memory().load_u32(0, Ordering::Acquire).unwrap_or(0);
                    if rung != last {
                        last = rung;
                        // The word is there: no error.
                        let _ = answer.dma().store_u32(0, rung, Ordering::Release);
                        order_stores();
                    }
                    looks = looks.wrapping_add(1);
                    if looks.is_multiple_of(1 << 20) && Instant::now() > end {
                        return;
                    }
                }
            });
            let samples = self.run(trip);
            stop.store(true, Ordering::Relaxed);
            samples
        })
    }

    /// One line of GPU memory, fetched by the CPU as the controller does it.
    fn fetch(&self, loads: LineLoads) -> Outcome<Samples> {
        let slice = self.memory.alloc(64 * PAGE, PAGE)?.as_slice();
        let (memory, base) = slice.dma().memory();
        let mut line = [0; 64];
        let mut nanoseconds = Vec::new();
        for round in 0..self.rounds as usize {
            let start = Instant::now();
            memory.read_lines(loads, base + round % 4096 * 64, &mut line)?;
            nanoseconds.push(start.elapsed().as_nanos() as u64);
            std::hint::black_box(&line);
        }
        Ok(Samples::new(nanoseconds))
    }

    /// The time that a look at the clock adds to [`Bench::fetch`].
    fn clock(&self) -> Samples {
        let look = |_| {
            let start = Instant::now();
            start.elapsed().as_nanos() as u64
        };
        Samples::new((0..self.rounds).map(look).collect())
    }

    /// Commands to the software controller, one at a time.
    fn commands(&self) -> Outcome<(Vec<(&'static str, Samples)>, Value)> {
        let medium = Medium::ram(16 << 20)?;
        let emulator = Emulator::new(Config {
            namespaces: vec![Namespace { lba_bytes: 512, bytes: 16 << 20 }],
            space: Some(self.space.clone()),
            spin: Duration::from_secs(60),
            ..Config::new(medium)
        })?;
        let options = Options { lent_queue_pairs: 1, ..Options::default() };
        let controller = Controller::open(emulator.function(), options)?;
        let doorbells = Pinned::register(&self.gpu, emulator.doorbells())?;
        // Submission queue, completion queue, record, data.
        let place = self.memory.alloc(4 * PAGE, PAGE)?.as_slice();
        place.dma().fill(0, 4 * PAGE, 0)?;
        order_stores();
        let part = |n: usize| place.slice(n * PAGE, PAGE);
        let (sq, cq, record, data) = (part(0)?, part(1)?, part(2)?, part(3)?);
        let lent = controller.lend_queue_pair(sq.dma().clone(), cq.dma().clone(), ENTRIES)?;
        let bell = |register: usize| {
            doorbells.device_address() + (register - gcos_layout::nvme::DOORBELLS) as u64
        };
        let pair = QueuePair {
            sq: sq.device_address(),
            cq: cq.device_address(),
            sq_doorbell: bell(lent.doorbells().0),
            cq_doorbell: bell(lent.doorbells().1),
            entries: ENTRIES,
            list_pages: 1,
            nsid: 1,
            lba_shift: 9,
            max_transfer: 4096,
            phase: 1,
            ..QueuePair::default()
        };
        record.dma().write(0, &pair.to_bytes())?;
        order_stores();
        let mut found = Vec::new();
        for (name, opcode, data) in [
            ("flush", IoOpcode::Flush, 0),
            ("read of 512 bytes into GPU memory", IoOpcode::Read, data.dma().iova()),
        ] {
            let queue_pair = record.device_address();
            let trip =
                RoundTrip { queue_pair, data, opcode: opcode as u32, ..RoundTrip::default() };
            found.push((name, self.run(trip)?));
        }
        let places = json!({
            "submission queue": described(&sq)?,
            "completion queue": described(&cq)?,
            "entries": ENTRIES,
        });
        lent.end()?;
        controller.shutdown(None)?;
        Ok((found, places))
    }
}

/// Where memory lies, for the GPU, the drive and this process.
fn described(slice: &DeviceSlice) -> Outcome<Value> {
    let (memory, offset) = slice.dma().memory();
    let mapping = mapping_of(memory.address() + offset)?;
    Ok(json!({
        "device_address": format!("{:#x}", slice.device_address()),
        "iova": format!("{:#x}", slice.dma().iova()),
        "cpu_address": format!("{:#x}", memory.address() + offset),
        "mapping": mapping.as_ref().map(|mapping| mapping.line.clone()),
        "flags": mapping.map(|mapping| mapping.flags.join(" ")),
    }))
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let rounds = arguments.next().map_or(Ok(20_000), |text| text.parse())?;
    let bench = Bench::new(rounds, arguments.next().as_deref() == Some("played"))?;
    let loads = LineLoads::widest();
    let clock = bench.clock();
    let (bare, fetch) = (bench.bare()?, bench.fetch(loads)?);
    let (commands, places) = bench.commands()?;
    // Once more, so that a machine that changes its pace shows.
    let (bare_after, fetch_after) = (bench.bare()?, bench.fetch(loads)?);
    let floor = |percent| {
        let of = |samples: &Samples| samples.percentile(percent);
        let fetched = of(&fetch).min(of(&fetch_after)).saturating_sub(clock.percentile(50));
        of(&bare).min(of(&bare_after)) + fetched
    };
    let ratio = |samples: &Samples, percent| {
        samples.percentile(percent) as f64 / floor(percent).max(1) as f64
    };
    let commands: Vec<Value> = commands
        .iter()
        .map(|(name, samples)| {
            json!({
                "command": name,
                "round_trip": samples.to_json(),
                "times_the_floor_p50": ratio(samples, 50),
                "times_the_floor_p99": ratio(samples, 99),
            })
        })
        .collect();
    let found = json!({
        "gpu": bench.gpu.name(),
        "memory": bench.memory.rung().name(),
        "fetched_by": loads.to_string(),
        "bare_word": bare.to_json(),
        "bare_word_after": bare_after.to_json(),
        "fetch_of_64_bytes": fetch.to_json(),
        "fetch_of_64_bytes_after": fetch_after.to_json(),
        "clock": clock.to_json(),
        "floor_p50_ns": floor(50),
        "floor_p99_ns": floor(99),
        "commands": commands,
        "queues": places,
    });
    println!("{}", serde_json::to_string_pretty(&found)?);
    Ok(())
}
