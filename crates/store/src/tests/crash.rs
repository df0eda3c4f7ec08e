//! Power cuts at random writes. What was acknowledged must be there, whole; what was not may be there,
//! whole, or not.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::*;
use crate::{Durability, IfExists, MissReason, StoreError};

/// The seeds from `first` on: as many as a test takes by default, or as `GCOS_SEEDS` says.
fn seeds(first: u64, default: u64) -> std::ops::Range<u64> {
    let count = std::env::var("GCOS_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    first..first + count
}

/// What a key may read as.
#[derive(Debug, Clone, Default)]
struct Allowed {
    /// Seeds and lengths of payloads that may be there.
    versions: Vec<(u64, usize)>,
    /// Whether it may be absent.
    absent: bool,
}

struct Run {
    drives: Vec<Arc<MemDrive>>,
    model: HashMap<u64, Allowed>,
    rng: fastrand::Rng,
    next: u64,
    /// Whether eviction may have removed anything.
    evicts: bool,
}

impl Run {
    fn new(seed: u64, drives: usize, bytes: usize, evicts: bool) -> Self {
        let drives = MemDrive::several(drives, bytes);
        format_small(&drives);
        Self { drives, model: HashMap::new(), rng: fastrand::Rng::with_seed(seed), next: 0, evicts }
    }

    /// One operation. `false` when the power went.
    fn step(&mut self, store: &Store, durability: Durability) -> bool {
        let key = self.rng.u64(0..24);
        let allowed = self.model.entry(key).or_insert(Allowed { versions: vec![], absent: true });
        let name = key.to_le_bytes();
        let result = if self.rng.u8(0..5) == 0 {
            let result = store.remove(&name, durability).map(|_| ());
            if result.is_ok() && durability == Durability::Sync {
                *allowed = Allowed { versions: vec![], absent: true };
            } else {
                allowed.absent = true;
            }
            result
        } else {
            let len = match self.rng.u8(0..10) {
                0 => self.rng.usize(300_000..900_000),
                1..4 => self.rng.usize(60_000..200_000),
                _ => self.rng.usize(1..9000),
            };
            self.next += 1;
            let seed = self.next;
            let options =
                PutOptions { durability, if_exists: IfExists::Replace, ..PutOptions::default() };
            let result = store.put(&name, bytes(seed, len).as_slice(), &options).map(|_| ());
            if result.is_ok() && durability == Durability::Sync {
                *allowed = Allowed { versions: vec![(seed, len)], absent: self.evicts };
            } else if !matches!(result, Err(StoreError::Full { .. })) {
                allowed.versions.push((seed, len));
            }
            result
        };
        match result {
            Ok(()) | Err(StoreError::Full { .. }) => true,
            Err(_) => false,
        }
    }

    fn check(&mut self, store: &Store, context: &str) {
        for (key, allowed) in &mut self.model {
            match store.get_vec(&key.to_le_bytes()).unwrap() {
                Ok(got) => {
                    let found = allowed
                        .versions
                        .iter()
                        .copied()
                        .find(|&(seed, len)| len == got.len() && bytes(seed, len) == got);
                    let Some(found) = found else {
                        panic!("{context}: key {key} reads as something never put or long gone")
                    };
                    *allowed = Allowed { versions: vec![found], absent: self.evicts };
                }
                Err(MissReason::Absent) => {
                    assert!(allowed.absent, "{context}: key {key} is lost: {allowed:?}");
                    *allowed = Allowed { versions: vec![], absent: true };
                }
                Err(other) => panic!("{context}: key {key}: {other}"),
            }
        }
    }
}

fn cut_power_often(seed: u64, drives: usize, bytes: usize, durability: Durability, evicts: bool) {
    let mut run = Run::new(seed, drives, bytes, evicts);
    for round in 0..12 {
        let context = format!("seed {seed}, round {round}");
        let store = match Store::open(engines(&run.drives), quiet()) {
            Ok(store) => store,
            Err(error) => panic!("{context}: open failed: {error:?}"),
        };
        run.check(&store, &context);
        let after = run.rng.i64(0..400);
        for drive in &run.drives {
            drive.writes_left.store(after, Ordering::SeqCst);
        }
        for step in 0..200 {
            if !run.step(&store, durability) {
                break;
            }
            if step % 20 == 19 && (store.maintain().is_err() || store.checkpoint().is_err()) {
                break;
            }
        }
        drop(store);
        // The power is cut during recovery, too.
        for drive in &run.drives {
            drive.power_cycle(run.rng.u64(..));
            if round % 3 == 0 {
                drive.writes_left.store(run.rng.i64(0..12), Ordering::SeqCst);
            }
        }
        if round % 3 == 0 {
            drop(Store::open(engines(&run.drives), quiet()));
            for drive in &run.drives {
                drive.power_cycle(run.rng.u64(..));
            }
        }
    }
}

#[test]
fn acknowledged_puts_survive_power_cuts() {
    for seed in seeds(0, 40) {
        cut_power_often(seed, 1, 16 * MIB, Durability::Sync, false);
    }
}

#[test]
fn acknowledged_puts_survive_power_cuts_on_three_drives() {
    for seed in seeds(100_000, 20) {
        cut_power_often(seed, 3, 8 * MIB, Durability::Sync, false);
    }
}

#[test]
fn acknowledged_puts_survive_power_cuts_while_evicting() {
    for seed in seeds(200_000, 20) {
        cut_power_often(seed, 1, 6 * MIB, Durability::Sync, true);
    }
}

#[test]
fn relaxed_puts_are_whole_or_absent_after_power_cuts() {
    for seed in seeds(300_000, 20) {
        let mut run = Run::new(seed, 2, 16 * MIB, true);
        for round in 0..8 {
            let store = open(&run.drives);
            run.check(&store, &format!("seed {seed}, round {round}"));
            let after = run.rng.i64(0..600);
            run.drives.iter().for_each(|d| d.writes_left.store(after, Ordering::SeqCst));
            for _ in 0..100 {
                // Anything of the last moments may be lost, older versions may be back.
                if !run.step(&store, Durability::Relaxed) {
                    break;
                }
            }
            drop(store);
            run.drives.iter().for_each(|d| d.power_cycle(run.rng.clone().u64(..)));
        }
    }
}

#[test]
fn a_flush_makes_relaxed_puts_durable() {
    let (drives, store) = fresh(2, 16 * MIB);
    let relaxed = PutOptions { durability: Durability::Relaxed, ..PutOptions::default() };
    for i in 0..50u64 {
        store.put(&i.to_le_bytes(), bytes(i, 5000).as_slice(), &relaxed).unwrap();
    }
    store.flush().unwrap();
    drop(store);
    drives.iter().for_each(|drive| drive.power_cycle(1));
    let store = open(&drives);
    for i in 0..50u64 {
        assert_holds(&store, &i.to_le_bytes(), i, 5000);
    }
}

#[test]
fn format_cut_short_at_any_write_leaves_no_pool_or_a_whole_one() {
    let mut ready = 0;
    for after in 0..120 {
        let drives = MemDrive::several(2, 8 * MIB);
        format_small(&drives);
        put(&open(&drives), b"old", 1, 100);
        // Both drives count down together, as power does.
        drives.iter().for_each(|d| d.writes_left.store(after, Ordering::SeqCst));
        let options = FormatOptions { chunks: small_chunks(), force: true, ..Default::default() };
        let done = format(&engines(&drives), &options);
        drives.iter().for_each(|d| d.power_cycle(after as u64));
        match Store::open(engines(&drives), quiet()) {
            Ok(store) if store.contains(b"old") => assert!(done.is_err()),
            Ok(store) => {
                ready += 1;
                put(&store, b"new", 2, 100);
            }
            Err(error) => assert!(done.is_err(), "after {after} writes: {error:?}"),
        }
    }
    assert!(ready > 0);
}

#[test]
fn the_journal_wraps_many_times() {
    let (drives, store) = fresh(1, 8 * MIB);
    let replace = PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() };
    for i in 0..1500u64 {
        store.put(&(i % 20).to_le_bytes(), bytes(i, 100).as_slice(), &replace).unwrap();
        if i % 100 == 99 {
            store.maintain().unwrap();
        }
    }
    assert!(store.stats().checkpoints >= 5, "{:?}", store.stats());
    drop(store);
    let store = open(&drives);
    assert!(store.recovery().journal_records < 300);
    for i in 1480..1500u64 {
        assert_holds(&store, &(i % 20).to_le_bytes(), i, 100);
    }
}

#[test]
fn a_full_ring_takes_checkpoints_by_itself() {
    let (drives, store) = fresh(1, 8 * MIB);
    let replace = PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() };
    for i in 0..1000u64 {
        store.put(b"k", bytes(i, 100).as_slice(), &replace).unwrap();
    }
    assert!(store.stats().checkpoints > 0);
    drop(store);
    assert_holds(&open(&drives), b"k", 999, 100);
}
