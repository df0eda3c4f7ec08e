use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use gcos_store::OpenOptions;
use parking_lot::Mutex;

use crate::worker::{Shared, Worker, key_of};
use crate::{Clock, History, Payload, Report, Rig, resident_bytes};

/// A load and the pool that bears it.
#[derive(Debug)]
pub struct Load {
    /// Threads.
    pub threads: usize,
    /// Different keys. What they would hold together is several times the pool.
    pub keys: usize,
    /// How long.
    pub time: Duration,
    /// Seed of the threads' choices; their order is the scheduler's.
    pub seed: u64,
}

impl Load {
    /// Runs on a fresh pool; closes it, opens it again, and looks at everything once more.
    ///
    /// # Panics
    /// When anything is not as the model says.
    #[must_use]
    pub fn run(&self, rig: &Rig) -> Report {
        let before = resident_bytes();
        let options =
            OpenOptions { relaxed_interval: Duration::from_millis(5), ..OpenOptions::default() };
        let shared = Shared {
            store: rig.open(options.clone()),
            clock: Clock::default(),
            histories: (0..self.keys + self.threads).map(|_| Mutex::<History>::default()).collect(),
            under_way: (0..self.threads).map(|_| AtomicU64::new(u64::MAX)).collect(),
            versions: AtomicU64::new(1),
        };
        let until = Instant::now() + self.time;
        let mut report = Report { resident: (before, before), ..Report::default() };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads)
                .map(|index| {
                    let rng = fastrand::Rng::with_seed(self.seed * 1000 + index as u64);
                    let worker = Worker {
                        shared: &shared,
                        index,
                        rng,
                        seen: crate::worker::Seen::default(),
                        pinned: None,
                    };
                    scope.spawn(move || worker.run(until))
                })
                .collect();
            while Instant::now() < until && !threads.iter().any(|thread| thread.is_finished()) {
                report.resident.1 = report.resident.1.max(resident_bytes());
                std::thread::sleep(Duration::from_millis(50));
            }
            for thread in threads {
                let seen = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                report.by_thread.push(seen.latencies.operations());
                report.latencies.add(&seen.latencies);
                report.hits += seen.hits;
                report.misses += seen.misses;
                report.full += seen.full;
            }
        });
        report.evicted = shared.store.stats().evicted;
        let Shared { store, clock, histories, .. } = shared;
        store.close().unwrap();
        let checked = rig.check();
        assert!(checked.is_clean(), "after the load: {:?}", checked.findings);
        let store = rig.open(options);
        let start = clock.tick();
        for (key, history) in histories.iter().enumerate().skip(self.threads) {
            let Ok(bytes) = store.get_vec(&key_of(key as u64)).unwrap() else { continue };
            let payload = Payload::recognise(&bytes);
            let allowed = payload.is_some_and(|payload| {
                payload.key == key as u64
                    && history.lock().allows(payload.version, start, clock.tick())
            });
            assert!(allowed, "key {key} after the next open: {payload:?}");
        }
        store.close().unwrap();
        println!("{report}");
        report
    }
}
