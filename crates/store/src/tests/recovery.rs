//! What opening a pool must make of states that few crashes lead to.

use std::sync::atomic::Ordering;

use gcos_engine::Op;
use gcos_layout::media::{
    BLOCK_BYTES, CHECKPOINT_PAGE_BYTES, CheckpointHeader, DriveState, FrameBuilder, JournalFrame,
    MAX_FRAME_BLOCKS, Record, RemoveRecord, Superblock, VERSION_MINOR, ZoneMap,
};

use parking_lot::Mutex;

use super::regressions::{Hooked, cut, replace, steer, zones};
use super::*;
use crate::{Durability, StoreError};

fn put_sync(store: &Store, key: &[u8], seed: u64) {
    let options = PutOptions { durability: Durability::Sync, ..PutOptions::default() };
    store.put(key, bytes(seed, 5000).as_slice(), &options).unwrap();
}

fn replace_sync(store: &Store, key: &[u8], seed: u64) {
    store.put(key, bytes(seed, 5000).as_slice(), &replace(Durability::Sync)).unwrap();
}

/// The process ends without closing the pool; the drives keep what they have.
fn crash(drives: &[Arc<MemDrive>], store: Store) {
    let images: Vec<_> = drives.iter().map(|drive| drive.snapshot()).collect();
    drop(store);
    drives.iter().zip(&images).for_each(|(drive, image)| drive.restore(image));
}

fn superblock(drive: &MemDrive) -> Superblock {
    Superblock::decode(&drive.snapshot()[..BLOCK_BYTES]).unwrap()
}

/// Changes all superblock copies of a drive.
fn change_superblock(drive: &MemDrive, change: impl Fn(&mut Superblock)) {
    let mut image = drive.snapshot();
    for at in ZoneMap::copies(image.len() as u64) {
        let place = at as usize..at as usize + BLOCK_BYTES;
        let mut superblock = Superblock::decode(&image[place.clone()]).unwrap();
        change(&mut superblock);
        image[place].copy_from_slice(&superblock.encode());
    }
    drive.restore(&image);
}

fn set_state(drive: &MemDrive, state: DriveState) {
    change_superblock(drive, |superblock| superblock.state = state);
}

/// Where the newest checkpoint of a drive lies, which has one page at least.
fn newest_checkpoint(drive: &MemDrive, zones: &ZoneMap) -> u64 {
    let (image, uuid) = (drive.snapshot(), superblock(drive).drive_uuid());
    let number = |at: u64| {
        let block = &image[at as usize..at as usize + BLOCK_BYTES];
        CheckpointHeader::decode(block, &uuid).map_or(0, |header| header.number)
    };
    let areas = [0, 1].map(|area| zones.checkpoint_offset(area));
    areas.into_iter().max_by_key(|&at| number(at)).unwrap()
}

#[test]
fn a_pool_whose_formatting_was_cut_short_on_every_drive_does_not_open() {
    let drives = MemDrive::several(2, 16 * MIB);
    format_small(&drives);
    for drive in &drives {
        set_state(drive, DriveState::Formatting);
    }
    let error = Store::open(engines(&drives), quiet()).unwrap_err();
    assert!(matches!(error, StoreError::Unopenable { .. }), "{error:?}");
    assert!(error.to_string().contains("format it again"), "{error}");
    // On one of them all was said to be ready: then all had been written.
    set_state(&drives[1], DriveState::Ready);
    drop(open(&drives));
}

