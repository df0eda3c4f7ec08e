//! The drive for spill: a drive of the pool that takes objects only while it must.

use gcos_emulator::{Action, Rule};
use gcos_engine::{DemotionRules, IoErrorKind};
use gcos_layout::media::ZoneChunks;
use gcos_store::{DriveHealth, FormatOptions, MissReason, PutOptions, StoreError, format};

use crate::faulty::At;
use crate::rig::{MIB, PATIENCE, Plan, Rig, bytes};

fn plan(drives: &[u64]) -> Plan {
    let rules = DemotionRules { max_errors: 3, ..DemotionRules::default() };
    Plan { drives: drives.to_vec(), ways: 1, spill: true, rules, patience: PATIENCE }
}

#[test]
fn nothing_is_spilled_while_all_drives_are_well_however_full_they_are() {
    let rig = Rig::new(plan(&[12 * MIB, 12 * MIB]));
    (0..900).for_each(|key| rig.put(key).unwrap());
    let stats = rig.store().stats();
    assert!(stats.evicted > 0);
    assert_eq!((stats.spilled, stats.spill_used_bytes), (0, 0));
    assert!(stats.spill_capacity_bytes > 0);
}

#[test]
fn while_the_only_drive_is_gone_objects_are_spilled_and_are_there_when_all_is_well_again() {
    let mut rig = Rig::new(plan(&[24 * MIB, 24 * MIB]));
    (0..20).for_each(|key| rig.put(key).unwrap());
    rig.drives[0].emulator.faults().add(Rule::any(Action::Remove).times(1));
    (20..60).for_each(|key| rig.put(key).unwrap());
    let stats = rig.store().stats();
    assert!((39..=40).contains(&stats.spilled), "{}", stats.spilled);
    assert!(stats.spill_used_bytes > 0);
    let drives = rig.store().drives();
    assert_eq!((drives[0].spill, drives[1].spill), (false, true));
    assert_eq!(drives[1].health, DriveHealth::Online);
    assert!(rig.serves() >= 39);

    // Without the file for spill: what is there is a miss, everything else is served.
    rig.power_cut();
    let store = rig.open(1).unwrap();
    assert_eq!(store.recovery().missing_drives, [1]);
    let get = |key: u64| store.get_vec(&key.to_le_bytes()).unwrap();
    (0..20).for_each(|key| assert!(get(key).unwrap() == bytes(key * 1000 + 1), "{key}"));
    let missing = (20..60).filter(|&key| get(key) == Err(MissReason::Absent)).count();
    assert!(missing >= 39, "{missing}");
    drop(store);

    // With it: hits.
    rig.reopen();
    rig.serves_all();
    // New objects go to the drive again.
    (60..80).for_each(|key| rig.put(key).unwrap());
    assert_eq!(rig.store().stats().spilled, 0);
    rig.close();
    rig.check();
    rig.reopen();
    rig.end();
}

#[test]
fn with_one_of_two_drives_gone_the_other_is_filled_before_anything_is_spilled_or_evicted() {
    let mut rig = Rig::new(plan(&[12 * MIB, 12 * MIB, 24 * MIB]));
    // Both drives as full as they may be: what lies on the one that goes still counts.
    let mut key = 0;
    let mut put = |count: u64| {
        (key..key + count).for_each(|key| rig.put(key).unwrap());
        key += count;
        rig.store().stats()
    };
    while put(1).evicted == 0 {}
    rig.drives[0].emulator.faults().add(Rule::any(Action::Remove).times(1));
    let before = put(10);
    assert_eq!(before.drives_lost, 1);
    // Some 30 KiB each: more than the drive that is left has room for, less than the one for spill.
    let stats = put(300);
    assert!(stats.spilled > 100, "{}", stats.spilled);
    assert_eq!(stats.evicted, before.evicted);
    let newest = key - 300..key;
    for key in newest {
        let found = rig.store().get_vec(&key.to_le_bytes()).unwrap().unwrap();
        assert!(found == bytes(key * 1000 + 1), "{key}");
    }
    rig.power_cut();
    rig.check();
}

