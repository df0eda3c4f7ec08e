//! Sleeping and waking the controller's thread without losing a doorbell.

use std::time::Duration;

use crate::sync::{AtomicBool, OnceLock, Ordering, Thread, fence, park, park_timeout};

#[derive(Debug, Default)]
pub(crate) struct Waker {
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Waker {
    /// Names the thread that sleeps.
    pub(crate) fn attach(&self, thread: Thread) {
        let _ = self.thread.set(thread);
    }

    /// Called after something was made visible that the thread should act on.
    pub(crate) fn wake(&self) {
        // Either the sleeper sees what was stored before this fence when it checks for work, or
        // this load sees that it is about to sleep.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Sleeps until woken or for `timeout`, unless `has_work` finds something at the last moment.
    pub(crate) fn sleep(&self, timeout: Option<Duration>, has_work: impl FnOnce() -> bool) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !has_work() {
            match timeout {
                Some(timeout) => park_timeout(timeout),
                None => park(),
            }
        }
        self.asleep.store(false, Ordering::Relaxed);
    }
}
