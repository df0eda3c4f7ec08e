use super::*;
use crate::{Durability, StoreError};

#[test]
fn the_least_recently_used_go_first_and_touched_ones_stay() {
    let (drives, store) = fresh(1, 8 * MIB);
    put(&store, b"kept", 7, 60_000);
    for i in 0..300u64 {
        put(&store, &i.to_le_bytes(), i, 60_000);
        assert_holds(&store, b"kept", 7, 60_000);
    }
    let stats = store.stats();
    assert!(stats.evicted > 100, "{stats:?}");
    assert!(stats.used_bytes <= stats.capacity_bytes);
    // What is left is the newest.
    let left: Vec<u64> = (0..300).filter(|i: &u64| store.contains(&i.to_le_bytes())).collect();
    assert!(left.len() > 50 && left.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    for &i in &left {
        assert_holds(&store, &i.to_le_bytes(), i, 60_000);
    }
    drop(store);
    let store = open(&drives);
    for &i in &left {
        assert_holds(&store, &i.to_le_bytes(), i, 60_000);
    }
    assert_eq!(store.stats().objects, left.len() as u64 + 1);
}

#[test]
fn sizes_may_change_completely() {
    let (_drives, store) = fresh(1, 16 * MIB);
    let mut rng = fastrand::Rng::with_seed(5);
    let mut next = 0u64;
    for len in [1000, 200_000, 3 * MIB, 5000, 262_000, 100] {
        for _ in 0..200.min(40 * MIB / len) {
            put(&store, &next.to_le_bytes(), next, len);
            assert_holds(&store, &next.to_le_bytes(), next, len);
            // Makes the order of use differ from the order of place.
            store.touch(&rng.u64(0..=next).to_le_bytes());
            next += 1;
        }
    }
    assert!(store.stats().evicted > 0);
}

#[test]
fn pinned_objects_stay_and_a_pool_full_of_them_says_so() {
    let (_drives, store) = fresh(1, 8 * MIB);
    let pinned = PutOptions { pin: true, ..PutOptions::default() };
    let mut count = 0u64;
    let error = loop {
        match store.put(&count.to_le_bytes(), bytes(count, 100_000).as_slice(), &pinned) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full { pinned, .. } if pinned == count), "{error:?}");
    assert!(error.to_string().contains("unpin"));
    for i in 0..count {
        assert_holds(&store, &i.to_le_bytes(), i, 100_000);
    }
    assert!(store.unpin(&3u64.to_le_bytes()) && !store.unpin(&3u64.to_le_bytes()));
    put(&store, b"more", 1, 100_000);
    assert!(!store.contains(&3u64.to_le_bytes()));
    assert_eq!(store.stats().pinned, count - 1);
}

#[test]
fn the_watermarks_leave_room() {
    let drives = MemDrive::several(1, 16 * MIB);
    format_small(&drives);
    let options = OpenOptions { high_watermark: 60, low_watermark: 40, ..quiet() };
    let store = Store::open(engines(&drives), options).unwrap();
    for i in 0..600u64 {
        put(&store, &i.to_le_bytes(), i, 30_000);
        let stats = store.stats();
        assert!(stats.used_bytes * 100 <= stats.capacity_bytes * 63, "{stats:?}");
    }
    assert!(store.stats().objects > 100);
}

#[test]
fn wrong_watermarks_are_refused() {
    let drives = MemDrive::several(1, 16 * MIB);
    format_small(&drives);
    for (low, high) in [(0, 50), (60, 50), (50, 101)] {
        let options = OpenOptions { high_watermark: high, low_watermark: low, ..quiet() };
        assert!(matches!(
            Store::open(engines(&drives), options),
            Err(StoreError::Invalid { what: "watermarks", .. })
        ));
    }
}

#[test]
fn metadata_room_is_a_limit_too() {
    let (drives, store) = fresh(1, 8 * MIB);
    let mut key = vec![0; 1000];
    for i in 0..1500u64 {
        key[..8].copy_from_slice(&i.to_le_bytes());
        store.put(&key, b"x".as_slice(), &PutOptions::default()).unwrap();
    }
    let stats = store.stats();
    assert!(stats.evicted > 0 && stats.meta_used_bytes <= stats.meta_capacity_bytes, "{stats:?}");
    assert!(stats.used_bytes * 2 < stats.capacity_bytes * 2);
    store.close().unwrap();
    assert_eq!(open(&drives).stats().objects, stats.objects);
}

#[test]
fn freed_chunks_are_deallocated_and_nothing_live_with_them() {
    let (drives, store) = fresh(1, 32 * MIB);
    for i in 0..20u64 {
        put(&store, &i.to_le_bytes(), i, MIB);
    }
    for i in 0..10u64 {
        store.remove(&i.to_le_bytes(), Durability::Sync).unwrap();
    }
    for _ in 0..4 {
        store.maintain().unwrap();
    }
    assert!(store.stats().chunks_deallocated >= 40, "{:?}", store.stats());
    assert!(!drives[0].deallocated.lock().is_empty());
    for i in 10..20u64 {
        assert_holds(&store, &i.to_le_bytes(), i, MIB);
    }
    for i in 20..30u64 {
        put(&store, &i.to_le_bytes(), i, MIB);
    }
    for i in 10..30u64 {
        assert_holds(&store, &i.to_le_bytes(), i, MIB);
    }
}
