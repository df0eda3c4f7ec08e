//! The kernel's path beside fio, on one file: same blocks, same number at a time, taken in turns.
//!
//!     cargo run --release -p gcos-engine --example file -- FILE [SECONDS [MIB [read|write]]]
//!
//! FILE is made, written out in full, and left for the next time. Without fio in the path it measures the
//! engine alone.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement that cannot go on ends"
)]

use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_engine::{Engine, FileEngine, FileOptions, KernelPath, Request, Ticket};
use gcos_hw::DmaBuffer;
use gcos_hw::kernel::{Target, TargetOptions, host_space};

const DEADLINE: Duration = Duration::from_secs(60);
/// Rounds of each measurement; the median counts.
const ROUNDS: usize = 5;

#[derive(Debug, Clone, Copy)]
struct Load {
    write: bool,
    bytes: usize,
    depth: usize,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(file) = arguments.next() else {
        eprintln!("usage: file FILE [SECONDS [MIB [read|write]]]");
        return;
    };
    let seconds: f64 = arguments.next().map_or(2.0, |text| text.parse().unwrap());
    let size: u64 = arguments.next().map_or(2048, |text| text.parse::<u64>().unwrap()) << 20;
    let only = arguments.next();
    let file = Path::new(&file);
    prepare(file, size);
    let fio = Command::new("fio").arg("--version").output().is_ok();
    println!("| op | block | at a time | fio io_uring | io_uring | ratio | POSIX | ratio |");
    println!("|---|---|---|---|---|---|---|---|");
    for (write, name) in [(false, "read"), (true, "write")] {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        for (bytes, depths) in
            [(1 << 20, &[1, 8, 32][..]), (8 << 20, &[1, 8, 32]), (4 << 10, &[1, 8, 32])]
        {
            for &depth in depths {
                row(file, size, Load { write, bytes, depth }, seconds, fio);
            }
        }
    }
}

/// Writes the file out, so that nothing has to be set aside while it is measured.
fn prepare(file: &Path, size: u64) {
    if std::fs::metadata(file).is_ok_and(|found| found.len() == size) {
        return;
    }
    std::fs::File::create(file).unwrap().set_len(size).unwrap();
    let engine = open(file, KernelPath::IoUring);
    let buffer = engine.dma().alloc(8 << 20).unwrap();
    fill(&buffer);
    for offset in (0..size).step_by(8 << 20) {
        let len = (size - offset).min(8 << 20) as usize;
        let part = buffer.slice(0, len).unwrap();
        engine.run(Request::write(offset, part, false, DEADLINE)).unwrap();
    }
    engine.shutdown(DEADLINE).unwrap();
}

fn open(file: &Path, path: KernelPath) -> Arc<FileEngine> {
    let target = Target::open(file, &TargetOptions::default()).unwrap();
    let options = FileOptions { force: Some(path), workers: 32, ..FileOptions::default() };
    FileEngine::open(target, host_space().unwrap(), options).unwrap()
}

fn fill(buffer: &DmaBuffer) {
    let mut bytes = vec![0; buffer.len()];
    fastrand::fill(&mut bytes);
    buffer.as_dma().write(0, &bytes).unwrap();
}

/// One line of the table: everybody in turns.
fn row(file: &Path, size: u64, load: Load, seconds: f64, fio: bool) {
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        if fio {
            rates[0].push(by_fio(file, size, load, seconds));
        }
        rates[1].push(by_engine(file, size, load, seconds, KernelPath::IoUring));
        rates[2].push(by_engine(file, size, load, seconds, KernelPath::Posix));
    }
    let [fio, ring, posix] = rates.map(|mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
    });
    let op = if load.write { "write" } else { "read" };
    let block = if load.bytes >= 1 << 20 {
        format!("{} MiB", load.bytes >> 20)
    } else {
        format!("{} KiB", load.bytes >> 10)
    };
    println!(
        "| {op} | {block} | {} | {:.0} MB/s | {:.0} MB/s | {:.2} | {:.0} MB/s | {:.2} |",
        load.depth,
        fio / 1e6,
        ring / 1e6,
        ring / fio,
        posix / 1e6,
        posix / fio
    );
}

/// Bytes per second.
fn by_engine(file: &Path, size: u64, load: Load, seconds: f64, path: KernelPath) -> f64 {
    let engine = open(file, path);
    let buffers: Vec<_> =
        (0..load.depth).map(|_| engine.dma().alloc(load.bytes).unwrap()).collect();
    buffers.iter().for_each(fill);
    let blocks = size / load.bytes as u64;
    let mut rng = fastrand::Rng::with_seed(1);
    let mut under_way = VecDeque::<(usize, Box<dyn Ticket>)>::new();
    let mut submit = |slot: usize| {
        let offset = rng.u64(0..blocks) * load.bytes as u64;
        let memory = buffers[slot].as_dma();
        let request = if load.write {
            Request::write(offset, memory, false, DEADLINE)
        } else {
            Request::read(offset, memory, DEADLINE)
        };
        (slot, engine.submit(request).unwrap())
    };
    let begun = Instant::now();
    under_way.extend((0..load.depth).map(&mut submit));
    let (mut done, end) = (0u64, begun + Duration::from_secs_f64(seconds));
    // What has ended, in any order, is begun anew; if nothing has, the oldest is waited for.
    while let Some((slot, ticket)) = under_way.pop_front() {
        ticket.wait().unwrap();
        let mut ended = vec![slot];
        under_way.retain_mut(|(slot, ticket)| match ticket.poll() {
            None => true,
            Some(result) => {
                result.unwrap();
                ended.push(*slot);
                false
            }
        });
        done += ended.len() as u64;
        if Instant::now() < end {
            under_way.extend(ended.into_iter().map(&mut submit));
        }
    }
    (done * load.bytes as u64) as f64 / begun.elapsed().as_secs_f64()
}

/// Bytes per second.
fn by_fio(file: &Path, size: u64, load: Load, seconds: f64) -> f64 {
    let arguments = [
        "--name=beside".to_owned(),
        "--ioengine=io_uring".to_owned(),
        "--direct=1".to_owned(),
        "--time_based".to_owned(),
        "--norandommap".to_owned(),
        "--minimal".to_owned(),
        "--registerfiles=1".to_owned(),
        format!("--filename={}", file.display()),
        format!("--size={size}"),
        format!("--rw={}", if load.write { "randwrite" } else { "randread" }),
        format!("--bs={}", load.bytes),
        format!("--iodepth={}", load.depth),
        // Fractions of a second would be cut off, and with none left it runs over the whole file.
        format!("--runtime={}ms", (seconds * 1e3).ceil()),
    ];
    let output = Command::new("fio").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    // Column 7 of the terse format is the bandwidth of reads in KiB/s, column 48 that of writes.
    let column = if load.write { 47 } else { 6 };
    let line = text.lines().find(|line| line.contains(";beside;")).unwrap();
    line.split(';').nth(column).unwrap().parse::<f64>().unwrap() * 1024.0
}
