//! One flipped byte in any live structure is found; nothing on the media makes a check panic or hang.

mod common;

use std::sync::Arc;

use common::{Builder, Memory, assert_clean, look, run};
use gcos_check::CheckError;

/// Every range of a drive that holds live metadata: (offset, length, what).
fn live_ranges(b: &Builder, drive: usize) -> Vec<(u64, u64, &'static str)> {
    let zones = b.zones();
    let mut ranges: Vec<_> =
        zones.superblock_offsets().iter().map(|&at| (at, 4096, "superblock copy")).collect();
    for area in 0..2 {
        ranges.push((zones.checkpoint_offset(area), 4096, "checkpoint header"));
    }
    // Checkpoint 2 holds nothing and has no page.
    ranges.push((zones.checkpoint_offset(1) + 4096, 65_536, "checkpoint page"));
    for frame in &b.frames[drive] {
        ranges.push((b.ring(frame.block), frame.blocks * 4096, "journal frame"));
    }
    ranges
}

#[test]
fn one_flipped_byte_in_any_live_metadata_is_found() {
    // All frames are live here: the older checkpoint starts at the first one.
    let mut b = Builder::new(2);
    b.checkpoint(0, 2, &[]);
    for i in 0..3u8 {
        b.put(&[i; 30], 1000, 0);
    }
    let records: Vec<_> = (10..13u8).map(|i| b.put(&[i; 30], 100, 0).record).collect();
    let live = [(0..3u8).map(|i| b.object(&[i; 30], 10, 0).record).collect(), records].concat();
    b.checkpoint(0, 3, &live);
    for i in 20..23u8 {
        b.put(&[i; 30], 1000, 0);
    }
    assert_clean(&run(&b.drives, false, false).unwrap());
    for (start, len, what) in live_ranges(&b, 0) {
        let stride = if len > 4096 { 211 } else { 13 };
        for at in (start..start + len).step_by(stride) {
            b.drives[0].flip(at);
            match run(&b.drives, false, false) {
                Ok(report) => assert!(!report.is_clean(), "{what}: byte {}", at - start),
                Err(CheckError::Version { .. }) => panic!("{what}: taken for a newer version"),
                Err(other) => panic!("{other}"),
            }
            b.drives[0].flip(at);
        }
    }
    assert_clean(&run(&b.drives, false, false).unwrap());
}

#[test]
fn one_flipped_byte_in_any_object_is_found() {
    let (b, live) = Builder::sample();
    for object in &live {
        let record = &object.record;
        let (shape, key) = (&record.shape, record.key.len());
        let drive = &b.drives[usize::from(record.head.drive)];
        let head = u64::from(shape.header_blocks(key)) * 4096 + u64::from(shape.tail_len());
        for at in (0..head).step_by((head as usize / 40).max(101)) {
            drive.flip(b.offset(record.head) + at);
            assert!(!look(&b.drives).is_clean(), "byte {at} of the head");
            drive.flip(b.offset(record.head) + at);
        }
        for (i, &piece) in record.pieces.iter().enumerate() {
            let drive = &b.drives[usize::from(piece.drive)];
            for at in (0..u64::from(shape.piece_len(i))).step_by(131_101) {
                drive.flip(b.offset(piece) + at);
                assert!(!look(&b.drives).is_clean(), "byte {at} of piece {i}");
                drive.flip(b.offset(piece) + at);
            }
        }
    }
}

/// Bytes all over the place, sealed again or not: whatever comes of it, it comes to an end, and a
/// repair never fails.
#[test]
fn hostile_media_are_survived() {
    let (b, _) = Builder::sample();
    let clean = common::images(&b.drives);
    let zones = b.zones();
    let meta = zones.journal_offset() + 64 * 4096;
    for seed in 0..150 {
        let mut rng = fastrand::Rng::with_seed(seed);
        for (drive, image) in b.drives.iter().zip(&clean) {
            drive.load(image);
            for _ in 0..rng.u32(1..40) {
                let (at, len) = (rng.u64(..meta), rng.usize(1..600));
                let noise: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
                drive.put(at, if rng.bool() { &noise } else { &[0xff; 8] });
            }
            for at in zones.superblock_offsets() {
                drive.put(at, &image[at as usize..][..4096]);
            }
        }
        let report = run(&b.drives, true, true).unwrap();
        if report.is_repaired() {
            assert_clean(&look(&b.drives));
        }
    }
}

/// Frames, headers and pages with right checksums and random content.
#[test]
fn sealed_nonsense_is_survived() {
    use gcos_layout::checksum::crc32c;
    let (b, _) = Builder::sample();
    let clean = common::images(&b.drives);
    let zones = b.zones();
    let frames = b.frames[0].clone();
    let seals: Vec<(u64, usize, usize, usize)> = frames
        .iter()
        .map(|f| (b.ring(f.block), f.blocks as usize * 4096, 4, 8))
        .chain((0..2).map(|a| (zones.checkpoint_offset(a), 4096, 8, 12)))
        .chain((0..2).map(|a| (zones.checkpoint_offset(a) + 4096, 65_536, 4, 8)))
        .chain(zones.superblock_offsets().map(|at| (at, 4096, 8, 12)))
        .collect();
    for seed in 0..400 {
        let mut rng = fastrand::Rng::with_seed(seed);
        common::restore(&b.drives, &clean);
        for _ in 0..rng.u32(1..6) {
            let (at, len, crc_at, from) = seals[rng.usize(..seals.len())];
            let mut bytes = b.drives[0].image()[at as usize..][..len].to_vec();
            for _ in 0..rng.u32(1..4) {
                bytes[rng.usize(from..160.min(len))] = if rng.bool() { rng.u8(..) } else { 0xff };
            }
            let crc = crc32c(&bytes[from..]).to_le_bytes();
            bytes[crc_at..crc_at + 4].copy_from_slice(&crc);
            b.drives[0].put(at, &bytes);
        }
        match run(&b.drives, true, true) {
            Ok(report) if report.is_repaired() => assert_clean(&look(&b.drives)),
            Ok(_) | Err(CheckError::Version { .. }) => {}
            Err(other) => panic!("seed {seed}: {other}"),
        }
    }
}

#[test]
fn random_drives_are_survived() {
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bytes = vec![0; rng.usize(1..600) * 4096];
        rng.fill(&mut bytes);
        let drive: Arc<Memory> = Memory::new("random", bytes);
        assert!(!look(&[drive]).is_clean());
    }
}
