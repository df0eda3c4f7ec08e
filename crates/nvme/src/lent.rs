//! Queue pairs that somebody else drives: a GPU, with queue memory wherever it likes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gcos_hw::DmaSlice;
use gcos_layout::nvme::{CQE_BYTES, SQE_BYTES};

use crate::NvmeError;
use crate::admin::AdminError;
use crate::controller::{Controller, State};

/// A queue pair on the controller whose rings the holder drives. It is deleted when dropped, before
/// its memory is freed. A controller reset deletes it too: see [`LentQueuePair::is_current`].
#[derive(Debug)]
pub struct LentQueuePair {
    controller: Arc<Controller>,
    epoch: u64,
    qid: u16,
    entries: u32,
    memory: Option<(DmaSlice, DmaSlice)>,
    /// The queues are gone, the identifier is still ours.
    stopped: bool,
}

impl Controller {
    /// Creates a queue pair of `entries` in the given memory: `sq` of 64 bytes and zeroed `cq` of 16
    /// bytes per entry, both page-aligned. No interrupts. The holder posts commands by himself, with
    /// CIDs of his own, and takes care of their deadlines.
    ///
    /// # Errors
    /// [`NvmeError::Invalid`] when all of [`crate::Options::lent_queue_pairs`] are lent or the memory
    /// does not fit; the errors of [`Controller::admin`].
    pub fn lend_queue_pair(
        self: &Arc<Self>,
        sq: DmaSlice,
        cq: DmaSlice,
        entries: u32,
    ) -> Result<LentQueuePair, NvmeError> {
        let invalid = |what, expected: String, got| NvmeError::Invalid {
            device: Arc::clone(&self.core.device.name),
            what,
            expected,
            got,
        };
        let most = self.core.device.cap.max_queue_entries();
        if !(2..=most).contains(&entries) {
            return Err(invalid("queue depth", format!("2 to {most} entries"), entries.into()));
        }
        for (what, slice, entry) in [
            ("submission queue memory", &sq, SQE_BYTES),
            ("completion queue memory", &cq, CQE_BYTES),
        ] {
            let need = entries as usize * entry;
            if slice.len() < need || slice.iova() % 4096 != 0 {
                return Err(invalid(what, format!("{need} bytes, page-aligned"), slice.iova()));
            }
        }
        self.check_usable()?;
        let recovering = self.recovery.lock();
        self.check_usable()?;
        let Some(qid) = self.lendable.lock().pop() else {
            let most = self.options.lent_queue_pairs;
            return Err(invalid(
                "lent queue pairs",
                format!("at most {most}"),
                u64::from(most) + 1,
            ));
        };
        let mut lent = LentQueuePair {
            controller: Arc::clone(self),
            epoch: self.epoch.load(Ordering::Acquire),
            qid,
            entries,
            memory: None,
            stopped: false,
        };
        let addresses = (sq.iova(), cq.iova());
        // From now on dropping `lent` deletes the queues before the memory goes.
        lent.memory = Some((sq, cq));
        let timeout = self.options.admin_timeout;
        let created = self.core.create_queues(qid, entries, addresses, None, timeout);
        if let Err(AdminError::Hung(error)) = &created {
            self.reset_locked(&error.to_string());
        }
        // Dropping `lent` takes the lock, too.
        drop(recovering);
        created.map_err(AdminError::into_inner)?;
        Ok(lent)
    }
}

impl LentQueuePair {
    /// Queue identifier of both queues.
    #[must_use]
    pub fn qid(&self) -> u16 {
        self.qid
    }

    /// Entries of each queue.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Offsets of the doorbells in the register space: submission tail, completion head.
    #[must_use]
    pub fn doorbells(&self) -> (usize, usize) {
        self.controller.core.device.doorbells(self.qid)
    }

    /// Whether the queues still exist on the controller: it has not been reset since, nor were they stopped.
    #[must_use]
    pub fn is_current(&self) -> bool {
        !self.stopped
            && self.controller.state() == State::Live
            && self.controller.epoch.load(Ordering::Acquire) == self.epoch
    }

    /// Deletes the queues, as [`LentQueuePair::end`] does, but keeps their identifier, and so their doorbells,
    /// from being lent again until this is gone: for a holder that may still ring them.
    ///
    /// # Errors
    /// As [`LentQueuePair::end`].
    pub fn stop(&mut self) -> Result<(), NvmeError> {
        if !self.stopped {
            self.delete()?;
            self.stopped = true;
        }
        Ok(())
    }

    /// Deletes the queues: when this returns `Ok`, the controller touches neither their memory nor that of
    /// the commands that were in them. Commands that it does not end are ended by a controller reset.
    ///
    /// # Errors
    /// [`NvmeError::Gone`] when it could not be stopped: it may touch the memory for ever. That of the
    /// queues is leaked; the caller must do so with that of the commands.
    pub fn end(mut self) -> Result<(), NvmeError> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), NvmeError> {
        let Some(memory) = self.memory.take() else { return Ok(()) };
        match self.delete() {
            Ok(()) => {
                drop(memory);
                self.controller.lendable.lock().push(self.qid);
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, qid = self.qid, "lent queue not deleted: its memory is leaked");
                std::mem::forget(memory);
                Err(error)
            }
        }
    }

    /// Afterwards the controller reaches the queues' memory no more.
    ///
    /// # Errors
    /// [`NvmeError::Gone`] when it may do so for ever, since it could not be stopped.
    fn delete(&self) -> Result<(), NvmeError> {
        let controller = &self.controller;
        // A reset or shutdown that has begun deletes the queues, but only once it has ended.
        let _recovering = controller.recovery.lock();
        if self.is_current()
            && let Err(error) =
                controller.core.delete_queues(self.qid, controller.options.admin_timeout)
        {
            controller.reset_locked(&error.into_inner().to_string());
        }
        match controller.core.stuck.load(Ordering::Acquire) {
            true => Err(controller.gone()),
            false => Ok(()),
        }
    }
}

impl Drop for LentQueuePair {
    fn drop(&mut self) {
        // What there is to say about a failure has been said.
        let _ = self.finish();
    }
}
