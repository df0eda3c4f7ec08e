use super::*;
use crate::{Durability, IfExists, Lookup, MissReason, PutOutcome, Sink, Source, StoreError};

#[test]
fn objects_of_all_sizes_come_back_before_and_after_a_clean_close() {
    let (drives, store) = fresh(1, 64 * MIB);
    let sizes =
        [1, 511, 4095, 4096, 4097, 65_535, 65_536, 65_537, 250_000, 262_144, 1_000_003, 5 * MIB];
    for (i, len) in sizes.into_iter().enumerate() {
        put(&store, format!("key {i}").as_bytes(), i as u64, len);
    }
    for round in 0..2 {
        let store = match round {
            0 => &store,
            _ => &open(&drives),
        };
        for (i, len) in sizes.into_iter().enumerate() {
            assert_holds(store, format!("key {i}").as_bytes(), i as u64, len);
        }
        assert_eq!(store.stats().objects, sizes.len() as u64);
    }
}

#[test]
fn close_leaves_nothing_to_replay() {
    let (drives, store) = fresh(2, 16 * MIB);
    put(&store, b"a", 1, 100);
    store.close().unwrap();
    let store = open(&drives);
    assert!(store.recovery().clean);
    assert_eq!(store.recovery().journal_records, 0);
    assert_holds(&store, b"a", 1, 100);
}

#[test]
fn keys_of_no_and_of_1024_bytes_work_and_longer_ones_are_refused() {
    let (_drives, store) = fresh(1, 16 * MIB);
    put(&store, b"", 1, 10);
    put(&store, &[0xff; 1024], 2, 10);
    assert_holds(&store, b"", 1, 10);
    assert_holds(&store, &[0xff; 1024], 2, 10);
    for result in [
        store.put(&[0; 1025], b"x".as_slice(), &PutOptions::default()).map(|_| ()),
        store.get(&[0; 1025], [0u8; 1].as_mut_slice()).map(|_| ()),
        store.remove(&[0; 1025], Durability::Sync).map(|_| ()),
    ] {
        assert!(matches!(result, Err(StoreError::Invalid { .. })), "{result:?}");
    }
}

#[test]
fn empty_and_too_large_payloads_are_refused() {
    let (_drives, store) = fresh(1, 16 * MIB);
    let options = PutOptions::default();
    let empty = store.put(b"k", b"".as_slice(), &options).unwrap_err();
    assert!(empty.to_string().contains("1 byte to 1 GiB"), "{empty}");
    let buffer = store.buffer(1 << 20).unwrap();
    let many: Vec<_> = (0..1025).map(|_| buffer.as_dma()).collect();
    let large = store.put(b"k", Source::Segments(&many), &options);
    assert!(matches!(large, Err(StoreError::Invalid { .. })), "{large:?}");
    // 256 chunks of 256 KiB are the most that one object may have here.
    let large = store.put(b"k", Source::Segments(&many[..70]), &options);
    assert!(matches!(large, Err(StoreError::Invalid { .. })), "{large:?}");
    let too_many = store.put(b"k", Source::Segments(&many[..20]), &options);
    assert!(matches!(too_many, Err(StoreError::Full { .. })), "{too_many:?}");
    assert_eq!(store.stats().used_bytes, 0);
}

#[test]
fn an_existing_key_is_kept_or_replaced_as_asked() {
    let (drives, store) = fresh(1, 16 * MIB);
    put(&store, b"k", 1, 1000);
    let again = store.put(b"k", bytes(2, 50).as_slice(), &PutOptions::default());
    assert_eq!(again.unwrap(), PutOutcome::Kept);
    assert_holds(&store, b"k", 1, 1000);
    let replace = PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() };
    for seed in 2..20 {
        store.put(b"k", bytes(seed, 50).as_slice(), &replace).unwrap();
        assert_holds(&store, b"k", seed, 50);
    }
    drop(store);
    let store = open(&drives);
    assert_holds(&store, b"k", 19, 50);
    assert_eq!(store.stats().used_bytes, 8192);
}

#[test]
fn memory_of_the_wrong_length_is_an_error_and_nothing_is_read() {
    let (_drives, store) = fresh(1, 16 * MIB);
    put(&store, b"k", 1, 1000);
    for len in [0, 999, 1001] {
        let mut target = vec![7; len];
        let result = store.get(b"k", target.as_mut_slice());
        assert!(matches!(result, Err(StoreError::WrongSize { object: 1000, .. })), "{result:?}");
        assert!(target.iter().all(|&b| b == 7));
    }
    let result = store.get_range(b"k", 990, vec![0; 11].as_mut_slice());
    assert!(matches!(result, Err(StoreError::WrongSize { object: 10, target: 11 })));
    assert!(store.get_range(b"k", u32::MAX, vec![0; 11].as_mut_slice()).is_err());
}

