//! A drive that has lost its metadata gets back what is proven, and nothing else.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Builder, Object, assert_clean, assert_finds, images, look, restore};
use gcos_check::{CheckOptions, FindingCode as Code, Report};
use gcos_engine::Engine;
use gcos_layout::media::{CheckpointHeader, FrameBuilder, PutRecord, Record};

/// A drive whose ring has turned: two objects are only in the checkpoints, one only in the journal, and
/// the header of one that was removed long ago is still there.
struct Turned {
    b: Builder,
    old: Vec<Object>,
    removed: Object,
    young: Object,
}

fn turned(drives: usize) -> Turned {
    let mut b = Builder::new(drives);
    let removed = b.put(b"removed", 3000, 0);
    b.remove(&removed);
    let old = vec![b.put(b"old", 100_000, 0), b.put(b"older", 1, 0)];
    b.turn(0, 270);
    let records: Vec<PutRecord> = old.iter().map(|o| o.record.clone()).collect();
    b.checkpoint(0, 2, &records);
    b.turn(0, 30);
    b.checkpoint(0, 3, &records);
    let young = b.put(b"young", 70_000, 0);
    let turned = Turned { b, old, removed, young };
    assert_clean(&look(&turned.b.drives));
    turned
}

impl Turned {
    fn header(&self, area: u64) -> u64 {
        self.b.zones().checkpoint_offset(area)
    }

    /// Nothing at all is left of either checkpoint.
    fn lose_checkpoints(&self) {
        for area in 0..2 {
            self.b.drives[0].put(self.header(area), &[0x11; 4096 + 65_536]);
        }
    }
}

fn go(b: &Builder, options: CheckOptions) -> Report {
    common::check(&b.drives, &options).unwrap()
}

fn mend(b: &Builder, salvage: bool) -> Report {
    let report = go(b, CheckOptions { repair: true, salvage, ..CheckOptions::default() });
    assert!(report.is_repaired(), "{:#?}", report.findings);
    let again = look(&b.drives);
    assert_clean(&again);
    assert_eq!((again.objects, again.dropped), (report.objects, 0));
    report
}

#[test]
fn a_damaged_byte_in_each_checkpoint_header_costs_nothing() {
    let t = turned(1);
    let before = images(&t.b.drives);
    for at in (0..4096).filter(|&at| at < 80 || at % 499 == 0) {
        for other in [9, 33, 41, 49, 61, 2000] {
            restore(&t.b.drives, &before);
            t.b.drives[0].flip(t.header(0) + at);
            t.b.drives[0].flip(t.header(1) + other);
            let report = mend(&t.b, false);
            assert_finds(&report, Code::CheckpointNone);
            assert_eq!(report.objects, 3, "bytes {at} and {other}: {:#?}", report.findings);
        }
    }
}

#[test]
fn damaged_pages_cost_what_was_on_them_alone() {
    let t = turned(1);
    t.b.drives[0].flip(t.header(0) + 4096 + 50);
    t.b.drives[0].flip(t.header(1) + 4096 + 50);
    let report = mend(&t.b, false);
    assert_eq!((report.objects, report.unproven), (1, 3), "{:#?}", report.findings);
    assert_finds(&report, Code::ObjectsUnproven);
}

#[test]
fn without_checkpoints_what_the_journal_proves_comes_back_and_the_rest_only_on_demand() {
    let t = turned(1);
    t.lose_checkpoints();
    let before = images(&t.b.drives);
    let report = mend(&t.b, false);
    assert_eq!((report.objects, report.unproven), (1, 3));
    assert_eq!(report.payload_bytes, 70_000);
    restore(&t.b.drives, &before);
    let report = mend(&t.b, true);
    assert_eq!((report.objects, report.unproven), (4, 3), "the removed one too");
}

