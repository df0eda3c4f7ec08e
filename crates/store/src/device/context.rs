//! What a pool has for one GPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gcos_engine::device::ops::Ops;
use gcos_engine::device::{
    DeviceBuffer, DeviceEngine, DeviceMemory, DeviceSlice, Gpu, HostDriven, Kernels, MemoryOptions,
    Pinned, Rung, Stream,
};
use gcos_layout::media::BLOCK_BYTES;
use parking_lot::Mutex;

use super::memory::{DeviceRun, Direction};
use crate::StoreError;
use crate::pool::{Pool, count};

/// Pinned memory that is kept for reuse: so much each, and so many of it.
const PINNED_BYTES: usize = 1 << 20;
const PINNED_KEPT: usize = 16;
/// Idle streams that are kept for reuse.
const LANES_KEPT: usize = 64;
/// Alignment of staging memory.
const PAGE: usize = 4096;

/// What a pool has for one GPU.
#[derive(Debug)]
pub(crate) struct Device {
    gpu: Arc<Gpu>,
    /// `None` where the GPU cannot take part: then the host moves everything.
    pub(super) direct: Option<Direct>,
    /// Why.
    refused: Option<String>,
    lanes: Mutex<Vec<Stream>>,
    pinned: Mutex<Vec<Pinned>>,
    /// That the host had to step in has been said.
    said: AtomicBool,
}

/// What it takes for drives and the GPU to move objects by themselves.
#[derive(Debug)]
pub(super) struct Direct {
    /// By drive index; `None` for a missing drive.
    engines: Vec<Option<Arc<dyn DeviceEngine>>>,
    memory: Arc<DeviceMemory>,
    pub(super) ops: Arc<Ops>,
    /// A block of zeros.
    pub(super) zeros: DeviceSlice,
}

impl Direct {
    /// Engines for all drives that are there. A drive whose queues the GPU does not reach is driven by the
    /// host, into the same memory.
    fn open(pool: &Pool, gpu: &Arc<Gpu>, deadline: Duration) -> Result<Self, StoreError> {
        let own: Vec<_> = pool
            .members
            .iter()
            .map(|member| member.as_ref()?.drive.io.engine.device(gpu))
            .collect();
        let memory = match own.iter().flatten().next() {
            Some(engine) => Arc::clone(engine.memory()),
            None => {
                let member = pool.present().next().ok_or(StoreError::Closed)?;
                let options = MemoryOptions::default();
                DeviceMemory::new(gpu, member.drive.io.engine.dma(), options)?
            }
        };
        let mut engines = Vec::with_capacity(own.len());
        for (member, own) in pool.members.iter().zip(own) {
            engines.push(match (member, own) {
                (None, _) => None,
                (Some(_), Some(engine)) => Some(engine),
                (Some(member), None) => {
                    let engine = Arc::clone(&member.drive.io.engine);
                    let driven = HostDriven::new(engine, Arc::clone(&memory))?;
                    Some(Arc::new(driven) as Arc<dyn DeviceEngine>)
                }
            });
        }
        let ops = Ops::new(&Kernels::load(gpu)?)?;
        let zeros = memory.alloc(BLOCK_BYTES, PAGE)?.as_slice();
        let stream = Stream::new(gpu)?;
        stream.fill(&zeros, 0)?;
        stream.synchronize(deadline)?;
        Ok(Self { engines, memory, ops, zeros })
    }

    /// How blocks move between this GPU and a drive.
    pub(super) fn engine(&self, drive: u8) -> Option<&Arc<dyn DeviceEngine>> {
        self.engines.get(usize::from(drive))?.as_ref()
    }

    /// Whether memory that drives reach is the host's.
    pub(super) fn is_in_host_memory(&self) -> bool {
        self.memory.rung() == Rung::Staging
    }

    /// Memory that the GPU and the drives reach, whole pages.
    pub(super) fn alloc(&self, len: u64) -> Result<DeviceBuffer, StoreError> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        Ok(self.memory.alloc(len, PAGE)?)
    }
}

impl Device {
    fn open(pool: &Pool, gpu: &Arc<Gpu>) -> Arc<Self> {
        let direct = Direct::open(pool, gpu, pool.options.io_deadline);
        let refused = direct.as_ref().err().map(StoreError::chain);
        if let Some(reason) = &refused {
            let gpu = gpu.ordinal();
            tracing::warn!(gpu, reason, "the host moves what is in the GPU's memory");
        }
        Arc::new(Self {
            gpu: Arc::clone(gpu),
            said: AtomicBool::new(refused.is_some()),
            direct: direct.ok(),
            refused,
            lanes: Mutex::default(),
            pinned: Mutex::default(),
        })
    }

