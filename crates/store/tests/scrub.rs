//! Scrubs over the driver and the software controller, whose medium is damaged behind the store's back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_emulator::{Config, Emulator, Medium};
use gcos_engine::{Engine, HostQueueEngine, HostQueueOptions};
use gcos_layout::media::ZoneChunks;
use gcos_store::{
    FormatOptions, IfExists, OpenOptions, PutOptions, ScrubCursor, ScrubOptions, ScrubReport,
    Store, format,
};

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut out);
    out
}

fn engine(medium: &Arc<Medium>) -> Arc<dyn Engine> {
    let emulator = Emulator::new(Config::new(Arc::clone(medium))).unwrap();
    let options = HostQueueOptions { nsid: 1, ..HostQueueOptions::default() };
    Arc::new(HostQueueEngine::open(emulator.function(), options).unwrap())
}

fn open(medium: &Arc<Medium>) -> Store {
    let options = OpenOptions { background: false, ..OpenOptions::default() };
    Store::open(vec![engine(medium)], options).unwrap()
}

/// A pool with `count` objects of 3,000 to 300,000 bytes.
fn pool(count: u64) -> (Arc<Medium>, Store) {
    let medium = Medium::ram(24 << 20).unwrap();
    let chunks = ZoneChunks { superblock: 4096, meta: 65_536, data: 512 << 10 };
    let options = FormatOptions { chunks, ..FormatOptions::default() };
    format(&[engine(&medium)], &options).unwrap();
    let store = open(&medium);
    for i in 0..count {
        store.put(&key(i), payload(i).as_slice(), &PutOptions::default()).unwrap();
    }
    (medium, store)
}

fn key(i: u64) -> Vec<u8> {
    format!("object {i}").into_bytes()
}

fn payload(i: u64) -> Vec<u8> {
    bytes(i, 3000 + (i as usize * 73_127) % 297_000)
}

/// Changes a byte in the middle of an object's payload.
fn damage(medium: &Medium, i: u64) {
    let mut image = vec![0; 24 << 20];
    medium.peek(0, &mut image).unwrap();
    let wanted = payload(i);
    let at = image.windows(64).position(|window| window == &wanted[1000..1064]).unwrap();
    medium.poke(at as u64, &[!image[at]]).unwrap();
}

fn fast() -> ScrubOptions {
    ScrubOptions { bytes_per_second: None, most_bytes: None }
}

fn whole(store: &Store) -> ScrubReport {
    let go_on = &mut |_: &ScrubReport| ControlFlow::Continue(());
    store.scrub(&mut ScrubCursor::default(), &fast(), go_on).unwrap()
}

#[test]
fn a_scrub_reads_every_byte_of_every_object_once() {
    let (_medium, store) = pool(40);
    let report = whole(&store);
    let stats = store.stats();
    assert!(report.complete);
    assert_eq!((report.objects, report.bytes), (40, stats.payload_bytes));
    assert_eq!((report.damaged, report.skipped, report.unread), (0, 0, 0));
    assert_eq!((stats.hits, stats.misses), (0, 0), "it is no get");
}

#[test]
fn what_a_scrub_finds_damaged_is_removed_for_good_and_nothing_else_is() {
    let (medium, store) = pool(40);
    for i in [3, 17, 39] {
        damage(&medium, i);
    }
    let report = whole(&store);
    assert_eq!((report.objects, report.damaged), (37, 3));
    let found: HashSet<_> = report.found.iter().map(|damage| damage.key.clone()).collect();
    assert_eq!(found, HashSet::from([key(3), key(17), key(39)]));
    assert!(report.found.iter().all(|damage| damage.detail.contains("grain")), "{report:?}");
    store.close().unwrap();
    let store = open(&medium);
    for i in 0..40 {
        let got = store.get_vec(&key(i)).unwrap();
        match [3, 17, 39].contains(&i) {
            true => assert!(got.is_err(), "object {i}"),
            false => assert!(got.is_ok_and(|got| got == payload(i)), "object {i}"),
        }
    }
    assert_eq!(whole(&store).damaged, 0);
}

