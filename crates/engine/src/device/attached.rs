use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_cuda::Gpu;
use gcos_hw::DmaSpace;
use parking_lot::RwLock;

use super::DeviceEngine;
use crate::gpu::after;
use crate::{Demotions, Engine, Geometry, IoError, Request, Ticket, Way};

/// An engine with engines for GPUs beside it, which may hold the first: [`Engine::device`] finds them, and
/// [`Engine::shutdown`] shuts them down first. All else goes to the engine.
#[derive(Debug)]
pub struct Attached {
    engine: Arc<dyn Engine>,
    devices: RwLock<Vec<Arc<dyn DeviceEngine>>>,
}

impl Attached {
    /// Over an engine, with none so far.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>) -> Arc<Self> {
        Arc::new(Self { engine, devices: RwLock::default() })
    }

    /// Adds one. It takes the place of an earlier one for the same GPU.
    pub fn attach(&self, device: Arc<dyn DeviceEngine>) {
        let mut devices = self.devices.write();
        devices.retain(|other| !other.gpu().same(device.gpu()));
        devices.push(device);
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

    fn device(&self, gpu: &Gpu) -> Option<Arc<dyn DeviceEngine>> {
        let devices = self.devices.read();
        let found = devices.iter().find(|device| device.gpu().same(gpu)).cloned();
        found.or_else(|| self.engine.device(gpu))
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
