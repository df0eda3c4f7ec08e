//! Interrupt vectors. Several queue pairs may signal on one, where the function has few.

use std::sync::Arc;
use std::time::Duration;

use gcos_hw::EventFd;
use parking_lot::{Condvar, Mutex};

/// Longest sleep for an interrupt before looking at the queue anyway, so that a lost interrupt costs
/// time and no more.
const SLICE: Duration = Duration::from_millis(5);

/// A vector whose event callers wait for.
#[derive(Debug)]
pub(crate) struct Vector {
    pub(crate) index: u16,
    event: Arc<EventFd>,
    slice: Duration,
    state: Mutex<State>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How often waiters were told to look at their queues.
    wakes: u64,
    /// Whether a waiter, the leader, sleeps on the event; the others sleep on `woken`.
    led: bool,
}

impl Vector {
    pub(crate) fn new(index: u16, event: Arc<EventFd>) -> Self {
        Self { index, event, slice: SLICE, state: Mutex::default(), woken: Condvar::new() }
    }

    /// To be taken before looking at a queue, and given to [`Vector::sleep`]: an interrupt between the
    /// two, which somebody else may have taken, then ends the sleep at once.
    pub(crate) fn seen(&self) -> u64 {
        self.state.lock().wakes
    }

    /// Sleeps until an interrupt, until another waiter has something to tell, or a slice of time:
    /// whether there was anything but the time.
    pub(crate) fn sleep(&self, seen: u64, longest: Duration) -> bool {
        let longest = longest.min(self.slice);
        let mut state = self.state.lock();
        if state.wakes != seen {
            return true;
        }
        if state.led {
            self.woken.wait_for(&mut state, longest);
            return state.wakes != seen;
        }
        state.led = true;
        drop(state);
        let signalled = self.event.wait(longest);
        let mut state = self.state.lock();
        state.led = false;
        state.wakes += u64::from(signalled);
        let told = state.wakes != seen;
        drop(state);
        // Without an interrupt, too: the leader may have nothing left to wait for, and then one of the
        // others must take the lead, or interrupts would find nobody.
        self.woken.notify_all();
        told
    }

    /// Whoever reaps, also in order to submit, tells the others: their commands may have ended.
    pub(crate) fn wake(&self) {
        self.state.lock().wakes += 1;
        self.woken.notify_all();
    }
}

/// The vector of queue pair `qid` on a function of so many vectors: its own as long as there are
/// enough. Vector 0 is the admin queue's, and is shared with it only where there is no other.
pub(crate) fn vector_of(qid: u16, vectors: u16) -> u16 {
    match vectors {
        0 | 1 => 0,
        _ => 1 + qid.saturating_sub(1) % (vectors - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn queue_pairs_share_the_vectors_evenly() {
        let map = |vectors| (1..=5).map(|qid| vector_of(qid, vectors)).collect::<Vec<_>>();
        assert_eq!(map(1), [0; 5]);
        assert_eq!(map(2), [1; 5]);
        assert_eq!(map(3), [1, 2, 1, 2, 1]);
        assert_eq!(map(6), [1, 2, 3, 4, 5]);
        assert_eq!(map(65), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn an_interrupt_that_another_waiter_took_ends_the_sleep() {
        let vector = Vector::new(1, Arc::new(EventFd::new().unwrap()));
        let seen = vector.seen();
        vector.event.signal();
        assert!(vector.sleep(seen, Duration::from_secs(1)));
        assert!(!vector.event.take(), "taken by the first");
        let began = Instant::now();
        for _ in 0..100 {
            assert!(vector.sleep(seen, Duration::from_secs(1)));
        }
        assert!(began.elapsed() < 100 * SLICE / 2, "not slept: {:?}", began.elapsed());
        assert!(!vector.sleep(vector.seen(), SLICE), "nothing was told");
    }

    /// Waits until `done` holds; panics when that takes too long.
    fn wait_until(what: &str, done: impl Fn() -> bool) {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < Duration::from_secs(10), "{what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_leader_that_leaves_without_an_interrupt_hands_the_lead_over() {
        for _ in 0..50 {
            // Whoever is forgotten sleeps for long.
            let slice = Duration::from_secs(20);
            let vector = Vector { slice, ..Vector::new(1, Arc::new(EventFd::new().unwrap())) };
            let began = Instant::now();
            let seen = vector.seen();
            std::thread::scope(|scope| {
                let leader = scope.spawn(|| vector.sleep(seen, Duration::from_millis(1)));
                wait_until("no leader", || vector.state.lock().led || leader.is_finished());
                let sleep = || while !vector.sleep(seen, slice) {};
                let followers: Vec<_> = (0..4).map(|_| scope.spawn(sleep)).collect();
                assert!(!leader.join().unwrap());
                wait_until("nobody takes the lead", || vector.state.lock().led);
                vector.event.signal();
                followers.into_iter().for_each(|follower| follower.join().unwrap());
            });
            assert_eq!(vector.seen(), 1, "one interrupt");
            assert!(began.elapsed() < slice / 2, "somebody was forgotten");
        }
    }
}
