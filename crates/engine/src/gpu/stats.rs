use std::sync::atomic::{AtomicU64, Ordering};

/// A count.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) batches: Count,
    pub(super) commands: Count,
    pub(super) bytes: Count,
    pub(super) bounced: Count,
    pub(super) failed: Count,
    pub(super) timeouts: Count,
    pub(super) overdue: Count,
    pub(super) leaked: Count,
    pub(super) made: Count,
    pub(super) deleted: Count,
    pub(super) by_host: Count,
}

/// What a [`crate::GpuQueueEngine`] has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GpuStats {
    /// Batches given to the GPU: one kernel each.
    pub batches: u64,
    /// Commands in them.
    pub commands: u64,
    /// Bytes of their transfers.
    pub bytes: u64,
    /// Commands whose data went through bounce memory.
    pub bounced: u64,
    /// Transfers that failed with a status or without sense.
    pub failed: u64,
    /// Transfers that missed their deadline or were ended by a reset.
    pub timeouts: u64,
    /// Batches that did not even heed the abort flag in time.
    pub overdue: u64,
    /// Batches whose memory is leaked because the controller could not be stopped.
    pub leaked: u64,
    /// Queue pairs made, the first ones included.
    pub pairs_made: u64,
    /// Queue pairs deleted after a fault.
    pub pairs_deleted: u64,
    /// Batches given to the host instead.
    pub by_host: u64,
    /// Register writes by the thread that forwards doorbells.
    pub doorbells_forwarded: u64,
}

impl Counts {
    pub(super) fn values(&self, doorbells_forwarded: u64) -> GpuStats {
        GpuStats {
            batches: self.batches.get(),
            commands: self.commands.get(),
            bytes: self.bytes.get(),
            bounced: self.bounced.get(),
            failed: self.failed.get(),
            timeouts: self.timeouts.get(),
            overdue: self.overdue.get(),
            leaked: self.leaked.get(),
            pairs_made: self.made.get(),
            pairs_deleted: self.deleted.get(),
            by_host: self.by_host.get(),
            doorbells_forwarded,
        }
    }
}
