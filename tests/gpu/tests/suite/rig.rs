//! A drive in software, a GPU, and an engine between them.

use std::sync::Arc;
use std::time::Duration;

use gcos_cuda::{DeviceMemory, DeviceSlice, Gpu, MemoryOptions, Rung, Stream};
use gcos_emulator::{
    AddressSpace, Config, Emulator, FaultPlan, Medium, Namespace, WriteCacheConfig,
};
use gcos_engine::device::{DeviceEngine, DeviceTicket, DeviceTransfer, HostDriven};
use gcos_engine::{
    DoorbellChoice, Engine, GpuQueueEngine, GpuQueueOptions, HostQueueEngine, IoError, Request,
};
use gcos_hw::Function;
use gcos_nvme::{Controller, Options};

pub(crate) const LONG: Duration = Duration::from_secs(20);
pub(crate) const MEDIUM: u64 = 64 << 20;

pub(crate) type Results = Vec<Result<(), IoError>>;

/// What the rig is made of.
pub(crate) struct Choice {
    /// 64 MiB of memory where there is none.
    pub(crate) medium: Option<Arc<Medium>>,
    pub(crate) lba_bytes: u32,
    pub(crate) mdts: u64,
    pub(crate) sgl: bool,
    pub(crate) pairs: u16,
    pub(crate) depth: u32,
    pub(crate) doorbells: DoorbellChoice,
    pub(crate) rungs: Vec<Rung>,
    pub(crate) write_cache: bool,
    pub(crate) faults: FaultPlan,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            medium: None,
            lba_bytes: 512,
            mdts: 128 << 10,
            sgl: true,
            pairs: 2,
            depth: 64,
            doorbells: DoorbellChoice::Auto,
            rungs: Rung::ALL.to_vec(),
            write_cache: false,
            faults: FaultPlan::default(),
        }
    }
}

pub(crate) struct Rig {
    // The engines end before the drive.
    pub(crate) engine: Arc<GpuQueueEngine>,
    pub(crate) host: Arc<HostQueueEngine>,
    pub(crate) memory: Arc<DeviceMemory>,
    pub(crate) controller: Arc<Controller>,
    pub(crate) emulator: Arc<Emulator>,
    pub(crate) gpu: Arc<Gpu>,
}

impl Rig {
    pub(crate) fn new(gpu: &Arc<Gpu>, choice: Choice) -> Self {
        Self::behind(gpu, choice, |function| function)
    }

    /// With something between the controller and its driver.
    pub(crate) fn behind(
        gpu: &Arc<Gpu>,
        choice: Choice,
        wrap: impl FnOnce(Arc<dyn Function>) -> Arc<dyn Function>,
    ) -> Self {
        let space = AddressSpace::new().unwrap();
        let medium = choice.medium.unwrap_or_else(|| Medium::ram(MEDIUM).unwrap());
        let emulator = Emulator::new(Config {
            namespaces: vec![Namespace { lba_bytes: choice.lba_bytes, bytes: MEDIUM }],
            mdts: choice.mdts,
            sgl: choice.sgl,
            write_cache: choice.write_cache.then(WriteCacheConfig::default),
            space: Some(space.clone()),
            faults: choice.faults,
            spin: Duration::from_micros(100),
            ..Config::new(medium)
        });
        let emulator = emulator.unwrap();
        let options = Options {
            lent_queue_pairs: choice.pairs,
            admin_timeout: Duration::from_millis(500),
            abort_timeout: Duration::from_millis(200),
            ..Options::default()
        };
        let controller = Controller::open(wrap(emulator.function()), options).unwrap();
        let options =
            MemoryOptions { window_bytes: 32 << 20, rungs: choice.rungs, ..Default::default() };
        let memory = DeviceMemory::new(gpu, &space.dma, options).unwrap();
        let host = Arc::new(HostQueueEngine::new(Arc::clone(&controller), 1).unwrap());
        let options = GpuQueueOptions {
            queue_pairs: choice.pairs,
            queue_depth: choice.depth,
            doorbells: choice.doorbells,
        };
        let engine = GpuQueueEngine::new(&controller, 1, &memory, options).unwrap();
        let engine = Arc::new(engine);
        host.attach(Arc::clone(&engine) as _);
        Self { engine, host, memory, controller, emulator, gpu: Arc::clone(gpu) }
    }

    /// The rung where the host drives the same drive.
    pub(crate) fn host_driven(&self) -> HostDriven {
        let host = HostQueueEngine::new(Arc::clone(&self.controller), 1).unwrap();
        HostDriven::new(Arc::new(host), Arc::clone(&self.memory)).unwrap()
    }

    pub(crate) fn alloc(&self, len: usize) -> DeviceSlice {
        self.memory.alloc(len, 4096).unwrap().as_slice()
    }

    /// GPU memory with random content, which is returned.
    pub(crate) fn random(&self, len: usize, seed: u64) -> (DeviceSlice, Vec<u8>) {
        let (slice, bytes) = (self.alloc(len), random(len, seed));
        slice.copy_in(0, &bytes).unwrap();
        (slice, bytes)
    }

    pub(crate) fn stream(&self) -> Stream {
        Stream::new(&self.gpu).unwrap()
    }

    /// Starts transfers on a stream of their own and waits.
    pub(crate) fn run(&self, transfers: Vec<DeviceTransfer>, deadline: Duration) -> Results {
        run(&*self.engine, &self.stream(), transfers, deadline)
    }

    /// The medium as the host's queues read it.
    pub(crate) fn medium(&self, offset: u64, len: usize) -> Vec<u8> {
        let buffer = self.host.dma().alloc(len).unwrap();
        self.host.run(Request::read(offset, buffer.as_dma(), LONG)).unwrap();
        let mut bytes = vec![0; len];
        buffer.as_dma().read(0, &mut bytes).unwrap();
        bytes
    }

    pub(crate) fn set_medium(&self, offset: u64, bytes: &[u8]) {
        let buffer = self.host.dma().alloc(bytes.len()).unwrap();
        buffer.as_dma().write(0, bytes).unwrap();
        self.host.run(Request::write(offset, buffer.as_dma(), false, LONG)).unwrap();
    }
}

pub(crate) fn run(
    engine: &dyn DeviceEngine,
    stream: &Stream,
    transfers: Vec<DeviceTransfer>,
    deadline: Duration,
) -> Results {
    engine.start(stream, transfers, deadline).unwrap().wait()
}

/// Waits for a ticket by polling alone.
pub(crate) fn poll(mut ticket: Box<dyn DeviceTicket>) -> Results {
    loop {
        if let Some(results) = ticket.poll() {
            assert!(ticket.poll().is_none(), "results come once");
            return results;
        }
        std::thread::yield_now();
    }
}

pub(crate) fn all_good(results: &Results) {
    for result in results {
        assert!(result.is_ok(), "{result:?}");
    }
}

pub(crate) fn random(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

pub(crate) fn content(slice: &DeviceSlice) -> Vec<u8> {
    let mut bytes = vec![0; slice.len()];
    slice.copy_out(0, &mut bytes).unwrap();
    bytes
}
