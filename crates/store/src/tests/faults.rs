use std::sync::atomic::Ordering;

use super::*;
use crate::{Contents, Durability, Lookup, MissReason, StoreError, probe};

fn find(drive: &MemDrive, needle: &[u8]) -> u64 {
    drive.snapshot().windows(needle.len()).position(|w| w == needle).unwrap() as u64
}

#[test]
fn a_changed_payload_byte_is_a_miss_never_wrong_bytes() {
    let (drives, store) = fresh(1, 16 * MIB);
    put(&store, b"k", 1, 100_000);
    drives[0].corrupt(find(&drives[0], &bytes(1, 100_000)[70_000..70_100]), 4);
    let result = store.get_vec(b"k").unwrap();
    assert!(
        matches!(&result, Err(MissReason::Damaged { detail, .. }) if detail.contains("grain 1"))
    );
    assert_eq!(store.stats().misses_damaged, 1);
    // The object is gone and its key is free for a new one.
    put(&store, b"k", 2, 100);
    assert_holds(&store, b"k", 2, 100);
}

#[test]
fn another_objects_bytes_in_its_place_are_a_miss() {
    let (drives, store) = fresh(1, 16 * MIB);
    put(&store, b"a", 1, 4096);
    put(&store, b"b", 2, 4096);
    let mut image = drives[0].snapshot();
    let place = |seed| find(&drives[0], &bytes(seed, 64)) as usize - 4096;
    let (a, b) = (place(1), place(2));
    // A misdirected write: a's header and payload land on b's.
    image.copy_within(a..a + 8192, b);
    drives[0].restore(&image);
    assert!(matches!(store.get_vec(b"b").unwrap(), Err(MissReason::Damaged { .. })));
    assert_holds(&store, b"a", 1, 4096);
}

#[test]
fn an_unreadable_block_is_a_miss() {
    let (drives, store) = fresh(1, 16 * MIB);
    put(&store, b"k", 1, 10_000);
    drives[0].unreadable.lock().insert(find(&drives[0], &bytes(1, 64)) / 4096);
    let result = store.get_vec(b"k").unwrap();
    assert!(matches!(result, Err(MissReason::Damaged { .. })), "{result:?}");
}

#[test]
fn a_failed_write_fails_the_put_and_frees_its_space() {
    let (drives, store) = fresh(1, 16 * MIB);
    put(&store, b"a", 1, 1000);
    let used = store.stats().used_bytes;
    drives[0].fail_writes.store(true, Ordering::SeqCst);
    let error = store.put(b"b", bytes(2, MIB).as_slice(), &PutOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::Io(_)), "{error:?}");
    assert_eq!((store.stats().used_bytes, store.contains(b"b")), (used, false));
    drives[0].fail_writes.store(false, Ordering::SeqCst);
    put(&store, b"b", 3, 1000);
    assert_holds(&store, b"b", 3, 1000);
}

#[test]
fn a_failed_flush_is_never_trusted_again() {
    let (drives, store) = fresh(1, 16 * MIB);
    put(&store, b"a", 1, 1000);
    drives[0].fail_flushes.store(true, Ordering::SeqCst);
    assert!(store.put(b"b", b"x".as_slice(), &PutOptions::default()).is_err());
    drives[0].fail_flushes.store(false, Ordering::SeqCst);
    assert!(store.put(b"c", b"x".as_slice(), &PutOptions::default()).is_err());
    assert_holds(&store, b"a", 1, 1000);
    assert_eq!(store.stats().drives_lost, 1);
    drop(store);
    let store = open(&drives);
    assert_holds(&store, b"a", 1, 1000);
    put(&store, b"c", 3, 100);
}

#[test]
fn a_drive_that_goes_away_makes_misses_and_errors_not_hangs() {
    let (drives, store) = fresh(1, 16 * MIB);
    put(&store, b"a", 1, 1000);
    drives[0].gone.store(true, Ordering::SeqCst);
    assert!(matches!(store.get_vec(b"a").unwrap(), Err(MissReason::DriveGone { drive: 0 })));
    let error = store.put(b"b", b"x".as_slice(), &PutOptions::default()).unwrap_err();
    assert!(!error.to_string().is_empty());
    assert!(store.contains(b"a"), "kept for the drive's return");
    assert!(store.close().is_err());
    drives[0].gone.store(false, Ordering::SeqCst);
    assert_holds(&open(&drives), b"a", 1, 1000);
}

#[test]
fn a_closed_store_serves_nothing() {
    let (_drives, store) = fresh(1, 16 * MIB);
    put(&store, b"a", 1, 10);
    store.close().unwrap();
}

