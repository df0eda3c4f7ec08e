//! Superblock copies that cannot be written or have rotted, and puts that wait for one another.

use std::sync::atomic::Ordering;

use gcos_engine::{IoErrorKind, Op, Request};
use gcos_layout::media::{BLOCK_BYTES, Superblock};
use parking_lot::Mutex;

use super::regressions::{Hooked, cut, hooked, replace, zones};
use super::*;
use crate::{Durability, StoreError};

/// Offset of a write.
fn written(request: &Request) -> Option<u64> {
    let write = matches!(request.op, Op::Write { .. });
    write.then(|| request.extents.first().map(|extent| extent.offset)).flatten()
}

/// Writes to these offsets fail.
fn fail_at(drive: &Hooked, offsets: &[u64]) {
    let (geometry, offsets) = (drive.geometry().clone(), offsets.to_vec());
    drive.set(move |request| match written(request).is_some_and(|at| offsets.contains(&at)) {
        true => Err(request.error(&geometry, IoErrorKind::Media, "Write Fault")),
        false => Ok(()),
    });
}

// drive.rs: `update_superblock` began with copies that were good while others were not.

#[test]
fn a_power_cut_while_damaged_superblock_copies_are_replaced_leaves_two_that_agree() {
    let size = 16 * MIB;
    let copies = zones(size).superblock_offsets();
    for bad in (0..4).flat_map(|a| (a..4).map(move |b| [a, b])) {
        // In an open, and in the close of a pool of which the copies rot meanwhile.
        for writes in 0..5 {
            let (drives, store) = fresh(1, size);
            put(&store, b"k", 1, 1000);
            store.close().unwrap();
            bad.iter().for_each(|&copy| drives[0].corrupt(copies[copy] + 100, 1));
            drives[0].writes_left.store(writes, Ordering::SeqCst);
            let cut_short = Store::open(engines(&drives), quiet());
            drop(cut_short);
            cut(&drives);
            assert_holds(&open(&drives), b"k", 1, 1000);
        }
    }
}

#[test]
fn a_superblock_copy_that_could_not_be_written_is_the_first_of_the_next_update() {
    let size = 16 * MIB;
    let copies = zones(size).superblock_offsets();
    for failing in copies {
        let (drives, hooked, store) = hooked(1, size, 0);
        put(&store, b"k", 1, 1000);
        fail_at(&hooked, &[failing]);
        Arc::into_inner(store).unwrap().close().unwrap();
        let first = Arc::new(Mutex::new(None));
        let (noted, hooked) = (Arc::clone(&first), Hooked::new(&drives[0]));
        hooked.set(move |request| {
            let copy = written(request).filter(|at| copies.contains(at));
            let mut first = noted.lock();
            *first = first.or(copy);
            Ok(())
        });
        let store = Store::open(vec![hooked], quiet()).unwrap();
        assert_eq!(*first.lock(), Some(failing));
        assert_eq!(store.recovery().superblock_copies_repaired, 1);
        assert_holds(&store, b"k", 1, 1000);
    }
}

#[test]
fn a_superblock_copy_that_failed_is_the_first_of_the_next_update_also_without_an_open_between() {
    let size = 16 * MIB;
    let copies = zones(size).superblock_offsets();
    for &failing in &copies[1..] {
        let (drives, store) = fresh(1, size);
        put(&store, b"k", 1, 1000);
        store.close().unwrap();
        let hooked = Hooked::new(&drives[0]);
        fail_at(&hooked, &[failing]);
        let store = Store::open(vec![hooked.clone()], quiet()).unwrap();
        let first = Arc::new(Mutex::new(None));
        let noted = Arc::clone(&first);
        hooked.set(move |request| {
            let copy = written(request).filter(|at| copies.contains(at));
            let mut first = noted.lock();
            *first = first.or(copy);
            Ok(())
        });
        store.close().unwrap();
        assert_eq!(*first.lock(), Some(failing));
    }
}

