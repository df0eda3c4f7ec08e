//! Copying a pool: onto another path, while it is in use, and what stops it.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gcos::copy::{CopyError, CopyOptions, CopyReport, Untouched, copy};
use gcos::{Config, IfExists, ObjectInfo, PutOptions, Store, open_drives};

const MIB: u64 = 1 << 20;

fn config(path: &str, bytes: u64) -> Config {
    let text = format!(
        r#"{{
            "disk": {{ "number": 1, "paths": [{path:?}], "capacity_bytes": {bytes}, "block_size": 4096 }},
            "zone_chunk_size_kb": {{ "sb": 64, "meta": 64, "data": 1024 }}
        }}"#
    );
    Config::parse(&text, "test").unwrap()
}

fn pool(path: &str, bytes: u64) -> Store {
    let config = config(path, bytes);
    let drives = open_drives(&config, true).unwrap().engines;
    gcos::store::format(&drives, &config.format_options(true)).unwrap();
    Store::open(drives, config.open_options()).unwrap()
}

fn in_memory() -> Store {
    pool("emulated:ram:64MiB", 64 * MIB)
}

fn on_file(folder: &Path) -> Store {
    pool(&folder.join("pool.img").display().to_string(), 64 * MIB)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31 + seed * 17) % 251) as u8).collect()
}

fn len(index: usize) -> usize {
    [1, 5000, 100_000, 1_200_000][index % 4] + index
}

fn fill(store: &Store, count: usize) {
    for index in 0..count {
        let key = format!("k{index:03}");
        store.put(key.as_bytes(), &bytes(index, len(index))[..], &PutOptions::default()).unwrap();
    }
}

fn all_there(store: &Store, count: usize) {
    for index in 0..count {
        let key = format!("k{index:03}");
        let found = store.get_vec(key.as_bytes()).unwrap().unwrap();
        assert!(found == bytes(index, len(index)), "{key}");
    }
}

fn whole(source: &Store, destination: &Store, options: &CopyOptions) -> CopyReport {
    let report = copy(source, destination, options, |_| ControlFlow::Continue(())).unwrap();
    assert!(report.complete);
    report
}

#[test]
fn everything_arrives_with_its_lifetime_and_in_its_order() {
    let folder = folder();
    let (source, destination) = (in_memory(), on_file(folder.path()));
    fill(&source, 40);
    // Later in the order, earlier by key.
    let ttl = Some(Duration::from_secs(1000));
    source.put(b"a", &b"short-lived"[..], &PutOptions { ttl, ..PutOptions::default() }).unwrap();
    source.put(b"b", &b"last"[..], &PutOptions::default()).unwrap();
    let report = whole(&source, &destination, &CopyOptions::default());
    assert_eq!((report.copied, report.same, report.gone, report.failed), (42, 0, 0, 0));
    assert_eq!(report.copied_bytes, report.bytes);
    all_there(&destination, 40);
    let (was, is) = (source.info(b"a").unwrap(), destination.info(b"a").unwrap());
    let later = is.expires_at.unwrap() - was.expires_at.unwrap();
    assert!(later <= 1, "{later} s");
    assert!(destination.info(b"b").unwrap().expires_at.is_none());
    let order = |store: &Store| {
        let mut list = store.list(b"", None, 100);
        list.sort_by_key(|(_, info)| info.generation);
        list.into_iter().map(|(key, info)| (key, info.pins)).collect::<Vec<_>>()
    };
    assert_eq!(order(&source), order(&destination), "and no pin is left on either side");
    destination.close().unwrap();
    source.close().unwrap();
}

#[test]
fn what_is_there_is_left_alone_and_what_differs_is_said() {
    let (source, destination) = (in_memory(), in_memory());
    fill(&source, 20);
    fill(&destination, 8);
    destination.put(b"other", &b"its own"[..], &PutOptions::default()).unwrap();
    let replace = PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() };
    let mut changed = bytes(2, len(2));
    changed[70_000] ^= 1;
    destination.put(b"k002", &changed[..], &replace).unwrap();
    destination.put(b"k003", &b"another length"[..], &replace).unwrap();
    let generation = destination.info(b"k001").unwrap().generation;
    let dry = CopyOptions { dry_run: true, ..CopyOptions::default() };
    let report = whole(&source, &destination, &dry);
    assert_eq!((report.copied, report.same, report.failed), (12, 6, 2));
    assert!(destination.info(b"k019").is_none(), "nothing was written");
    let report = whole(&source, &destination, &CopyOptions::default());
    assert_eq!((report.copied, report.same, report.failed), (12, 6, 2));
    let keys: Vec<_> = report.problems.iter().map(|problem| problem.key.clone()).collect();
    assert_eq!(keys, [b"k002", b"k003"]);
    assert!(destination.get_vec(b"k002").unwrap().unwrap() == changed);
    assert_eq!(destination.info(b"k001").unwrap().generation, generation);
    let replacing = CopyOptions { replace: true, ..CopyOptions::default() };
    let report = whole(&source, &destination, &replacing);
    assert_eq!((report.copied, report.same, report.failed), (2, 18, 0));
    all_there(&destination, 20);
    assert_eq!(destination.get_vec(b"other").unwrap().unwrap(), b"its own");
    let none = whole(&source, &destination, &replacing);
    assert_eq!((none.copied, none.same), (0, 20));
}

