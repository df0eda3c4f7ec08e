//! Pools with nothing wrong, and states that are legal.

mod common;

use common::{Builder, Memory, assert_clean, look, repair};
use gcos_check::{CheckError, FindingCode, Severity};
use gcos_layout::media::{DriveState, SlotClass};

#[test]
fn an_empty_pool_is_clean() {
    for drives in [1, 3] {
        let b = Builder::new(drives);
        let report = look(&b.drives);
        assert_clean(&report);
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        assert_eq!((report.objects, report.used_bytes), (0, 0));
    }
}

#[test]
fn a_pool_with_objects_is_clean_and_counted() {
    let (b, live) = Builder::sample();
    let report = look(&b.drives);
    assert_clean(&report);
    assert_eq!(report.objects, live.len() as u64);
    let payload: u64 = live.iter().map(|o| u64::from(o.record.shape.payload_len())).sum();
    assert_eq!(report.payload_bytes, payload);
    let slot = |blocks| {
        let n = SlotClass::for_blocks(blocks, 128).unwrap();
        u64::from(n.slot_blocks(128)) * 4096
    };
    let used: u64 = live
        .iter()
        .map(|o| {
            let (shape, key) = (&o.record.shape, o.record.key.len());
            let pieces: u64 = (0..shape.pieces()).map(|i| slot(shape.piece_blocks(i))).sum();
            slot(shape.head_blocks(key)) + pieces
        })
        .sum();
    assert_eq!(report.used_bytes, used);
    assert!(report.data_bytes_read >= payload);
    assert_eq!(report.drives[1].checkpoint, 3);
}

#[test]
fn the_order_in_which_drives_are_given_does_not_matter() {
    let (b, live) = Builder::sample();
    let mut drives = b.drives.clone();
    drives.reverse();
    let report = look(&drives);
    assert_clean(&report);
    assert_eq!(report.objects, live.len() as u64);
    assert_eq!(report.drives[0].index, Some(1));
}

#[test]
fn what_an_older_pool_left_in_the_ring_is_no_torn_frame() {
    let mut old = Builder::with(1, 2, 1);
    old.put(b"old", 5000, 0);
    let new = Builder::with(1, 3, 1);
    let at = usize::try_from(new.ring(0)).unwrap();
    let frame = &old.drives[0].image()[at..at + 4096];
    new.drives[0].put(new.ring(0), frame);
    let report = look(&new.drives);
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[test]
fn a_repair_of_a_clean_pool_writes_nothing() {
    let (b, _) = Builder::sample();
    assert_clean(&repair(&b.drives));
    assert!(b.drives.iter().all(|drive| drive.writes() == 0));
}

#[test]
fn a_ring_that_turned_several_times_is_clean() {
    let mut b = Builder::new(1);
    let object = b.put(b"k", 9000, 0);
    for number in 2..30 {
        b.turn(0, 90);
        b.checkpoint(0, number, std::slice::from_ref(&object.record));
        b.turn(0, 14);
        let report = look(&b.drives);
        assert_clean(&report);
        assert_eq!(report.drives[0].journal_end, b.journal[0].0);
    }
}

#[test]
fn a_pool_not_closed_is_only_told() {
    let (mut b, _) = Builder::sample();
    b.superblocks[0].clean = false;
    b.write_superblock(0);
    let report = look(&b.drives);
    assert_clean(&report);
    assert_eq!(report.count(FindingCode::NotClosed), 1);
}

#[test]
fn a_torn_last_frame_of_a_pool_in_use_is_only_told() {
    let (mut b, _) = Builder::sample();
    b.superblocks[0].clean = false;
    b.write_superblock(0);
    let last = *b.frames[0].last().unwrap();
    b.drives[0].flip(b.ring(last.block) + 4000);
    let report = look(&b.drives);
    assert_clean(&report);
    assert_eq!(report.count(FindingCode::JournalTail), 1);
}

#[test]
fn a_cleared_area_is_a_checkpoint_under_way() {
    let (b, _) = Builder::sample();
    b.drives[0].put(b.zones().checkpoint_offset(0), &[0; 4096]);
    assert_clean(&look(&b.drives));
}

#[test]
fn a_pool_that_uses_part_of_the_drive_is_only_told() {
    let (b, _) = Builder::sample();
    let mut image = b.drives[0].image();
    image.resize(image.len() + (1 << 20) + 4096, 7);
    let drives = [Memory::new("grown", image), b.drives[1].clone()];
    let report = look(&drives);
    assert_clean(&report);
    assert_eq!(report.count(FindingCode::CapacityGrown), 1);
}

#[test]
fn blank_drives_are_no_pool() {
    let report = look(&[Memory::new("blank", vec![0; 1 << 20])]);
    assert_eq!(report.count(FindingCode::SuperblockMissing), 1);
    assert_eq!(report.pool_uuid, None);
    let empty = gcos_check::check(&[], &gcos_check::CheckOptions::default(), &mut |_| ());
    assert!(matches!(empty, Err(CheckError::NoDrives)));
}

#[test]
fn a_newer_version_is_refused_and_a_newer_minor_one_is_read() {
    let (mut b, _) = Builder::sample();
    b.superblocks[1].version = (1, 1);
    b.write_superblock(1);
    b.drives[1].flip(b.zones().checkpoint_offset(1));
    let report = repair(&b.drives);
    assert_eq!(report.count(FindingCode::NewerMinorVersion), 1);
    assert!(report.count(FindingCode::RepairSkipped) > 0);
    assert_eq!(b.drives[1].writes(), 0);
    b.superblocks[1].version = (2, 0);
    b.write_superblock(1);
    let refused = common::run(&b.drives, false, true).unwrap_err();
    assert!(matches!(&refused, CheckError::Version { drive, .. } if drive == "pool1drive1"));
}

#[test]
fn a_format_that_was_interrupted_is_told() {
    let mut b = Builder::new(2);
    for drive in 0..2 {
        b.superblocks[drive].state = DriveState::Formatting;
        b.write_superblock(drive);
    }
    common::assert_finds(&look(&b.drives), FindingCode::FormatInProgress);
    b.superblocks[0].state = DriveState::Ready;
    b.write_superblock(0);
    common::assert_repairs(&b.drives, FindingCode::DriveFormatting);
}

#[test]
fn a_report_is_serialised_with_stable_names() {
    let finding = gcos_check::Finding {
        severity: Severity::Warning,
        code: FindingCode::JournalHole,
        drive: None,
        what: String::new(),
        detail: String::new(),
        repaired: false,
        would_repair: false,
    };
    let text = serde_json::to_string(&finding).unwrap();
    assert!(text.contains(r#""severity":"warning","code":"journal_hole""#), "{text}");
}
