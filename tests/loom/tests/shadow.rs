//! Shadow doorbells: `ShadowDoorbell::store` of the driver and `Controller::take_shadow_tail` of the
//! software controller. Host and controller each store, fence and look at what the other stores; one of
//! the two sees the other, so no command waits for a ring that never comes.

use gcos_loom_tests::Strength;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};

#[derive(Debug, Default)]
struct Shared {
    value: AtomicU32,
    event: AtomicU32,
    /// The queue is being looked at, or its register was rung, which comes to the same.
    looked_at: AtomicBool,
}

/// The event index that lets every change pass unnoticed: behind the value 0, before the value 1.
const BUSY: u32 = 2;

/// As `is_passed`, for values that do not wrap.
fn is_passed(event: u32, old: u32, new: u32) -> bool {
    (old..new).contains(&event)
}

fn store_and_take(host: Strength, controller: Strength) {
    loom::model(move || {
        let shared = Arc::new(Shared::default());
        shared.event.store(BUSY, Ordering::Relaxed);
        shared.looked_at.store(true, Ordering::Relaxed);
        let driver = {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || {
                shared.value.store(1, Ordering::Release);
                host.fence();
                if is_passed(shared.event.load(Ordering::Acquire), 0, 1) {
                    shared.looked_at.store(true, Ordering::SeqCst);
                }
            })
        };
        // The controller has found nothing new and is about to stop looking.
        shared.looked_at.store(false, Ordering::SeqCst);
        shared.event.store(0, Ordering::Release);
        controller.fence();
        let seen = shared.value.load(Ordering::Acquire) == 1;
        let _ = driver.join();
        let told = shared.looked_at.load(Ordering::SeqCst);
        assert!(seen || told, "nobody looks for a command that is there");
    });
}

#[test]
fn a_command_is_seen_by_the_last_look_or_rung_for() {
    store_and_take(Strength::AsWritten, Strength::AsWritten);
}

#[test]
#[should_panic(expected = "nobody looks")]
fn a_host_without_its_fence_is_noticed() {
    store_and_take(Strength::Weakened, Strength::AsWritten);
}

#[test]
#[should_panic(expected = "nobody looks")]
fn a_controller_without_its_fence_is_noticed() {
    store_and_take(Strength::AsWritten, Strength::Weakened);
}