#[test]
fn truncated_alien_and_newer_images_are_told_apart() {
    let drives = MemDrive::several(1, 16 * MIB);
    let opened = |drives: &[Arc<MemDrive>]| Store::open(engines(drives), quiet()).unwrap_err();
    assert!(matches!(opened(&drives), StoreError::NotAPool { .. }));
    format_small(&drives);
    let image = drives[0].snapshot();
    drives[0].restore(&image[..8 * MIB]);
    let error = opened(&drives).to_string();
    assert!(error.contains("truncated"), "{error}");
    let mut alien = vec![0; 16 * MIB];
    alien[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
    drives[0].restore(&alien);
    assert!(matches!(opened(&drives), StoreError::NotAPool { .. }));
    let found = probe(&drives[0].engine(), Duration::from_secs(1)).unwrap();
    assert!(matches!(&found, Contents::Other(what) if what.contains("ext4")), "{found}");
    let options = FormatOptions { chunks: small_chunks(), ..FormatOptions::default() };
    let refused = format(&engines(&drives), &options).unwrap_err();
    assert!(refused.to_string().contains("ext4"), "{refused}");
    assert_eq!(drives[0].snapshot(), alien, "nothing was written");
    let mut newer = image.clone();
    for at in gcos_layout::media::ZoneMap::copies(16 << 20) {
        let block = &mut newer[at as usize..at as usize + 4096];
        block[12] = 9;
        let crc = gcos_layout::checksum::crc32c(&block[12..]);
        block[8..12].copy_from_slice(&crc.to_le_bytes());
    }
    drives[0].restore(&newer);
    let error = opened(&drives);
    assert!(matches!(error, StoreError::Format { .. }), "{error:?}");
    let chain = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(chain.contains("newer"), "{chain}");
}

#[test]
fn one_bad_superblock_copy_of_four_or_two_is_repaired_three_are_not_enough() {
    let (drives, store) = fresh(1, 16 * MIB);
    put(&store, b"a", 1, 10);
    drop(store);
    let copies = gcos_layout::media::ZoneMap::copies(16 << 20);
    for bad in 1..=2 {
        copies[..bad].iter().for_each(|&at| drives[0].corrupt(at + 100, 0x55));
        let store = open(&drives);
        assert_eq!(store.recovery().superblock_copies_repaired, bad as u64);
        assert_holds(&store, b"a", 1, 10);
    }
    assert_eq!(open(&drives).recovery().superblock_copies_repaired, 0);
    copies[..3].iter().for_each(|&at| drives[0].corrupt(at + 100, 0x55));
    let error = Store::open(engines(&drives), quiet()).unwrap_err().to_string();
    assert!(error.contains("fsck"), "{error}");
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before() {
    let (drives, store) = fresh(1, 16 * MIB);
    for i in 0..30u64 {
        put(&store, &i.to_le_bytes(), i, 1000);
        if i % 10 == 9 {
            store.checkpoint().unwrap();
        }
    }
    store.remove(&0u64.to_le_bytes(), Durability::Sync).unwrap();
    let zones = gcos_layout::media::ZoneMap::plan(16 << 20, small_chunks(), 1).unwrap();
    drop(store);
    // Checkpoint 3 is the newest, in area 1; its first page starts behind the header.
    drives[0].corrupt(zones.checkpoint_offset(3) + 4096 + 500, 1);
    let store = open(&drives);
    assert_eq!(store.recovery().older_checkpoint_used, [0]);
    assert_eq!(store.stats().objects, 29);
    for i in 1..30u64 {
        assert_holds(&store, &i.to_le_bytes(), i, 1000);
    }
    // The next checkpoints make everything well again.
    store.checkpoint().unwrap();
    store.checkpoint().unwrap();
    drop(store);
    assert!(open(&drives).recovery().older_checkpoint_used.is_empty());
}

#[test]
fn both_checkpoints_damaged_is_an_error_not_an_empty_pool() {
    let (drives, store) = fresh(1, 16 * MIB);
    put(&store, b"k", 1, 1000);
    store.checkpoint().unwrap();
    store.checkpoint().unwrap();
    store.close().unwrap();
    let zones = gcos_layout::media::ZoneMap::plan(16 << 20, small_chunks(), 1).unwrap();
    drives[0].corrupt(zones.checkpoint_offset(0) + 3, 1);
    let store = open(&drives);
    assert_holds(&store, b"k", 1, 1000);
    store.close().unwrap();
    let image = drives[0].snapshot();
    for offset in [0, 100] {
        drives[0].restore(&image);
        drives[0].corrupt(zones.checkpoint_offset(0) + offset, 1);
        drives[0].corrupt(zones.checkpoint_offset(1) + offset, 1);
        let error = Store::open(engines(&drives), quiet()).unwrap_err().to_string();
        assert!(error.contains("both checkpoints are damaged"), "{error}");
    }
}

#[test]
fn an_unreadable_checkpoint_falls_back_like_a_damaged_one() {
    let (drives, store) = fresh(1, 16 * MIB);
    for i in 0..9u64 {
        put(&store, &i.to_le_bytes(), i, 1000);
        store.checkpoint().unwrap();
    }
    drop(store);
    let zones = gcos_layout::media::ZoneMap::plan(16 << 20, small_chunks(), 1).unwrap();
    let header = zones.checkpoint_offset(9) / 4096;
    for block in [header, header + 2] {
        drives[0].unreadable.lock().clear();
        drives[0].unreadable.lock().insert(block);
        let store = open(&drives);
        for i in 0..9u64 {
            assert_holds(&store, &i.to_le_bytes(), i, 1000);
        }
    }
}

#[test]
fn a_damaged_journal_frame_is_reported_and_costs_what_is_behind_it() {
    let (drives, store) = fresh(1, 16 * MIB);
    for i in 0..10u64 {
        put(&store, &i.to_le_bytes(), i, 1000);
    }
    drop(store);
    let zones = gcos_layout::media::ZoneMap::plan(16 << 20, small_chunks(), 1).unwrap();
    drives[0].corrupt(zones.journal_offset() + 5 * 4096 + 60, 1);
    let store = open(&drives);
    assert_eq!(store.recovery().journal_holes, [0]);
    for i in 0..5u64 {
        assert_holds(&store, &i.to_le_bytes(), i, 1000);
    }
    assert_eq!(store.stats().objects, 5);
    for i in 0..10u64 {
        put(&store, &i.to_le_bytes(), i, 1000);
    }
    drop(store);
    let store = open(&drives);
    assert!(store.recovery().journal_holes.is_empty(), "told once");
    for i in 0..10u64 {
        assert_holds(&store, &i.to_le_bytes(), i, 1000);
    }
}

#[test]
fn a_get_under_way_keeps_its_bytes_when_the_object_is_removed() {
    let (_drives, store) = fresh(1, 8 * MIB);
    put(&store, b"k", 1, 100_000);
    let mut target = vec![0; 100_000];
    let pool = &store;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            (0..300)
                .filter(|_| {
                    let hit = pool.get(b"k", target.as_mut_slice());
                    let hit = matches!(hit, Ok(Lookup::Hit(_)));
                    assert!(!hit || target == bytes(1, 100_000));
                    hit
                })
                .count()
        });
        for i in 0..100u64 {
            pool.remove(b"k", Durability::Relaxed).unwrap();
            put(pool, &i.to_le_bytes(), i, 90_000);
            put(pool, b"k", 1, 100_000);
        }
        reader.join().unwrap();
    });
    assert_eq!(store.stats().misses_damaged, 0);
}

