//! One queue pair's rings and the four verbs on them: post entry, ring tail, peek completion, ring
//! head. None of them does the work of another, so that a caller may post many entries under one
//! doorbell write, and look at many completions under one.

use std::sync::atomic::Ordering;

use gcos_hw::{DmaSlice, Function, OutOfBounds};
use gcos_layout::nvme::{CQE_BYTES, Cqe, SQE_BYTES, Sqe};

use crate::shadow::ShadowDoorbell;

/// Offset in a completion queue entry of the dword that holds the phase tag (Base, section 4.2.1).
const PHASE_WORD: usize = 12;

/// A submission queue as its producer sees it (Base, section 3.3.1).
///
/// The producer keeps fewer commands in flight than the queue has entries. Controllers fetch in
/// order, so the entry at the tail has then been fetched: if it had not, the commands posted after it
/// would still be in flight, too, and they fill the queue. The head pointers in completions are
/// therefore not needed, and not trusted: completions that a controller posts in parallel may carry
/// them out of order.
#[derive(Debug)]
pub struct SubmissionRing {
    memory: DmaSlice,
    entries: u32,
    tail: u32,
    doorbell: usize,
    shadow: Option<Box<ShadowDoorbell>>,
}

impl SubmissionRing {
    /// An empty queue of `entries` in `memory`, whose tail doorbell is at offset `doorbell`.
    #[must_use]
    pub fn new(memory: DmaSlice, entries: u32, doorbell: usize) -> Self {
        Self { memory, entries, tail: 0, doorbell, shadow: None }
    }

    /// Copies an entry to the tail and moves the tail. Does not ring the doorbell: the controller
    /// does not see the entry yet. Does not check for room: see [`SubmissionRing`].
    ///
    /// # Errors
    /// [`OutOfBounds`] when the memory is smaller than the queue.
    #[inline]
    pub fn post_entry(&mut self, sqe: &Sqe) -> Result<(), OutOfBounds> {
        self.memory.write(self.tail as usize * SQE_BYTES, &sqe.to_bytes())?;
        self.tail = if self.tail + 1 == self.entries { 0 } else { self.tail + 1 };
        Ok(())
    }

    /// Tells the controller the tail: it may now fetch everything posted. Posts nothing.
    #[inline]
    pub fn ring_tail(&mut self, function: &dyn Function) {
        if let Some(shadow) = &mut self.shadow
            && !shadow.store(self.tail)
        {
            return;
        }
        function.write32(self.doorbell, self.tail);
    }

    /// Rings the register where the shadow doorbell alone was used: whether it was.
    pub(crate) fn ring_again(&mut self, function: &dyn Function) -> bool {
        let tail = self.shadow.as_mut().and_then(|shadow| shadow.not_rung());
        tail.is_some_and(|tail| {
            function.write32(self.doorbell, tail);
            true
        })
    }

    /// Uses a shadow doorbell from now on, or none.
    pub(crate) fn set_shadow(&mut self, mut shadow: Option<ShadowDoorbell>) {
        if let Some(shadow) = &mut shadow {
            // It begins where the queue is.
            shadow.store(self.tail);
        }
        self.shadow = shadow.map(Box::new);
    }

    /// Empties the queue, as a controller reset does.
    pub fn reset(&mut self) {
        self.tail = 0;
        if let Some(shadow) = &mut self.shadow {
            shadow.reset();
        }
    }

    /// The queue's memory.
    #[must_use]
    pub fn memory(&self) -> &DmaSlice {
        &self.memory
    }
}

/// A completion queue as its consumer sees it (Base, section 3.3.1).
#[derive(Debug)]
pub struct CompletionRing {
    memory: DmaSlice,
    entries: u32,
    head: u32,
    /// Phase tag of entries that are new on this pass.
    phase: bool,
    doorbell: usize,
    shadow: Option<Box<ShadowDoorbell>>,
}

impl CompletionRing {
    /// An empty queue of `entries` in zeroed `memory`, whose head doorbell is at offset `doorbell`.
    #[must_use]
    pub fn new(memory: DmaSlice, entries: u32, doorbell: usize) -> Self {
        Self { memory, entries, head: 0, phase: true, doorbell, shadow: None }
    }

    /// The completion at the head, if the controller has posted one. Does not move the head: the
    /// next call sees the same entry. See [`CompletionRing::advance_head`].
    #[must_use]
    #[inline]
    pub fn peek_completion(&self) -> Option<Cqe> {
        let at = self.head as usize * CQE_BYTES;
        // Acquire: the rest of the entry, and the data before it, is read after the phase tag.
        let dword3 = self.memory.load_u32(at + PHASE_WORD, Ordering::Acquire).ok()?;
        let dword3 = u32::from_le(dword3);
        if Cqe([0, 0, 0, dword3]).phase() != self.phase {
            return None;
        }
        let word = |offset| self.memory.load_u32(at + offset, Ordering::Relaxed).map(u32::from_le);
        Some(Cqe([word(0).ok()?, word(4).ok()?, word(8).ok()?, dword3]))
    }

