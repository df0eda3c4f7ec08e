//! Each kind of damage is found under its code, and what can be repaired is.

mod common;

use std::sync::Arc;

use common::{
    Builder, Memory, assert_clean, assert_finds, assert_repairs, look, repair, restore, run,
};
use gcos_check::{FindingCode as Code, Severity};
use gcos_layout::media::{
    CheckpointHeader, Location, ObjectHeader, PutRecord, Record, RemoveRecord, Shape, ZoneMap,
};

/// A record in a frame of its own.
fn note(b: &mut Builder, drive: usize, record: PutRecord) {
    b.frame(drive, &[Record::Put(record)]);
}

#[test]
fn superblock_copies_are_compared_and_rewritten() {
    for copy in 0..4 {
        let (b, _) = Builder::sample();
        let offset = b.zones().superblock_offsets()[copy];
        let now = &b.superblocks[0];
        let older = gcos_layout::media::Superblock { sequence: 1, parent: 0, ..now.clone() };
        let other = gcos_layout::media::Superblock { created: 5, ..now.clone() };
        b.drives[0].flip(offset + 100);
        assert_repairs(&b.drives, Code::SuperblockDamaged);
        b.drives[0].put(offset, &[0; 4096]);
        assert_repairs(&b.drives, Code::SuperblockDamaged);
        b.drives[0].spoil(offset);
        assert_repairs(&b.drives, Code::SuperblockUnreadable);
        b.drives[0].put(offset, &older.encode());
        assert_finds(&look(&b.drives), Code::SuperblockParent);
        assert_repairs(&b.drives, Code::SuperblockStale);
        b.drives[0].put(offset, &now.successor().encode());
        assert_eq!(look(&b.drives).count(Code::SuperblockParent), 0);
        assert_repairs(&b.drives, Code::SuperblockAhead);
        b.drives[0].put(offset, &other.encode());
        assert_repairs(&b.drives, Code::SuperblockConflict);
    }
}

#[test]
fn two_copies_are_enough_and_none_is_not() {
    let (b, live) = Builder::sample();
    let offsets = b.zones().superblock_offsets();
    b.drives[0].flip(offsets[0]);
    b.drives[0].flip(offsets[3] + 500);
    assert_eq!(assert_repairs(&b.drives, Code::SuperblockDamaged).objects, live.len() as u64);
    for offset in &offsets {
        b.drives[0].flip(offset + 200);
    }
    let report = repair(&b.drives);
    assert_finds(&report, Code::SuperblockNoQuorum);
    assert_eq!(report.missing, [0]);
    assert!(!report.is_repaired());
    assert_eq!(b.drives[0].writes(), 2);
}

#[test]
fn a_missing_drive_makes_the_repair_careful() {
    let (b, _) = Builder::sample();
    b.drives[1].flip(b.zones().checkpoint_offset(0));
    b.drives[1].flip(b.zones().superblock_offsets()[2]);
    let report = repair(&b.drives[1..]);
    assert_finds(&report, Code::DriveMissing);
    assert_finds(&report, Code::RepairSkipped);
    assert_eq!(report.missing, [0]);
    assert_eq!(b.drives[1].writes(), 1, "the superblock copy only");
    let report = look(&b.drives[..1]);
    assert_finds(&report, Code::ObjectIncomplete);
}

#[test]
fn mixed_pools_and_duplicates_are_told_and_left_alone() {
    let (a, live) = Builder::sample();
    let b = Builder::with(1, 2, 1);
    let drives = [a.drives[0].clone(), b.drives[0].clone(), a.drives[1].clone()];
    let report = repair(&drives);
    assert_finds(&report, Code::MixedPools);
    assert_eq!(report.objects, live.len() as u64);
    let twin = Memory::new("twin", a.drives[0].image());
    let report = look(&[a.drives[0].clone(), a.drives[1].clone(), twin]);
    assert_finds(&report, Code::DuplicateDrive);
    let mut odd = Builder::new(2);
    odd.superblocks[1].members[0] = [77; 16];
    odd.write_superblock(1);
    assert_finds(&look(&odd.drives), Code::MembersDiffer);
}

