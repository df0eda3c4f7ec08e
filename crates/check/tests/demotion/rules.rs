//! Each rule, on drives with another way and without.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gcos_emulator::{Action, Rule};
use gcos_engine::{DemotionRules, IoErrorKind};
use gcos_store::{DriveHealth, Durability, IfExists, PutOptions, StoreError};

use crate::faulty::At;
use crate::rig::{MIB, PATIENCE, Plan, Rig, bytes};

fn plan(drives: usize, ways: usize, rules: DemotionRules) -> Plan {
    let drives = vec![24 * MIB; drives];
    Plan { drives, ways, spill: false, rules, patience: PATIENCE }
}

fn errors(most: u32) -> DemotionRules {
    DemotionRules { max_errors: most, ..DemotionRules::default() }
}

fn health(rig: &Rig) -> Vec<DriveHealth> {
    rig.store().drives().iter().map(|drive| drive.health).collect()
}

#[test]
fn a_drive_that_fails_writes_costs_no_put_and_is_left_when_its_budget_is_used_up() {
    let rig = Rig::new(plan(2, 1, errors(4)));
    (0..20).for_each(|key| rig.put(key).unwrap());
    rig.drives[0].first.fail("write", At::Before, IoErrorKind::Media, u32::MAX);
    // Not one of them fails: what does on the first drive is put on the second.
    (20..60).for_each(|key| rig.put(key).unwrap());
    let stats = rig.store().stats();
    assert_eq!((stats.demoted_errors, stats.drives_lost), (1, 1));
    assert!(stats.puts_retried >= 4, "{}", stats.puts_retried);
    let drives = rig.store().drives();
    assert_eq!(drives[0].way, "none");
    assert!(drives[0].reason.contains("5 requests failed"), "{}", drives[0].reason);
    let hits = rig.serves();
    assert!((41..60).contains(&hits), "{hits}: what is on the first drive is a miss");
    rig.end();
}

#[test]
fn without_a_budget_a_drive_that_fails_writes_stays_in_use_and_costs_no_put_either() {
    let rig = Rig::new(plan(2, 1, DemotionRules::off()));
    rig.drives[0].first.fail("write", At::After, IoErrorKind::Device, 30);
    (0..40).for_each(|key| rig.put(key).unwrap());
    assert_eq!(rig.store().stats().demoted_errors, 0);
    assert!(rig.store().stats().puts_retried > 0);
    rig.serves_all();
    rig.end();
}

#[test]
fn a_drive_that_is_promoted_serves_again_what_it_has_and_takes_puts() {
    let rig = Rig::new(plan(2, 1, errors(2)));
    (0..20).for_each(|key| rig.put(key).unwrap());
    rig.drives[0].first.fail("read", At::Before, IoErrorKind::Device, u32::MAX);
    let hits = rig.serves();
    assert!((1..20).contains(&hits), "{hits}");
    (20..30).for_each(|key| rig.put(key).unwrap());
    assert!(health(&rig).contains(&DriveHealth::Demoted), "{:?}", health(&rig));
    // Not while it fails.
    assert!(matches!(rig.store().promote(0), Err(StoreError::Io(_))));
    rig.drives[0].first.heal();
    rig.store().promote(0).unwrap();
    assert_eq!(health(&rig), [DriveHealth::Online; 2]);
    rig.serves_all();
    (30..50).for_each(|key| rig.put(key).unwrap());
    rig.serves_all();
    let stats = rig.store().stats();
    assert_eq!((stats.demoted_errors, stats.promotions, stats.drives_lost), (1, 1, 0));
    assert!(rig.store().drives()[0].used_bytes > 0);
    rig.end();
}

#[test]
fn a_drive_is_told_at_its_promotion_what_was_replaced_and_removed_meanwhile() {
    let mut rig = Rig::new(plan(2, 1, errors(1)));
    (0..20).for_each(|key| rig.put(key).unwrap());
    rig.drives[0].first.fail("read", At::Before, IoErrorKind::Device, u32::MAX);
    let there = rig.serves() as u64;
    rig.drives[0].first.heal();
    assert!(there < 20);
    // Those on the first drive are misses now: they are replaced, and the new ones removed.
    let replace = PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() };
    for key in 0..20u64 {
        rig.store().put(&key.to_le_bytes(), bytes(key + 7).as_slice(), &replace).unwrap();
    }
    let removed = |rig: &Rig| {
        (0..20u64)
            .filter(|key| rig.store().remove(&key.to_le_bytes(), Durability::Sync).is_err())
            .count() as u64
    };
    rig.store().promote(0).unwrap();
    assert_eq!(removed(&rig), 0, "nothing may come back");
    rig.acknowledged.lock().unwrap().clear();
    rig.removed.lock().unwrap().extend(0..20);
    rig.reopen();
    assert_eq!(rig.store().stats().objects, 0);
    rig.end();
}

#[test]
fn a_removal_that_a_drive_out_of_use_cannot_be_told_is_said_to_be_in_doubt() {
    let rig = Rig::new(plan(2, 1, errors(1)));
    (0..20).for_each(|key| rig.put(key).unwrap());
    rig.drives[0].first.fail("read", At::Before, IoErrorKind::Device, u32::MAX);
    let there = rig.serves() as u64;
    let remove = |key: u64| rig.store().remove(&key.to_le_bytes(), Durability::Sync);
    let doubtful = (0..20).filter(|&key| remove(key).is_err()).count() as u64;
    assert_eq!(doubtful, 20 - there);
    rig.drives[0].first.heal();
    // Now it hears of them.
    rig.store().promote(0).unwrap();
    rig.acknowledged.lock().unwrap().clear();
    rig.removed.lock().unwrap().extend(0..20);
    rig.end();
}

