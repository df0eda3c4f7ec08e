//! A pool on a software controller, for benchmarks.
#![allow(dead_code, reason = "each benchmark uses a part")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to measure")]

use std::sync::Arc;

use gcos_emulator::{Config, Emulator, Medium};
use gcos_engine::{Engine, HostQueueEngine, HostQueueOptions};
use gcos_nvme::Options;
use gcos_store::{FormatOptions, OpenOptions, Store, format};

pub(crate) struct Pool {
    pub(crate) store: Store,
    emulator: Arc<Emulator>,
    medium: Arc<Medium>,
}

pub(crate) fn engine(emulator: &Arc<Emulator>) -> Arc<dyn Engine> {
    let controller = Options { io_queue_pairs: 2, queue_depth: 256, ..Options::default() };
    let options = HostQueueOptions { controller, nsid: 1 };
    Arc::new(HostQueueEngine::open(Arc::clone(emulator).function(), options).unwrap())
}

impl Pool {
    pub(crate) fn ram(bytes: u64) -> Self {
        let medium = Medium::ram(bytes).unwrap();
        let emulator = Emulator::new(Config::new(Arc::clone(&medium))).unwrap();
        let drives = vec![engine(&emulator)];
        format(&drives, &FormatOptions { meta_percent: 10, ..FormatOptions::default() }).unwrap();
        // Deallocated blocks of a medium in memory go back to the system: what is measured would be
        // page faults.
        let options = OpenOptions { deallocate: false, ..OpenOptions::default() };
        let store = Store::open(drives, options).unwrap();
        Self { store, emulator, medium }
    }

    /// Opens the pool again as after a crash.
    pub(crate) fn reopen(self) -> Self {
        let Self { store, emulator, medium } = self;
        drop(store);
        drop(emulator);
        let emulator = Emulator::new(Config::new(Arc::clone(&medium))).unwrap();
        let store = Store::open(vec![engine(&emulator)], OpenOptions::default()).unwrap();
        Self { store, emulator, medium }
    }
}

pub(crate) fn fill(bytes: &mut [u8], seed: u64) {
    fastrand::Rng::with_seed(seed).fill(bytes);
}