#[test]
fn a_truncated_image_is_told_and_left_alone() {
    let (b, _) = Builder::sample();
    let mut image = b.drives[0].image();
    image.truncate(8 << 20);
    let drives = [Memory::new("short", image), b.drives[1].clone()];
    let report = repair(&drives);
    assert_finds(&report, Code::CapacityShrunk);
    assert!(!report.is_repaired());
    assert_eq!(drives[0].writes() + drives[1].writes(), 0);
}

#[test]
fn damaged_checkpoints_are_written_anew() {
    let header = |area| Builder::sample().0.zones().checkpoint_offset(area);
    let page = |area| header(area) + 4096;
    for (offset, code) in [
        (header(0) + 50, Code::CheckpointDamaged),
        (header(1) + 50, Code::CheckpointDamaged),
        (header(0), Code::CheckpointDamaged),
        (page(0) + 40, Code::CheckpointPageDamaged),
        (page(1) + 40, Code::CheckpointPageDamaged),
        (page(1) + 60_000, Code::CheckpointPageDamaged),
    ] {
        for drive in 0..2 {
            let (b, live) = Builder::sample();
            b.drives[drive].flip(offset);
            let report = assert_repairs(&b.drives, code);
            assert_eq!(report.objects, live.len() as u64, "offset {offset}");
            b.drives[drive].spoil(offset);
            assert_repairs(&b.drives, Code::CheckpointUnreadable);
        }
    }
}

#[test]
fn nonsense_checkpoint_headers_are_found() {
    let (b, _) = Builder::sample();
    let area = b.zones().checkpoint_offset(1);
    let block = b.drives[0].image()[area as usize..][..4096].to_vec();
    let good = CheckpointHeader::decode(&block, &b.superblocks[0].drive_uuid()).unwrap();
    for (bad, code) in [
        (CheckpointHeader { pages: 1000, ..good }, Code::CheckpointDamaged),
        (CheckpointHeader { pages: u32::MAX, ..good }, Code::CheckpointDamaged),
        (CheckpointHeader { journal_block: 1 << 40, ..good }, Code::CheckpointDamaged),
        (CheckpointHeader { number: 0, ..good }, Code::CheckpointDamaged),
        (CheckpointHeader { number: 8, ..good }, Code::CheckpointWrongArea),
        (CheckpointHeader { records: 99, ..good }, Code::CheckpointSumWrong),
        (CheckpointHeader { pages_checksum: 1, ..good }, Code::CheckpointSumWrong),
        (CheckpointHeader { journal_sequence: 90, ..good }, Code::JournalOlderBroken),
    ] {
        let (b, _) = Builder::sample();
        b.drives[0].put(area, &bad.encode());
        assert_repairs(&b.drives, code);
    }
    let foreign = CheckpointHeader { drive_uuid: [9; 16], ..good };
    b.drives[0].put(b.zones().checkpoint_offset(0), &foreign.encode());
    let report = look(&b.drives);
    assert_clean(&report);
    assert_finds(&report, Code::CheckpointForeign);
}

#[test]
fn without_any_checkpoint_the_whole_journal_counts_or_what_is_left_of_it() {
    let (b, live) = Builder::sample();
    for area in 0..2 {
        b.drives[0].flip(b.zones().checkpoint_offset(area) + 9);
    }
    let whole = common::images(&b.drives);
    assert_eq!(assert_repairs(&b.drives, Code::CheckpointNone).objects, live.len() as u64);
    restore(&b.drives, &whole);
    b.drives[0].flip(b.ring(0) + 20);
    assert_eq!(assert_repairs(&b.drives, Code::CheckpointNone).objects, live.len() as u64);
}

