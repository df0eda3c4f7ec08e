use std::sync::Arc;
use std::time::Duration;

use gcos_engine::{Engine, Geometry, IoError, IoErrorKind, Request, Ticket};
use gcos_hw::DmaSpace;

use crate::Window;

/// Part of a drive as a drive of its own: whoever uses it cannot reach the blocks around.
#[derive(Debug)]
pub struct WindowEngine {
    inner: Arc<dyn Engine>,
    /// First byte on the drive.
    start: u64,
    geometry: Geometry,
}

impl WindowEngine {
    /// The blocks of `window`, which must lie on the drive.
    #[must_use]
    pub fn new(inner: Arc<dyn Engine>, window: Window) -> Self {
        let lba = u64::from(inner.geometry().lba_bytes);
        let capacity = window.blocks * lba;
        let geometry = Geometry { capacity, ..inner.geometry().clone() };
        Self { inner, start: window.slba * lba, geometry }
    }
}

impl Engine for WindowEngine {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn dma(&self) -> &Arc<DmaSpace> {
        self.inner.dma()
    }

    fn submit(&self, mut request: Request) -> Result<Box<dyn Ticket>, IoError> {
        if let Err(error) = request.check(&self.geometry) {
            return Err(IoError {
                kind: IoErrorKind::Invalid,
                drive: self.geometry.name.clone(),
                op: request.op.name(),
                offset: request.extents.first().map_or(0, |extent| extent.offset),
                len: request.extents.iter().map(|extent| extent.len).sum(),
                detail: error.to_string(),
                source: None,
            });
        }
        request.extents.iter_mut().for_each(|extent| extent.offset += self.start);
        self.inner.submit(request)
    }

    fn shutdown(&self, deadline: Duration) -> Result<(), IoError> {
        self.inner.shutdown(deadline)
    }
}
