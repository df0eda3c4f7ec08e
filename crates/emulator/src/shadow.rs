//! Shadow doorbells (Base, section 5.8): doorbells in memory that the host stores to, and event indexes
//! that tell it when to ring the register as well.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use gcos_layout::nvme::Status;

use crate::controller::Controller;
use crate::queue::{Cq, Sq};
use crate::table::Unmapped;

/// Where the host put the two pages; 0 while there are none. They are laid out like the doorbell
/// registers.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    values: AtomicU64,
    events: AtomicU64,
    /// A fault: event indexes are no longer updated.
    pub(crate) frozen: AtomicBool,
}

impl Shadow {
    /// Addresses of the pages, if shadow doorbells are in use.
    pub(crate) fn pages(&self) -> Option<(u64, u64)> {
        match self.values.load(Ordering::Acquire) {
            0 => None,
            values => Some((values, self.events.load(Ordering::Relaxed))),
        }
    }

    /// Whether the doorbell registers of a queue only say that there is something to look at.
    pub(crate) fn is_used_by(&self, qid: usize) -> bool {
        qid != 0 && self.pages().is_some()
    }

    pub(crate) fn clear(&self) {
        self.values.store(0, Ordering::Release);
    }
}

impl Controller {
    /// Doorbell Buffer Config. I/O queues that are there already keep their doorbells' values.
    pub(crate) fn configure_doorbells(&self, values: u64, events: u64) -> Result<u32, Status> {
        if !self.limits.shadow_doorbells {
            return Err(Status::INVALID_OPCODE.with_dnr(true));
        }
        let page = self.page_bytes.load(Ordering::Relaxed) as u64;
        if values == 0
            || events == 0
            || !values.is_multiple_of(page)
            || !events.is_multiple_of(page)
        {
            return Err(Status::INVALID_FIELD.with_dnr(true));
        }
        {
            let queues = self.queues.read();
            let sqs = queues.sqs.iter().flatten().map(|sq| sq.place);
            let cqs = queues.cqs.iter().flatten().map(|cq| cq.place);
            for place in sqs.chain(cqs).filter(|place| place.id != 0) {
                let now = self.doorbells.load_u32(place.doorbell, Ordering::Acquire).unwrap_or(0);
                self.table.store_word(values + place.doorbell as u64, now)?;
            }
        }
        self.shadow.events.store(events, Ordering::Relaxed);
        self.shadow.values.store(values, Ordering::Release);
        // They are looked at once, which tells the host where their event indexes are.
        for sq in self.queues.read().sqs.iter().flatten() {
            sq.looked_at.store(true, Ordering::SeqCst);
        }
        self.waker.wake();
        Ok(0)
    }

    /// Takes over the tail that the host has stored, if the queue is being looked at. When there is
    /// nothing new the host is told to ring from here on, and the queue is looked at no longer.
    pub(crate) fn take_shadow_tail(&self, sq: &Sq) {
        let Some((values, events)) = self.shadow.pages() else { return };
        if sq.place.id == 0 || !sq.looked_at.load(Ordering::SeqCst) {
            return;
        }
        let at = sq.place.doorbell as u64;
        let taken = self.take_word(values + at, sq.place.doorbell).and_then(|tail| {
            if tail != sq.head() {
                return Ok(());
            }
            // First no longer looking, then the last look: a host that stores after the look sees
            // the event index, rings, and the queue is looked at again.
            sq.looked_at.store(false, Ordering::SeqCst);
            self.set_event(events + at, tail)?;
            if self.take_word(values + at, sq.place.doorbell)? != tail {
                sq.looked_at.store(true, Ordering::SeqCst);
            }
            Ok(())
        });
        self.fail_unless(taken, "shadow tail doorbell");
    }

    /// Takes over the head that the host has stored. When the queue is full the host is told to ring
    /// when it moves the head.
    pub(crate) fn take_shadow_head(&self, cq: &Cq) {
        let Some((values, events)) = self.shadow.pages() else { return };
        if cq.place.id == 0 {
            return;
        }
        let at = cq.place.doorbell as u64;
        let taken = self.take_word(values + at, cq.place.doorbell).and_then(|head| {
            if cq.has_room(&self.doorbells) {
                return Ok(());
            }
            self.set_event(events + at, head)?;
            self.take_word(values + at, cq.place.doorbell).map(drop)
        });
        self.fail_unless(taken, "shadow head doorbell");
    }

    /// Copies a shadow doorbell to the register that it stands for.
    fn take_word(&self, iova: u64, doorbell: usize) -> Result<u32, Unmapped> {
        let value = self.table.load_word(iova)?;
        let stored = self.doorbells.store_u32(doorbell, value, Ordering::Release);
        debug_assert!(stored.is_ok());
        Ok(value)
    }

    fn set_event(&self, iova: u64, value: u32) -> Result<(), Unmapped> {
        if !self.shadow.frozen.load(Ordering::Relaxed) {
            self.table.store_word(iova, value)?;
        }
        // Pairs with the host's fence between storing the doorbell and looking at the event index.
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn fail_unless(&self, taken: Result<(), Unmapped>, what: &str) {
        if let Err(error) = taken {
            self.fail(&format!("{what}: {error}"));
        }
    }
}