#[test]
fn a_scrub_that_was_interrupted_goes_on_and_misses_nothing() {
    let (medium, store) = pool(40);
    (0..40).step_by(3).for_each(|i| damage(&medium, i));
    let (mut cursor, mut found, mut calls) = (ScrubCursor::default(), Vec::new(), 0);
    loop {
        let mut left = 2 + calls % 5;
        let stop = &mut |_: &ScrubReport| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let report = store.scrub(&mut cursor, &fast(), stop).unwrap();
        found.extend(report.found.into_iter().map(|damage| damage.key));
        calls += 1;
        assert!(calls < 1000, "it does not come to an end");
        if report.complete {
            break;
        }
    }
    assert!(calls > 5);
    assert_eq!(found.len(), 14);
    assert_eq!(found.into_iter().collect::<HashSet<_>>().len(), 14, "none twice");
}

#[test]
fn a_scrub_keeps_to_its_rate_and_to_its_budget() {
    let (_medium, store) = pool(12);
    let all = store.stats().payload_bytes;
    let rate = NonZeroU64::new(all * 2).unwrap();
    let options = ScrubOptions { bytes_per_second: Some(rate), most_bytes: None };
    let begun = Instant::now();
    let mut looks = 0;
    let watch = &mut |_: &ScrubReport| {
        looks += 1;
        ControlFlow::Continue(())
    };
    let report = store.scrub(&mut ScrubCursor::default(), &options, watch).unwrap();
    assert!(report.complete && report.objects == 12);
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    assert!(looks > 12, "it can be stopped in its pauses");
    let options = ScrubOptions { most_bytes: Some(all / 3), ..fast() };
    let mut cursor = ScrubCursor::default();
    let go_on = &mut |_: &ScrubReport| ControlFlow::Continue(());
    let part = store.scrub(&mut cursor, &options, go_on).unwrap();
    assert!(!part.complete && part.bytes >= all / 3 && part.bytes < all / 3 + 300_000);
    let rest = store.scrub(&mut cursor, &fast(), go_on).unwrap();
    assert!(rest.complete);
    assert_eq!(part.objects + rest.objects, 12);
}

#[test]
fn a_scrub_leaves_the_order_of_use_alone() {
    let (_medium, store) = pool(40);
    assert!(store.touch(&key(0)));
    whole(&store);
    let mut next = 1000;
    while store.contains(&key(1)) {
        store.put(&key(next), payload(next).as_slice(), &PutOptions::default()).unwrap();
        next += 1;
        assert!(next < 2000, "nothing was evicted");
    }
    assert!(store.contains(&key(0)), "what was used last goes after what was used before");
}

#[test]
fn gets_puts_and_removes_go_on_beside_a_scrub_and_see_what_is_right() {
    let (_medium, store) = pool(30);
    let replace = PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() };
    std::thread::scope(|scope| {
        let scrubs = scope.spawn(|| {
            (0..6).map(|_| whole(&store)).fold((0, 0), |(damaged, unread), report| {
                (damaged + report.damaged, unread + report.unread)
            })
        });
        let mut rng = fastrand::Rng::with_seed(1);
        for round in 0..300 {
            let i = rng.u64(..30);
            match rng.u8(..4) {
                0 => drop(store.remove(&key(i), gcos_store::Durability::Sync).unwrap()),
                1 => drop(store.put(&key(i), payload(i).as_slice(), &replace).unwrap()),
                _ => {
                    if let Ok(got) = store.get_vec(&key(i)).unwrap() {
                        assert!(got == payload(i), "round {round}: object {i}");
                    }
                }
            }
        }
        assert_eq!(scrubs.join().unwrap(), (0, 0), "what goes meanwhile is not damage");
    });
}

#[test]
fn an_empty_pool_is_scrubbed_at_once() {
    let (_medium, store) = pool(0);
    let report = whole(&store);
    assert_eq!(report, ScrubReport { complete: true, ..ScrubReport::default() });
    store.close().unwrap();
}
