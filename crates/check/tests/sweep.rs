//! Nothing on the media makes a check or a repair panic or hang.

mod common;

use std::sync::Arc;

use common::{Builder, Memory, assert_clean, look, run};
use gcos_check::CheckError;

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
