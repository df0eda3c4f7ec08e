use std::sync::Arc;

use gcos_check::{CheckOptions, Report, check};
use gcos_emulator::AddressSpace;
use gcos_emulator::{Config, Emulator, Medium, WriteCacheConfig};
use gcos_engine::{Engine, HostQueueEngine, HostQueueOptions};
use gcos_layout::media::ZoneChunks;
use gcos_nvme::Options;
use gcos_store::{FormatOptions, OpenOptions, Store, format};

/// Drives in memory that survive the store.
#[derive(Debug)]
pub struct Rig {
    media: Vec<Arc<Medium>>,
}

impl Rig {
    /// A freshly formatted pool of `drives` drives.
    #[must_use]
    pub fn new(drives: usize, bytes_each: u64) -> Self {
        let rig = Self { media: (0..drives).map(|_| Medium::ram(bytes_each).unwrap()).collect() };
        let chunks = ZoneChunks { superblock: 4096, meta: 65_536, data: 1 << 20 };
        let options = FormatOptions { chunks, meta_percent: 6, ..FormatOptions::default() };
        format(&rig.engines(), &options).unwrap();
        rig
    }

    /// Bytes of all drives.
    #[must_use]
    pub fn media_bytes(&self) -> u64 {
        self.media.iter().map(|medium| medium.len()).sum()
    }

    fn engines(&self) -> Vec<Arc<dyn Engine>> {
        let space = AddressSpace::new().unwrap();
        let engine = |medium: &Arc<Medium>| {
            let config = Config {
                write_cache: Some(WriteCacheConfig { capacity_bytes: 4 << 20, seed: 7 }),
                space: Some(space.clone()),
                workers: Some(1),
                ..Config::new(Arc::clone(medium))
            };
            let function = Emulator::new(config).unwrap().function();
            let controller = Options { io_queue_pairs: 2, queue_depth: 32, ..Options::default() };
            let options = HostQueueOptions { controller, nsid: 1 };
            Arc::new(HostQueueEngine::open(function, options).unwrap()) as Arc<dyn Engine>
        };
        self.media.iter().map(engine).collect()
    }

    /// Opens the pool on new controllers.
    #[must_use]
    pub fn open(&self, options: OpenOptions) -> Store {
        Store::open(self.engines(), options).unwrap()
    }

    /// Checks the pool with all its data.
    #[must_use]
    pub fn check(&self) -> Report {
        let options = CheckOptions { data: true, ..CheckOptions::default() };
        check(&self.engines(), &options, &mut |_| {}).unwrap()
    }
}
