//! Drives whose ways fail as they are told, a pool on them, and what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gcos_check::{CheckOptions, Report, check};
use gcos_emulator::{AddressSpace, Config, Emulator, Medium, WriteCacheConfig};
use gcos_engine::{DemotingEngine, DemotionRules, Engine, HostQueueEngine, HostQueueOptions};
use gcos_layout::media::ZoneChunks;
use gcos_store::{FormatOptions, MissReason, OpenOptions, PutOptions, Store, StoreError, format};

use crate::faulty::Faulty;

pub(crate) const MIB: u64 = 1 << 20;

/// How a pool is made.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Bytes of each drive.
    pub(crate) drives: Vec<u64>,
    /// Ways to each but that for spill.
    pub(crate) ways: usize,
    /// Whether the last one is for spill.
    pub(crate) spill: bool,
    pub(crate) rules: DemotionRules,
    /// How long a controller may take to come up.
    pub(crate) patience: Duration,
}

/// Enough on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Drive {
    pub(crate) emulator: Arc<Emulator>,
    /// The best first. Those behind it fail only with the drive.
    pub(crate) first: Arc<Faulty>,
    pub(crate) engine: Arc<dyn Engine>,
}

pub(crate) struct Rig {
    // The store ends before the drives.
    store: Option<Store>,
    pub(crate) drives: Vec<Drive>,
    media: Vec<Arc<Medium>>,
    plan: Plan,
    /// Seeds of what was acknowledged, by key.
    pub(crate) acknowledged: Mutex<BTreeMap<u64, u64>>,
    /// Keys whose removal was acknowledged.
    pub(crate) removed: Mutex<BTreeSet<u64>>,
    powers: u64,
}

fn bring_up(media: &[Arc<Medium>], plan: &Plan) -> Vec<Drive> {
    let space = AddressSpace::new().unwrap();
    let bring_up = |(at, medium): (usize, &Arc<Medium>)| {
        let emulator = Emulator::new(Config {
            write_cache: Some(WriteCacheConfig { capacity_bytes: 4 * MIB, seed: at as u64 }),
            space: Some(space.clone()),
            ..Config::new(Arc::clone(medium))
        });
        let emulator = emulator.unwrap();
        let mut options = HostQueueOptions::default();
        options.controller.io_queue_pairs = 2;
        options.controller.admin_timeout = plan.patience;
        options.controller.abort_timeout = Duration::from_millis(50);
        let drive = HostQueueEngine::open(Arc::clone(&emulator).function(), options).unwrap();
        let drive: Arc<dyn Engine> = Arc::new(drive);
        let first = Faulty::new(&drive, "first");
        let mut ways: Vec<Arc<dyn Engine>> = vec![Arc::clone(&first) as _];
        ways.resize_with(plan.ways, || Faulty::new(&drive, "next"));
        let is_spill = plan.spill && at + 1 == media.len();
        let engine: Arc<dyn Engine> = match is_spill {
            true => Arc::clone(&first) as _,
            false => DemotingEngine::new(ways, &plan.rules).unwrap(),
        };
        Drive { emulator, first, engine }
    };
    media.iter().enumerate().map(bring_up).collect()
}

pub(crate) fn bytes(seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut out = vec![0; rng.usize(1..60_000)];
    rng.fill(&mut out);
    out
}

impl Rig {
    pub(crate) fn new(plan: Plan) -> Self {
        let media: Vec<_> = plan.drives.iter().map(|&len| Medium::ram(len).unwrap()).collect();
        let drives = bring_up(&media, &plan);
        let (acknowledged, removed) = Default::default();
        let mut rig = Self { store: None, drives, media, plan, acknowledged, removed, powers: 0 };
        let chunks = ZoneChunks { superblock: 4096, meta: 65_536, data: 512 << 10 };
        let options = FormatOptions { chunks, ..FormatOptions::default() };
        format(&rig.engines(), &options).unwrap();
        rig.store = Some(rig.open(rig.drives.len()).unwrap());
        rig
    }

    pub(crate) fn engines(&self) -> Vec<Arc<dyn Engine>> {
        self.drives.iter().map(|drive| Arc::clone(&drive.engine)).collect()
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    /// Opens the pool on the first so many drives.
    pub(crate) fn open(&self, drives: usize) -> Result<Store, StoreError> {
        let all = drives == self.drives.len();
        let options = OpenOptions {
            background: false,
            io_deadline: Duration::from_millis(400),
            spill: (self.plan.spill && all).then(|| drives - 1),
            ..OpenOptions::default()
        };
        Store::open(self.engines().into_iter().take(drives).collect(), options)
    }

    /// Puts an object, and notes it if it is acknowledged.
    pub(crate) fn put(&self, key: u64) -> Result<(), StoreError> {
        let seed = key * 1000 + 1;
        let put =
            self.store().put(&key.to_le_bytes(), bytes(seed).as_slice(), &PutOptions::default());
        put.map(|_| {
            self.acknowledged.lock().unwrap().insert(key, seed);
        })
    }

    /// Every object that was acknowledged is there, or a miss since its drive is out of use. How many are
    /// there.
    pub(crate) fn serves(&self) -> usize {
        let mut hits = 0;
        for (key, seed) in self.acknowledged.lock().unwrap().iter() {
            match self.store().get_vec(&key.to_le_bytes()).unwrap() {
                Ok(got) => {
                    assert!(got == bytes(*seed), "wrong bytes for {key}");
                    hits += 1;
                }
                Err(MissReason::DriveGone { .. } | MissReason::Io { .. }) => {}
                Err(reason) => panic!("{key} is lost: {reason}"),
            }
        }
        hits
    }

    /// All of them are there, and nothing that was removed.
    pub(crate) fn serves_all(&self) {
        for key in self.removed.lock().unwrap().iter() {
            assert!(!self.store().contains(&key.to_le_bytes()), "{key} is back");
        }
        assert_eq!(self.serves(), self.acknowledged.lock().unwrap().len());
    }

    /// The power goes, and comes back with all drives well.
    pub(crate) fn power_cut(&mut self) {
        drop(self.store.take());
        self.powers += 1;
        for drive in &self.drives {
            drive.emulator.power_cut(self.powers);
        }
        self.drives = bring_up(&self.media, &self.plan);
    }

    /// The power goes; then the checker is content, everything acknowledged is there, and the checker is
    /// content with that, too.
    pub(crate) fn end(mut self) {
        self.power_cut();
        self.check();
        self.store = Some(self.open(self.drives.len()).unwrap());
        self.serves_all();
        let objects = self.store().stats().objects;
        self.store.take().unwrap().close().unwrap();
        self.drives = bring_up(&self.media, &self.plan);
        assert_eq!(self.check().objects, objects);
    }

    /// Crashes and opens again.
    pub(crate) fn reopen(&mut self) {
        self.power_cut();
        self.store = Some(self.open(self.drives.len()).unwrap());
    }

    /// Ends the use of the pool in order, and brings the drives up again.
    pub(crate) fn close(&mut self) {
        self.store.take().unwrap().close().unwrap();
        self.drives = bring_up(&self.media, &self.plan);
    }

    pub(crate) fn check(&self) -> Report {
        let options = CheckOptions { data: true, ..CheckOptions::default() };
        let report = check(&self.engines(), &options, &mut |_| ()).unwrap();
        assert!(report.is_clean(), "{:#?}", report.findings);
        report
    }
}
