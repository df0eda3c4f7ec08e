use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{DeviceTransfer, Driver};
use crate::{Engine, Geometry, IoError, Request, Ticket};

/// What moves the blocks of a transfer when its turn in the stream has come. All its calls come from the one
/// thread of a [`super::HostDriven`], its tickets are polled there.
pub(super) trait Mover: Send + Sync + fmt::Debug {
    /// The drive.
    fn geometry(&self) -> &Geometry;

    /// Whether the GPU copies for it, or something that calls CUDA: then no stream may wait for it.
    fn needs_gpu(&self) -> bool;

    /// Who moves the blocks, as it is now.
    fn driver(&self) -> Driver;

    /// Better ways that were refused, and why, as it is now.
    fn refused(&self) -> Vec<String>;

    /// Starts a transfer, which was checked. Its ticket ends within `deadline` and the time for recovering the
    /// drive.
    fn submit(
        &self,
        transfer: DeviceTransfer,
        deadline: Duration,
    ) -> Result<Box<dyn Ticket>, IoError>;
}

/// Waits for a ticket that nothing wakes and that has deadlines of its own, and whose result was not taken.
pub(super) fn until_ended(ticket: &mut dyn Ticket) -> Result<(), IoError> {
    let mut spins = 0;
    loop {
        if let Some(result) = ticket.poll() {
            return result;
        }
        spins += 1;
        gcos_hw::relax_spinning(spins);
    }
}

/// An engine that reaches the GPU's memory itself.
#[derive(Debug)]
pub(super) struct ByEngine {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) refused: Vec<String>,
}

impl Mover for ByEngine {
    fn geometry(&self) -> &Geometry {
        self.engine.geometry()
    }

    fn needs_gpu(&self) -> bool {
        false
    }

    fn driver(&self) -> Driver {
        Driver::Host
    }

    fn refused(&self) -> Vec<String> {
        self.refused.clone()
    }

    fn submit(
        &self,
        transfer: DeviceTransfer,
        deadline: Duration,
    ) -> Result<Box<dyn Ticket>, IoError> {
        let segments = transfer.segments.iter().map(|segment| segment.dma().clone()).collect();
        let DeviceTransfer { op, extents, .. } = transfer;
        self.engine.submit(Request { op, extents, segments, deadline })
    }
}
