//! What was given up while a GPU's stream still has it: kept until that has passed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a stream may take to pass. Then memory and space are kept for good.
const LONGEST: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(1);

/// Something that may be let go only when it has ended.
pub(super) trait Pending: Send {
    /// Whether it has ended. Never waits.
    fn ended(&mut self) -> bool;
    /// Lets go.
    fn finish(self: Box<Self>);
}

/// A thread that lives while there is something to wait for.
#[derive(Default)]
pub(crate) struct Reaper {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    waiting: Vec<(Instant, Box<dyn Pending>)>,
    running: bool,
}

impl std::fmt::Debug for Reaper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reaper").field("waiting", &self.shared.lock().waiting.len()).finish()
    }
}

impl Reaper {
    /// Keeps something until it has ended. Never waits.
    pub(super) fn keep(&self, mut pending: Box<dyn Pending>) {
        if pending.ended() {
            pending.finish();
            return;
        }
        let mut shared = self.shared.lock();
        shared.waiting.push((Instant::now() + LONGEST, pending));
        if shared.running {
            return;
        }
        let ours = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("gcos-reaper".to_owned());
        match thread.spawn(move || reap(&ours)) {
            Ok(_detached) => shared.running = true,
            // It stays in the list: the next one may start the thread.
            Err(error) => tracing::error!(%error, "no thread waits for what was given up"),
        }
    }
}

fn reap(shared: &Mutex<Shared>) {
    loop {
        let mut locked = shared.lock();
        let mut ended = Vec::new();
        let now = Instant::now();
        let mut left = Vec::new();
        for (until, mut pending) in locked.waiting.drain(..) {
            if pending.ended() {
                ended.push(pending);
            } else if now > until {
                tracing::error!("a GPU's stream never ended: memory and space are kept for good");
                std::mem::forget(pending);
            } else {
                left.push((until, pending));
            }
        }
        locked.waiting = left;
        locked.running = !locked.waiting.is_empty();
        let running = locked.running;
        drop(locked);
        // Outside the lock: what ends here takes others.
        ended.into_iter().for_each(Pending::finish);
        if !running {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;

    struct Job(Arc<AtomicBool>, Arc<AtomicU32>);

    impl Pending for Job {
        fn ended(&mut self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
        fn finish(self: Box<Self>) {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn what_has_not_ended_is_kept_and_then_let_go_once() {
        let (reaper, finished) = (Reaper::default(), Arc::new(AtomicU32::new(0)));
        let gates: Vec<_> = (0..3).map(|_| Arc::new(AtomicBool::new(false))).collect();
        for round in 1..=2 {
            for gate in &gates {
                gate.store(false, Ordering::SeqCst);
                reaper.keep(Box::new(Job(Arc::clone(gate), Arc::clone(&finished))));
            }
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(finished.load(Ordering::SeqCst), (round - 1) * 3);
            gates.iter().for_each(|gate| gate.store(true, Ordering::SeqCst));
            let end = Instant::now() + Duration::from_secs(10);
            while finished.load(Ordering::SeqCst) < round * 3 && Instant::now() < end {
                std::thread::sleep(PAUSE);
            }
            assert_eq!(finished.load(Ordering::SeqCst), round * 3);
        }
    }
}