#[test]
fn parts_are_read_and_verified_alone() {
    let (drives, store) = fresh(1, 64 * MIB);
    let len = 3 * MIB + 777;
    put(&store, b"k", 9, len);
    let whole = bytes(9, len);
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..100 {
        let offset = rng.usize(0..len);
        let take = rng.usize(1..=(len - offset).min(400_000));
        let mut part = vec![0; take];
        assert!(store.get_range(b"k", offset as u32, part.as_mut_slice()).unwrap().is_hit());
        assert!(part == whole[offset..offset + take]);
        let mut buffer = store.buffer(take).unwrap();
        assert!(store.get_range(b"k", offset as u32, &mut buffer).unwrap().is_hit());
        assert!(buffer.bytes_mut().unwrap() == &whole[offset..offset + take]);
    }
    // Damage in one grain is no concern of the others.
    let image = drives[0].snapshot();
    let grain = &whole[20 * 65_536..][..64];
    let at = image.windows(64).position(|window| window == grain).unwrap();
    drives[0].corrupt(at as u64, 1);
    let mut part = vec![0; 65_536];
    assert!(store.get_range(b"k", 19 * 65_536, part.as_mut_slice()).unwrap().is_hit());
    let bad = store.get_range(b"k", 20 * 65_536, part.as_mut_slice()).unwrap();
    assert!(matches!(bad, Lookup::Miss(MissReason::Damaged { .. })), "{bad:?}");
}

#[test]
fn device_memory_in_odd_segments_goes_both_ways() {
    let (_drives, store) = fresh(1, 64 * MIB);
    let mut rng = fastrand::Rng::with_seed(3);
    for round in 0..60u64 {
        let buffer = store.buffer(2 * MIB).unwrap();
        let mut segments = Vec::new();
        let mut at = 0;
        for _ in 0..rng.usize(1..6) {
            // Every third round has boundaries that devices cannot reach directly.
            let unit = if round % 3 == 0 { 1 } else { 4 };
            let start = at + rng.usize(0..1000) * unit;
            let len = rng.usize(1..60_000) * unit;
            segments.push(buffer.slice(start, len).unwrap());
            at = start + len;
        }
        let len: usize = segments.iter().map(|s| s.len()).sum();
        let data = bytes(round, len);
        let mut done = 0;
        for segment in &segments {
            segment.write(0, &data[done..done + segment.len()]).unwrap();
            done += segment.len();
        }
        let key = round.to_le_bytes();
        store.put(&key, Source::Segments(&segments), &PutOptions::default()).unwrap();
        assert_holds(&store, &key, round, len);
        for segment in &segments {
            segment.fill(0, segment.len(), 0).unwrap();
        }
        assert!(store.get(&key, Sink::Segments(&segments)).unwrap().is_hit());
        let mut back = Vec::new();
        for segment in &segments {
            let mut part = vec![0; segment.len()];
            segment.read(0, &mut part).unwrap();
            back.extend(part);
        }
        assert!(back == data, "round {round}");
        store.remove(&key, Durability::Relaxed).unwrap();
    }
}

#[test]
fn prefix_counts_up_to_the_first_gap() {
    let (_drives, store) = fresh(1, 16 * MIB);
    for i in [0u8, 1, 2, 4] {
        put(&store, &[i], i.into(), 10);
    }
    let keys: Vec<[u8; 1]> = (0..6).map(|i| [i]).collect();
    let keys: Vec<&[u8]> = keys.iter().map(|k| k.as_slice()).collect();
    assert_eq!(store.prefix(&keys), 3);
    assert_eq!(store.prefix(&keys[3..]), 0);
    assert_eq!(store.prefix(&[]), 0);
}

#[test]
fn removed_objects_stay_away_and_their_space_comes_back() {
    let (drives, store) = fresh(1, 16 * MIB);
    put(&store, b"a", 1, 100_000);
    put(&store, b"b", 2, 100);
    assert!(store.remove(b"a", Durability::Sync).unwrap());
    assert!(!store.remove(b"a", Durability::Sync).unwrap());
    assert!(!store.contains(b"a"));
    drop(store);
    let store = open(&drives);
    assert_eq!(store.get_vec(b"a").unwrap(), Err(MissReason::Absent));
    assert_holds(&store, b"b", 2, 100);
    assert_eq!(store.stats().used_bytes, 8192);
}

#[test]
fn lists_are_in_key_order_and_can_be_paged() {
    let (_drives, store) = fresh(1, 16 * MIB);
    for i in 0..50u8 {
        put(&store, &[b'x', i], i.into(), 10);
    }
    put(&store, b"other", 1, 10);
    let mut seen = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.list(b"x", after.as_deref(), 7);
        let Some(last) = page.last() else { break };
        after = Some(last.0.clone());
        seen.extend(page.into_iter().map(|(key, info)| {
            assert_eq!(info.len, 10);
            key[1]
        }));
    }
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
}