#[test]
fn a_hole_in_the_journal_costs_a_repair_no_more_than_the_damaged_frame() {
    let (b, live) = Builder::sample();
    let frames = &b.frames[1];
    let damaged = frames[frames.len() - 2];
    b.drives[1].flip(b.ring(damaged.block) + 60);
    assert_eq!(assert_repairs(&b.drives, Code::JournalHole).objects, live.len() as u64 - 1);
    let (b, _) = Builder::sample();
    b.drives[1].spoil(b.ring(damaged.block));
    assert_finds(&look(&b.drives), Code::JournalHole);
    assert_repairs(&b.drives, Code::JournalUnreadable);
}

#[test]
fn a_frame_that_does_not_name_the_one_before_it_is_no_part_of_the_journal() {
    let (mut b, _) = Builder::sample();
    let before = look(&b.drives);
    b.journal[1].2 ^= 1;
    b.put(b"of another branch", 100, 1);
    let after = look(&b.drives);
    assert_eq!(after.objects, before.objects, "the store does not count it either");
    assert_eq!(after.drives[1].journal_end, before.drives[1].journal_end);
}

#[test]
fn the_journal_goes_on_after_the_repair_of_a_hole() {
    let (mut b, _) = Builder::sample();
    let damaged = b.frames[0][b.frames[0].len() - 2];
    b.drives[0].flip(b.ring(damaged.block) + 60);
    assert_repairs(&b.drives, Code::JournalHole);
    let area = |n| b.zones().checkpoint_offset(n) as usize;
    let image = b.drives[0].image();
    let uuid = b.superblocks[0].drive_uuid();
    let header = CheckpointHeader::decode(&image[area(1)..], &uuid).unwrap();
    b.journal[0] = (header.journal_sequence, header.journal_block, header.journal_previous);
    let before = look(&b.drives).objects;
    b.put(b"after", 100, 0);
    let report = look(&b.drives);
    assert_clean(&report);
    assert_eq!(report.objects, before + 1);
}

#[test]
fn a_damaged_last_frame_of_a_closed_pool_is_an_error() {
    let (b, live) = Builder::sample();
    let last = *b.frames[0].last().unwrap();
    b.drives[0].flip(b.ring(last.block) + 100);
    let report = look(&b.drives);
    assert!(report.findings.iter().any(|f| f.severity == Severity::Error));
    assert_eq!(assert_repairs(&b.drives, Code::JournalTail).objects, live.len() as u64 - 1);
}

#[test]
fn a_wrapped_hole_is_found() {
    let mut b = Builder::new(1);
    b.turn(0, 200);
    b.checkpoint(0, 2, &[]);
    b.checkpoint(0, 3, &[]);
    b.turn(0, 100);
    let first = b.frames[0].iter().rev().find(|f| f.block == 0).unwrap();
    b.drives[0].flip(b.ring(first.block) + 60);
    assert_repairs(&b.drives, Code::JournalHole);
}

#[test]
fn locations_that_cannot_be_are_dropped() {
    let at = |drive, chunk, block| Location { drive, chunk, block };
    for (head, code) in [
        (at(0, 5000, 0), Code::LocationOutOfRange),
        (at(0, 3, 128), Code::LocationOutOfRange),
        (at(0, 3, 127), Code::LocationOutOfRange),
        (at(1, 3, 0), Code::HeadWrongDrive),
        (at(7, 3, 0), Code::HeadWrongDrive),
        (at(0, 3, 1), Code::SlotMisplaced),
        (at(0, 1, 120), Code::SlotSizesMixed),
        (at(0, 1, 0), Code::Overlap),
    ] {
        let (mut b, live) = Builder::sample();
        let shape = Shape::choose(10_000, 1, 512 << 10, 1).unwrap();
        assert_eq!(shape.head_blocks(1), 4);
        let record = PutRecord {
            key: b"x".to_vec(),
            generation: if code == Code::Overlap { 1 } else { 9 },
            root: 0,
            expiry: 0,
            shape,
            head,
            pieces: vec![],
        };
        let record = match code {
            Code::SlotSizesMixed => PutRecord { generation: 1, ..record },
            _ => record,
        };
        note(&mut b, 0, record);
        assert_eq!(assert_repairs(&b.drives, code).objects, live.len() as u64, "{head:?}");
    }
    let (mut b, live) = Builder::sample();
    let mut record = live[2].record.clone();
    (record.key, record.generation) = (b"pieces".to_vec(), 1 << 41 >> 1);
    record.pieces[1].drive = 9;
    note(&mut b, 0, record);
    assert_repairs(&b.drives, Code::LocationOutOfRange);
}

