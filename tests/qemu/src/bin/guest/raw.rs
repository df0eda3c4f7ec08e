//! A queue pair that is driven here, without the driver's bookkeeping: for queues, lists and data in
//! any memory, and as the ceiling that the driver is measured against.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_hw::{DmaSlice, Function, PAGE_BYTES};
use gcos_layout::nvme::{CQE_BYTES, Cqe, DataPointer, IoCommand, SQE_BYTES, Sqe};
use gcos_nvme::{CompletionRing, Controller, LentQueuePair, SubmissionRing};

use crate::report::{Trouble, failed};

/// The namespace of every controller here.
pub(crate) const NSID: u32 = 1;

/// How long a completion may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A lent queue pair with its rings.
#[derive(Debug)]
pub(crate) struct Raw {
    lent: LentQueuePair,
    function: Arc<dyn Function>,
    sq: SubmissionRing,
    cq: CompletionRing,
}

/// Bytes of memory for the rings of a queue pair of so many entries, each ring on pages of its own.
pub(crate) fn ring_bytes(entries: u32) -> usize {
    sq_bytes(entries) + (entries as usize * CQE_BYTES).next_multiple_of(PAGE_BYTES)
}

fn sq_bytes(entries: u32) -> usize {
    (entries as usize * SQE_BYTES).next_multiple_of(PAGE_BYTES)
}

impl Raw {
    /// A queue pair of `entries` whose rings lie in `memory`, [`ring_bytes`] of it.
    pub(crate) fn new(
        controller: &Arc<Controller>,
        memory: &DmaSlice,
        entries: u32,
    ) -> Result<Self, Trouble> {
        memory.fill(0, memory.len(), 0)?;
        let at = sq_bytes(entries);
        Self::split(controller, memory.slice(0, at)?, memory.slice(at, memory.len() - at)?, entries)
    }

    /// As [`Raw::new`], with zeroed memory of their own for both rings.
    pub(crate) fn split(
        controller: &Arc<Controller>,
        sq: DmaSlice,
        cq: DmaSlice,
        entries: u32,
    ) -> Result<Self, Trouble> {
        let lent = controller.lend_queue_pair(sq.clone(), cq.clone(), entries)?;
        let (tail, head) = lent.doorbells();
        Ok(Self {
            lent,
            function: Arc::clone(controller.function()),
            sq: SubmissionRing::new(sq, entries, tail),
            cq: CompletionRing::new(cq, entries, head),
        })
    }

    /// Whether the controller still has the queues.
    pub(crate) fn is_current(&self) -> bool {
        self.lent.is_current()
    }

    /// Identifier of its queues.
    pub(crate) fn qid(&self) -> u16 {
        self.lent.qid()
    }

    /// Posts a command without ringing.
    pub(crate) fn post(
        &mut self,
        cid: u16,
        command: &IoCommand,
        data: DataPointer,
    ) -> Result<(), Trouble> {
        self.post_entry(&command.encode(cid, NSID, data))
    }

    /// Posts an entry that was made before.
    #[inline]
    pub(crate) fn post_entry(&mut self, sqe: &Sqe) -> Result<(), Trouble> {
        Ok(self.sq.post_entry(sqe)?)
    }

    /// Rings the doorbell for what was posted.
    #[inline]
    pub(crate) fn ring(&mut self) {
        self.sq.ring_tail(&*self.function);
    }

    /// The next completion, if there is one, taken.
    #[inline]
    pub(crate) fn reap(&mut self) -> Option<Cqe> {
        let cqe = self.cq.peek_completion()?;
        self.cq.advance_head();
        Some(cqe)
    }

    /// Tells the controller what was taken.
    #[inline]
    pub(crate) fn ring_head(&mut self) {
        self.cq.ring_head(&*self.function);
    }

    /// Waits for the next completion.
    pub(crate) fn wait(&mut self) -> Result<Cqe, Trouble> {
        match self.wait_for(PATIENCE) {
            Some(cqe) => Ok(cqe),
            None => failed(format!("no completion within {PATIENCE:?}")),
        }
    }

    /// Waits for the next completion so long.
    pub(crate) fn wait_for(&mut self, longest: Duration) -> Option<Cqe> {
        let end = Instant::now() + longest;
        let mut spins = 0;
        loop {
            if let Some(cqe) = self.reap() {
                self.ring_head();
                return Some(cqe);
            }
            if Instant::now() > end {
                return None;
            }
            gcos_hw::relax_spinning(spins);
            spins += 1;
        }
    }
}