#[test]
fn where_everything_is_pinned_the_rest_is_spilled() {
    let rig = Rig::new(plan(&[12 * MIB, 12 * MIB]));
    let pinned = PutOptions { pin: true, ..PutOptions::default() };
    let put = |key: u64| rig.store().put(&key.to_le_bytes(), bytes(key).as_slice(), &pinned);
    let mut stored = 0;
    let error = loop {
        match put(stored) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    // Where that is full, too, it is said.
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    let stats = rig.store().stats();
    assert!(stats.spilled > 50, "{}", stats.spilled);
    assert_eq!((stats.evicted, stats.objects), (0, stored));
    for key in 0..stored {
        assert!(rig.store().get_vec(&key.to_le_bytes()).unwrap().unwrap() == bytes(key), "{key}");
    }
    rig.end();
}

#[test]
fn a_file_for_spill_that_cannot_grow_fails_puts_and_loses_nothing() {
    for at in [At::Start, At::Before, At::Half] {
        let rig = Rig::new(plan(&[24 * MIB, 24 * MIB]));
        (0..10).for_each(|key| rig.put(key).unwrap());
        rig.drives[0].emulator.faults().add(Rule::any(Action::Remove).times(1));
        (10..20).for_each(|key| rig.put(key).unwrap());
        // No space left on the disk of the file, in the middle of data and of journal frames.
        rig.drives[1].first.fail("write", at, IoErrorKind::Device, 5);
        let failed = (20..30).filter(|&key| rig.put(key).is_err()).count();
        assert!(failed >= 5, "{at:?} {failed}");
        rig.serves();
        rig.end();
    }
}

#[test]
fn a_file_for_spill_that_is_full_makes_room_by_evicting_what_it_has() {
    let rig = Rig::new(plan(&[24 * MIB, 8 * MIB]));
    rig.drives[0].emulator.faults().add(Rule::any(Action::Remove).times(1));
    (0..600).for_each(|key| rig.put(key).unwrap());
    let stats = rig.store().stats();
    assert!(stats.evicted > 100 && stats.spilled >= 599, "{} {}", stats.evicted, stats.spilled);
    // Many of the newest are there; some share a chunk with those that had to go.
    let newest = (400..600u64).filter(|key| {
        let found = rig.store().get_vec(&key.to_le_bytes()).unwrap();
        found.is_ok_and(|got| got == bytes(key * 1000 + 1))
    });
    let newest = newest.count();
    assert!(newest > 20, "{newest}");
}

#[test]
fn a_pool_of_nothing_but_spill_is_refused() {
    let mut rig = Rig::new(plan(&[24 * MIB, 24 * MIB]));
    rig.close();
    let mut engines = rig.engines();
    engines.truncate(1);
    let options = gcos_store::OpenOptions { spill: Some(0), ..Default::default() };
    let error = gcos_store::Store::open(engines, options).unwrap_err().to_string();
    assert!(error.contains("one of several drives"), "{error}");
}

#[test]
fn a_drive_for_spill_is_used_whole_whatever_capacity_the_others_are_given() {
    let mut rig = Rig::new(plan(&[24 * MIB, 12 * MIB]));
    rig.close();
    let chunks = ZoneChunks { superblock: 4096, meta: 65_536, data: 512 << 10 };
    let capacity = Some(16 * MIB);
    let options = FormatOptions { chunks, capacity, force: true, ..FormatOptions::default() };
    let refused = format(&rig.engines(), &options).unwrap_err().to_string();
    assert!(refused.contains("at most the 12582912 bytes"), "{refused}");
    format(&rig.engines(), &FormatOptions { spill: Some(1), ..options }).unwrap();
    let store = rig.open(2).unwrap();
    let of = |drive: usize| store.drives()[drive].capacity_bytes;
    assert!((12 * MIB..16 * MIB).contains(&of(0)), "{}", of(0));
    assert!((8 * MIB..12 * MIB).contains(&of(1)), "{}", of(1));
    assert_eq!(store.stats().spill_capacity_bytes, of(1));
}