#[test]
fn of_overlapping_objects_the_newest_stays() {
    let mut b = Builder::new(2);
    let old = b.put(b"old", 400_000, 0);
    let (shape, head) = (old.record.shape, old.record.head);
    let mut newer = b.object_at(b"new", shape, head, vec![], b.generation + 5).record;
    note(&mut b, 0, newer.clone());
    let report = assert_repairs(&b.drives, Code::Overlap);
    assert_eq!((report.objects, report.count(Code::HeaderDamaged)), (1, 0));
    // An object with itself.
    newer.shape = Shape::from_fields(131_072, 2, 1).unwrap();
    newer.pieces = vec![Location { drive: 1, chunk: 4, block: 16 }; 2];
    (newer.key, newer.generation) = (b"self".to_vec(), b.generation + 6);
    newer.head = Location { drive: 0, chunk: 9, block: 0 };
    let (mut b, _) = Builder::sample();
    note(&mut b, 0, newer);
    assert_repairs(&b.drives, Code::Overlap);
}

#[test]
fn two_objects_of_one_generation_are_told() {
    let (mut b, live) = Builder::sample();
    let mut twin = b.object(b"twin", 100, 0);
    twin.record.generation = live[0].record.generation;
    note(&mut b, 0, twin.record);
    assert_finds(&look(&b.drives), Code::GenerationDuplicate);
    let (mut b, live) = Builder::sample();
    let mut twin = b.object(b"small", 100, 0);
    twin.record.generation = live[0].record.generation;
    note(&mut b, 0, twin.record);
    assert_repairs(&b.drives, Code::GenerationDuplicate);
}

#[test]
fn an_epoch_that_no_superblock_knows_is_found() {
    let (mut b, _) = Builder::sample();
    b.superblocks[0].epoch = 5;
    b.put(b"later", 100, 0);
    let report = assert_repairs(&b.drives, Code::EpochBehind);
    assert_clean(&report);
}

#[test]
fn damaged_headers_and_grains_are_found_and_dropped() {
    for which in 0..5 {
        let (b, live) = Builder::sample();
        let record = &live[which].record;
        let (head, drive) = (b.offset(record.head), usize::from(record.head.drive));
        let images = common::images(&b.drives);
        b.drives[drive].flip(head + 30);
        assert_eq!(run(&b.drives, false, false).unwrap().findings, []);
        assert_eq!(assert_repairs(&b.drives, Code::HeaderDamaged).objects, 4);
        restore(&b.drives, &images);
        let (payload, drive) = match record.pieces.last() {
            Some(&piece) => (b.offset(piece) + 3, usize::from(piece.drive)),
            None => (head + 4096 * u64::from(record.shape.header_blocks(record.key.len())), drive),
        };
        b.drives[drive].flip(payload);
        assert_eq!(assert_repairs(&b.drives, Code::GrainDamaged).objects, 4);
        restore(&b.drives, &images);
        b.drives[drive].spoil(payload);
        let report = look(&b.drives);
        assert_eq!(report.count(Code::DataUnreadable), 1, "{:#?}", report.findings);
        assert_eq!(assert_repairs(&b.drives, Code::DataUnreadable).objects, 4);
    }
}

