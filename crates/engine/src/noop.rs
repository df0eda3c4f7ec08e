use std::sync::Arc;
use std::time::Duration;

use gcos_hw::DmaSpace;

use crate::{Ended, Engine, Geometry, IoError, IoErrorKind, Request, Ticket};

/// An engine that checks requests and moves nothing: what is measured on it is the cost of the
/// layers above alone. Reads leave memory as it was.
#[derive(Debug)]
pub struct NoopEngine {
    geometry: Geometry,
    dma: Arc<DmaSpace>,
}

impl NoopEngine {
    /// An engine for a drive that is not there.
    #[must_use]
    pub fn new(geometry: Geometry, dma: Arc<DmaSpace>) -> Self {
        Self { geometry, dma }
    }
}

impl Engine for NoopEngine {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn dma(&self) -> &Arc<DmaSpace> {
        &self.dma
    }

    fn submit(&self, request: Request) -> Result<Box<dyn Ticket>, IoError> {
        match request.check(&self.geometry) {
            Ok(()) => Ok(Ended::ticket(Ok(()))),
            Err(error) => {
                Err(request.error(&self.geometry, IoErrorKind::Invalid, error.to_string()))
            }
        }
    }

    fn shutdown(&self, _deadline: Duration) -> Result<(), IoError> {
        Ok(())
    }
}
