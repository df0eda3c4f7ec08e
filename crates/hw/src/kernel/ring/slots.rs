//! What the kernel holds.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{Cursor, Outcome, Spot};
use crate::kernel::{Batch, Job, JobOp};
use crate::{DmaSlice, OutOfBounds};

/// A job that the kernel holds, and how far it is.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) op: JobOp,
    pub(super) batch: Arc<Batch>,
    pub(super) cursor: Cursor,
    /// What `cursor` points into.
    pub(super) memory: SmallVec<[DmaSlice; 2]>,
}

impl Work {
    pub(super) fn new(job: Job, most_bytes: usize) -> Result<Self, OutOfBounds> {
        let cursor = Cursor::new(&job, most_bytes)?;
        let Job { op, batch, memory, .. } = job;
        Ok(Self { op, batch, cursor, memory })
    }

    /// What an answer of the kernel means: bytes moved, or an error number below 0.
    pub(super) fn answered(&mut self, answer: i32) -> Outcome {
        let result = usize::try_from(answer).map_err(|_| answer.saturating_neg());
        let given_up = self.batch.is_given_up();
        if result == Err(libc::ECANCELED) && !given_up {
            // Nobody asked for that: the thread that had submitted it has ended, and the kernel takes
            // back what it had not begun.
            return Outcome::Again;
        }
        match self.cursor.answer(self.op, result) {
            Outcome::Again | Outcome::Later if given_up => {
                Outcome::Ended(Err(io::Error::from_raw_os_error(libc::ECANCELED)))
            }
            outcome => outcome,
        }
    }
}

/// Place for so many jobs. A slot's number has its index in the low half, and above how often it was used
/// before, so that a late answer finds nobody else.
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots whose next request is still to be put into the submission queue.
    pub(super) later: VecDeque<u64>,
    /// Those who wait for room.
    room: VecDeque<Arc<Spot>>,
}

#[derive(Debug, Default)]
struct Slot {
    uses: u32,
    /// Taken, and with its work unless that is lent.
    taken: bool,
    work: Option<Work>,
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let works = self.slots.iter().filter_map(|slot| slot.work.as_ref());
        let bytes: usize = works.flat_map(|work| &work.memory).map(DmaSlice::len).sum();
        f.debug_struct("Slots")
            .field("taken", &(self.slots.len() - self.free.len()))
            .field("of", &self.slots.len())
            .field("bytes", &bytes)
            .finish_non_exhaustive()
    }
}

impl Slots {
    pub(super) fn new(depth: usize) -> Self {
        let slots = std::iter::repeat_with(Slot::default).take(depth).collect();
        let free = (0..depth as u32).rev().collect();
        Self { slots, free, later: VecDeque::new(), room: VecDeque::new() }
    }

    /// Gives work a slot if there is one: its number.
    pub(super) fn take(&mut self, work: &mut Option<Work>) -> Option<u64> {
        let index = self.free.pop()?;
        let slot = self.slots.get_mut(index as usize)?;
        slot.uses = slot.uses.wrapping_add(1) & 0x7fff_ffff;
        slot.taken = true;
        slot.work = work.take();
        Some(u64::from(slot.uses) << 32 | u64::from(index))
    }

    fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        let slot = self.slots.get_mut((number & 0xffff_ffff) as usize)?;
        (slot.taken && u64::from(slot.uses) == number >> 32).then_some(slot)
    }

    /// Lends the work of a slot; the slot stays taken.
    pub(super) fn lend(&mut self, number: u64) -> Option<Work> {
        self.slot(number)?.work.take()
    }

    pub(super) fn put_back(&mut self, number: u64, work: Work) {
        if let Some(slot) = self.slot(number) {
            slot.work = Some(work);
        }
    }

    /// Frees a slot whose work was lent.
    pub(super) fn free(&mut self, number: u64) {
        if let Some(slot) = self.slot(number) {
            slot.taken = false;
            self.free.push((number & 0xffff_ffff) as u32);
        }
    }

    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Numbers of the slots whose batch is one of `which`.
    pub(super) fn all(&self, which: impl Fn(&Batch) -> bool) -> Vec<u64> {
        let numbered = self.slots.iter().enumerate();
        let fits = numbered.filter(|(_, slot)| slot.work.as_ref().is_some_and(|w| which(&w.batch)));
        fits.map(|(index, slot)| u64::from(slot.uses) << 32 | index as u64).collect()
    }

    pub(super) fn wait_for_room(&mut self, spot: &Arc<Spot>) {
        self.room.push_back(Arc::clone(spot));
    }

    pub(super) fn leave_room(&mut self, spot: &Arc<Spot>) {
        if self.room.is_empty() {
            return;
        }
        self.room.retain(|other| !Arc::ptr_eq(other, spot));
        // A call may have come too late for this one: it goes to the next.
        if let Some(next) = self.room.front().filter(|_| self.has_room()) {
            next.call();
        }
    }

    /// Those to call when so many slots have become free.
    pub(super) fn room_for_others(&mut self, freed: usize) -> SmallVec<[Arc<Spot>; 4]> {
        let count = freed.min(self.room.len());
        self.room.drain(..count).collect()
    }
}
