use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::Engine;

/// One way, and what is known of the durability of what went there.
#[derive(Debug)]
pub(super) struct Road {
    pub(super) engine: Arc<dyn Engine>,
    /// Writes without FUA that have completed.
    completed: AtomicU64,
    /// How many of them a flush has made durable.
    durable: AtomicU64,
    /// A flush has failed while some were not durable.
    lost: AtomicBool,
}

/// What a flush makes durable if it succeeds: what had completed when it was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    completed: u64,
    /// Whether some of that was not durable then.
    pub(super) dirty: bool,
}

impl Road {
    pub(super) fn new(engine: Arc<dyn Engine>) -> Self {
        let (completed, durable, lost) = Default::default();
        Self { engine, completed, durable, lost }
    }

    /// Notes writes without FUA that have completed. Call before their sender learns of it.
    pub(super) fn wrote(&self, writes: u64) {
        self.completed.fetch_add(writes, Ordering::AcqRel);
    }

    /// Call before the flush is sent.
    pub(super) fn mark(&self) -> Mark {
        let completed = self.completed.load(Ordering::Acquire);
        Mark { completed, dirty: completed > self.durable.load(Ordering::Acquire) }
    }

    /// Notes a flush that succeeded.
    pub(super) fn flushed(&self, mark: Mark) {
        self.durable.fetch_max(mark.completed, Ordering::AcqRel);
    }

    /// Notes a flush that failed. Whether that is a loss.
    pub(super) fn not_flushed(&self, mark: Mark, why: &dyn fmt::Display) -> bool {
        if mark.dirty && !self.lost.swap(true, Ordering::AcqRel) {
            tracing::error!(
                drive = self.engine.geometry().name,
                way = self.engine.way().name,
                reason = %why,
                "writes that had completed may not be durable"
            );
        }
        mark.dirty
    }

    pub(super) fn lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Geometry, NoopEngine};

    fn road() -> Road {
        let geometry = Geometry {
            name: "n".into(),
            serial: String::new(),
            model: String::new(),
            capacity: 4096,
            lba_bytes: 512,
            max_transfer: 4096,
            volatile_cache: true,
            deallocate: false,
        };
        let dma = gcos_hw::kernel::host_space().unwrap();
        let engine = NoopEngine::new(geometry, dma);
        engine.shutdown(Duration::ZERO).unwrap();
        Road::new(Arc::new(engine))
    }

    #[test]
    fn a_flush_makes_durable_what_had_completed_when_it_was_sent() {
        let road = road();
        road.wrote(2);
        let mark = road.mark();
        road.wrote(1);
        road.flushed(mark);
        assert!(mark.dirty && road.mark().dirty, "the third write came later");
        road.flushed(road.mark());
        assert!(!road.mark().dirty);
    }

    #[test]
    fn a_flush_that_fails_is_a_loss_only_where_something_was_not_durable() {
        let road = road();
        assert!(!road.not_flushed(road.mark(), &"no"));
        assert!(!road.lost());
        road.wrote(1);
        let mark = road.mark();
        assert!(road.not_flushed(mark, &"no"));
        // What another flush says afterwards is not believed.
        road.flushed(road.mark());
        assert!(road.lost());
    }
}
