//! A completion entry, from the software controller (`IovaTable::store_entry`) to the driver
//! (`CompletionRing::peek_completion`): who sees the phase tag sees the entry, and the data before it.

use gcos_loom_tests::Strength;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Data, and an entry of two halves; the second holds the phase tag.
fn post_and_peek(store: Strength, load: Strength) {
    loom::model(move || {
        let memory = Arc::new((AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)));
        let device = {
            let memory = Arc::clone(&memory);
            loom::thread::spawn(move || {
                let (data, first, second) = &*memory;
                data.store(7, Ordering::Relaxed);
                first.store(5, Ordering::Relaxed);
                second.store(1, store.or_relaxed(Ordering::Release));
            })
        };
        let (data, first, second) = &*memory;
        if second.load(load.or_relaxed(Ordering::Acquire)) == 1 {
            assert_eq!(first.load(Ordering::Relaxed), 5, "half an entry");
            assert_eq!(data.load(Ordering::Relaxed), 7, "an entry without its data");
        }
        let _ = device.join();
    });
}

#[test]
fn who_sees_the_phase_tag_sees_the_entry_and_the_data() {
    post_and_peek(Strength::AsWritten, Strength::AsWritten);
}

#[test]
#[should_panic(expected = "half an entry")]
fn a_phase_tag_that_is_stored_relaxed_is_noticed() {
    post_and_peek(Strength::Weakened, Strength::AsWritten);
}

#[test]
#[should_panic(expected = "half an entry")]
fn a_phase_tag_that_is_loaded_relaxed_is_noticed() {
    post_and_peek(Strength::AsWritten, Strength::Weakened);
}

/// The way back: the entry of a submission queue, then its doorbell (`Function::write32`), which the
/// controller loads before it fetches.
fn submit_and_fetch(doorbell_order: Strength) {
    loom::model(move || {
        let memory = Arc::new((AtomicU64::new(0), AtomicU32::new(0)));
        let host = {
            let memory = Arc::clone(&memory);
            loom::thread::spawn(move || {
                let (entry, doorbell) = &*memory;
                entry.store(9, Ordering::Relaxed);
                doorbell.store(1, doorbell_order.or_relaxed(Ordering::Release));
            })
        };
        let (entry, doorbell) = &*memory;
        if doorbell.load(Ordering::Acquire) == 1 {
            assert_eq!(entry.load(Ordering::Relaxed), 9, "fetched before it was there");
        }
        let _ = host.join();
    });
}

#[test]
fn what_a_doorbell_tells_of_can_be_fetched() {
    submit_and_fetch(Strength::AsWritten);
}

#[test]
#[should_panic(expected = "fetched before it was there")]
fn a_doorbell_that_is_stored_relaxed_is_noticed() {
    submit_and_fetch(Strength::Weakened);
}
