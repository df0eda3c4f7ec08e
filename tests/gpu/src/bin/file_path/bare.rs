//! Rates, beside the loops that nothing can beat.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gcos_cuda::{DeviceSlice, Pinned, Stream};
use gcos_engine::device::{CuFileUse, DeviceEngine, DeviceTransfer};
use gcos_gpu_tests::samples::Samples;
use serde_json::{Value, json};

use crate::rig::{DEADLINE, MIB, Outcome, Rig, TOGETHER, TRANSFER, rate};

/// Threads of the bare loop, as many as the engine has.
const THREADS: usize = 8;
/// Bytes of one call of the bare loop, as many as the engine's.
const PIECE: usize = MIB;
/// How often each rate is measured.
const TURNS: usize = 7;

/// Copies between pinned host memory and the GPU.
pub(crate) fn link(rig: &Rig) -> Outcome<Value> {
    let pinned = Pinned::new(&rig.gpu, TRANSFER)?;
    let (host, gpu) = (pinned.as_slice(), rig.plain_part(0)?);
    let stream = Stream::new(&rig.gpu)?;
    let mut rates = Vec::new();
    for to_gpu in [true, false] {
        let mut best = 0.0_f64;
        for _ in 0..3 {
            let start = Instant::now();
            for _ in 0..32 {
                match to_gpu {
                    true => stream.copy(&host, &gpu)?,
                    false => stream.copy(&gpu, &host)?,
                }
            }
            stream.synchronize(DEADLINE)?;
            best = best.max(rate(32 * TRANSFER, start.elapsed()));
        }
        rates.push(best);
    }
    Ok(json!({ "to_gpu_gb_s": rates[0], "from_gpu_gb_s": rates[1] }))
}

/// Threads that call cuFile and do nothing else.
fn bare(rig: &Rig, buffers: &[DeviceSlice], write: bool, count: usize) -> Outcome<f64> {
    let handle = rig.handle()?;
    let next = AtomicUsize::new(0);
    let per_transfer = TRANSFER / PIECE;
    let start = Instant::now();
    let ended = std::thread::scope(|scope| {
        let work = || -> Result<(), String> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count * per_transfer {
                    return Ok(());
                }
                let (transfer, piece) = (number / per_transfer, number % per_transfer * PIECE);
                let memory = buffers[transfer % TOGETHER].slice(piece, PIECE);
                let memory = memory.map_err(|error| error.to_string())?;
                let offset = rig.offset(transfer) + piece as u64;
                let moved = match write {
                    true => handle.write(&memory, offset, None),
                    false => handle.read(&memory, offset, None).map(drop),
                };
                moved.map_err(|error| error.to_string())?;
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err("a thread panicked".to_owned()))
        })
    });
    ended?;
    Ok(rate(count * TRANSFER, start.elapsed()))
}

