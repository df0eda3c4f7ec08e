use std::sync::Arc;
use std::time::Duration;

use gcos_cuda::Gpu;
use gcos_hw::{DmaSpace, Function};
use gcos_nvme::{
    BlockRange, Controller, ErrorKind, IoOp, IoRequest, Namespace, NvmeError, Options, Pending,
};

use parking_lot::RwLock;

use crate::device::DeviceEngine;
use crate::{Ended, Engine, Extent, Geometry, IoError, IoErrorKind, Op, Request, Ticket, Way};

/// How to open a [`HostQueueEngine`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostQueueOptions {
    /// Queue pairs, depth, completion mode and the like.
    pub controller: Options,
    /// The namespace to use.
    pub nsid: u32,
}

impl Default for HostQueueOptions {
    fn default() -> Self {
        Self { controller: Options::default(), nsid: 1 }
    }
}

/// Moves blocks through NVMe queues that the host drives.
///
/// What a reset of the controller has ended because of something else, and the drive is back, is carried out
/// once more with its deadline from then on. Not so flushes, and writes without FUA to a drive with a volatile
/// cache: if the drive had lost its power, what was written before is gone, and whoever wrote it must hear of it.
#[derive(Debug)]
pub struct HostQueueEngine {
    controller: Arc<Controller>,
    nsid: u32,
    geometry: Geometry,
    /// Engines for GPUs.
    devices: RwLock<Vec<Arc<dyn DeviceEngine>>>,
}

impl HostQueueEngine {
    /// Brings the controller of `function` up and uses one of its namespaces.
    ///
    /// # Errors
    /// As [`Controller::open`] and [`HostQueueEngine::new`].
    pub fn open(function: Arc<dyn Function>, options: HostQueueOptions) -> Result<Self, NvmeError> {
        let controller = Controller::open(function, options.controller)?;
        Self::new(controller, options.nsid)
    }

    /// Uses a namespace of a controller that is up. [`Engine::shutdown`] shuts the controller down
    /// for everybody.
    ///
    /// # Errors
    /// [`NvmeError::Invalid`] when the namespace is not active, [`NvmeError::Namespace`] when it cannot
    /// be used, [`NvmeError::Unsupported`] when its blocks are not of 512 or 4096 bytes.
    pub fn new(controller: Arc<Controller>, nsid: u32) -> Result<Self, NvmeError> {
        let device = Arc::<str>::from(controller.name());
        let Some(namespace) = controller.namespace(nsid) else {
            return Err(NvmeError::Invalid {
                device,
                what: "namespace",
                expected: active(&controller),
                got: nsid.into(),
            });
        };
        if let Some(reason) = &namespace.unusable {
            return Err(NvmeError::Namespace { device, nsid, reason: Arc::clone(reason) });
        }
        if !matches!(namespace.lba_bytes, 512 | 4096) {
            return Err(NvmeError::Unsupported {
                device,
                what: "namespace format",
                expected: "blocks of 512 or 4096 bytes; format it so".into(),
                got: namespace.lba_bytes.into(),
            });
        }
        let geometry = geometry(&controller, namespace);
        Ok(Self { controller, nsid, geometry, devices: RwLock::default() })
    }

    /// The controller behind.
    #[must_use]
    pub fn controller(&self) -> &Arc<Controller> {
        &self.controller
    }

    /// The namespace that is used.
    #[must_use]
    pub fn nsid(&self) -> u32 {
        self.nsid
    }

    /// Lets [`Engine::device`] find an engine that moves blocks of this drive to and from a GPU's memory;
    /// [`Engine::shutdown`] shuts it down first. It takes the place of an earlier one for the same GPU.
    pub fn attach(&self, device: Arc<dyn DeviceEngine>) {
        let mut devices = self.devices.write();
        devices.retain(|other| !other.gpu().same(device.gpu()));
        devices.push(device);
    }

