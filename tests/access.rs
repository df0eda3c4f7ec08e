//! One open pool as programs in other languages use it: made where nothing is, shared, closed, registered.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos::cuda::GpuError;
use gcos::engine::{IoError, IoErrorKind};
use gcos::hw::{HwError, SharedMemory};
use gcos::status::Classify;
use gcos::store::{PutOptions, Sink, Source};
use gcos::{Access, AccessError, Config, Status, StoreError};

const SIZE: u64 = 64 << 20;

fn config(paths: &[&str]) -> Config {
    let document = serde_json::json!({
        "disk": {
            "number": paths.len(),
            "paths": paths,
            "capacity_bytes": SIZE,
        },
        "kernel_path": {"use_direct_io": false},
    });
    Config::parse(&document.to_string(), "test").unwrap()
}

fn in_memory() -> Arc<Access> {
    Arc::new(Access::open(&config(&["emulated:ram:64MiB"]), false).unwrap())
}

fn close(access: Arc<Access>) {
    access.close(Duration::from_secs(10)).unwrap();
}

fn put(access: &Access, key: &[u8], bytes: &[u8]) {
    access.put(key, bytes, &PutOptions::default()).unwrap();
}

fn get(access: &Access, key: &[u8]) -> Option<Vec<u8>> {
    access.get_vec(key).unwrap().ok()
}

#[test]
fn a_pool_is_made_where_nothing_is_and_opened_again_with_what_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| folder.path().join(name).display().to_string());
    let config = config(&paths.each_ref().map(String::as_str));
    let missing = Access::open(&config, false).unwrap_err();
    assert_eq!(missing.status(), Status::MissingDrive, "{missing}");
    for round in 0..3_u8 {
        let access = Arc::new(Access::open(&config, true).unwrap());
        assert_eq!(access.choices().len(), 2);
        for earlier in 0..round {
            assert_eq!(get(&access, &[earlier]), Some(vec![earlier; 5000]));
        }
        put(&access, &[round], &[round; 5000]);
        close(access);
    }
    close(Arc::new(Access::open(&config, false).unwrap()));
}

#[test]
fn what_is_not_known_is_never_erased_and_files_that_were_made_for_it_go_again() {
    let folder = tempfile::tempdir().unwrap();
    let (known, unknown) = (folder.path().join("new"), folder.path().join("data"));
    std::fs::write(&unknown, vec![7; SIZE as usize]).unwrap();
    let paths = [&known, &unknown].map(|path| path.display().to_string());
    let error = Access::open(&config(&paths.each_ref().map(String::as_str)), true).unwrap_err();
    assert_eq!(error.status(), Status::NotAPool, "{error}");
    assert!(!known.exists(), "the file that was made has gone");
    assert!(std::fs::read(&unknown).unwrap().iter().all(|&byte| byte == 7));
}

#[test]
fn a_pool_that_lacks_a_drive_opens_without_it_and_the_drive_is_not_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| folder.path().join(name).display().to_string());
    let config = config(&paths.each_ref().map(String::as_str));
    close(Arc::new(Access::open(&config, true).unwrap()));
    std::fs::remove_file(&paths[1]).unwrap();
    let access = Arc::new(Access::open(&config, true).unwrap());
    assert_eq!(access.skipped().len(), 1);
    assert!(!Path::new(&paths[1]).exists());
    close(access);
}

#[test]
fn a_pool_in_use_is_busy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a").display().to_string();
    let config = config(&[&path]);
    let first = Arc::new(Access::open(&config, true).unwrap());
    let error = Access::open(&config, false).unwrap_err();
    assert_eq!(error.status(), Status::Busy, "{error}");
    close(first);
}

#[test]
fn close_waits_for_calls_and_gives_the_pool_back_at_the_deadline() {
    let access = in_memory();
    let in_a_call = Arc::clone(&access);
    let begun = Instant::now();
    let error = access.close(Duration::from_millis(50)).unwrap_err();
    assert!(begun.elapsed() >= Duration::from_millis(50));
    assert_eq!(error.status(), Status::Timeout, "{error}");
    let still_open = error.access.unwrap();
    put(&still_open, b"key", b"value");
    let ender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        drop(in_a_call);
    });
    close(still_open);
    ender.join().unwrap();
}

