//! One pool by every way: what is written through the driver and the software controller is there through
//! the kernel, by an io_uring and by POSIX, and the other way round.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::{assert_clean, chunks};
use gcos_check::{CheckOptions, Report, check};
use gcos_emulator::{Config, Emulator, Medium, Namespace, WriteCacheConfig};
use gcos_engine::{
    Engine, Extent, FileEngine, FileOptions, HostQueueEngine, HostQueueOptions, KernelPath, Request,
};
use gcos_hw::kernel::{Direct, Target, TargetOptions, host_space};
use gcos_store::{Durability, FormatOptions, IfExists, OpenOptions, PutOptions, Store};

const IMAGE: u64 = 64 << 20;

/// A way to the blocks of an image.
#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    Driver,
    Kernel(KernelPath, Direct),
}

const WAYS: [By; 4] = [
    By::Driver,
    By::Kernel(KernelPath::IoUring, Direct::Prefer),
    By::Kernel(KernelPath::Posix, Direct::Prefer),
    By::Kernel(KernelPath::IoUring, Direct::Never),
];

/// Runs with an engine over the image, which is closed by anybody's account afterwards.
fn with<T>(way: By, image: &Path, read_only: bool, run: impl FnOnce(Arc<dyn Engine>) -> T) -> T {
    match way {
        By::Driver => {
            let medium = Medium::file(image, false).unwrap();
            let emulator = Emulator::new(Config {
                namespaces: vec![Namespace { lba_bytes: 4096, bytes: IMAGE }],
                write_cache: Some(WriteCacheConfig { capacity_bytes: 4 << 20, seed: 3 }),
                ..Config::new(medium)
            });
            let function = emulator.unwrap().function();
            let engine = HostQueueEngine::open(function, HostQueueOptions::default()).unwrap();
            run(Arc::new(engine))
        }
        By::Kernel(path, direct) => {
            let target = Target::open(image, &TargetOptions { direct, read_only }).unwrap();
            let options =
                FileOptions { force: Some(path), lba_bytes: Some(4096), ..FileOptions::default() };
            run(FileEngine::open(target, host_space().unwrap(), options).unwrap())
        }
    }
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn object(rng: &mut fastrand::Rng) -> Vec<u8> {
    let len = match rng.u8(..8) {
        0 => rng.usize(1..3 << 20),
        1 | 2 => rng.usize(1..200_000),
        _ => rng.usize(1..9000),
    };
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

/// Checks that all of the model is there, changes some of it, and closes the store or leaves it as a
/// crash would, after what was acknowledged as durable.
fn work(engine: Arc<dyn Engine>, model: &mut Model, seed: u64) {
    let options = OpenOptions { background: false, ..OpenOptions::default() };
    let store = Store::open(vec![engine], options).unwrap();
    for (key, bytes) in &*model {
        let got = store.get_vec(key).unwrap();
        assert!(got.is_ok_and(|got| got == *bytes), "{key:?}");
    }
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..40 {
        let key = vec![rng.u8(..20); 8];
        if rng.u8(..5) == 0 {
            store.remove(&key, Durability::Sync).unwrap();
            model.remove(&key);
            continue;
        }
        let bytes = object(&mut rng);
        let durability = if rng.bool() { Durability::Sync } else { Durability::Relaxed };
        let options =
            PutOptions { durability, if_exists: IfExists::Replace, ..PutOptions::default() };
        store.put(&key, bytes.as_slice(), &options).unwrap();
        model.insert(key, bytes);
    }
    store.flush().unwrap();
    if rng.bool() {
        store.close().unwrap();
    }
}

fn look(way: By, image: &Path) -> Report {
    let options = CheckOptions { data: true, ..CheckOptions::default() };
    with(way, image, true, |engine| check(&[engine], &options, &mut |_| ()).unwrap())
}

fn every_way_round(image: &Path, ways: &[By]) {
    for (index, &from) in ways.iter().enumerate() {
        let mut model = Model::new();
        let format = FormatOptions { chunks: chunks(), force: true, ..FormatOptions::default() };
        with(from, image, false, |engine| {
            // Nothing is left of the pool before, whose frames would be taken for torn ones of this.
            let all = Extent { offset: 0, len: engine.geometry().capacity };
            engine.run(Request::deallocate([all], Duration::from_secs(10))).unwrap();
            gcos_store::format(&[engine], &format).unwrap();
        });
        with(from, image, false, |engine| work(engine, &mut model, index as u64));
        for (turn, &to) in ways.iter().chain(&ways[..1]).enumerate() {
            let report = look(to, image);
            assert!(report.is_clean(), "{from:?} by {to:?}, {turn}: {:#?}", report.findings);
            assert_eq!(report.objects, model.len() as u64, "{from:?} by {to:?}");
            let seed = 100 * (index as u64 + 1) + turn as u64;
            with(to, image, false, |engine| work(engine, &mut model, seed));
        }
    }
}

#[test]
fn a_pool_in_a_file_is_the_same_through_the_driver_and_through_the_kernel() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let image = folder.path().join("image");
    File::create(&image).unwrap().set_len(IMAGE).unwrap();
    every_way_round(&image, &WAYS);
}

#[test]
fn a_pool_on_a_block_device_is_the_same_by_io_uring_and_by_posix() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let image = folder.path().join("image");
    File::create(&image).unwrap().set_len(IMAGE).unwrap();
    let losetup = |arguments: &[&str]| {
        let output = Command::new("losetup").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(device) = losetup(&["--find", "--show", image.to_str().unwrap()]) else {
        eprintln!("no loop devices here: nothing was tested");
        return;
    };
    let ways = [KernelPath::IoUring, KernelPath::Posix].map(|p| By::Kernel(p, Direct::Require));
    let done = std::panic::catch_unwind(|| every_way_round(device.as_ref(), &ways));
    losetup(&["--detach", &device]).unwrap();
    done.unwrap();
    // And what lies in the file below it.
    assert_clean(&look(By::Driver, &image));
}