#[test]
fn an_intact_header_of_another_object_is_a_mismatch() {
    let (mut b, live) = Builder::sample();
    let object = b.object(b"one", 100, 0);
    let offset = b.offset(object.record.head) as usize;
    let (header, root) = ObjectHeader::decode(&b.drives[0].image()[offset..]).unwrap();
    let good = PutRecord { root, ..object.record.clone() };
    for (key, expiry, generation) in
        [(b"two", 0, header.generation), (b"one", 3, header.generation), (b"one", 0, 1 << 40)]
    {
        let images = common::images(&b.drives);
        let journal = b.journal.clone();
        note(&mut b, 0, PutRecord { key: key.to_vec(), expiry, generation, ..good.clone() });
        assert_eq!(assert_repairs(&b.drives, Code::HeaderMismatch).objects, live.len() as u64);
        restore(&b.drives, &images);
        b.journal = journal;
    }
}

#[test]
fn an_older_object_elsewhere_does_not_come_back() {
    let mut b = Builder::new(2);
    let old = b.put(b"k", 1000, 0);
    let new = b.put(b"k", 1000, 1);
    assert!(new.record.generation > old.record.generation);
    b.drives[1].flip(b.offset(new.record.head) + 5000);
    assert_clean(&run(&b.drives, false, false).unwrap());
    b.drives[1].flip(b.offset(new.record.head) + 20);
    let report = assert_repairs(&b.drives, Code::HeaderDamaged);
    assert_eq!(report.objects, 0);
    // The same with a remove on the newer one's drive, and a drive that is repaired for another
    // reason.
    let mut b = Builder::new(2);
    b.put(b"k", 1000, 0);
    let new = b.put(b"k", 1000, 1);
    let (key, generation) = (b"k".to_vec(), new.record.generation);
    b.frame(1, &[Record::Remove(RemoveRecord { key, generation })]);
    b.drives[1].flip(b.zones().checkpoint_offset(1));
    assert_eq!(assert_repairs(&b.drives, Code::CheckpointDamaged).objects, 0);
}

#[test]
fn a_repair_of_many_objects_fills_several_pages() {
    let mut b = Builder::with(1, 1, 20);
    let object = b.put(b"x", 100, 0).record;
    let mut records = vec![object];
    for i in 0..200u8 {
        let mut key = vec![i; 1024];
        key[0] = 1;
        records.push(b.object(&key, 1, 0).record);
    }
    b.checkpoint(0, 2, &records);
    b.checkpoint(0, 3, &records);
    b.drives[0].flip(b.zones().checkpoint_offset(1) + 4096 + 70_000);
    let report = assert_repairs(&b.drives, Code::CheckpointPageDamaged);
    assert_eq!(report.objects, 201);
}

#[test]
fn findings_are_bounded_and_counted() {
    let mut b = Builder::with(1, 1, 20);
    let shape = Shape::choose(10, 4, 512 << 10, 1).unwrap();
    for first in (0..1200u32).step_by(100) {
        let record = |i: u32| PutRecord {
            key: i.to_le_bytes().to_vec(),
            generation: u64::from(i),
            root: 0,
            expiry: 0,
            shape,
            head: Location { drive: 0, chunk: 9000, block: 0 },
            pieces: vec![],
        };
        let records: Vec<_> = (first..first + 100).map(|i| Record::Put(record(i))).collect();
        b.frame(0, &records);
    }
    let report = look(&b.drives);
    assert_eq!((report.count(Code::LocationOutOfRange), report.findings.len()), (1200, 1000));
    assert_eq!(report.dropped, 1200);
}

#[test]
fn copies_are_found_when_the_drive_grew_a_little() {
    let (b, _) = Builder::sample();
    let mut image = b.drives[0].image();
    image.resize(image.len() + 8192, 0);
    let grown = Memory::new("grown", image);
    assert_ne!(ZoneMap::copies(b.zones().capacity)[3], ZoneMap::copies((12 << 20) + 8192)[3]);
    let drives = [Arc::clone(&grown), b.drives[1].clone()];
    assert_clean(&look(&drives));
}
