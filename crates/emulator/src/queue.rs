//! Submission and completion queues, as the controller sees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use gcos_hw::SharedMemory;
use gcos_layout::nvme::{CQE_BYTES, Cqe, SQE_BYTES, Sqe, Status};
use parking_lot::Mutex;

use crate::fault::Effects;
use crate::table::{IovaTable, Unmapped};

/// Where a queue lies and which doorbell word belongs to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) id: u16,
    /// I/O virtual address of entry 0.
    pub(crate) base: u64,
    pub(crate) entries: u32,
    /// Offset of the doorbell in the doorbell memory.
    pub(crate) doorbell: usize,
}

/// A doorbell held a value that the queue cannot have (Base, Figure 147, 01h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InvalidDoorbell;

/// A completion queue.
#[derive(Debug)]
pub(crate) struct Cq {
    pub(crate) place: Place,
    /// Interrupt vector, when interrupts are enabled for the queue.
    pub(crate) vector: Option<u16>,
    /// Submission queues that use it.
    pub(crate) users: AtomicUsize,
    ring: Mutex<Ring>,
}

#[derive(Debug)]
struct Ring {
    tail: u32,
    phase: bool,
    /// Head that the host announced last and that made sense.
    head: u32,
    /// Entries promised to commands that were fetched and have not ended.
    reserved: u32,
    /// The wrong value of the doorbell that was reported already.
    wrong: Option<u32>,
    dead: bool,
}

impl Cq {
    pub(crate) fn new(place: Place, vector: Option<u16>) -> Self {
        let ring = Ring { tail: 0, phase: true, head: 0, reserved: 0, wrong: None, dead: false };
        Self { place, vector, users: AtomicUsize::new(0), ring: Mutex::new(ring) }
    }

    /// Promises up to `want` entries: how many are free. A command is fetched only with such a
    /// promise, so a completion never has to wait for the host.
    pub(crate) fn reserve(
        &self,
        want: u32,
        doorbells: &SharedMemory,
    ) -> Result<u32, InvalidDoorbell> {
        let mut ring = self.ring.lock();
        let entries = self.place.entries;
        // A bad value is reported once; the next call goes on with the last good head.
        ring.take_head(entries, load(doorbells, self.place.doorbell))?;
        let used = distance(ring.head, ring.tail, entries);
        let free = (entries - 1).saturating_sub(used + ring.reserved);
        let granted = if ring.dead { 0 } else { want.min(free) };
        ring.reserved += granted;
        Ok(granted)
    }

    /// Whether an entry could be promised now.
    pub(crate) fn has_room(&self, doorbells: &SharedMemory) -> bool {
        let ring = self.ring.lock();
        let entries = self.place.entries;
        let announced = load(doorbells, self.place.doorbell);
        let head = if ring.accepts(entries, announced) { announced } else { ring.head };
        !ring.dead && distance(head, ring.tail, entries) + ring.reserved < entries - 1
    }

    /// Gives a promised entry back.
    pub(crate) fn release(&self, count: u32) {
        let mut ring = self.ring.lock();
        ring.reserved = ring.reserved.saturating_sub(count);
    }

    /// Writes an entry that was promised. Posts nothing once the queue is dead. The submission queue's
    /// head is read under the ring's lock, so that it never goes backwards from entry to entry.
    pub(crate) fn post(
        &self,
        entry: Cqe,
        sq_head: &AtomicU32,
        table: &IovaTable,
    ) -> Result<(), Unmapped> {
        let mut ring = self.ring.lock();
        if ring.dead {
            return Ok(());
        }
        let entry = entry.with_sqhd(sq_head.load(Ordering::Acquire) as u16);
        ring.reserved = ring.reserved.saturating_sub(1);
        let at = self.place.base + u64::from(ring.tail) * CQE_BYTES as u64;
        let [dw0, dw1, dw2, dw3] = entry.with_phase(ring.phase).0;
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        table.store_entry(at, pair(dw0, dw1), pair(dw2, dw3))?;
        ring.tail += 1;
        if ring.tail == self.place.entries {
            ring.tail = 0;
            ring.phase = !ring.phase;
        }
        Ok(())
    }

    /// No entry is written after this returned.
    pub(crate) fn kill(&self) {
        self.ring.lock().dead = true;
    }
}

impl Ring {
    /// A head is possible when it lies between the last one and the tail.
    fn accepts(&self, entries: u32, head: u32) -> bool {
        head < entries
            && distance(self.head, head, entries) <= distance(self.head, self.tail, entries)
    }

    fn take_head(&mut self, entries: u32, announced: u32) -> Result<(), InvalidDoorbell> {
        if self.accepts(entries, announced) {
            self.head = announced;
            self.wrong = None;
        } else if self.wrong.replace(announced) != Some(announced) {
            return Err(InvalidDoorbell);
        }
        Ok(())
    }
}

/// A submission queue.
#[derive(Debug)]
pub(crate) struct Sq {
    pub(crate) place: Place,
    pub(crate) cq: Arc<Cq>,
    /// Next entry to fetch; written by whoever fetches, one at a time.
    head: AtomicU32,
    /// Commands that were fetched and have not ended.
    outstanding: AtomicUsize,
    dead: AtomicBool,
    wrong: AtomicU32,
    /// With shadow doorbells: whether the tail in memory is looked at. Not while the queue is empty
    /// and the host has not rung.
    pub(crate) looked_at: AtomicBool,
}

