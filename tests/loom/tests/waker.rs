//! `Waker` of the software controller, its own source: no doorbell is lost between the last look and
//! the sleep.

#[path = "../../../crates/emulator/src/wake.rs"]
mod wake;

use std::cell::Cell;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};

use wake::Waker;

/// What `wake.rs` takes its parts from, here loom's.
mod sync {
    pub(crate) use std::sync::OnceLock;

    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering};
    pub(crate) use loom::thread::{Thread, park};

    use std::time::Duration;

    /// Without its timeout: a lost wake-up must not be made good by it.
    pub(crate) fn park_timeout(_timeout: Duration) {
        park();
    }

    pub(crate) fn fence(order: Ordering) {
        if !super::WITHOUT_FENCES.get() {
            loom::sync::atomic::fence(order);
        }
    }
}

thread_local! {
    /// loom runs all threads of a model on one thread of the system.
    static WITHOUT_FENCES: Cell<bool> = const { Cell::new(false) };
}

/// A host rings once; the controller sleeps until it has seen that. If the ring is lost nobody runs any
/// more, which loom reports as a deadlock.
fn ring_and_sleep() {
    loom::model(|| {
        let waker = Arc::new(Waker::default());
        let doorbell = Arc::new(AtomicU32::new(0));
        waker.attach(loom::thread::current());
        {
            let (waker, doorbell) = (Arc::clone(&waker), Arc::clone(&doorbell));
            loom::thread::spawn(move || {
                doorbell.store(1, Ordering::Release);
                waker.wake();
            });
        }
        while doorbell.load(Ordering::Acquire) == 0 {
            waker.sleep(None, || doorbell.load(Ordering::Acquire) != 0);
        }
        // The host is not joined: loom takes a late wake-up of a thread that joins for its end.
    });
}

#[test]
fn a_doorbell_is_seen_before_the_sleep_or_ends_it() {
    WITHOUT_FENCES.set(false);
    ring_and_sleep();
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fences_a_doorbell_is_lost() {
    WITHOUT_FENCES.set(true);
    ring_and_sleep();
}
