//! What opening a pool must make of states that few crashes lead to.

use std::sync::atomic::Ordering;

use gcos_engine::Op;
use gcos_layout::media::{BLOCK_BYTES, DriveState, Superblock, ZoneMap};

use super::regressions::{Hooked, cut, replace, steer, zones};
use super::*;
use crate::{Durability, StoreError};

fn put_sync(store: &Store, key: &[u8], seed: u64) {
    let options = PutOptions { durability: Durability::Sync, ..PutOptions::default() };
    store.put(key, bytes(seed, 5000).as_slice(), &options).unwrap();
}

/// Writes the state into all superblock copies of a drive.
fn set_state(drive: &MemDrive, state: DriveState) {
    let mut image = drive.snapshot();
    for at in ZoneMap::copies(image.len() as u64) {
        let place = at as usize..at as usize + BLOCK_BYTES;
        let mut superblock = Superblock::decode(&image[place.clone()]).unwrap();
        superblock.state = state;
        image[place].copy_from_slice(&superblock.encode());
    }
    drive.restore(&image);
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