/// A key is removed while the drive with an older object of that key is missing. When the drive is back,
/// the removal is repeated there: the checkpoint of the drive that the removal was recorded on knows
/// nothing of it any more.
#[test]
fn what_was_removed_while_its_drive_was_missing_stays_removed() {
    let (drives, store) = fresh(2, 16 * MIB);
    let keys: Vec<Vec<u8>> = (0..40u64).map(|i| i.to_le_bytes().to_vec()).collect();
    for key in &keys {
        put_sync(&store, key, 1);
    }
    let on_first: Vec<_> =
        keys.iter().filter(|key| store.info(key).unwrap().drives[0] == 0).collect();
    assert!(!on_first.is_empty());
    drop(store);
    let store = open(&drives[1..]);
    for key in &on_first {
        put_sync(&store, key, 2);
        store.remove(key, Durability::Sync).unwrap();
    }
    drop(store);
    let store = open(&drives);
    for key in &on_first {
        assert!(store.info(key).is_none());
    }
    // The power goes when the second drive has its checkpoint, and the first has not.
    let first = drives[0].snapshot();
    store.checkpoint().unwrap();
    drop(store);
    drives[0].restore(&first);
    let store = open(&drives);
    for key in &on_first {
        assert!(store.info(key).is_none(), "{} came back", key.escape_ascii());
    }
}

#[test]
fn what_a_removal_buries_on_another_drive_stays_buried_when_its_own_drive_forgets_it() {
    let (drives, store) = fresh(2, 16 * MIB);
    steer(&store, 1);
    put(&store, b"k", 1, 100);
    drop(store);
    // Without its drive the object is replaced, and the new one removed while a checkpoint is being written: so
    // the journal has the removal, and neither it nor the checkpoint the put.
    let hooked = Hooked::new(&drives[0]);
    let store = Arc::new(Store::open(vec![hooked.clone()], quiet()).unwrap());
    put(&store, b"k", 2, 100);
    let (weak, journal) = (Arc::downgrade(&store), zones(16 * MIB).journal_offset());
    hooked.set(move |request| {
        let write = matches!(request.op, Op::Write { .. });
        let checkpoint = request.extents.iter().any(|e| (4096..journal).contains(&e.offset));
        if let Some(store) = weak.upgrade().filter(|_| write && checkpoint) {
            store.remove(b"k", Durability::Sync).unwrap();
        }
        Ok(())
    });
    store.checkpoint().unwrap();
    drop(store);
    cut(&drives);
    let store = open(&drives);
    assert!(!store.contains(b"k"));
    // The drive of the removal takes a checkpoint, which does not have it; the other one cannot.
    drives[1].fail_writes.store(true, Ordering::SeqCst);
    store.checkpoint().unwrap_err();
    drop(store);
    drives[1].fail_writes.store(false, Ordering::SeqCst);
    cut(&drives);
    let store = open(&drives);
    assert!(!store.contains(b"k"), "the removal was acknowledged, and its object is back");
}

/// Drive 0 takes a checkpoint, which keeps nothing of a removal; then the power goes.
fn forget_and_cut(drives: &[Arc<MemDrive>], store: Store) {
    store.pool.checkpoint(store.pool.member(0).unwrap()).unwrap();
    drop(store);
    cut(drives);
}

#[test]
fn a_removal_is_durable_for_what_was_replaced_without_waiting_on_another_drive() {
    let (drives, store) = fresh(2, 16 * MIB);
    steer(&store, 1);
    put(&store, b"k", 1, 100);
    steer(&store, 0);
    store.put(b"k", bytes(2, 100).as_slice(), &replace(Durability::Relaxed)).unwrap();
    assert_eq!(store.info(b"k").unwrap().drives[0], 0);
    store.remove(b"k", Durability::Sync).unwrap();
    forget_and_cut(&drives, store);
    assert!(!open(&drives).contains(b"k"));
}

#[test]
fn a_removal_is_durable_for_what_was_removed_before_without_waiting_on_another_drive() {
    let (drives, store) = fresh(2, 16 * MIB);
    steer(&store, 1);
    put(&store, b"k", 1, 100);
    steer(&store, 0);
    store.remove(b"k", Durability::Relaxed).unwrap();
    put(&store, b"k", 2, 100);
    assert_eq!(store.info(b"k").unwrap().drives[0], 0);
    store.remove(b"k", Durability::Sync).unwrap();
    forget_and_cut(&drives, store);
    assert!(!open(&drives).contains(b"k"));
}

