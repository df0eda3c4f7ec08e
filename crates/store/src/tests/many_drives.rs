use super::*;
use crate::{IfExists, MissReason, StoreError};

#[test]
fn large_objects_use_every_drive() {
    let (drives, store) = fresh(4, 32 * MIB);
    put(&store, b"large", 1, 8 * MIB);
    let mut used = store.info(b"large").unwrap().drives;
    used.sort_unstable();
    assert_eq!(used, [0, 1, 2, 3]);
    assert_holds(&store, b"large", 1, 8 * MIB);
    drop(store);
    assert_holds(&open(&drives), b"large", 1, 8 * MIB);
}

#[test]
fn the_order_of_the_drives_does_not_matter() {
    let (mut drives, store) = fresh(3, 16 * MIB);
    for i in 0..30u64 {
        put(&store, &i.to_le_bytes(), i, 10_000);
    }
    drop(store);
    drives.reverse();
    let store = open(&drives);
    for i in 0..30u64 {
        assert_holds(&store, &i.to_le_bytes(), i, 10_000);
    }
}

#[test]
fn a_missing_drive_costs_its_objects_and_they_are_back_with_it() {
    let (drives, store) = fresh(3, 16 * MIB);
    for i in 0..60u64 {
        put(&store, &i.to_le_bytes(), i, 10_000);
    }
    put(&store, b"wide", 99, 6 * MIB);
    let homes: Vec<Option<u8>> =
        (0..60u64).map(|i| store.info(&i.to_le_bytes()).map(|info| info.drives[0])).collect();
    drop(store);
    let strict = OpenOptions { allow_missing: false, ..quiet() };
    let error = Store::open(engines(&drives[..2]), strict).unwrap_err().to_string();
    assert!(error.contains("missing"), "{error}");
    let store = open(&drives[..2]);
    assert_eq!(store.recovery().missing_drives, [2]);
    assert_eq!((store.stats().drives_lost, store.stats().drives_online), (1, 2));
    let mut there = 0;
    for (i, home) in homes.iter().enumerate() {
        let got = store.get_vec(&(i as u64).to_le_bytes()).unwrap();
        match home {
            Some(2) => assert!(got.is_err()),
            _ => {
                assert!(got.unwrap() == bytes(i as u64, 10_000));
                there += 1;
            }
        }
    }
    assert!(there >= 30);
    let wide = store.get_vec(b"wide").unwrap().unwrap_err();
    assert!(matches!(wide, MissReason::DriveGone { drive: 2 } | MissReason::Absent), "{wide}");
    for i in 100..120u64 {
        put(&store, &i.to_le_bytes(), i, 10_000);
    }
    drop(store);
    let store = open(&drives);
    for i in (0..60).chain(100..120u64) {
        assert_holds(&store, &i.to_le_bytes(), i, 10_000);
    }
    assert_holds(&store, b"wide", 99, 6 * MIB);
}

#[test]
fn a_drive_that_comes_back_after_its_space_elsewhere_was_reused_never_gives_wrong_bytes() {
    for lost in 0..2 {
        let (drives, store) = fresh(2, 8 * MIB);
        for i in 0..4u64 {
            put(&store, &i.to_le_bytes(), i, 3 * MIB / 2 + 5);
        }
        drop(store);
        let kept = [Arc::clone(&drives[1 - lost])];
        let store = open(&kept);
        for i in 100..400u64 {
            let payload = bytes(i, 50_000);
            store.put(&i.to_le_bytes(), payload.as_slice(), &PutOptions::default()).unwrap();
        }
        drop(store);
        let store = open(&drives);
        for i in 0..4u64 {
            if let Ok(got) = store.get_vec(&i.to_le_bytes()).unwrap() {
                assert!(got == bytes(i, 3 * MIB / 2 + 5));
            }
        }
        let mut newer = 0;
        for i in 100..400u64 {
            if let Ok(got) = store.get_vec(&i.to_le_bytes()).unwrap() {
                assert!(got == bytes(i, 50_000));
                newer += 1;
            }
        }
        assert!(newer > 20, "{newer}");
    }
}

#[test]
fn a_replacement_on_another_drive_buries_the_old_object_for_good() {
    let (drives, store) = fresh(2, 16 * MIB);
    let replace = PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() };
    for round in 0..7u64 {
        for key in 0..9u64 {
            let seed = round * 100 + key;
            store.put(&key.to_le_bytes(), bytes(seed, 2000).as_slice(), &replace).unwrap();
        }
    }
    for key in 0..9u64 {
        store.remove(&key.to_le_bytes(), crate::Durability::Sync).unwrap();
    }
    drop(store);
    assert_eq!(open(&drives).stats().objects, 0);
    assert_eq!(open(&drives[..1]).stats().objects, 0);
    assert_eq!(open(&drives[1..]).stats().objects, 0);
}

#[test]
fn drives_of_two_pools_and_a_drive_given_twice_are_refused() {
    let drives = MemDrive::several(2, 16 * MIB);
    format_small(&drives[..1]);
    format_small(&drives[1..]);
    let error = Store::open(engines(&drives), quiet()).unwrap_err();
    assert!(matches!(error, StoreError::MixedPools { .. }), "{error:?}");
    let twice = vec![drives[0].engine(), drives[0].engine()];
    let error = Store::open(twice, quiet()).unwrap_err().to_string();
    assert!(error.contains("twice"), "{error}");
    assert!(matches!(Store::open(vec![], quiet()), Err(StoreError::Invalid { .. })));
}
