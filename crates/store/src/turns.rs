//! Where the store waits for its own threads, and what it asks of the world beside drives: the time, and
//! numbers that nobody else has.
//!
//! In a build with the feature `canary` a simulator may take these over for the threads that it runs: then
//! only one of them runs at a time, none ever sleeps, and time is simulated.

use std::time::{Duration, Instant};

use gcos_layout::media::Uuid;
use parking_lot::{Condvar, Mutex, MutexGuard};

#[cfg(feature = "canary")]
pub use simulated::{World, enter};

/// Takes a lock that may be held over I/O.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(feature = "canary")]
    if let Some(world) = simulated::world() {
        loop {
            if let Some(guard) = mutex.try_lock() {
                return guard;
            }
            world.pause();
        }
    }
    mutex.lock()
}

/// Waits a little for a signal, letting the lock go meanwhile.
pub(crate) fn wait<T>(signal: &Condvar, guard: &mut MutexGuard<'_, T>, longest: Duration) {
    #[cfg(feature = "canary")]
    if let Some(world) = simulated::world() {
        return MutexGuard::unlocked(guard, || world.pause());
    }
    signal.wait_for(guard, longest);
}

/// Monotonic time.
pub(crate) fn now() -> Instant {
    #[cfg(feature = "canary")]
    if let Some(world) = simulated::world() {
        return simulated::start() + world.now();
    }
    Instant::now()
}

/// Seconds since 1970.
pub(crate) fn seconds() -> u64 {
    #[cfg(feature = "canary")]
    if let Some(world) = simulated::world() {
        return world.seconds();
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

/// A new UUID.
pub(crate) fn uuid() -> Uuid {
    #[cfg(feature = "canary")]
    if let Some(world) = simulated::world() {
        return world.unique();
    }
    *uuid::Uuid::new_v4().as_bytes()
}

#[cfg(feature = "canary")]
mod simulated {
    use std::cell::RefCell;
    use std::sync::{Arc, OnceLock};
    use std::time::{Duration, Instant};

    /// What a simulator gives the threads that it runs.
    pub trait World {
        /// Lets other threads go on; this one waits for something that one of them holds.
        fn pause(&self);
        /// Time since the beginning.
        fn now(&self) -> Duration;
        /// Seconds since 1970.
        fn seconds(&self) -> u64;
        /// A number that was never given before.
        fn unique(&self) -> [u8; 16];
    }

    thread_local! {
        static WORLD: RefCell<Option<Arc<dyn World>>> = const { RefCell::new(None) };
    }

    /// From now on the calling thread lives in this world, or in the real one again.
    pub fn enter(world: Option<Arc<dyn World>>) {
        WORLD.set(world);
    }

    pub(super) fn world() -> Option<Arc<dyn World>> {
        WORLD.with_borrow(Clone::clone)
    }

    /// An instant to count simulated time from.
    pub(super) fn start() -> Instant {
        static START: OnceLock<Instant> = OnceLock::new();
        *START.get_or_init(Instant::now)
    }
}