#[test]
fn the_epoch_rises_above_that_of_every_drive_also_of_one_that_was_not_there_the_last_time() {
    let (drives, store) = fresh(2, 16 * MIB);
    drop(store);
    for _ in 0..3 {
        drop(open(&drives[1..]));
    }
    let before = [0, 1].map(|drive| superblock(&drives[drive]).epoch);
    assert!(before[0] < before[1], "{before:?}");
    drop(open(&drives));
    let after = [0, 1].map(|drive| superblock(&drives[drive]).epoch);
    assert_eq!(after, [before[1] + 1; 2]);
}

#[test]
fn a_pool_of_a_later_minor_version_is_not_opened_and_not_touched() {
    let (drives, store) = fresh(1, 16 * MIB);
    put_sync(&store, b"k", 1);
    drop(store);
    change_superblock(&drives[0], |superblock| superblock.version.1 = VERSION_MINOR + 1);
    let before = drives[0].snapshot();
    let error = Store::open(engines(&drives), quiet()).unwrap_err();
    assert!(matches!(error, StoreError::Unopenable { .. }), "{error:?}");
    assert!(error.to_string().contains("use a newer one"), "{error}");
    assert!(drives[0].snapshot() == before);
}

/// The older of two checkpoints is what a pool has when the newer one is damaged, so frames that it needs are
/// not overwritten, whoever wrote it.
#[test]
fn what_the_older_checkpoint_needs_is_kept_after_an_open_as_well() {
    let (drives, store) = fresh(1, 16 * MIB);
    let key = |n: u64| (n % 8).to_le_bytes();
    (0..5).for_each(|n| put_sync(&store, &key(n), n));
    store.checkpoint().unwrap();
    (5..130).for_each(|n| replace_sync(&store, &key(n), n));
    store.checkpoint().unwrap();
    crash(&drives, store);
    let store = open(&drives);
    // Each of these is a frame of one block. They end past where the older checkpoint's journal begins, a lap later, and
    // before the newer one's is so near that a frame of the greatest length would not fit.
    let end = 130 + zones(16 * MIB).journal_blocks() - MAX_FRAME_BLOCKS as u64 - 5;
    (130..end).for_each(|n| replace_sync(&store, &key(n), n));
    crash(&drives, store);
    let page = newest_checkpoint(&drives[0], &zones(16 * MIB)) + BLOCK_BYTES as u64;
    drives[0].corrupt(page + 20, 1);
    let store = open(&drives);
    assert_eq!(store.recovery().older_checkpoint_used, [0]);
    (end - 8..end).for_each(|n| assert_holds(&store, &key(n), n, 5000));
}

/// A drive that lost the write of a page has the one of an attempt before at that place, which says that it belongs
/// to this checkpoint, and fits its own checksum.
#[test]
fn a_page_of_an_earlier_attempt_at_the_same_checkpoint_is_not_taken() {
    let (drives, store) = fresh(1, 16 * MIB);
    put_sync(&store, b"other", 7);
    store.checkpoint().unwrap();
    drop(store);
    cut(&drives);
    let base = drives[0].snapshot();
    let attempt = |seed| {
        drives[0].restore(&base);
        let store = open(&drives);
        put_sync(&store, b"k", seed);
        store.checkpoint().unwrap();
        drop(store);
        cut(&drives);
        drives[0].snapshot()
    };
    let (first, mut second) = (attempt(1), attempt(2));
    let page = newest_checkpoint(&drives[0], &zones(16 * MIB)) as usize + BLOCK_BYTES;
    let page = page..page + CHECKPOINT_PAGE_BYTES;
    assert!(first[page.clone()] != second[page.clone()]);
    second[page.clone()].copy_from_slice(&first[page]);
    drives[0].restore(&second);
    let store = open(&drives);
    assert_eq!(store.recovery().older_checkpoint_used, [0]);
    assert_holds(&store, b"other", 7, 5000);
    assert_holds(&store, b"k", 2, 5000);
}

