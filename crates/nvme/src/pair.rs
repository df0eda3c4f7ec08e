//! A queue pair that the host drives: rings, commands in flight and list memory under one lock.

use std::sync::Arc;

use gcos_hw::{DmaSlice, PAGE_BYTES};
use gcos_layout::nvme::{CQE_BYTES, Cqe, SQE_BYTES};
use parking_lot::{Mutex, MutexGuard};

use crate::NvmeError;
use crate::bounce::BouncePool;
use crate::counters::{Counters, add};
use crate::device::Device;
use crate::inflight::{Command, Slots};
use crate::pointer::ListArea;
use crate::queue_memory::Carver;
use crate::ring::{CompletionRing, SubmissionRing};
use crate::shadow::ShadowDoorbell;
use crate::vector::Vector;

/// A queue pair. The lock is held for short stretches only: posting a batch, or reaping one.
#[derive(Debug)]
pub(crate) struct QueuePair {
    pub(crate) qid: u16,
    pub(crate) entries: u32,
    /// Interrupt vector, when callers wait for interrupts.
    pub(crate) interrupt: Option<Arc<Vector>>,
    inner: Mutex<Inner>,
}

/// Where the parts of a queue pair lie.
pub(crate) struct PairMemory<'a> {
    /// Completion queue and lists, and the submission queue unless it has a place of its own.
    pub(crate) main: &'a mut Carver,
    pub(crate) sq: Option<&'a mut Carver>,
}

/// What the lock protects.
#[derive(Debug)]
pub(crate) struct Inner {
    /// Whether commands may be posted and completions are looked at.
    pub(crate) open: bool,
    pub(crate) sq: SubmissionRing,
    pub(crate) cq: CompletionRing,
    pub(crate) slots: Slots,
    /// Commands posted since opening.
    pub(crate) commands: u64,
    /// Bytes of data of them.
    pub(crate) bytes: u64,
    list_memory: DmaSlice,
    /// Bytes of list memory per slot.
    list_bytes: usize,
}

impl QueuePair {
    /// Makes a closed queue pair with `list_pages` pages of list memory per command.
    pub(crate) fn new(
        device: &Device,
        qid: u16,
        entries: u32,
        list_pages: usize,
        interrupt: Option<Arc<Vector>>,
        memory: PairMemory<'_>,
    ) -> Result<Self, NvmeError> {
        let (sq_doorbell, cq_doorbell) = device.doorbells(qid);
        let PairMemory { main, sq } = memory;
        let sq_bytes = entries as usize * SQE_BYTES;
        let sq = match sq {
            Some(place) => place.take(device, sq_bytes)?,
            None => main.take(device, sq_bytes)?,
        };
        let cq = main.take(device, entries as usize * CQE_BYTES)?;
        // One fewer than entries: the ring counts on it.
        let slots = Slots::new(entries - 1);
        let list_bytes = list_pages * PAGE_BYTES;
        let list_memory = main.take(device, slots.len() * list_bytes)?;
        let inner = Inner {
            open: false,
            sq: SubmissionRing::new(sq, entries, sq_doorbell),
            cq: CompletionRing::new(cq, entries, cq_doorbell),
            slots,
            commands: 0,
            bytes: 0,
            list_memory,
            list_bytes,
        };
        Ok(Self { qid, entries, interrupt, inner: Mutex::new(inner) })
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Base addresses: submission queue, completion queue.
    pub(crate) fn addresses(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.sq.memory().iova(), inner.cq.memory().iova())
    }

    /// Looks at completions unless another thread is doing so already.
    #[inline]
    pub(crate) fn try_reap(&self, device: &Device, counters: &Counters, bounces: &BouncePool) {
        if let Some(mut inner) = self.inner.try_lock()
            && inner.open
        {
            self.reap(&mut inner, device, counters, bounces);
        }
    }

