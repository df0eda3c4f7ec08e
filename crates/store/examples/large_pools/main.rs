//! Opens pools of terabytes that are full of objects, and tells how long that takes and what memory it needs.
//!
//! `cargo run --release -p gcos-store --example large_pools -- TIB OBJECT_KIB [KEY_BYTES]`
//!
//! The drive keeps metadata alone: the pool is laid out by `format`, and the pages of its checkpoint are made by
//! the encoder of the format when they are read. The time that this takes is measured and left out. The pool is
//! opened twice: as after a close in order, and as after a crash.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement that cannot be made ends, and one that was made is printed"
)]

mod drive;
mod objects;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_emulator::AddressSpace;
use gcos_engine::Engine;
use gcos_hw::DmaSpace;
use gcos_layout::media::{
    BLOCK_BYTES, CHECKPOINT_PAGE_BYTES, CheckpointHeader, Superblock, ZoneChunks, ZoneMap,
};
use gcos_store::{FormatOptions, OpenOptions, Store, format};

use drive::SyntheticDrive;
use objects::Objects;

/// Percentage of the drive for metadata: what `format` takes when it is told nothing.
const META_PERCENT: u32 = 1;
/// The checkpoint of which the pages are made.
const CHECKPOINT: u64 = 1;

/// Time that this thread has had a processor: what counts where others run, too.
fn on_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text.split(' ').next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(first.unwrap_or(0))
}

/// A line of this process's status, in bytes.
fn status(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse().ok());
    kib.unwrap_or(0u64) << 10
}

/// Lays a pool out and puts a checkpoint into it that has all objects.
fn prepare(drive: &Arc<SyntheticDrive>, zones: &ZoneMap, objects: &Objects) -> Duration {
    let engine: Arc<dyn Engine> = Arc::clone(drive) as _;
    let options = FormatOptions { meta_percent: META_PERCENT, ..FormatOptions::default() };
    format(&[Arc::clone(&engine)], &options).expect("a pool");
    let buffer = engine.dma().alloc(BLOCK_BYTES).unwrap();
    let deadline = Duration::from_secs(1);
    let run = |request| engine.run(request).unwrap();
    let slice = buffer.slice(0, BLOCK_BYTES).unwrap();
    run(gcos_engine::Request::read(0, slice.clone(), deadline));
    let mut block = [0; BLOCK_BYTES];
    slice.read(0, &mut block).unwrap();
    let superblock = Superblock::decode(&block).expect("a superblock");

    let begun = on_cpu();
    let pages = objects.pages();
    let checksums = (0..pages).map(|page| objects.page(CHECKPOINT, page).1);
    let header = CheckpointHeader {
        drive_uuid: superblock.drive_uuid(),
        number: CHECKPOINT,
        journal_sequence: 1,
        journal_block: 0,
        journal_previous: 0,
        pages,
        records: objects.count.into(),
        pages_checksum: CheckpointHeader::sum_pages(checksums),
    };
    let making = on_cpu() - begun;
    let at = zones.checkpoint_offset(CHECKPOINT);
    slice.write(0, &header.encode()).unwrap();
    run(gcos_engine::Request::write(at, slice, true, deadline));
    let made = objects.clone();
    let make = Box::new(move |page| made.page(CHECKPOINT, page).0);
    drive.make_pages(at + BLOCK_BYTES as u64, pages, make);
    making
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("a number"));
    let tib = args.next().expect("the size of the drive in TiB");
    let object_kib = args.next().expect("the size of the objects in KiB");
    let key_bytes = args.next().unwrap_or(16) as usize;

    let drive = SyntheticDrive::new(tib << 40, Arc::clone(dma()));
    let zones = ZoneMap::plan(tib << 40, ZoneChunks::default(), META_PERCENT).unwrap();
    let objects = Objects::fill(&zones, (object_kib << 10) as u32, key_bytes);
    let pages_bytes = u64::from(objects.pages()) * CHECKPOINT_PAGE_BYTES as u64;
    let share = pages_bytes as f64 / zones.checkpoint_bytes as f64;
    println!(
        "{tib} TiB, {} objects of {object_kib} KiB with keys of {key_bytes} bytes; a checkpoint takes {:.2} GB, \
         {:.0} % of its area",
        objects.count,
        pages_bytes as f64 / 1e9,
        share * 100.0
    );
    assert!(share < 0.8, "the metadata zone is too small for so many objects");
    let making = prepare(&drive, &zones, &objects);
    let before = status("VmRSS:");
    for end in ["closed", "crashed"] {
        open(&drive, &objects, tib, end, making, before);
    }
}

fn dma() -> &'static Arc<DmaSpace> {
    static SPACE: std::sync::OnceLock<AddressSpace> = std::sync::OnceLock::new();
    &SPACE.get_or_init(|| AddressSpace::new().unwrap()).dma
}

/// Opens the pool, checks that everything is there, and tells what it took.
fn open(
    drive: &Arc<SyntheticDrive>,
    objects: &Objects,
    tib: u64,
    end: &str,
    making_cpu: Duration,
    before: u64,
) {
    let options = OpenOptions { background: false, deallocate: false, ..OpenOptions::default() };
    let (begun, cpu, making) = (Instant::now(), on_cpu(), drive.making());
    let store = Store::open(vec![Arc::clone(drive) as _], options).expect("a pool");
    let making = drive.making() - making;
    let wall = begun.elapsed() - making;
    let cpu = (on_cpu() - cpu).saturating_sub(making_cpu);
    let (peak, resident) = (status("VmHWM:"), status("VmRSS:"));

    let report = store.recovery();
    assert_eq!((report.objects, report.clean), (objects.count.into(), end == "closed"));
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..10_000 {
        let number = rng.u32(0..objects.count);
        assert!(store.info(&objects.key(number)).is_some(), "object {number} is there");
    }
    let stats = store.stats();
    let each = |bytes: u64| bytes as f64 / f64::from(objects.count);
    let per_tib = |time: Duration| time.as_secs_f64() / tib as f64;
    println!(
        "{end}: open {:.2} s ({:.2} s per TiB), on the processor {:.2} s ({:.2} s per TiB); {} ns an object",
        wall.as_secs_f64(),
        per_tib(wall),
        cpu.as_secs_f64(),
        per_tib(cpu),
        cpu.as_nanos() as u64 / u64::from(objects.count.max(1)),
    );
    println!("  as the store reports it, with the making of pages: {report:?}");
    println!(
        "  memory: index {:.1} bytes an object ({:.1} beside the key), {:.2} GB; resident {:.2} GB more than \
         before, at most {:.2} GB",
        each(stats.index_bytes),
        each(stats.index_bytes - stats.key_bytes),
        stats.index_bytes as f64 / 1e9,
        resident.saturating_sub(before) as f64 / 1e9,
        peak.saturating_sub(before) as f64 / 1e9,
    );
}