#[test]
fn of_two_pairs_of_superblock_copies_the_later_counts() {
    let size = 16 * MIB;
    let copies = zones(size).superblock_offsets().map(|at| at as usize);
    let block = |image: &[u8], at: usize| Superblock::decode(&image[at..at + BLOCK_BYTES]).unwrap();
    for later in [[0, 1], [2, 3], [0, 3]] {
        let (drives, store) = fresh(1, size);
        store.close().unwrap();
        let before = drives[0].snapshot();
        drop(open(&drives));
        let mut torn = drives[0].snapshot();
        let newest = block(&torn, copies[0]);
        for at in (0..4).filter(|copy| !later.contains(copy)).map(|copy| copies[copy]) {
            torn[at..at + BLOCK_BYTES].copy_from_slice(&before[at..at + BLOCK_BYTES]);
        }
        drives[0].restore(&torn);
        drop(open(&drives));
        let now = block(&drives[0].snapshot(), copies[0]);
        assert_eq!((now.epoch, now.sequence), (newest.epoch + 1, newest.sequence + 1));
    }
}

#[test]
fn once_two_superblock_copies_cannot_be_written_the_others_stay_as_they_are() {
    let size = 16 * MIB;
    let copies = zones(size).superblock_offsets();
    let (drives, store) = fresh(1, size);
    put(&store, b"k", 1, 1000);
    store.close().unwrap();
    copies[2..].iter().for_each(|at| drives[0].corrupt(at + 100, 1));
    let before = drives[0].snapshot();
    let hooked = Hooked::new(&drives[0]);
    fail_at(&hooked, &copies[2..]);
    let error = Store::open(vec![hooked], quiet()).unwrap_err();
    assert!(matches!(error, StoreError::Io(_)), "{error:?}");
    assert!(drives[0].snapshot() == before, "two good copies, and nothing was done to them");
    assert_holds(&open(&drives), b"k", 1, 1000);
}

// put.rs: `await_key` gave up after one I/O deadline, however well the other put got on, and called that
// a wrong key.

/// A put of 5 MiB over a drive that takes `pauses` for its writes, one after the other, and while it is under
/// way a second put of its key: how that ends. The I/O deadline is half a second.
fn second_put(mut pauses: impl Iterator<Item = u64> + Send + 'static) -> Result<(), StoreError> {
    let drives = MemDrive::several(1, 16 * MIB);
    format_small(&drives);
    let hooked = Hooked::new(&drives[0]);
    let options = OpenOptions { io_deadline: Duration::from_millis(500), ..quiet() };
    let store = Store::open(vec![hooked.clone()], options).unwrap();
    let (begun, first) = std::sync::mpsc::channel();
    hooked.set(move |request| {
        if request.extents.iter().any(|extent| extent.len > 100_000) {
            let _ = begun.send(());
            std::thread::sleep(Duration::from_millis(pauses.next().unwrap_or(0)));
        }
        Ok(())
    });
    let payload = bytes(1, 5 * MIB);
    let (store, payload) = (&store, payload.as_slice());
    std::thread::scope(|scope| {
        let slow = scope.spawn(move || store.put(b"k", payload, &replace(Durability::Sync)));
        first.recv().unwrap();
        let second = store.put(b"k", b"second".as_slice(), &replace(Durability::Sync));
        slow.join().unwrap().unwrap();
        second.map(drop)
    })
}

#[test]
fn a_put_waits_for_another_of_its_key_as_long_as_that_one_gets_on() {
    second_put(std::iter::repeat_n(250, 18)).unwrap();
}

#[test]
fn a_put_that_waits_for_one_of_its_key_that_does_not_get_on_times_out() {
    let error = second_put(std::iter::once(5000)).unwrap_err();
    assert!(matches!(error, StoreError::TimedOut { .. }), "{error:?}");
}