#[test]
fn a_copy_that_is_ended_is_taken_up_again() {
    let (source, destination) = (in_memory(), in_memory());
    fill(&source, 30);
    let options = CopyOptions { batch_bytes: 1 << 20, ..CopyOptions::default() };
    let mut batches = 0;
    let report = copy(&source, &destination, &options, |_| {
        batches += 1;
        if batches == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let report = report.unwrap();
    assert!(!report.complete && report.copied > 0 && report.copied < 30, "{report:?}");
    let again = whole(&source, &destination, &options);
    assert_eq!((again.copied, again.same), (30 - report.copied, report.copied));
    all_there(&destination, 30);
}

#[test]
fn prefixes_choose() {
    let (source, destination) = (in_memory(), in_memory());
    fill(&source, 20);
    let options = CopyOptions { prefix: b"k01".to_vec(), ..CopyOptions::default() };
    assert_eq!(whole(&source, &destination, &options).copied, 10);
    assert_eq!(destination.stats().objects, 10);
}

#[test]
fn a_full_destination_evicts_nothing_and_keeps_what_it_got() {
    let source = in_memory();
    let destination = pool("emulated:ram:16MiB", 16 * MIB);
    fill(&destination, 3);
    for index in 0..20 {
        let key = format!("big{index}");
        source.put(key.as_bytes(), &bytes(index, 1 << 20)[..], &PutOptions::default()).unwrap();
    }
    let options = CopyOptions { batch_bytes: 1 << 20, ..CopyOptions::default() };
    let mut last = 0;
    let error = copy(&source, &destination, &options, |report| {
        last = report.copied;
        ControlFlow::Continue(())
    });
    let error = error.unwrap_err();
    let CopyError::Full { copied, .. } = error else { panic!("{error}") };
    assert!(copied == last && copied > 4, "{copied}");
    all_there(&destination, 3);
    for index in 0..copied as usize {
        let key = format!("big{index}");
        assert!(destination.get_vec(key.as_bytes()).unwrap().unwrap() == bytes(index, 1 << 20));
    }
    assert_eq!(source.stats().objects, 20);
    destination.close().unwrap();
}

#[test]
fn no_pin_is_left_where_a_batch_fails_in_its_middle() {
    let source = in_memory();
    let destination = pool("emulated:ram:16MiB", 16 * MIB);
    source.put(b"large", &bytes(0, 20 << 20)[..], &PutOptions::default()).unwrap();
    fill(&source, 4);
    let error = copy(&source, &destination, &CopyOptions::default(), |_| ControlFlow::Continue(()));
    assert!(matches!(error, Err(CopyError::Full { copied: 0, .. })), "{error:?}");
    assert!(destination.stats().objects > 0, "those behind it were written");
    assert_eq!(destination.stats().pinned, 0);
}

#[test]
fn the_destination_evicts_what_was_put_first_into_the_source() {
    let (source, destination) = (in_memory(), in_memory());
    for index in 0..40 {
        let key = format!("k{index:03}");
        source.put(key.as_bytes(), &bytes(index, 1_000_000)[..], &PutOptions::default()).unwrap();
    }
    // Used last, and yet the oldest.
    assert!(source.get_vec(b"k000").unwrap().is_ok());
    assert_eq!(whole(&source, &destination, &CopyOptions::default()).copied, 40);
    for index in 0..40 {
        let key = format!("new{index:03}");
        destination
            .put(key.as_bytes(), &bytes(index, 1_000_000)[..], &PutOptions::default())
            .unwrap();
    }
    let left: Vec<_> = destination.list(b"k", None, 100).into_iter().map(|(key, _)| key).collect();
    assert!(!left.is_empty() && left.len() < 40, "{}", left.len());
    let newest: Vec<_> =
        (40 - left.len()..40).map(|index| format!("k{index:03}").into_bytes()).collect();
    assert_eq!(left, newest);
}

#[test]
fn a_source_without_one_of_its_drives_is_never_copied_completely() {
    let folder = folder();
    let paths = ["a.img", "b.img"].map(|name| folder.path().join(name).display().to_string());
    let text = format!(
        r#"{{
            "disk": {{ "number": 2, "paths": {paths:?}, "capacity_bytes": {}, "block_size": 4096 }},
            "zone_chunk_size_kb": {{ "sb": 64, "meta": 64, "data": 1024 }}
        }}"#,
        64 * MIB
    );
    let config = Config::parse(&text, "test").unwrap();
    let drives = open_drives(&config, true).unwrap().engines;
    gcos::store::format(&drives, &config.format_options(true)).unwrap();
    let source = Store::open(drives, config.open_options()).unwrap();
    fill(&source, 40);
    let both = source.list(b"", None, 100);
    source.close().unwrap();
    let first = |(_, info): &&(Vec<u8>, ObjectInfo)| info.drives == [0];
    let there = both.iter().filter(first).count() as u64;
    assert!(there > 0 && there < 40, "{there}");
    std::fs::remove_file(folder.path().join("b.img")).unwrap();
    let drives = open_drives(&config, false).unwrap();
    assert_eq!(drives.skipped.len(), 1);
    let source = Store::open(drives.engines, config.open_options()).unwrap();
    let destination = in_memory();
    let report = copy(&source, &destination, &CopyOptions::default(), |report| {
        assert_eq!(report.drives_lost, 1, "said from the beginning");
        ControlFlow::Continue(())
    });
    let report = report.unwrap();
    assert_eq!((report.drives_lost, report.complete), (1, false));
    assert!(report.copied >= there && report.copied < 40, "{report:?}");
}

