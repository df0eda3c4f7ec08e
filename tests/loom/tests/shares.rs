//! `Request` of the driver: commands of one request end on several threads; whoever sees that it is done
//! sees every result, and the memory has been given back once.

use gcos_loom_tests::Strength;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};

#[derive(Debug)]
struct Request {
    shares: AtomicU32,
    done: AtomicBool,
    failed: AtomicBool,
    dw0: AtomicU32,
    /// How often the memory was given back.
    given_back: AtomicU32,
}

impl Request {
    fn drop_share(&self, shares: Strength, done: Strength) {
        if self.shares.fetch_sub(1, shares.or_relaxed(Ordering::AcqRel)) == 1 {
            self.given_back.fetch_add(1, Ordering::Relaxed);
            self.done.store(true, done.or_relaxed(Ordering::Release));
        }
    }
}

/// One command fails, another succeeds; a third thread looks.
fn end_and_take(shares: Strength, done: Strength) {
    loom::model(move || {
        let request = Arc::new(Request {
            shares: AtomicU32::new(2),
            done: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            dw0: AtomicU32::new(0),
            given_back: AtomicU32::new(0),
        });
        let failing = {
            let request = Arc::clone(&request);
            loom::thread::spawn(move || {
                request.failed.store(true, Ordering::Relaxed);
                request.drop_share(shares, done);
            })
        };
        let succeeding = {
            let request = Arc::clone(&request);
            loom::thread::spawn(move || {
                request.dw0.store(4, Ordering::Relaxed);
                request.drop_share(shares, done);
            })
        };
        if request.done.load(Ordering::Acquire) {
            assert!(request.failed.load(Ordering::Relaxed), "an error got lost");
            assert_eq!(request.dw0.load(Ordering::Relaxed), 4, "an answer got lost");
            assert_eq!(request.given_back.load(Ordering::Relaxed), 1);
        }
        let _ = (failing.join(), succeeding.join());
        assert!(request.done.load(Ordering::Acquire));
        assert_eq!(request.given_back.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn who_sees_that_a_request_is_done_sees_every_result() {
    end_and_take(Strength::AsWritten, Strength::AsWritten);
}

#[test]
#[should_panic(expected = "got lost")]
fn shares_that_are_counted_relaxed_are_noticed() {
    end_and_take(Strength::Weakened, Strength::AsWritten);
}

#[test]
#[should_panic(expected = "got lost")]
fn an_end_that_is_stored_relaxed_is_noticed() {
    end_and_take(Strength::AsWritten, Strength::Weakened);
}