#[test]
fn the_journal_keeps_what_the_older_checkpoint_needs() {
    let (drives, store) = fresh(1, 16 * MIB);
    // Without maintenance the ring (256 blocks) fills, and the writer makes room by checkpoints.
    for i in 0..270u64 {
        put(&store, &i.to_le_bytes(), i, 100);
    }
    let newest = store.stats().checkpoints;
    assert!(newest >= 1);
    drop(store);
    let zones = gcos_layout::media::ZoneMap::plan(16 << 20, small_chunks(), 1).unwrap();
    drives[0].corrupt(zones.checkpoint_offset(newest) + 4096 + 500, 1);
    let store = open(&drives);
    assert_eq!(store.recovery().older_checkpoint_used, [0]);
    for i in 0..270u64 {
        assert_holds(&store, &i.to_le_bytes(), i, 100);
    }
}

#[test]
fn a_frame_that_does_not_name_the_one_before_it_is_not_part_of_the_journal() {
    let (drives, store) = fresh(1, 16 * MIB);
    for i in 0..10u64 {
        put(&store, &i.to_le_bytes(), i, 1000);
    }
    drop(store);
    let zones = gcos_layout::media::ZoneMap::plan(16 << 20, small_chunks(), 1).unwrap();
    let mut image = drives[0].snapshot();
    let superblock = gcos_layout::media::Superblock::decode(&image[..4096]).unwrap();
    // Right in everything else: sequence 6, where frame 6 was.
    let forged = gcos_layout::media::FrameBuilder::default();
    let (frame, _) = forged.finish(6, superblock.epoch, 0xbad, &superblock.drive_uuid());
    let at = zones.journal_offset() as usize + 5 * 4096;
    image[at..at + 4096].copy_from_slice(&frame);
    drives[0].restore(&image);
    let store = open(&drives);
    assert_eq!((store.stats().objects, store.recovery().journal_holes.as_slice()), (5, &[0][..]));
}

#[test]
fn a_header_that_fits_its_payload_but_not_its_record_is_a_miss() {
    let (drives, store) = fresh(1, 16 * MIB);
    put(&store, b"k", 1, 4096);
    let mut image = drives[0].snapshot();
    let payload = find(&drives[0], &bytes(1, 64)) as usize;
    let (mut header, _) =
        gcos_layout::media::ObjectHeader::decode(&image[payload - 4096..payload]).unwrap();
    // Header and payload of another put of the same key, consistent with each other.
    let other = bytes(2, 4096);
    header.grains = vec![gcos_layout::checksum::crc32c(&other)];
    image[payload - 4096..payload].copy_from_slice(&header.encode().unwrap().0);
    image[payload..payload + 4096].copy_from_slice(&other);
    drives[0].restore(&image);
    assert!(matches!(store.get_vec(b"k").unwrap(), Err(MissReason::Damaged { .. })));
}