#[test]
fn lifetimes_end() {
    let (_drives, store) = fresh(1, 16 * MIB);
    let short = PutOptions { ttl: Some(Duration::from_millis(1)), ..PutOptions::default() };
    store.put(b"short", b"x".as_slice(), &short).unwrap();
    store.put(b"swept", b"x".as_slice(), &short).unwrap();
    let long = PutOptions { ttl: Some(Duration::from_secs(1000)), ..PutOptions::default() };
    store.put(b"long", b"x".as_slice(), &long).unwrap();
    assert!(store.info(b"long").unwrap().expires_at.is_some());
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(
        store.get(b"short", [0u8].as_mut_slice()).unwrap(),
        Lookup::Miss(MissReason::Expired)
    );
    assert!(store.contains(b"long"));
    store.maintain().unwrap();
    assert_eq!((store.stats().expired, store.stats().objects), (2, 1));
    let forever =
        PutOptions { ttl: Some(Duration::from_secs(u64::MAX / 2)), ..PutOptions::default() };
    assert!(store.put(b"k", b"x".as_slice(), &forever).is_err());
}

#[test]
fn many_at_once_with_equal_keys_among_them() {
    let (drives, store) = fresh(2, 32 * MIB);
    let payloads: Vec<Vec<u8>> = (0..200).map(|i| bytes(i % 50, 3000)).collect();
    let keys: Vec<Vec<u8>> = (0..200u64).map(|i| (i % 50).to_le_bytes().to_vec()).collect();
    let items: Vec<(&[u8], Source<'_>)> =
        keys.iter().zip(&payloads).map(|(k, p)| (k.as_slice(), Source::Bytes(p))).collect();
    let outcomes = store.put_many(&items, &PutOptions::default());
    let stored = outcomes.iter().filter(|o| matches!(o, Ok(PutOutcome::Stored))).count();
    assert_eq!((stored, outcomes.len()), (50, 200));
    assert!(store.stats().journal_frames < 60, "records share frames");
    drop(store);
    let store = open(&drives);
    let mut targets: Vec<Vec<u8>> = (0..60).map(|_| vec![0; 3000]).collect();
    let items = targets
        .iter_mut()
        .enumerate()
        .map(|(i, target)| (keys.get(i).map_or(b"none".as_slice(), |k| k), Sink::Bytes(target)))
        .map(|(key, sink)| if key.is_empty() { (b"none".as_slice(), sink) } else { (key, sink) })
        .collect();
    for (i, result) in store.get_many(items).into_iter().enumerate() {
        assert!(result.unwrap().is_hit(), "{i}");
        assert!(targets[i] == payloads[i]);
    }
}

#[test]
fn many_threads_put_get_replace_and_remove_the_same_keys() {
    let (drives, store) = fresh(2, 24 * MIB);
    let stop = std::time::Instant::now() + Duration::from_millis(1500);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let store = &store;
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(thread);
                while std::time::Instant::now() < stop {
                    let key = rng.u64(0..40);
                    // A payload names its key and is whole or it is a bug.
                    let fill = rng.u8(..);
                    let len = rng.usize(16..200_000);
                    let mut payload = vec![fill; len];
                    payload[..8].copy_from_slice(&key.to_le_bytes());
                    let options = PutOptions {
                        if_exists: if rng.bool() { IfExists::Keep } else { IfExists::Replace },
                        durability: if rng.bool() { Durability::Sync } else { Durability::Relaxed },
                        ..PutOptions::default()
                    };
                    match rng.u8(0..8) {
                        0..3 => drop(
                            store.put(&key.to_le_bytes(), payload.as_slice(), &options).unwrap(),
                        ),
                        3 => drop(store.remove(&key.to_le_bytes(), options.durability).unwrap()),
                        4 => drop(store.list(b"", None, 10)),
                        _ => {
                            if let Ok(got) = store.get_vec(&key.to_le_bytes()).unwrap() {
                                assert_eq!(got[..8], key.to_le_bytes());
                                assert!(got[8..].iter().all(|b| *b == got[8]));
                            }
                        }
                    }
                }
            });
        }
    });
    assert_eq!(store.stats().misses_damaged, 0);
    let kept: Vec<_> = store.list(b"", None, 100);
    store.flush().unwrap();
    drop(store);
    let store = open(&drives);
    assert_eq!(
        store.list(b"", None, 100).iter().map(|o| o.1.generation).collect::<Vec<_>>(),
        kept.iter().map(|o| o.1.generation).collect::<Vec<_>>()
    );
}