    fn start(&self, request: Request) -> Result<Box<dyn Ticket>, IoError> {
        let claim = Claim::new(&request);
        let lba = u64::from(self.geometry.lba_bytes);
        let block = |e: &Extent| BlockRange { slba: e.offset / lba, blocks: e.len / lba };
        let request = IoRequest {
            nsid: self.nsid,
            op: operation(request.op),
            ranges: request.extents.iter().map(block).collect(),
            segments: request.segments,
            timeout: request.deadline,
        };
        let again = self.again(&request);
        match self.controller.submit(request) {
            Ok(pending) => Ok(Box::new(HostTicket { pending, claim, again })),
            Err(error) => Err(claim.error(self.controller.name(), error)),
        }
    }

    /// What is carried out if a reset ends a request.
    fn again(&self, request: &IoRequest) -> Option<IoRequest> {
        let op = match request.op {
            // Without a cache all that was written before is durable. The reset may enable one.
            IoOp::Write { fua } if fua || !self.controller.volatile_cache() => {
                IoOp::Write { fua: true }
            }
            IoOp::Write { .. } | IoOp::Flush => return None,
            op => op,
        };
        Some(IoRequest { op, ..request.clone() })
    }
}

fn active(controller: &Controller) -> String {
    let usable = controller.namespaces().iter().filter(|n| n.unusable.is_none());
    let nsids: Vec<_> = usable.map(|n| n.nsid).collect();
    format!("one of the active namespaces {nsids:?}")
}

pub(crate) fn geometry(controller: &Controller, namespace: &Namespace) -> Geometry {
    let identity = controller.identity();
    Geometry {
        name: controller.name().to_owned(),
        serial: identity.serial.clone(),
        model: identity.model.clone(),
        capacity: namespace.bytes(),
        lba_bytes: namespace.lba_bytes,
        max_transfer: controller.max_transfer(),
        volatile_cache: controller.volatile_cache(),
        deallocate: identity.oncs.dataset_management(),
    }
}

fn operation(op: Op) -> IoOp {
    match op {
        Op::Read => IoOp::Read,
        Op::Write { fua } => IoOp::Write { fua },
        Op::Flush => IoOp::Flush,
        Op::Deallocate => IoOp::Deallocate,
    }
}

/// What a request was, for its error.
#[derive(Debug, Clone, Copy)]
struct Claim {
    op: &'static str,
    offset: u64,
    len: u64,
}

impl Claim {
    fn new(request: &Request) -> Self {
        Self {
            op: request.op.name(),
            offset: request.extents.first().map_or(0, |e| e.offset),
            len: request.extents.iter().map(|e| e.len).sum(),
        }
    }

    fn error(self, drive: &str, error: NvmeError) -> IoError {
        let Self { op, offset, len } = self;
        let (kind, detail) = (kind_of(&error), error.to_string());
        let source = Some(error.into());
        IoError { kind, drive: drive.to_owned(), op, offset, len, detail, source }
    }
}

pub(crate) fn kind_of(error: &NvmeError) -> IoErrorKind {
    match error.kind() {
        ErrorKind::Invalid => IoErrorKind::Invalid,
        ErrorKind::Media => IoErrorKind::Media,
        ErrorKind::Timeout => IoErrorKind::Timeout,
        ErrorKind::Gone => IoErrorKind::Gone,
        _ => IoErrorKind::Device,
    }
}

/// A request in the controller's queues.
#[derive(Debug)]
struct HostTicket {
    pending: Pending,
    claim: Claim,
    /// For another try. `None` after that.
    again: Option<IoRequest>,
}

/// Sends a request once more that a reset has ended. It is over: the controller was stopped.
fn resend(
    controller: &Arc<Controller>,
    again: Option<IoRequest>,
    error: NvmeError,
) -> Result<Pending, NvmeError> {
    match (again, &error) {
        (Some(request), NvmeError::Reset { .. }) => {
            tracing::debug!(%error, "carried out once more");
            controller.submit(request)
        }
        _ => Err(error),
    }
}