#[test]
fn with_everything_of_the_metadata_gone_only_salvage_brings_objects_back() {
    let t = turned(1);
    let zones = t.b.zones();
    let meta = (zones.journal_offset() + zones.journal_bytes - zones.checkpoint_offset(0)) as usize;
    t.b.drives[0].put(zones.checkpoint_offset(0), &vec![0x77; meta]);
    let before = images(&t.b.drives);
    let report = mend(&t.b, false);
    assert_eq!((report.objects, report.unproven), (0, 4));
    restore(&t.b.drives, &before);
    let report = mend(&t.b, true);
    assert_eq!((report.objects, report.unproven), (4, 4));
}

#[test]
fn what_the_rest_of_the_journal_removes_is_not_salvaged() {
    let mut t = turned(1);
    t.b.remove(&t.old[0].clone());
    let newer = t.b.put(b"older", 2, 0);
    assert!(newer.record.generation > t.old[1].record.generation);
    // Written, and never acknowledged: the drive's journal knows an older object of the key.
    t.b.object(b"young", 9, 0);
    t.lose_checkpoints();
    let report = mend(&t.b, true);
    assert_eq!((report.objects, report.unproven), (3, 1), "older, young and removed");
    assert_eq!(report.payload_bytes, 2 + 70_000 + 3000);
}

#[test]
fn only_objects_that_verify_to_the_last_byte_come_back() {
    for salvage in [false, true] {
        let t = turned(1);
        t.lose_checkpoints();
        t.b.drives[0].flip(t.b.offset(t.young.record.head) + 4096 + 69_999);
        t.b.drives[0].flip(t.b.offset(t.old[0].record.head) + 4096 + 99_999);
        t.b.drives[0].flip(t.b.offset(t.removed.record.head) + 4090);
        let report = mend(&t.b, salvage);
        assert_eq!(report.objects, u64::from(salvage), "{:#?}", report.findings);
        assert_finds(&report, Code::GrainDamaged);
    }
}

#[test]
fn an_older_object_on_another_drive_does_not_stand_in_for_one_that_may_have_been_acknowledged() {
    let mut t = turned(2);
    let old = t.b.put(b"k", 10, 1);
    let other = t.b.put(b"other", 10, 1);
    // Its record is in a frame that the ring has overwritten since.
    let new = t.b.object(b"k", 20, 0);
    assert!(new.record.generation > old.record.generation);
    t.lose_checkpoints();
    let before = images(&t.b.drives);
    let report = mend(&t.b, false);
    assert_finds(&report, Code::ObjectOutdated);
    assert_eq!((report.objects, report.payload_bytes), (2, 70_000 + 10), "{:#?}", report.findings);
    restore(&t.b.drives, &before);
    let report = mend(&t.b, true);
    assert_eq!(report.payload_bytes, 70_000 + 10 + 20 + 100_000 + 1 + 3000);
    assert_eq!(other.record.head.drive, 1);
}

#[test]
fn a_dry_run_tells_what_the_repair_does_and_writes_nothing() {
    let t = turned(1);
    t.lose_checkpoints();
    t.b.drives[0].flip(t.b.zones().superblock_offsets()[1] + 5);
    let before = images(&t.b.drives);
    let dry = CheckOptions { repair: true, dry_run: true, ..CheckOptions::default() };
    let planned = go(&t.b, dry);
    assert!(images(&t.b.drives) == before && t.b.drives[0].writes() == 0, "a dry run wrote");
    assert!(!planned.is_repaired() && planned.would_be_repaired());
    let done = go(&t.b, CheckOptions { repair: true, ..CheckOptions::default() });
    assert!(!done.actions.is_empty());
    assert_eq!(planned.actions, done.actions);
    assert_eq!((planned.objects, planned.counts), (done.objects, done.counts));
    assert_clean(&look(&t.b.drives));
}

#[test]
fn an_area_of_zeros_is_written_before_the_damaged_one() {
    // Both zeros would be a drive that never held anything.
    for blank in 0..2 {
        let t = turned(1);
        t.b.drives[0].put(t.header(blank), &[0; 4096]);
        t.b.drives[0].put(t.header(1 - blank), &[0x11; 4096 + 65_536]);
        for writes in 0.. {
            let before = images(&t.b.drives);
            t.b.drives[0].stop_after(writes);
            let ended = go_on(&t.b);
            t.b.drives[0].stop_after(u64::MAX);
            let image = t.b.drives[0].image();
            let zeros = |area| image[t.header(area) as usize..][..4096].iter().all(|b| *b == 0);
            assert!(!zeros(0) || !zeros(1), "both are zeros after write {writes}");
            if ended {
                break;
            }
            restore(&t.b.drives, &before);
        }
    }
}