    /// Ends the commands whose completions have arrived, at most a queue full of them. Returns how
    /// many completions there were.
    #[inline]
    pub(crate) fn reap(
        &self,
        inner: &mut Inner,
        device: &Device,
        counters: &Counters,
        bounces: &BouncePool,
    ) -> u32 {
        let mut reaped = 0;
        while reaped < self.entries
            && let Some(cqe) = inner.cq.peek_completion()
        {
            inner.cq.advance_head();
            reaped += 1;
            match self.claim(inner, &cqe) {
                Some(command) => {
                    let (good, bounce) = command.complete(&device.name, cqe.status(), cqe.dw0());
                    if !good {
                        add(&counters.errors, 1);
                    }
                    if let Some(bounce) = bounce {
                        bounces.give(*bounce);
                    }
                }
                None => {
                    add(&counters.spurious_completions, 1);
                    tracing::warn!(device = %device.name, qid = self.qid, ?cqe, "completion dropped");
                }
            }
        }
        if reaped > 0 {
            inner.cq.ring_head(&*device.function);
            if let Some(vector) = &self.interrupt {
                vector.wake();
            }
        }
        reaped
    }

    /// The command that a completion is for; `None` for one that cannot be right.
    #[inline]
    fn claim(&self, inner: &mut Inner, cqe: &Cqe) -> Option<Command> {
        if cqe.sqid() != self.qid {
            return None;
        }
        inner.slots.take(cqe.cid())
    }

    /// Stops posting and reaping.
    pub(crate) fn close(&self) {
        self.lock().open = false;
    }

    /// Starts posting and reaping.
    pub(crate) fn open(&self) {
        self.lock().open = true;
    }

    /// Takes the completions that arrived before the controller stopped, then every command that is
    /// left. Only for a controller that is stopped.
    pub(crate) fn take_all(
        &self,
        device: &Device,
        counters: &Counters,
        bounces: &BouncePool,
    ) -> Vec<Command> {
        let mut inner = self.lock();
        self.reap(&mut inner, device, counters, bounces);
        inner.slots.drain()
    }

    /// Empties the rings for a controller that has been reset.
    pub(crate) fn reset(&self, device: &Device) -> Result<(), NvmeError> {
        let mut inner = self.lock();
        inner.sq.reset();
        let probed = inner.cq.probe().and_then(|found| inner.cq.reset().map(|()| found));
        match probed.map_err(NvmeError::bounds(&device.name, "clearing a completion queue"))? {
            None => Ok(()),
            Some(value) => Err(NvmeError::Unsupported {
                device: Arc::clone(&device.name),
                what: "memory of a completion queue",
                expected: "memory that keeps what is written to it; a peer device must decode its \
                           memory"
                    .into(),
                got: value.into(),
            }),
        }
    }

    /// Uses shadow doorbells from now on.
    pub(crate) fn set_shadow(&self, sq: ShadowDoorbell, cq: ShadowDoorbell) {
        let mut inner = self.lock();
        inner.sq.set_shadow(Some(sq));
        inner.cq.set_shadow(Some(cq));
    }

    /// Uses the registers alone.
    pub(crate) fn clear_shadow(&self) {
        let mut inner = self.lock();
        inner.sq.set_shadow(None);
        inner.cq.set_shadow(None);
    }

    /// Rings the registers where shadow doorbells alone were used, for a controller that may have
    /// missed them: whether it did.
    pub(crate) fn ring_again(&self, device: &Device) -> bool {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let function = &*device.function;
        inner.open && (inner.sq.ring_again(function) | inner.cq.ring_again(function))
    }

    /// Keeps the queue's memory for ever: the controller may still write to it.
    pub(crate) fn leak_memory(&self) {
        let inner = self.lock();
        std::mem::forget(inner.sq.memory().clone());
        std::mem::forget(inner.cq.memory().clone());
        std::mem::forget(inner.list_memory.clone());
    }
}

impl Inner {
    /// List memory of the slot of the given index.
    #[inline]
    pub(crate) fn list_area(&self, slot: usize) -> ListArea<'_> {
        ListArea::new(&self.list_memory, slot * self.list_bytes, self.list_bytes)
    }
}
