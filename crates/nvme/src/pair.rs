//! A queue pair that the host drives: rings, commands in flight and list memory under one lock.

use std::sync::Arc;
use std::time::Duration;

use gcos_hw::{DmaBuffer, DmaSlice, EventFd, PAGE_BYTES};
use gcos_layout::nvme::{CQE_BYTES, Cqe, SQE_BYTES};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::NvmeError;
use crate::bounce::BouncePool;
use crate::counters::{Counters, add};
use crate::device::Device;
use crate::inflight::{Command, Slots};
use crate::pointer::ListArea;
use crate::ring::{CompletionRing, SubmissionRing};

/// Longest sleep for an interrupt before looking at the queue anyway, so that a lost interrupt costs
/// time and no more.
const INTERRUPT_SLICE: Duration = Duration::from_millis(5);

/// A queue pair. The lock is held for short stretches only: posting a batch, or reaping one.
#[derive(Debug)]
pub(crate) struct QueuePair {
    pub(crate) qid: u16,
    pub(crate) entries: u32,
    /// Interrupt vector and its event, when callers wait for interrupts.
    pub(crate) interrupt: Option<(u16, Arc<EventFd>)>,
    inner: Mutex<Inner>,
    /// Held by the one waiter that sleeps on the event; the others sleep on `reaped`.
    leader: Mutex<()>,
    followers: Mutex<()>,
    reaped: Condvar,
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
    lists: DmaBuffer,
    list_memory: DmaSlice,
    /// Bytes of list memory per slot.
    list_bytes: usize,
}

impl QueuePair {
    /// Allocates a closed queue pair with `list_pages` pages of list memory per command.
    pub(crate) fn new(
        device: &Device,
        qid: u16,
        entries: u32,
        list_pages: usize,
        interrupt: Option<(u16, Arc<EventFd>)>,
    ) -> Result<Self, NvmeError> {
        let alloc = |len: usize| {
            device
                .function
                .dma()
                .alloc(len)
                .map_err(NvmeError::platform(&device.name, "allocating queue memory"))
        };
        let (sq_doorbell, cq_doorbell) = device.doorbells(qid);
        let sq = alloc(entries as usize * SQE_BYTES)?.as_dma();
        let cq = alloc(entries as usize * CQE_BYTES)?.as_dma();
        // One fewer than entries: the ring counts on it.
        let slots = Slots::new(entries - 1);
        let list_bytes = list_pages * PAGE_BYTES;
        let lists = alloc(slots.len() * list_bytes)?;
        let inner = Inner {
            open: false,
            sq: SubmissionRing::new(sq, entries, sq_doorbell),
            cq: CompletionRing::new(cq, entries, cq_doorbell),
            slots,
            commands: 0,
            bytes: 0,
            list_memory: lists.as_dma(),
            lists,
            list_bytes,
        };
        Ok(Self {
            qid,
            entries,
            interrupt,
            inner: Mutex::new(inner),
            leader: Mutex::new(()),
            followers: Mutex::new(()),
            reaped: Condvar::new(),
        })
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
            // Whoever reaps, also in order to submit: the others' commands may be among these.
            if self.interrupt.is_some() {
                self.wake_followers();
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

    /// Sleeps until the queue's interrupt, until another waiter has reaped, or a slice of time.
    pub(crate) fn sleep(&self, event: &EventFd, longest: Duration) {
        let longest = longest.min(INTERRUPT_SLICE);
        match self.leader.try_lock() {
            Some(_leading) => {
                let _ = event.wait(longest);
            }
            None => {
                self.reaped.wait_for(&mut self.followers.lock(), longest);
            }
        }
    }

    fn wake_followers(&self) {
        // Through the lock: a follower between its last look and its sleep is not missed by much,
        // and at worst sleeps for one slice.
        drop(self.followers.lock());
        self.reaped.notify_all();
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
        let result = inner.cq.reset();
        result.map_err(NvmeError::bounds(&device.name, "clearing a completion queue"))
    }

    /// Keeps the queue's memory for ever: the controller may still write to it.
    pub(crate) fn leak_memory(&self) {
        let inner = self.lock();
        std::mem::forget(inner.sq.memory().clone());
        std::mem::forget(inner.cq.memory().clone());
        std::mem::forget(inner.lists.as_dma());
    }
}

impl Inner {
    /// List memory of the slot of the given index.
    #[inline]
    pub(crate) fn list_area(&self, slot: usize) -> ListArea<'_> {
        ListArea::new(&self.list_memory, slot * self.list_bytes, self.list_bytes)
    }
}