fn go_on(b: &Builder) -> bool {
    let options = CheckOptions { repair: true, ..CheckOptions::default() };
    common::check(&b.drives, &options).is_ok()
}

#[test]
fn a_missing_drive_keeps_the_others_from_being_rebuilt() {
    let t = turned(2);
    t.lose_checkpoints();
    let before = t.b.drives[0].image();
    let options = CheckOptions { repair: true, salvage: true, ..CheckOptions::default() };
    let report = common::check(&t.b.drives[..1], &options).unwrap();
    assert_finds(&report, Code::RepairSkipped);
    assert!(!report.is_repaired() && t.b.drives[0].image() == before);
}

#[test]
fn headers_that_lie_about_themselves_are_not_salvaged() {
    let mut t = turned(1);
    t.lose_checkpoints();
    // A copy of a header elsewhere, one of another pool, one of the future, one cut short.
    let at = t.b.offset(t.old[1].record.head) as usize;
    let header = t.b.drives[0].image()[at..at + 8192].to_vec();
    let free = t.b.object(b"free", 1, 0).record;
    t.b.drives[0].put(t.b.offset(free.head), &header);
    let future = t.b.object_at(b"future", free.shape, place(12), vec![], 1 << 60);
    t.b.superblocks[0].pool_uuid = [99; 16];
    t.b.object_at(b"alien", free.shape, place(13), vec![], 5);
    let mut long = header.clone();
    long[12..14].copy_from_slice(&u16::MAX.to_le_bytes());
    t.b.drives[0].put(t.b.offset(place(14)), &long);
    let report = mend(&t.b, true);
    assert_eq!(report.objects, 4, "{:#?}", report.findings);
    assert_eq!(future.record.generation, 1 << 60);
}

fn place(chunk: u32) -> gcos_layout::media::Location {
    gcos_layout::media::Location { drive: 0, chunk, block: 0 }
}

#[test]
fn one_superblock_copy_is_enough_for_a_repair() {
    for copy in 0..4 {
        let t = turned(2);
        let offsets = t.b.zones().superblock_offsets();
        for other in (0..4).filter(|&other| other != copy) {
            t.b.drives[0].flip(offsets[other] + 300);
        }
        let before = t.b.superblocks[0].epoch;
        let report = mend(&t.b, false);
        assert_finds(&report, Code::SuperblockNoQuorum);
        assert_eq!(report.objects, 3);
        let block = &t.b.drives[0].image()[offsets[0] as usize..][..4096];
        let now = gcos_layout::media::Superblock::decode(block).unwrap();
        assert!(now.epoch > before && !now.clean, "an epoch that was never used");
    }
}

#[test]
fn copies_that_contradict_each_other_are_left_alone() {
    let (b, _) = Builder::sample();
    let now = b.superblocks[0].clone();
    let other = gcos_layout::media::Superblock { created: 7, ..now.clone() };
    let offsets = b.zones().superblock_offsets();
    b.drives[0].put(offsets[1], &other.encode());
    b.drives[0].flip(offsets[2] + 9);
    b.drives[0].flip(offsets[3] + 9);
    let before = b.drives[0].image();
    let report = common::repair(&b.drives);
    assert_finds(&report, Code::SuperblockNoQuorum);
    assert!(!report.is_repaired() && b.drives[0].image() == before);
}