/// The frames of one block at the start of a drive's journal.
fn frames(drive: &MemDrive, zones: &ZoneMap) -> Vec<JournalFrame> {
    let (image, uuid) = (drive.snapshot(), superblock(drive).drive_uuid());
    let journal = &image[zones.journal_offset() as usize..];
    let decoded = journal.chunks(BLOCK_BYTES).map(|block| JournalFrame::decode(block, &uuid));
    decoded.map_while(Result::ok).collect()
}

/// Writes a frame of one block behind the last one of a drive's journal: right in everything but what the arguments say.
fn forge_frame(drive: &MemDrive, zones: &ZoneMap, record: &Record, skipped: u64) -> JournalFrame {
    let last = frames(drive, zones).pop().unwrap();
    let mut forged = FrameBuilder::default();
    assert!(forged.push(record).unwrap());
    let (sequence, uuid) = (last.sequence + 1 + skipped, superblock(drive).drive_uuid());
    let (frame, _) = forged.finish(sequence, last.epoch, last.checksum, &uuid);
    let at = zones.journal_offset() as usize + last.sequence as usize * BLOCK_BYTES;
    let mut image = drive.snapshot();
    image[at..at + BLOCK_BYTES].copy_from_slice(&frame);
    drive.restore(&image);
    last
}

#[test]
fn a_frame_that_leaves_a_sequence_number_out_is_not_part_of_the_journal() {
    let (drives, store) = fresh(1, 16 * MIB);
    put(&store, b"k", 1, 5000);
    let generation = store.info(b"k").unwrap().generation;
    crash(&drives, store);
    let remove = Record::Remove(RemoveRecord { key: b"k".to_vec(), generation });
    forge_frame(&drives[0], &zones(16 * MIB), &remove, 1);
    let store = open(&drives);
    assert_eq!(store.recovery().journal_holes, [0]);
    assert_holds(&store, b"k", 1, 5000);
}

#[test]
fn metadata_takes_as_much_room_after_an_open_as_before() {
    let (drives, store) = fresh(2, 16 * MIB);
    (0..50u64).for_each(|n| put_sync(&store, &n.to_le_bytes(), n));
    let before = store.stats().meta_used_bytes;
    assert!(before > 50 * 8);
    crash(&drives, store);
    assert_eq!(open(&drives).stats().meta_used_bytes, before);
}

/// The area holds the checkpoint before the last: that must not count any more when its pages change, nor before the
/// new pages are all there.
#[test]
fn a_checkpoint_erases_the_old_header_first_and_writes_the_new_one_last() {
    let (drives, store) = fresh(1, 16 * MIB);
    put_sync(&store, b"k", 1);
    store.close().unwrap();
    let hooked = Hooked::new(&drives[0]);
    let store = Store::open(vec![hooked.clone()], quiet()).unwrap();
    let noted = Arc::<Mutex<Vec<_>>>::default();
    let (zones, into) = (zones(16 * MIB), Arc::clone(&noted));
    let area = 4096..zones.journal_offset();
    hooked.set(move |request| {
        let at = request.extents.first().map_or(0, |extent| extent.offset);
        match request.op {
            Op::Write { fua } if area.contains(&at) => {
                let mut bytes = vec![0; request.segments[0].len()];
                request.segments[0].read(0, &mut bytes).unwrap();
                into.lock().push((at, Some((fua, bytes.iter().all(|&byte| byte == 0)))));
            }
            Op::Flush => into.lock().push((0, None)),
            _ => {}
        }
        Ok(())
    });
    store.checkpoint().unwrap();
    let noted = noted.lock();
    let header = newest_checkpoint(&drives[0], &zones);
    assert_eq!(noted.first(), Some(&(header, Some((true, true)))), "erased for good");
    assert_eq!(noted.last(), Some(&(header, Some((true, false)))));
    let pages = &noted[1..noted.len() - 1];
    assert!(pages.iter().any(|(at, write)| *at > header && write.is_some()), "{pages:?}");
    assert_eq!(
        pages.last(),
        Some(&(0, None)),
        "the pages are durable before the header is written"
    );
}