#[test]
fn registered_memory_moves_without_a_copy_until_it_is_unregistered() {
    let folder = tempfile::tempdir().unwrap();
    for path in ["emulated:ram:64MiB".to_owned(), folder.path().join("a").display().to_string()] {
        let access = Arc::new(Access::open(&config(&[&path]), true).unwrap());
        let memory = SharedMemory::anonymous(1 << 20).unwrap();
        let address = memory.address();
        let registration = access.register(memory).unwrap();
        assert_eq!((registration.address(), registration.len()), (address, 1 << 20));
        let (from, to) = (
            access.slice(address, 300_000).unwrap(),
            access.slice(address + (512 << 10), 300_000).unwrap(),
        );
        from.fill(0, 300_000, 0x5a).unwrap();
        let segments = [from];
        access.put(b"key", Source::Segments(&segments), &PutOptions::default()).unwrap();
        let segments = [to];
        assert!(access.get(b"key", Sink::Segments(&segments)).unwrap().is_hit());
        let mut back = vec![0; 300_000];
        segments[0].read(0, &mut back).unwrap();
        assert!(back.iter().all(|&byte| byte == 0x5a));
        // Less than a block at each end goes through staging memory.
        let staged = access.store().stats().staged_bytes;
        assert!(staged < 3 * 4096, "{path}: {staged} bytes were copied");

        assert!(access.slice(address + (1 << 20) - 10, 11).is_none(), "past its end");
        assert!(access.slice(address - 1, 1).is_none());
        drop(registration);
        assert!(access.slice(address, 1).is_none());
        close(access);
    }
}

#[test]
fn figures_of_an_interval_are_of_that_interval() {
    let access = in_memory();
    put(&access, b"key", &vec![1; 1_000_000]);
    for _ in 0..3 {
        assert!(get(&access, b"key").is_some());
    }
    assert!(get(&access, b"other").is_none());
    let first = access.interval_stats();
    assert_eq!((first.reads, first.writes, first.hits, first.misses), (4, 1, 3, 1));
    assert_eq!((first.read_bytes, first.write_bytes), (3_000_000, 1_000_000));
    assert!((first.cache_hit_rate_percent - 75.0).abs() < 1e-9);
    assert!(first.read_throughput_gbs > 0.0 && first.read_latency_ms > 0.0, "{first:?}");
    assert!(first.read_latency_p99_ms * 2.0 >= first.read_latency_ms, "{first:?}");
    assert!(first.used_percent > 0.0 && first.read_busy_percent <= 100.0);
    let second = access.interval_stats();
    assert_eq!((second.reads, second.writes, second.hits, second.misses), (0, 0, 0, 0));
    assert_eq!((second.read_throughput_gbs, second.cache_hit_rate_percent), (0.0, 0.0));
    close(access);
}

#[test]
fn a_bad_configuration_says_which_field() {
    let error = Config::parse(r#"{"disk": {"number": 2}}"#, "test").unwrap_err();
    let error = AccessError::from(error);
    assert_eq!(error.status(), Status::Config);
    assert!(error.to_string().contains("disk.paths"), "{error}");
}

#[test]
fn every_failure_of_the_store_has_the_status_of_its_kind() {
    let text = || "x".to_owned();
    let os = |kind| {
        let source = std::io::Error::from(kind);
        StoreError::Memory(HwError::Os { what: text(), source })
    };
    let io = |kind| {
        let (drive, detail) = (text(), text());
        StoreError::Io(IoError { kind, drive, op: "read", offset: 0, len: 1, detail, source: None })
    };
    let waited = Duration::from_secs(1);
    let table = [
        (
            StoreError::Invalid { what: "key", expected: text(), got: text() },
            Status::InvalidArgument,
        ),
        (StoreError::WrongSize { object: 1, target: 2 }, Status::WrongSize),
        (StoreError::Full { needed: 1, used: 1, capacity: 1, pinned: 0 }, Status::Full),
        (StoreError::NotAPool { drive: text(), found: text() }, Status::NotAPool),
        (StoreError::Unopenable { drive: text(), reason: text() }, Status::NotAPool),
        (
            StoreError::MixedPools { a: text(), pool_a: text(), b: text(), pool_b: text() },
            Status::NotAPool,
        ),
        (StoreError::Occupied { drive: text(), found: text() }, Status::NotAPool),
        (io(IoErrorKind::Timeout), Status::Timeout),
        (io(IoErrorKind::Gone), Status::MissingDrive),
        (os(std::io::ErrorKind::OutOfMemory), Status::OutOfMemory),
        (StoreError::Gpu(GpuError::NoDriver), Status::Gpu),
        (StoreError::DriveFailed { drive: text(), reason: text() }, Status::MissingDrive),
        (StoreError::TimedOut { what: "a put", waited }, Status::Timeout),
        (StoreError::RelaxedLost, Status::Io),
        (StoreError::Closed, Status::Closed),
    ];
    for (error, status) in table {
        assert_eq!(error.status(), status, "{error}");
    }
}