    /// Moves the head past the entry that was peeked at. Does not ring the doorbell: the controller
    /// must not reuse the entry yet.
    #[inline]
    pub fn advance_head(&mut self) {
        self.head += 1;
        if self.head == self.entries {
            self.head = 0;
            self.phase = !self.phase;
        }
    }

    /// Tells the controller the head: it may reuse every entry before it. Moves nothing.
    #[inline]
    pub fn ring_head(&mut self, function: &dyn Function) {
        if let Some(shadow) = &mut self.shadow
            && !shadow.store(self.head)
        {
            return;
        }
        function.write32(self.doorbell, self.head);
    }

    /// Rings the register where the shadow doorbell alone was used: whether it was.
    pub(crate) fn ring_again(&mut self, function: &dyn Function) -> bool {
        let head = self.shadow.as_mut().and_then(|shadow| shadow.not_rung());
        head.is_some_and(|head| {
            function.write32(self.doorbell, head);
            true
        })
    }

    /// Uses a shadow doorbell from now on, or none.
    pub(crate) fn set_shadow(&mut self, mut shadow: Option<ShadowDoorbell>) {
        if let Some(shadow) = &mut shadow {
            shadow.store(self.head);
        }
        self.shadow = shadow.map(Box::new);
    }

    /// Empties the queue, as a controller reset does: zeroes its memory, so that no old entry has
    /// the phase tag of the first pass.
    ///
    /// # Errors
    /// [`OutOfBounds`] when the memory is smaller than the queue.
    pub fn reset(&mut self) -> Result<(), OutOfBounds> {
        self.head = 0;
        self.phase = true;
        if let Some(shadow) = &mut self.shadow {
            shadow.reset();
        }
        // By whole entries: the memory may be a device's, which takes no single bytes.
        (0..self.entries as usize)
            .try_for_each(|entry| self.memory.write(entry * CQE_BYTES, &[0; CQE_BYTES]))
    }

    /// Writes to the queue's first and last entry, for a queue that the controller does not have: what is
    /// read back in the place of what was written, if it is something else. Memory of a device that does
    /// not decode keeps nothing; what it holds from before could later look like new entries.
    ///
    /// # Errors
    /// [`OutOfBounds`] when the memory is smaller than the queue.
    pub(crate) fn probe(&self) -> Result<Option<u32>, OutOfBounds> {
        const PATTERN: u8 = 0x5A;
        for entry in [0, self.entries as usize - 1] {
            let at = entry * CQE_BYTES;
            self.memory.write(at, &[PATTERN; CQE_BYTES])?;
            let back = self.memory.load_u32(at + PHASE_WORD, Ordering::Acquire)?;
            if back != u32::from_ne_bytes([PATTERN; 4]) {
                return Ok(Some(back));
            }
        }
        Ok(None)
    }

    /// The queue's memory.
    #[must_use]
    pub fn memory(&self) -> &DmaSlice {
        &self.memory
    }

    /// Entries of the queue.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_device::{Registers, space};

    fn cqe(cid: u16, phase: bool) -> [u8; CQE_BYTES] {
        Cqe::default().with_cid(cid).with_phase(phase).to_bytes()
    }

    #[test]
    fn a_submission_ring_posts_rings_and_wraps() {
        let space = space();
        let memory = space.alloc(4 * SQE_BYTES).unwrap().as_dma();
        let registers = Registers::new(space);
        let mut ring = SubmissionRing::new(memory.clone(), 4, 0x1008);
        for cid in 0..3 {
            ring.post_entry(&Sqe::new(2, cid)).unwrap();
        }
        assert_eq!(registers.written(), [], "posting does not ring");
        ring.ring_tail(&registers);
        assert_eq!(registers.written(), [(0x1008, 3)]);
        ring.post_entry(&Sqe::new(2, 9)).unwrap();
        ring.post_entry(&Sqe::new(2, 10)).unwrap();
        let mut first = [0; SQE_BYTES];
        memory.read(0, &mut first).unwrap();
        assert_eq!(Sqe::from_bytes(&first).cid(), 10, "wrapped to the start");
    }

    #[test]
    fn a_completion_ring_follows_the_phase_over_many_passes() {
        let space = space();
        let memory = space.alloc(3 * CQE_BYTES).unwrap().as_dma();
        let registers = Registers::new(space);
        let mut ring = CompletionRing::new(memory.clone(), 3, 0x100C);
        for n in 0..10u16 {
            assert!(ring.peek_completion().is_none(), "an old entry is not new again");
            let phase = n / 3 % 2 == 0;
            memory.write(usize::from(n % 3) * CQE_BYTES, &cqe(n, phase)).unwrap();
            assert_eq!(ring.peek_completion().unwrap().cid(), n);
            assert_eq!(ring.peek_completion().unwrap().cid(), n, "peeking takes nothing");
            ring.advance_head();
        }
        assert_eq!(registers.written(), [], "advancing does not ring");
        ring.ring_head(&registers);
        assert_eq!(registers.written(), [(0x100C, 1)]);
        ring.reset().unwrap();
        assert!(ring.peek_completion().is_none());
        assert_eq!(ring.probe(), Ok(None));
        ring.reset().unwrap();
        assert!(ring.peek_completion().is_none(), "the probe's pattern is no entry after a reset");
    }
}