#[test]
fn a_record_that_names_another_drive_is_skipped_and_what_lies_there_stays() {
    let (drives, store) = fresh(2, 16 * MIB);
    let zones = zones(16 * MIB);
    steer(&store, 1);
    put(&store, b"k", 1, 5000);
    drop(store);
    cut(&drives);
    let stored = frames(&drives[1], &zones).pop().unwrap().records.pop().unwrap();
    let Record::Put(mut record) = stored else { panic!("the last record is of a put: {stored:?}") };
    (record.key, record.generation) = (b"another".to_vec(), record.generation + 1000);
    let last = forge_frame(&drives[0], &zones, &Record::Put(record), 0);
    let store = open(&drives);
    assert!(store.recovery().journal_records > last.sequence, "the frame was read");
    assert!(!store.contains(b"another"));
    assert_holds(&store, b"k", 1, 5000);
}
#[test]
fn frames_of_several_blocks_are_replayed_also_where_they_do_not_fit_the_end_of_the_ring() {
    let (drives, mut store) = fresh(1, 16 * MIB);
    let ring = zones(16 * MIB).journal_blocks();
    let keys: Vec<Vec<u8>> = (0..24).map(|i| vec![i; 1000]).collect();
    let (mut latest, mut frames) = (vec![None; keys.len()], 0);
    for round in 0.. {
        // Of one to seven blocks, so that the last of a lap seldom fits.
        let seeds: Vec<u64> = (0..1 + round % 23).map(|i| round * 100 + i).collect();
        let payloads: Vec<_> = seeds.iter().map(|&seed| bytes(seed, 100)).collect();
        let items = keys.iter().zip(&payloads).map(|(k, p)| (k.as_slice(), p.as_slice().into()));
        let stored = store.put_many(&items.collect::<Vec<_>>(), &replace(Durability::Sync));
        assert!(stored.into_iter().all(|put| put.is_ok()));
        latest.iter_mut().zip(&seeds).for_each(|(last, &seed)| *last = Some(seed));
        frames += seeds.len() as u64 / 4 + 1;
        if round % 2 == 1 {
            crash(&drives, store);
            store = open(&drives);
            assert!(store.recovery().journal_holes.is_empty(), "round {round}");
            for (key, seed) in keys.iter().zip(&latest) {
                seed.iter().for_each(|&seed| assert_holds(&store, key, seed, 100));
            }
        }
        if frames > 4 * ring {
            return;
        }
    }
}

#[test]
fn of_objects_that_overlap_the_newer_ones_stay_and_the_others_leave_nothing_behind() {
    let (drives, store) = fresh(2, 8 * MIB);
    steer(&store, 0);
    for i in 0..4u64 {
        put(&store, &i.to_le_bytes(), i, 3 * MIB);
    }
    crash(&drives, store);
    // Objects with heads on drive 0 are unknown, their pieces are overwritten.
    let store = open(&drives[1..]);
    for i in 10..40u64 {
        put(&store, &i.to_le_bytes(), i, 200 << 10);
    }
    let newer: Vec<u64> = (10..40u64).filter(|i| store.contains(&i.to_le_bytes())).collect();
    crash(&drives, store);
    let store = open(&drives);
    assert!(store.recovery().overlapping_dropped > 0, "the test needs overlaps");
    newer.iter().for_each(|&i| assert_holds(&store, &i.to_le_bytes(), i, 200 << 10));
    let used = store.stats().used_bytes;
    drop(store);
    let store = open(&drives);
    assert_eq!(store.recovery().overlapping_dropped, 0);
    assert_eq!(store.stats().used_bytes, used);
}