impl Sq {
    pub(crate) fn new(place: Place, cq: Arc<Cq>) -> Self {
        cq.users.fetch_add(1, Ordering::SeqCst);
        Self {
            place,
            cq,
            head: AtomicU32::new(0),
            outstanding: AtomicUsize::new(0),
            dead: AtomicBool::new(false),
            wrong: AtomicU32::new(0),
            looked_at: AtomicBool::new(false),
        }
    }

    /// Next entry to fetch.
    pub(crate) fn head(&self) -> u32 {
        self.head.load(Ordering::Acquire)
    }

    /// Entries that wait to be fetched.
    pub(crate) fn waiting(&self, doorbells: &SharedMemory) -> Result<u32, InvalidDoorbell> {
        // Acquire: pairs with the doorbell's release store; the entries are read after it.
        let tail = load(doorbells, self.place.doorbell);
        if tail >= self.place.entries {
            // Every value that is wrong is larger than 0, the value for "nothing reported".
            let news = self.wrong.swap(tail, Ordering::Relaxed) != tail;
            return if news { Err(InvalidDoorbell) } else { Ok(0) };
        }
        if self.wrong.load(Ordering::Relaxed) != 0 {
            self.wrong.store(0, Ordering::Relaxed);
        }
        Ok(distance(self.head.load(Ordering::Relaxed), tail, self.place.entries))
    }

    /// Whether [`Sq::waiting`] would return anything but 0. Reports nothing.
    pub(crate) fn has_news(&self, doorbells: &SharedMemory) -> bool {
        let tail = load(doorbells, self.place.doorbell);
        if tail < self.place.entries {
            tail != self.head.load(Ordering::Relaxed)
        } else {
            tail != self.wrong.load(Ordering::Relaxed)
        }
    }

    /// Reads up to `count` entries into `out`, which holds whole entries, up to the queue's end:
    /// how many were read. The head moves past them.
    pub(crate) fn fetch(
        &self,
        count: u32,
        table: &IovaTable,
        out: &mut [u8],
    ) -> Result<usize, Unmapped> {
        let head = self.head.load(Ordering::Relaxed);
        let count = count.min(self.place.entries - head);
        let bytes = (count as usize * SQE_BYTES).min(out.len());
        let at = self.place.base + u64::from(head) * SQE_BYTES as u64;
        table.fetch_entries(at, out.get_mut(..bytes).unwrap_or_default())?;
        let count = (bytes / SQE_BYTES) as u32;
        self.head.store((head + count) % self.place.entries, Ordering::Release);
        Ok(count as usize)
    }

    /// Whether the queue was deleted or the controller reset.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// No command of the queue starts after this.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::SeqCst)
    }
}

/// A command that was fetched. When it is dropped, its queue no longer waits for it and the
/// completion entry promised to it, if it was not used, is free again.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) sq: Arc<Sq>,
    pub(crate) sqe: Sqe,
    pub(crate) effects: Option<Box<Effects>>,
    promised: bool,
}

impl Command {
    /// `promised`: whether a completion entry was reserved for it.
    pub(crate) fn new(
        sq: &Arc<Sq>,
        sqe: Sqe,
        effects: Option<Box<Effects>>,
        promised: bool,
    ) -> Self {
        sq.outstanding.fetch_add(1, Ordering::Relaxed);
        Self { sq: Arc::clone(sq), sqe, effects, promised }
    }

    pub(crate) fn is_admin(&self) -> bool {
        self.sq.place.id == 0
    }

    /// Gives the promised entry back: for commands that may wait for ever.
    pub(crate) fn release(&mut self) {
        if std::mem::take(&mut self.promised) {
            self.sq.cq.release(1);
        }
    }

    /// Whether a completion entry is reserved, trying to get one.
    pub(crate) fn claim(&mut self, doorbells: &SharedMemory) -> bool {
        if !self.promised {
            self.promised = matches!(self.sq.cq.reserve(1, doorbells), Ok(1));
        }
        self.promised
    }

    /// Posts the completion; it must have been promised an entry.
    pub(crate) fn post(
        &mut self,
        cid: u16,
        status: Status,
        dw0: u32,
        table: &IovaTable,
    ) -> Result<(), Unmapped> {
        self.promised = false;
        let entry = Cqe::default()
            .with_dw0(dw0)
            .with_sqid(self.sq.place.id)
            .with_cid(cid)
            .with_status(status);
        self.sq.cq.post(entry, &self.sq.head, table)
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        self.release();
        self.sq.outstanding.fetch_sub(1, Ordering::SeqCst);
    }
}

fn load(doorbells: &SharedMemory, offset: usize) -> u32 {
    doorbells.load_u32(offset, Ordering::Acquire).unwrap_or(u32::MAX)
}

fn distance(from: u32, to: u32, entries: u32) -> u32 {
    if to >= from { to - from } else { to + entries - from }
}