    /// A stream of the store's own.
    pub(super) fn lane(&self) -> Result<Stream, StoreError> {
        let idle = self.lanes.lock().pop();
        Ok(match idle {
            Some(lane) => lane,
            None => Stream::new(&self.gpu)?,
        })
    }

    /// Gives streams back whose work has ended.
    pub(super) fn give_lanes(&self, lanes: impl IntoIterator<Item = Stream>) {
        let mut idle = self.lanes.lock();
        idle.extend(lanes);
        idle.truncate(LANES_KEPT);
    }

    /// Host memory of at least `len` bytes that the GPU reaches; its content is unspecified.
    pub(super) fn pinned(&self, len: usize) -> Result<Pinned, StoreError> {
        if len <= PINNED_BYTES
            && let Some(pinned) = self.pinned.lock().pop()
        {
            return Ok(pinned);
        }
        Ok(Pinned::new(&self.gpu, len.max(PINNED_BYTES))?)
    }

    /// Gives memory back that nothing uses any more.
    pub(super) fn give_pinned(&self, pinned: Pinned) {
        let mut idle = self.pinned.lock();
        if pinned.len() == PINNED_BYTES && idle.len() < PINNED_KEPT {
            idle.push(pinned);
        }
    }

    /// Notes that the host did what the GPU and the drives could not.
    pub(super) fn fell_back(&self, pool: &Pool, why: &str) {
        count(&pool.counters.device_fallbacks, 1);
        if !self.said.swap(true, Ordering::Relaxed) {
            let gpu = self.gpu.ordinal();
            tracing::warn!(
                gpu,
                reason = why,
                "the host moved what the GPU and its drives could not"
            );
        } else {
            tracing::debug!(reason = why, "the host stepped in");
        }
    }

    /// Copies bytes to or from GPU memory, apart from all streams of the caller, and waits for it.
    pub(super) fn move_bytes(
        &self,
        run: &DeviceRun,
        offset: u64,
        bytes: &mut [u8],
        direction: Direction,
        deadline: Duration,
    ) -> Result<(), StoreError> {
        let (lane, pinned) = (self.lane()?, self.pinned(bytes.len().min(PINNED_BYTES))?);
        let mut at = offset;
        for part in bytes.chunks_mut(PINNED_BYTES) {
            let host = pinned.slice(0, part.len())?;
            if direction == Direction::In {
                pinned.memory().write(0, part)?;
            }
            run.copy(&lane, at, &host, direction)?;
            lane.synchronize(deadline)?;
            if direction == Direction::Out {
                pinned.memory().read(0, part)?;
            }
            at += part.len() as u64;
        }
        self.give_lanes([lane]);
        self.give_pinned(pinned);
        Ok(())
    }

    /// Ends the use of the drives by this GPU.
    pub(crate) fn shutdown(&self, deadline: Duration) -> Result<(), StoreError> {
        let engines = self.direct.iter().flat_map(|direct| direct.engines.iter().flatten());
        engines.map(|engine| Ok(engine.shutdown(deadline)?)).fold(Ok(()), Result::and)
    }

    /// How objects move between each drive and the GPU, by drive index.
    pub(crate) fn paths(&self) -> Vec<String> {
        let Some(direct) = &self.direct else { return Vec::new() };
        let path = |engine: &Option<Arc<dyn DeviceEngine>>| match engine {
            Some(engine) => engine.path().to_string(),
            None => "the drive is missing".to_owned(),
        };
        direct.engines.iter().map(path).collect()
    }

    /// Memory that the GPU and the pool's drives reach.
    pub(crate) fn buffer(&self, len: usize) -> Result<DeviceBuffer, StoreError> {
        match &self.direct {
            Some(direct) => Ok(direct.memory.alloc(len, PAGE)?),
            None => Err(StoreError::invalid(
                "GPU",
                "one whose memory drives reach, with kernels",
                format!(
                    "GPU {}: {}",
                    self.gpu.ordinal(),
                    self.refused.as_deref().unwrap_or("none")
                ),
            )),
        }
    }
}

impl Pool {
    /// What the pool has for a GPU; made at the first use.
    pub(crate) fn device(&self, gpu: &Arc<Gpu>) -> Arc<Device> {
        let mut devices = self.devices.lock();
        match devices.iter().find(|device| device.gpu.same(gpu)) {
            Some(device) => Arc::clone(device),
            None => {
                let device = Device::open(self, gpu);
                devices.push(Arc::clone(&device));
                device
            }
        }
    }
}
