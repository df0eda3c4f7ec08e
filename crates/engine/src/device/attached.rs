use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use gcos_cuda::Gpu;
use gcos_hw::DmaSpace;
use parking_lot::RwLock;

use super::DeviceEngine;
use crate::gpu::after;
use crate::{Demotions, Engine, Geometry, IoError, Request, Ticket, Way};

/// Makes the engine for a GPU that is asked for first when the drive is in use already; `None` where it cannot.
type Maker = Box<dyn Fn(&Arc<Gpu>) -> Option<Arc<dyn DeviceEngine>> + Send + Sync>;

/// An engine with engines for GPUs beside it, which may hold the first: [`Engine::device`] finds them, and
/// [`Engine::shutdown`] shuts them down first. All else goes to the engine.
pub struct Attached {
    engine: Arc<dyn Engine>,
    devices: RwLock<Vec<Arc<dyn DeviceEngine>>>,
    maker: OnceLock<Maker>,
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Attached");
        shown.field("engine", &self.engine).field("devices", &self.devices);
        shown.finish_non_exhaustive()
    }
}

impl Attached {
    /// Over an engine, with none so far.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>) -> Arc<Self> {
        Arc::new(Self { engine, devices: RwLock::default(), maker: OnceLock::new() })
    }

    /// Adds one. It takes the place of an earlier one for the same GPU.
    pub fn attach(&self, device: Arc<dyn DeviceEngine>) {
        let mut devices = self.devices.write();
        devices.retain(|other| !other.gpu().same(device.gpu()));
        devices.push(device);
    }

    /// Makes engines for GPUs of which there is none yet, when they are asked for. Said once.
    pub fn make_others(
        &self,
        maker: impl Fn(&Arc<Gpu>) -> Option<Arc<dyn DeviceEngine>> + Send + Sync + 'static,
    ) {
        let _ = self.maker.set(Box::new(maker));
    }
}

impl Engine for Attached {
    fn geometry(&self) -> &Geometry {
        self.engine.geometry()
    }

    fn dma(&self) -> &Arc<DmaSpace> {
        self.engine.dma()
    }

    fn way(&self) -> Way {
        self.engine.way()
    }

    fn submit(&self, request: Request) -> Result<Box<dyn Ticket>, IoError> {
        self.engine.submit(request)
    }

    fn run(&self, request: Request) -> Result<(), IoError> {
        self.engine.run(request)
    }

    fn device(&self, gpu: &Arc<Gpu>) -> Option<Arc<dyn DeviceEngine>> {
        let find = |devices: &[Arc<dyn DeviceEngine>]| {
            devices.iter().find(|device| device.gpu().same(gpu)).cloned()
        };
        let found = find(&self.devices.read());
        if let Some(device) = found.or_else(|| self.engine.device(gpu)) {
            return Some(device);
        }
        let maker = self.maker.get()?;
        // Under the lock, so that there is one for each GPU.
        let mut devices = self.devices.write();
        find(&devices).or_else(|| maker(gpu).inspect(|made| devices.push(Arc::clone(made))))
    }

    fn demotions(&self) -> Demotions {
        self.engine.demotions()
    }

    fn promote(&self, deadline: Duration) -> Result<(), IoError> {
        self.engine.promote(deadline)
    }

    fn shutdown(&self, deadline: Duration) -> Result<(), IoError> {
        let end = after(Instant::now(), deadline);
        let left = || end.saturating_duration_since(Instant::now());
        let devices = self.devices.read().clone();
        // All of them, whatever becomes of one.
        let stopped =
            devices.iter().map(|device| device.shutdown(left())).fold(Ok(()), Result::and);
        let ended = self.engine.shutdown(left());
        stopped.and(ended)
    }
}
