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
    /// Held by the one waiter that sleeps on the event; the others sleep on `woken`.
    leader: Mutex<()>,
    /// How often waiters were told to look at their queues.
    wakes: Mutex<u64>,
    woken: Condvar,
}

impl Vector {
    pub(crate) fn new(index: u16, event: Arc<EventFd>) -> Self {
        let (leader, wakes, woken) = (Mutex::new(()), Mutex::new(0), Condvar::new());
        Self { index, event, leader, wakes, woken }
    }

    /// To be taken before looking at a queue, and given to [`Vector::sleep`]: an interrupt between the
    /// two, which somebody else may have taken, then ends the sleep at once.
    pub(crate) fn seen(&self) -> u64 {
        *self.wakes.lock()
    }

    /// Sleeps until an interrupt, until another waiter has something to tell, or a slice of time.
    pub(crate) fn sleep(&self, seen: u64, longest: Duration) {
        let longest = longest.min(SLICE);
        match self.leader.try_lock() {
            Some(leading) => {
                if self.seen() != seen {
                    return;
                }
                let signalled = self.event.wait(longest);
                // Told before the lead is free, so that whoever takes it has not missed this one; and
                // woken after, so that one of the others can take it.
                if signalled {
                    *self.wakes.lock() += 1;
                }
                drop(leading);
                if signalled {
                    self.woken.notify_all();
                }
            }
            None => {
                let mut wakes = self.wakes.lock();
                if *wakes == seen {
                    self.woken.wait_for(&mut wakes, longest);
                }
            }
        }
    }

    /// Whoever reaps, also in order to submit, tells the others: their commands may have ended.
    pub(crate) fn wake(&self) {
        *self.wakes.lock() += 1;
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
        vector.sleep(seen, Duration::from_secs(1));
        assert!(!vector.event.take(), "taken by the first");
        let began = Instant::now();
        for _ in 0..100 {
            vector.sleep(seen, Duration::from_secs(1));
        }
        assert!(began.elapsed() < 100 * SLICE / 2, "not slept: {:?}", began.elapsed());
    }
}