#[test]
fn a_source_that_was_not_closed_is_recovered_and_copied_and_stays_as_it_was() {
    let folder = folder();
    let path = folder.path().join("pool.img").display().to_string();
    let source = pool(&path, 64 * MIB);
    fill(&source, 30);
    source.remove(b"k004", gcos::Durability::Sync).unwrap();
    // As after a crash: no checkpoint, no mark that it was closed.
    drop(source);
    let before = std::fs::read(&path).unwrap();
    let config = config(&path, 64 * MIB);
    let drives = open_drives(&config, false).unwrap();
    let options = gcos::OpenOptions { background: false, ..config.open_options() };
    let source = Store::open(Untouched::over(&drives.engines), options).unwrap();
    assert!(!source.recovery().clean);
    let destination = in_memory();
    assert_eq!(whole(&source, &destination, &CopyOptions::default()).copied, 29);
    // What it is told to do, it does, and its drives know nothing of it.
    source.put(b"new", &bytes(1, 100_000)[..], &PutOptions::default()).unwrap();
    assert!(source.get_vec(b"new").unwrap().unwrap() == bytes(1, 100_000));
    drop((source, drives));
    assert!(std::fs::read(&path).unwrap() == before);
}

#[test]
fn the_source_may_be_written_meanwhile() {
    let (source, destination) = (in_memory(), in_memory());
    fill(&source, 40);
    let stop = AtomicBool::new(false);
    let options = CopyOptions { batch_bytes: 200_000, ..CopyOptions::default() };
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            let options = PutOptions::default();
            let replace = PutOptions { if_exists: IfExists::Replace, pin: true, ..options };
            let mut round = 1000;
            while !stop.load(Ordering::Relaxed) {
                // Of another length each time, so that whoever has looked before is wrong.
                source.put(b"k005", &bytes(round, 4000 + round)[..], &replace).unwrap();
                std::thread::sleep(Duration::from_micros(50));
                assert_eq!(source.info(b"k005").unwrap().pins, 1, "its owner's");
                source.remove(b"k039", gcos::Durability::Relaxed).unwrap();
                round += 1;
            }
        });
        let report = copy(&source, &destination, &options, |_| ControlFlow::Continue(()));
        stop.store(true, Ordering::Relaxed);
        report.unwrap()
    });
    assert!(report.complete);
    assert_eq!(report.done(), report.objects);
    assert_eq!(report.gone, 1, "{report:?}");
    for index in (0..39).filter(|index| *index != 5) {
        let key = format!("k{index:03}");
        let found = destination.get_vec(key.as_bytes()).unwrap().unwrap();
        assert!(found == bytes(index, len(index)), "{key}");
    }
    if report.failed == 0 {
        let found = destination.get_vec(b"k005").unwrap().unwrap();
        let round = found.len().saturating_sub(4000);
        assert!(
            found == bytes(5, len(5)) || found == bytes(round, 4000 + round),
            "one of its states"
        );
    }
    let pinned = source.list(b"", None, 100).into_iter().filter(|(_, info)| info.pins > 0);
    assert!(pinned.map(|(key, _)| key).eq([b"k005"]));
}
