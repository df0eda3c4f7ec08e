use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_cuda::Gpu;
use gcos_hw::DmaSpace;

use super::device::WatchedDevice;
use super::flush::Flushes;
use super::shared::Shared;
use super::ticket::Watched;
use super::way::Road;
use super::{DemotionReason, DemotionRules, Demotions};
use crate::device::DeviceEngine;
use crate::gpu::after;
use crate::{Engine, Geometry, IoError, IoErrorKind, Op, Request, Ticket, Way};

/// Moves blocks the first of several ways that is well, by rules. See the module's description.
///
/// A request that is carried out on a second way has its deadline there once more, so waiting takes up to
/// twice as long; so does a flush of two ways.
pub struct DemotingEngine {
    shared: Arc<Shared>,
    dma: Arc<DmaSpace>,
}

impl fmt::Debug for DemotingEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DemotingEngine").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl DemotingEngine {
    /// Watches these ways to one drive, the best first. The first one says what the drive is called.
    ///
    /// # Errors
    /// [`IoErrorKind::Invalid`] when there is none, or one is smaller than the first, has another block
    /// size, or other memory.
    pub fn new(ways: Vec<Arc<dyn Engine>>, rules: &DemotionRules) -> Result<Arc<Self>, IoError> {
        let invalid = |name: &str, detail: String| {
            Err(IoError::about(name, IoErrorKind::Invalid, "open", detail))
        };
        let Some(first) = ways.first() else {
            return invalid("no drive", "expected at least one way, got none".into());
        };
        let mut geometry = first.geometry().clone();
        let dma = Arc::clone(first.dma());
        for way in ways.iter().skip(1) {
            let other = way.geometry();
            if other.capacity < geometry.capacity || other.lba_bytes != geometry.lba_bytes {
                let detail = format!(
                    "expected another way to its {} bytes in blocks of {}, got {} bytes in blocks of {} \
                     by {}",
                    geometry.capacity,
                    geometry.lba_bytes,
                    other.capacity,
                    other.lba_bytes,
                    other.name
                );
                return invalid(&geometry.name, detail);
            }
            if !Arc::ptr_eq(way.dma(), &dma) {
                let detail = format!("{} does not reach the same memory", other.name);
                return invalid(&geometry.name, detail);
            }
            geometry.max_transfer = geometry.max_transfer.min(other.max_transfer);
            geometry.volatile_cache |= other.volatile_cache;
        }
        let roads = ways.into_iter().map(Road::new).collect();
        Ok(Arc::new(Self { shared: Arc::new(Shared::new(geometry, roads, rules)), dma }))
    }

    /// Leaves the way in use, for a reason in words: an operator knows more than rules do.
    pub fn demote(&self, why: &str) {
        if let Some((at, _)) = self.shared.current() {
            self.shared.demote(at, DemotionReason::Asked, why);
        }
    }

    /// Reads a block, to see whether a way is well.
    fn probe(&self, road: &Road, deadline: Duration) -> Result<(), IoError> {
        let drive = &self.shared.geometry;
        let len = drive.lba_bytes as usize;
        let memory = self.dma.alloc(len).and_then(|buffer| Ok(buffer.slice(0, len)?));
        let memory = memory.map_err(|error| {
            let detail = format!("no memory to try it: {error}");
            IoError::about(&drive.name, IoErrorKind::Device, "promote", detail)
        })?;
        road.engine.run(Request::read(0, memory, deadline))
    }
}

impl Engine for DemotingEngine {
    fn geometry(&self) -> &Geometry {
        &self.shared.geometry
    }

    fn way(&self) -> Way {
        let stats = self.shared.stats();
        match self.shared.current() {
            Some((_, road)) => {
                let Way { name, reason } = road.engine.way();
                let demoted = stats.demoted.unwrap_or_default();
                let between = if reason.is_empty() || demoted.is_empty() { "" } else { "; " };
                Way { name, reason: format!("{demoted}{between}{reason}") }
            }
            None => Way { name: "none", reason: stats.demoted.unwrap_or_default() },
        }
    }

    fn dma(&self) -> &Arc<DmaSpace> {
        &self.dma
    }

    fn submit(&self, request: Request) -> Result<Box<dyn Ticket>, IoError> {
        let drive = &self.shared.geometry;
        if let Err(error) = request.check(drive) {
            return Err(request.error(drive, IoErrorKind::Invalid, error.to_string()));
        }
        match request.op {
            Op::Flush => Ok(Box::new(Flushes::send(&self.shared, &request)?)),
            Op::Read | Op::Write { .. } | Op::Deallocate => {
                Ok(Box::new(Watched::send(&self.shared, request)?))
            }
        }
    }

    fn device(&self, gpu: &Arc<Gpu>) -> Option<Arc<dyn DeviceEngine>> {
        let (at, road) = self.shared.current()?;
        let inner = road.engine.device(gpu)?;
        Some(Arc::new(WatchedDevice::new(&self.shared, at, inner)))
    }

    fn demotions(&self) -> Demotions {
        self.shared.stats()
    }

    fn promote(&self, deadline: Duration) -> Result<(), IoError> {
        let drive = &self.shared.geometry.name;
        if self.shared.is_current(0) {
            return Ok(());
        }
        if let Some(mut loss) = self.shared.loss(&Request::flush(deadline)) {
            loss.op = "promote";
            return Err(loss);
        }
        let Some(road) = self.shared.roads.first() else {
            return Err(IoError::about(drive, IoErrorKind::Gone, "promote", "it has no way"));
        };
        self.probe(road, deadline)?;
        self.shared.promote();
        Ok(())
    }

    fn shutdown(&self, deadline: Duration) -> Result<(), IoError> {
        self.shared.close();
        let end = after(Instant::now(), deadline);
        let lost = self.shared.loss(&Request::flush(deadline)).map_or(Ok(()), Err);
        let mut result = Ok(());
        // The way in use first: one that was left may take all the time that there is.
        let (mut order, in_use): (Vec<_>, _) =
            self.shared.roads.iter().enumerate().partition(|(at, _)| !self.shared.is_current(*at));
        order.splice(..0, in_use);
        for (at, road) in order {
            let mark = road.mark();
            // Makes what it has cached durable, too.
            let down = road.engine.shutdown(end.saturating_duration_since(Instant::now()));
            match down {
                Ok(()) => road.flushed(mark),
                Err(error) if mark.dirty || self.shared.is_current(at) => {
                    result = result.and(Err(error));
                }
                Err(error) => {
                    tracing::debug!(%error, "a way that was left was not shut down in order");
                }
            }
        }
        result.and(lost)
    }
}