/// Puts from four threads while something happens; all are acknowledged.
fn under_way(rig: &Rig, happens: impl FnOnce()) {
    let failed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (rig, failed) = (&rig, &failed);
            scope.spawn(move || {
                for key in 0..25 {
                    failed.fetch_add(rig.put(worker * 100 + key).is_err().into(), Ordering::SeqCst);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(10));
        happens();
    });
    assert_eq!(failed.into_inner(), 0, "puts failed although a drive was left");
}

#[test]
fn a_drive_that_is_pulled_out_costs_no_put_and_nothing_acknowledged() {
    let rig = Rig::new(plan(2, 1, DemotionRules::default()));
    under_way(&rig, || {
        rig.drives[0].emulator.faults().add(Rule::any(Action::Remove).times(1));
    });
    (1000..1004).for_each(|key| rig.put(key).unwrap());
    rig.serves();
    let stats = rig.store().stats();
    assert_eq!((stats.demoted_gone, stats.drives_lost), (1, 1));
    rig.end();
}

#[test]
fn a_controller_that_fails_its_reset_costs_no_put_and_nothing_acknowledged() {
    let patience = Duration::from_millis(500);
    let rig = Rig::new(Plan { patience, ..plan(2, 1, DemotionRules::default()) });
    // It has something to read, so that it is asked for something after the reset, whatever else.
    (2000..2010).for_each(|key| rig.put(key).unwrap());
    under_way(&rig, || {
        rig.drives[0].emulator.faults().add(Rule::any(Action::Hold));
    });
    (1000..1004).for_each(|key| rig.put(key).unwrap());
    let hits = rig.serves();
    let drives = rig.store().drives();
    assert_eq!(rig.store().stats().demoted_gone, 1, "{hits} {drives:#?}");
    rig.end();
}

#[test]
fn another_way_to_a_drive_keeps_everything_in_reach() {
    let rig = Rig::new(plan(1, 2, errors(3)));
    (0..10).for_each(|key| rig.put(key).unwrap());
    rig.drives[0].first.fail("read", At::Before, IoErrorKind::Device, u32::MAX);
    // The first errors are within the budget: misses, and the objects stay.
    assert!(rig.serves() >= 7);
    rig.serves_all();
    (10..30).for_each(|key| rig.put(key).unwrap());
    rig.serves_all();
    let drive = rig.store().drives().remove(0);
    assert_eq!((drive.health, drive.way.as_str()), (DriveHealth::Online, "next"));
    let stats = rig.store().stats();
    assert_eq!((stats.demoted_errors, stats.drives_lost), (1, 0));
    rig.drives[0].first.heal();
    rig.store().promote(0).unwrap();
    assert_eq!(rig.store().drives()[0].way, "first");
    rig.serves_all();
    rig.end();
}

#[test]
fn a_way_that_is_gone_with_writes_that_were_not_flushed_never_makes_a_put_look_durable() {
    for at in [At::Start, At::Before] {
        let rig = Rig::new(plan(1, 2, DemotionRules::default()));
        (0..10).for_each(|key| rig.put(key).unwrap());
        // The data of the next put is written the first way, which is gone before the flush.
        rig.drives[0].first.fail("flush", at, IoErrorKind::Gone, u32::MAX);
        assert!(rig.put(10).is_err(), "{at:?}");
        assert!(rig.put(11).is_err(), "{at:?}");
        let drive = rig.store().drives().remove(0);
        assert_eq!((drive.health, drive.way.as_str()), (DriveHealth::ReadOnly, "next"));
        rig.serves_all();
        let error = rig.store().promote(0).unwrap_err().to_string();
        assert!(error.contains("opened again"), "{error}");
        assert_eq!(rig.store().stats().demoted_unwritable, 1);
        rig.end();
    }
}

#[test]
fn a_drive_that_becomes_slow_is_left_for_its_other_way() {
    let rules = DemotionRules {
        latency_multiple: 4,
        // Far above what a busy machine adds, far below what is planted.
        latency_floor: Duration::from_millis(60),
        latency_samples: 8,
        latency_lasting: Duration::from_millis(200),
        ..DemotionRules::default()
    };
    let rig = Rig::new(plan(1, 2, rules));
    // Each get of it waits for one request of one size.
    (0..4).for_each(|key| rig.put(key).unwrap());
    rig.drives[0].first.slow(Duration::from_millis(1));
    (0..20).for_each(|_| rig.serves_all());
    assert_eq!(rig.store().stats().demoted_latency, 0);
    rig.drives[0].first.slow(Duration::from_millis(200));
    for _ in 0..60 {
        rig.serves_all();
        if rig.store().stats().demoted_latency > 0 {
            break;
        }
    }
    let stats = rig.store().stats();
    assert_eq!((stats.demoted_latency, stats.misses), (1, 0));
    (4..10).for_each(|key| rig.put(key).unwrap());
    rig.end();
}
