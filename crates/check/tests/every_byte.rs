//! One changed byte in anything that counts is found, whichever byte and whichever bits; and a pool that
//! is opened all the same gives right bytes or misses.
//!
//! What counts: all four superblock copies, both checkpoints, the journal from the first frame that the
//! older checkpoint needs to its last frame, object headers, payloads. What does not, and may change
//! without anybody noticing: the rest of a superblock chunk, pages behind a checkpoint's last, frames
//! that no checkpoint needs any more, the padding behind a payload, slots that no object holds. None
//! of them is ever read for what it says.
//!
//! `GCOS_SWEEP=full` takes every byte; without it every byte of the fields, and of the rest one in 97.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Builder, Memory, Object, assert_clean, run};
use gcos_check::CheckError;
use gcos_engine::Engine;
use gcos_layout::checksum::crc32c;
use gcos_layout::media::BLOCK_BYTES;
use gcos_store::{OpenOptions, Store};

/// Bits to change, in turn.
const PATTERNS: [u8; 6] = [0x01, 0xff, 0x80, 0x5a, 0x08, 0xa5];

struct Range {
    offset: u64,
    len: u64,
    /// Bytes at the start that are all tried.
    fields: u64,
    /// Whether only a look at the data finds it.
    data: bool,
    what: &'static str,
}

/// A pool in which every frame counts: the older checkpoint starts at the first one. Payloads by key
/// and checksum: each key has one payload but for "twice", which has two.
fn pool() -> (Builder, Vec<Object>, BTreeMap<Vec<u8>, Vec<u32>>) {
    let mut b = Builder::new(1);
    b.checkpoint(0, 2, &[]);
    let mut objects = Vec::new();
    let mut put = |b: &mut Builder, key: &[u8], len| {
        objects.push(b.put(key, len, 0));
        objects.last().unwrap().clone()
    };
    put(&mut b, b"one", 1000);
    put(&mut b, b"twice", 5000);
    let gone = put(&mut b, b"gone", 10);
    b.remove(&gone);
    put(&mut b, &[7; 300], 70_000);
    put(&mut b, b"twice", 300);
    let records: Vec<_> = [0, 3, 4].iter().map(|&i| objects[i].record.clone()).collect();
    b.checkpoint(0, 3, &records);
    objects.push(b.put(b"late", 2000, 0));
    let mut payloads: BTreeMap<Vec<u8>, Vec<u32>> = BTreeMap::new();
    for object in &objects {
        let record = &object.record;
        let mut rng = fastrand::Rng::with_seed(record.generation);
        let payload: Vec<u8> = (0..record.shape.payload_len()).map(|_| rng.u8(..)).collect();
        payloads.entry(record.key.clone()).or_default().push(crc32c(&payload));
    }
    let live = [0, 3, 4, 5].iter().map(|&i| objects[i].clone()).collect();
    (b, live, payloads)
}

fn ranges(b: &Builder, live: &[Object]) -> Vec<Range> {
    let zones = b.zones();
    let block = BLOCK_BYTES as u64;
    let new = |offset, len, fields, data, what| Range { offset, len, fields, data, what };
    let mut ranges: Vec<_> = zones
        .superblock_offsets()
        .iter()
        .map(|&at| new(at, block, 176, false, "superblock copy"))
        .collect();
    for area in 0..2 {
        let at = zones.checkpoint_offset(area);
        ranges.push(new(at, block, 80, false, "checkpoint header"));
    }
    // Checkpoint 2 holds nothing and has no page.
    ranges.push(new(zones.checkpoint_offset(1) + block, 65_536, 512, false, "checkpoint page"));
    for frame in &b.frames[0] {
        ranges.push(new(b.ring(frame.block), frame.blocks * block, 128, false, "journal frame"));
    }
    for object in live {
        let record = &object.record;
        let header = u64::from(record.shape.header_blocks(record.key.len())) * block;
        let (at, tail) = (b.offset(record.head), record.shape.tail_len().into());
        ranges.push(new(at, header, 100, true, "object header"));
        ranges.push(new(at + header, tail, 0, true, "payload"));
    }
    ranges
}

/// Opens the pool and reads everything that is in it.
fn read_all(drive: &Arc<Memory>, payloads: &BTreeMap<Vec<u8>, Vec<u32>>, what: &str) {
    let engine = Arc::clone(drive) as Arc<dyn Engine>;
    let options = OpenOptions { background: false, deallocate: false, ..OpenOptions::default() };
    let Ok(store) = Store::open(vec![engine], options) else { return };
    for (key, _) in store.list(b"", None, 1000) {
        if let Ok(got) = store.get_vec(&key).unwrap() {
            let right = payloads.get(&key).is_some_and(|all| all.contains(&crc32c(&got)));
            assert!(right, "{what}: wrong bytes for {}", key.escape_ascii());
        }
    }
}

fn sweep(data: bool) {
    let full = std::env::var("GCOS_SWEEP").is_ok_and(|value| value == "full");
    let (b, live, payloads) = pool();
    assert_clean(&run(&b.drives, true, false).unwrap());
    let drive = &b.drives[0];
    let clean = drive.image();
    read_all(drive, &payloads, "untouched");
    drive.undo(&clean);
    let mut turn = 0;
    for range in ranges(&b, &live).iter().filter(|range| range.data == data) {
        for at in (0..range.len).filter(|at| full || *at < range.fields || at % 97 == 96) {
            let bits = PATTERNS[turn % PATTERNS.len()];
            turn += 1;
            drive.change(range.offset + at, bits);
            let what = format!("{} at {}: byte {at} ^ {bits:#x}", range.what, range.offset);
            match run(&b.drives, data, false) {
                Ok(report) => assert!(!report.is_clean(), "{what}: not found"),
                Err(CheckError::Version { .. }) => panic!("{what}: taken for a newer version"),
                Err(other) => panic!("{what}: {other}"),
            }
            read_all(drive, &payloads, &what);
            drive.undo(&clean);
        }
    }
    assert!(turn > 1000 && drive.image() == clean);
}

#[test]
fn any_changed_byte_of_live_metadata_is_found_and_never_opens_into_wrong_bytes() {
    sweep(false);
}

#[test]
fn any_changed_byte_of_live_data_is_found_and_never_read_as_right() {
    sweep(true);
}

/// Each byte of each kind of metadata, in each superblock copy and each checkpoint: a repair mends it and
/// loses at most what the damaged frame alone told.
#[test]
fn any_changed_byte_of_live_metadata_is_repaired_at_the_cost_of_one_frame_at_most() {
    let (b, live, payloads) = pool();
    let drive = &b.drives[0];
    let clean = drive.image();
    let ranges = ranges(&b, &live);
    for (turn, range) in ranges.iter().filter(|range| !range.data).enumerate() {
        for at in (turn as u64 % 97..range.len).step_by(997) {
            drive.change(range.offset + at, PATTERNS[turn % PATTERNS.len()]);
            let what = format!("{} at {}: byte {at}", range.what, range.offset);
            let report = run(&b.drives, false, true).unwrap();
            assert!(report.is_repaired(), "{what}: {:#?}", report.findings);
            let least = live.len() as u64 - u64::from(range.what == "journal frame");
            assert!(report.objects >= least, "{what}: {} objects", report.objects);
            assert_clean(&run(&b.drives, true, false).unwrap());
            assert!(run(&b.drives, true, true).unwrap().actions.is_empty(), "{what}");
            read_all(drive, &payloads, &what);
            drive.undo(&clean);
        }
    }
}
