//! Pools that the store itself wrote.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::sync::Arc;

use common::{Memory, assert_clean, chunks, look, repair};
use gcos_check::{FindingCode, Report, Severity};
use gcos_engine::Engine;
use gcos_store::{Durability, FormatOptions, IfExists, OpenOptions, PutOptions, Stats, Store};

fn engines(drives: &[Arc<Memory>]) -> Vec<Arc<dyn Engine>> {
    drives.iter().map(|d| Arc::clone(d) as Arc<dyn Engine>).collect()
}

fn fresh(count: usize) -> Vec<Arc<Memory>> {
    let drives: Vec<_> =
        (0..count).map(|i| Memory::new(&format!("drive{i}"), vec![0; 16 << 20])).collect();
    let options = FormatOptions { chunks: chunks(), ..FormatOptions::default() };
    gcos_store::format(&engines(&drives), &options).unwrap();
    drives
}

fn open(drives: &[Arc<Memory>]) -> Store {
    let options = OpenOptions { background: false, ..OpenOptions::default() };
    Store::open(engines(drives), options).unwrap()
}

/// Puts, replacements and removes; stops at the first error.
fn work(store: &Store, seed: u64, steps: u32) {
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..steps {
        let key = vec![rng.u8(..25); rng.usize(1..40)];
        let durability = if rng.bool() { Durability::Sync } else { Durability::Relaxed };
        let ended = if rng.u8(..4) == 0 {
            store.remove(&key, durability).map(|_| ())
        } else {
            let len = if rng.u8(..8) == 0 { rng.usize(1..3 << 20) } else { rng.usize(1..90_000) };
            let payload: Vec<u8> = (0..len).map(|i| (i as u64 * 7 + seed) as u8).collect();
            let if_exists = IfExists::Replace;
            let options = PutOptions { durability, if_exists, ..PutOptions::default() };
            store.put(&key, payload.as_slice(), &options).map(|_| ())
        };
        if ended.is_err() || rng.u8(..50) == 0 && store.maintain().is_err() {
            return;
        }
    }
}

/// Once nothing waits: writing one drive's journal may leave a removal for another's.
fn settled(store: &Store) -> Stats {
    for _ in 0..3 {
        store.flush().unwrap();
    }
    store.stats()
}

#[track_caller]
fn assert_equal(report: &Report, stats: &Stats) {
    assert_eq!(
        (report.objects, report.payload_bytes, report.used_bytes),
        (stats.objects, stats.payload_bytes, stats.used_bytes)
    );
}

#[test]
fn a_formatted_pool_is_clean() {
    let drives = fresh(2);
    let report = look(&drives);
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[test]
fn a_pool_that_was_closed_is_clean_and_counts_as_the_store_does() {
    for seed in 0..6 {
        let drives = fresh(1 + seed as usize % 3);
        for round in 0..4 {
            let store = open(&drives);
            work(&store, seed * 100 + round, 150);
            let stats = settled(&store);
            store.close().unwrap();
            let report = look(&drives);
            assert_clean(&report);
            assert_eq!(report.count(FindingCode::NotClosed), 0);
            assert_equal(&report, &stats);
        }
    }
}

#[test]
fn a_crash_at_any_write_leaves_nothing_but_what_a_crash_may() {
    for seed in 0..16 {
        let drives = fresh(2);
        let mut rng = fastrand::Rng::with_seed(seed);
        for round in 0..3 {
            let options = OpenOptions { background: false, ..OpenOptions::default() };
            drives[rng.usize(..2)].stop_after(rng.u64(1..300));
            if let Ok(store) = Store::open(engines(&drives), options) {
                work(&store, seed * 7 + round, 100);
            }
            drives.iter().for_each(|drive| drive.stop_after(u64::MAX));
            let report = look(&drives);
            for finding in &report.findings {
                let legal = [FindingCode::SuperblockAhead, FindingCode::SuperblockStale];
                let fine = finding.severity == Severity::Info || legal.contains(&finding.code);
                assert!(fine, "seed {seed} round {round}: {:#?}", report.findings);
            }
        }
        assert!(repair(&drives).is_repaired());
        let report = look(&drives);
        assert_clean(&report);
        assert_equal(&report, &open(&drives).stats());
    }
}

#[test]
fn the_store_opens_what_was_repaired() {
    for seed in 0..12 {
        let drives = fresh(2);
        let store = open(&drives);
        work(&store, seed, 120);
        store.close().unwrap();
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..3 {
            drives[rng.usize(..2)].flip(rng.u64(..16 << 20));
            drives[rng.usize(..2)].flip(rng.u64(8192..2 << 20));
        }
        let repaired = repair(&drives);
        if !repaired.is_repaired() {
            assert!(repaired.count(FindingCode::CheckpointNone) > 0, "{:#?}", repaired.findings);
            continue;
        }
        let report = look(&drives);
        assert_clean(&report);
        let store = open(&drives);
        assert_equal(&report, &store.stats());
        for (key, _) in store.list(b"", None, 1000) {
            assert!(store.get_vec(&key).unwrap().is_ok());
        }
        work(&store, seed + 1, 120);
        let stats = settled(&store);
        store.close().unwrap();
        let report = look(&drives);
        assert_clean(&report);
        assert_equal(&report, &stats);
    }
}
