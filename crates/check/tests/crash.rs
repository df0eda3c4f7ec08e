//! A repair that ends at any of its writes leaves a pool that the next repair completes.

mod common;

use common::{Builder, assert_clean, images, look, repair, restore, run};
use gcos_layout::media::{PutRecord, Record, RemoveRecord, ZoneMap};

/// Runs the repair with a limit on the writes of one drive after the other, from none on.
fn at_every_write(b: &Builder) -> u64 {
    let before = images(&b.drives);
    let whole = repair(&b.drives);
    assert!(whole.is_repaired(), "{:#?}", whole.findings);
    let expected = look(&b.drives);
    assert_clean(&expected);
    let mut stops = 0;
    for drive in &b.drives {
        for writes in 0.. {
            restore(&b.drives, &before);
            drive.stop_after(writes);
            let ended = run(&b.drives, true, true);
            drive.stop_after(u64::MAX);
            let middle = look(&b.drives);
            assert!(middle.missing.is_empty() && middle.objects >= expected.objects);
            assert!(middle.objects - middle.dropped <= expected.objects + expected.dropped);
            let repaired = repair(&b.drives);
            assert!(repaired.is_repaired(), "write {writes}: {:#?}", repaired.findings);
            let after = look(&b.drives);
            assert_clean(&after);
            assert_eq!(
                (after.objects, after.payload_bytes, after.used_bytes),
                (expected.objects, expected.payload_bytes, expected.used_bytes),
                "write {writes}"
            );
            if ended.is_ok() {
                break;
            }
            stops += 1;
        }
    }
    stops
}

#[test]
fn of_superblock_copies() {
    let (b, _) = Builder::sample();
    let offsets = ZoneMap::copies(b.zones().capacity);
    b.drives[0].flip(offsets[0] + 9);
    b.drives[0].flip(offsets[2] + 9);
    b.drives[1].put(offsets[3], &b.superblocks[1].successor().encode());
    assert_eq!(at_every_write(&b), 3);
}

#[test]
fn of_a_superblock_that_follows() {
    let (mut b, _) = Builder::sample();
    b.superblocks[0].epoch = 4;
    b.put(b"later", 10, 0);
    b.superblocks[0].epoch = 1;
    b.drives[0].flip(b.zones().superblock_offsets()[1] + 77);
    assert!(at_every_write(&b) >= 9);
}

#[test]
fn of_checkpoints() {
    for area in 0..2 {
        for at in [20, 4096 + 100] {
            let (b, _) = Builder::sample();
            b.drives[0].flip(b.zones().checkpoint_offset(area) + at);
            assert!(at_every_write(&b) >= 6);
        }
    }
}

#[test]
fn of_a_hole_and_a_torn_tail() {
    for back in 1..3 {
        let (b, _) = Builder::sample();
        let frame = b.frames[1][b.frames[1].len() - back];
        b.drives[1].flip(b.ring(frame.block) + 200);
        assert!(at_every_write(&b) >= 6);
    }
}

#[test]
fn of_damaged_and_overlapping_objects() {
    let (mut b, live) = Builder::sample();
    let large = &live[2].record;
    let record = PutRecord { key: b"over".to_vec(), generation: 3, ..live[0].record.clone() };
    b.frame(0, &[Record::Put(record)]);
    b.drives[0].flip(b.offset(large.head) + 30);
    b.drives[1].flip(b.offset(live[3].record.head) + 4100);
    assert!(at_every_write(&b) >= 12);
}

/// An older object on drive 0, its newer namesake removed on drive 1, and both drives in need.
#[test]
fn nothing_comes_back_in_the_middle() {
    let mut b = Builder::new(2);
    b.put(b"k", 1000, 0);
    let new = b.put(b"k", 1000, 1);
    let (key, generation) = (b"k".to_vec(), new.record.generation);
    b.frame(1, &[Record::Remove(RemoveRecord { key, generation })]);
    b.put(b"stays", 1000, 1);
    b.put(b"d", 1000, 0);
    let damaged = b.put(b"d", 1000, 1);
    b.drives[1].flip(b.offset(damaged.record.head) + 40);
    let before = images(&b.drives);
    for writes in 0..12 {
        for drive in &b.drives {
            restore(&b.drives, &before);
            drive.stop_after(writes);
            let _ = run(&b.drives, true, true);
            drive.stop_after(u64::MAX);
            let report = look(&b.drives);
            assert_eq!(report.objects, 1, "write {writes}: {:#?}", report.findings);
        }
    }
    restore(&b.drives, &before);
    assert!(at_every_write(&b) > 6);
}