impl Ticket for HostTicket {
    fn poll(&mut self) -> Option<Result<(), IoError>> {
        let Err(error) = self.pending.poll()? else { return Some(Ok(())) };
        let controller = Arc::clone(self.pending.controller());
        match resend(&controller, self.again.take(), error) {
            Ok(pending) => {
                self.pending = pending;
                None
            }
            Err(error) => Some(Err(self.claim.error(controller.name(), error))),
        }
    }

    fn wait(self: Box<Self>) -> Result<(), IoError> {
        let Self { pending, claim, again } = *self;
        let controller = Arc::clone(pending.controller());
        let ended = pending.wait().or_else(|error| resend(&controller, again, error)?.wait());
        ended.map_err(|error| claim.error(controller.name(), error))
    }
}

impl Engine for HostQueueEngine {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn way(&self) -> Way {
        Way { name: "NVMe driver", reason: String::new() }
    }

    fn dma(&self) -> &Arc<DmaSpace> {
        self.controller.dma()
    }

    fn submit(&self, request: Request) -> Result<Box<dyn Ticket>, IoError> {
        if let Err(error) = request.check(&self.geometry) {
            return Err(request.error(&self.geometry, IoErrorKind::Invalid, error.to_string()));
        }
        let needless = match request.op {
            // Not the geometry's: a reset may have enabled the cache.
            Op::Flush => !self.controller.volatile_cache(),
            Op::Deallocate => !self.geometry.deallocate,
            Op::Read | Op::Write { .. } => false,
        };
        if needless && self.controller.is_usable() {
            return Ok(Ended::ticket(Ok(())));
        }
        self.start(request)
    }

    fn device(&self, gpu: &Arc<Gpu>) -> Option<Arc<dyn DeviceEngine>> {
        self.devices.read().iter().find(|device| device.gpu().same(gpu)).cloned()
    }

    fn shutdown(&self, deadline: Duration) -> Result<(), IoError> {
        let now = || self.controller.function().now();
        let end = now().saturating_add(deadline);
        let devices = self.devices.read().clone();
        let left = || end.saturating_sub(now());
        let stopped = devices.iter().try_for_each(|device| device.shutdown(left()));
        let flushed =
            if self.controller.is_usable() { self.run(Request::flush(deadline)) } else { Ok(()) };
        let claim = Claim { op: "shutdown", offset: 0, len: 0 };
        let left = end.saturating_sub(now());
        let ended = self.controller.shutdown(Some(left));
        stopped.and(flushed).and(ended.map_err(|error| claim.error(self.controller.name(), error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gcos_emulator::{Config, Emulator, Medium, WriteCacheConfig};
    use gcos_layout::nvme::{AdminCommand, Feature};

    const DEADLINE: Duration = Duration::from_secs(5);

    #[test]
    fn a_flush_reaches_a_drive_whose_cache_was_enabled_by_a_reset() {
        let write_cache = Some(WriteCacheConfig::default());
        let emulator =
            Emulator::new(Config { write_cache, ..Config::new(Medium::ram(1 << 20).unwrap()) });
        let emulator = emulator.unwrap();
        let before = Controller::open(emulator.function(), Options::default()).unwrap();
        let feature = Feature::VolatileWriteCache { enabled: false };
        let disable = AdminCommand::SetFeatures { feature, save: false };
        before.admin(disable, 0, None, DEADLINE).unwrap();
        before.shutdown(Some(DEADLINE)).unwrap();

        let engine = HostQueueEngine::open(emulator.function(), HostQueueOptions::default());
        let engine = engine.unwrap();
        engine.run(Request::flush(DEADLINE)).unwrap();
        assert_eq!(emulator.counts().flushes, 0, "no cache, nothing to flush");
        // Power returns: the cache is enabled again.
        emulator.power_on();
        engine.controller().reset().unwrap();
        engine.run(Request::flush(DEADLINE)).unwrap();
        assert_eq!(emulator.counts().flushes, 1);
    }
}