/// Transfers through an engine, as many under way as there are buffers.
fn by_engine(
    rig: &Rig,
    device: &dyn DeviceEngine,
    buffers: &[DeviceSlice],
    write: bool,
    count: usize,
) -> Outcome<f64> {
    // One for each half: work behind transfers in a stream waits for them.
    let streams = [Stream::new(&rig.gpu)?, Stream::new(&rig.gpu)?];
    let start = Instant::now();
    let mut tickets = std::collections::VecDeque::new();
    for (turn, first) in (0..count).step_by(TOGETHER / 2).enumerate() {
        // Two halves of the buffers take turns.
        if tickets.len() == 2 {
            let oldest: Option<Box<dyn gcos_engine::device::DeviceTicket>> = tickets.pop_front();
            for result in oldest.ok_or("no ticket")?.wait() {
                result?;
            }
        }
        let transfers = (first..count.min(first + TOGETHER / 2)).map(|number| {
            let (offset, buffer) = (rig.offset(number), buffers[number % TOGETHER].clone());
            match write {
                true => DeviceTransfer::write(offset, buffer, false),
                false => DeviceTransfer::read(offset, buffer),
            }
        });
        let stream = &streams[turn % 2];
        tickets.push_back(device.start(stream, transfers.collect(), DEADLINE)?);
    }
    for ticket in tickets {
        for result in ticket.wait() {
            result?;
        }
    }
    Ok(rate(count * TRANSFER, start.elapsed()))
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The engines beside bare loops, in turns, so that a disk that changes its mind changes it for all.
pub(crate) fn rates(rig: &Rig) -> Outcome<Value> {
    let buffers = rig.buffers()?;
    let cufile = rig.device(CuFileUse::Require);
    let staged = rig.device(CuFileUse::Never)?;
    let count = (rig.bytes / TRANSFER).min(64);
    let limit = Instant::now() + Duration::from_secs(30);
    let mut found = serde_json::Map::new();
    let mut disk = Vec::new();
    for write in [false, true] {
        let (mut bare_rates, mut cufile_rates, mut staged_rates) = (vec![], vec![], vec![]);
        for turn in 0..TURNS {
            if let Ok(cufile) = &cufile {
                // Which one is first changes: a disk that has rested is faster.
                let engine = || by_engine(rig, &**cufile, &buffers, write, count);
                if turn % 2 == 1 {
                    cufile_rates.push(engine()?);
                }
                bare_rates.push(bare(rig, &buffers, write, count)?);
                if turn % 2 == 0 {
                    cufile_rates.push(engine()?);
                }
            }
            staged_rates.push(by_engine(rig, &*staged, &buffers, write, count)?);
            if !write {
                disk.push(rig.disk_read()?);
            }
            if Instant::now() > limit {
                break;
            }
        }
        let (bare, engine, staged) = (
            median(bare_rates.clone()),
            median(cufile_rates.clone()),
            median(staged_rates.clone()),
        );
        let name = if write { "write" } else { "read" };
        found.insert(name.to_owned(), json!({
            "bare_cufile_gb_s": bare_rates, "cufile_engine_gb_s": cufile_rates, "staged_engine_gb_s": staged_rates,
            "engine_to_bare": engine / bare,
            "median_gb_s": { "bare_cufile": bare, "cufile_engine": engine, "staged_engine": staged },
        }));
    }
    found.insert("disk_read_gb_s".to_owned(), json!(disk));
    found.insert(
        "cufile".to_owned(),
        match &cufile {
            Ok(device) => json!(device.path().to_string()),
            Err(error) => json!(error.to_string()),
        },
    );
    found.insert("staged".to_owned(), json!(staged.path().to_string()));
    Ok(Value::Object(found))
}

/// One read of 4 KiB after the other.
pub(crate) fn latency(rig: &Rig) -> Outcome<Value> {
    let buffer = rig.memory.alloc(4096, 4096)?.as_slice();
    let stream = Stream::new(&rig.gpu)?;
    let mut found = serde_json::Map::new();
    if let Ok(handle) = rig.handle() {
        let mut times = Vec::new();
        for number in 0..300 {
            let start = Instant::now();
            handle.read(&buffer, rig.offset(number), None)?;
            times.push(start.elapsed().as_nanos() as u64);
        }
        found.insert("bare_cufile".to_owned(), Samples::new(times).to_json());
    }
    for (name, way) in [("cufile_engine", CuFileUse::Require), ("staged_engine", CuFileUse::Never)]
    {
        let Ok(device) = rig.device(way) else { continue };
        let mut times = Vec::new();
        for number in 0..300 {
            let read = vec![DeviceTransfer::read(rig.offset(number), buffer.clone())];
            let start = Instant::now();
            for result in device.start(&stream, read, DEADLINE)?.wait() {
                result?;
            }
            times.push(start.elapsed().as_nanos() as u64);
        }
        found.insert(name.to_owned(), Samples::new(times).to_json());
    }
    Ok(Value::Object(found))
}