/// Two drives, of which one must forget an object before the other has metadata again.
#[test]
fn a_rebuild_cut_short_on_either_drive_comes_to_the_same_end() {
    for salvage in [false, true] {
        let mut t = turned(2);
        t.b.put(b"k", 10, 1);
        t.b.object(b"k", 20, 0);
        t.b.put(b"both", 2_500_000, 1);
        t.lose_checkpoints();
        let before = images(&t.b.drives);
        let expected = mend(&t.b, salvage);
        let mut stops = 0;
        for drive in &t.b.drives {
            for writes in 0.. {
                restore(&t.b.drives, &before);
                drive.stop_after(writes);
                let options = CheckOptions { repair: true, salvage, ..CheckOptions::default() };
                let ended = common::check(&t.b.drives, &options).is_ok();
                drive.stop_after(u64::MAX);
                let again = mend(&t.b, salvage);
                assert_eq!(
                    (again.objects, again.payload_bytes, again.used_bytes),
                    (expected.objects, expected.payload_bytes, expected.used_bytes),
                    "salvage {salvage}: {} stopped at write {writes}",
                    drive.geometry().name
                );
                if ended {
                    break;
                }
                stops += 1;
            }
        }
        assert!(stops >= 12 || salvage && stops >= 6, "{stops}");
    }
}

#[test]
fn pages_count_only_where_the_journal_is_whole_from_their_checkpoint_on() {
    let mut t = turned(1);
    let gone = t.old[0].clone();
    t.b.remove(&gone);
    let removal = *t.b.frames[0].last().unwrap();
    let late = t.b.put(b"late", 50, 0);
    for area in 0..2 {
        t.b.drives[0].flip(t.header(area) + 2000);
    }
    let before = images(&t.b.drives);
    assert_eq!(mend(&t.b, false).payload_bytes, 1 + 70_000 + 50, "the journal is whole");
    restore(&t.b.drives, &before);
    t.b.drives[0].flip(t.b.ring(removal.block) + 60);
    let report = mend(&t.b, false);
    assert_eq!((report.objects, report.payload_bytes), (1, 50), "what was removed stays so");
    assert_eq!(late.record.shape.payload_len(), 50);
}

#[test]
fn frames_that_the_journal_went_on_without_prove_nothing() {
    let mut t = turned(1);
    let last = t.b.frames[0].last().unwrap().sequence;
    t.lose_checkpoints();
    let before = images(&t.b.drives);
    let in_front = t.b.frames[0][t.b.frames[0].len() - 2];
    // Of an earlier epoch, where the ring goes on: one beside the last frame, one in the place in the
    // journal of a frame that is damaged.
    for sequence in [last, last - 1] {
        restore(&t.b.drives, &before);
        if sequence < last {
            t.b.drives[0].flip(t.b.ring(in_front.block) + 70);
        }
        let ghost = t.b.object(b"ghost", 4000, 0).record;
        let mut frame = FrameBuilder::default();
        assert!(frame.push(&Record::Put(ghost)).unwrap());
        let uuid = t.b.superblocks[0].drive_uuid();
        let (bytes, _) = frame.finish(sequence, 0, 7, &uuid);
        t.b.drives[0].put(t.b.ring(t.b.journal[0].1), &bytes);
        let report = mend(&t.b, false);
        assert_eq!((report.objects, report.payload_bytes), (1, 70_000), "sequence {sequence}");
    }
}

#[test]
fn what_a_repair_dropped_is_not_proven_by_the_journal_before_it() {
    let mut t = turned(1);
    let at = t.b.offset(t.young.record.head) + 5000;
    t.b.drives[0].flip(at);
    let data = CheckOptions { data: true, repair: true, ..CheckOptions::default() };
    assert_eq!(go(&t.b, data).objects, 2);
    let header = &t.b.drives[0].image()[t.header(0) as usize..][..4096];
    let uuid = t.b.superblocks[0].drive_uuid();
    let header = CheckpointHeader::decode(header, &uuid).unwrap();
    t.b.journal[0] = (header.journal_sequence, header.journal_block, header.journal_previous);
    t.b.put(b"after", 60, 0);
    t.b.drives[0].flip(at);
    t.lose_checkpoints();
    let report = mend(&t.b, false);
    assert_eq!((report.objects, report.payload_bytes), (1, 60), "{:#?}", report.findings);
}
