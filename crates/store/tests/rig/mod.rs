//! A store on software controllers whose queues a GPU drives.

use std::sync::Arc;
use std::time::Duration;

use gcos_emulator::{AddressSpace, Config, Emulator, Medium, Namespace, WriteCacheConfig};
use gcos_engine::device::{DeviceMemory, Gpu, MemoryOptions};
use gcos_engine::{Engine, GpuQueueEngine, GpuQueueOptions, HostQueueEngine};
use gcos_layout::media::ZoneChunks;
use gcos_nvme::{Controller, Options};
use gcos_store::{FormatOptions, OpenOptions, Store, format};

const PAIRS: u16 = 2;

/// The GPU of the tests.
pub(crate) fn gpu() -> Arc<Gpu> {
    #[cfg(feature = "gpu")]
    return Gpu::open(0).unwrap();
    #[cfg(not(feature = "gpu"))]
    Gpu::played()
}

pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut out);
    out
}

pub(crate) struct Rig {
    // The store and its engines end before the drives.
    pub(crate) store: Store,
    /// `None` for a drive whose queues no GPU drives.
    pub(crate) engines: Vec<Option<Arc<GpuQueueEngine>>>,
    pub(crate) emulators: Vec<Arc<Emulator>>,
    pub(crate) gpu: Arc<Gpu>,
    media: Vec<Arc<Medium>>,
    driven: Vec<bool>,
}

type Drives = (Vec<Arc<dyn Engine>>, Vec<Option<Arc<GpuQueueEngine>>>, Vec<Arc<Emulator>>);

fn drives(gpu: &Arc<Gpu>, media: &[Arc<Medium>], driven: &[bool]) -> Drives {
    let space = AddressSpace::new().unwrap();
    let options = MemoryOptions { window_bytes: 64 << 20, ..Default::default() };
    let memory = DeviceMemory::new(gpu, &space.dma, options).unwrap();
    let (mut hosts, mut engines, mut emulators) = (Vec::new(), Vec::new(), Vec::new());
    for (medium, driven) in media.iter().zip(driven) {
        let emulator = Emulator::new(Config {
            namespaces: vec![Namespace { lba_bytes: 4096, bytes: medium.len() }],
            write_cache: Some(WriteCacheConfig { capacity_bytes: 4 << 20, seed: 7 }),
            space: Some(space.clone()),
            spin: Duration::from_micros(100),
            ..Config::new(Arc::clone(medium))
        });
        let emulator = emulator.unwrap();
        let options = Options {
            lent_queue_pairs: if *driven { PAIRS } else { 0 },
            admin_timeout: Duration::from_millis(500),
            abort_timeout: Duration::from_millis(200),
            ..Options::default()
        };
        let controller = Controller::open(Arc::clone(&emulator).function(), options).unwrap();
        let host = Arc::new(HostQueueEngine::new(Arc::clone(&controller), 1).unwrap());
        let engine = driven.then(|| {
            let options =
                GpuQueueOptions { queue_pairs: PAIRS, queue_depth: 64, ..Default::default() };
            Arc::new(GpuQueueEngine::new(&controller, 1, &memory, options).unwrap())
        });
        if let Some(engine) = &engine {
            host.attach(Arc::clone(engine) as _);
        }
        hosts.push(host as Arc<dyn Engine>);
        engines.push(engine);
        emulators.push(emulator);
    }
    (hosts, engines, emulators)
}

fn options() -> OpenOptions {
    OpenOptions { background: false, io_deadline: Duration::from_secs(4), ..Default::default() }
}

impl Rig {
    /// So many drives, each of so many bytes, formatted and open.
    pub(crate) fn new(gpu: &Arc<Gpu>, count: usize, bytes: usize) -> Self {
        Self::with(gpu, vec![true; count], bytes)
    }

    /// One drive whose queues the GPU drives, and one whose it does not.
    pub(crate) fn mixed(gpu: &Arc<Gpu>, bytes: usize) -> Self {
        Self::with(gpu, vec![true, false], bytes)
    }

    fn with(gpu: &Arc<Gpu>, driven: Vec<bool>, bytes: usize) -> Self {
        let media: Vec<_> = driven.iter().map(|_| Medium::ram(bytes as u64).unwrap()).collect();
        let (hosts, engines, emulators) = drives(gpu, &media, &driven);
        let chunks = ZoneChunks { superblock: 4096, meta: 65_536, data: 1 << 20 };
        format(&hosts, &FormatOptions { chunks, ..Default::default() }).unwrap();
        let store = Store::open(hosts, options()).unwrap();
        Self { store, engines, emulators, gpu: Arc::clone(gpu), media, driven }
    }

    /// After a crash: the drives come up again.
    pub(crate) fn reopen(self) -> Self {
        let Self { store, engines, emulators, gpu, media, driven } = self;
        drop((store, engines, emulators));
        let (hosts, engines, emulators) = drives(&gpu, &media, &driven);
        let store = Store::open(hosts, options()).unwrap();
        Self { store, engines, emulators, gpu, media, driven }
    }
}
