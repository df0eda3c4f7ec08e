//! Shadow doorbells (Base, section 5.8): doorbells in memory, and event indexes by which the controller
//! says when it wants the register rung as well. Controllers in software offer them, where ringing a
//! register is expensive.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use gcos_hw::{DmaSlice, PAGE_BYTES};

use crate::NvmeError;
use crate::device::Device;

/// The two pages that the controller is told of. Both are laid out like the doorbell registers.
#[derive(Debug)]
pub(crate) struct ShadowPages {
    values: DmaSlice,
    events: DmaSlice,
}

impl ShadowPages {
    /// Whether the pages have room for the doorbells of so many queue pairs.
    pub(crate) fn hold(device: &Device, io_queue_pairs: u16) -> bool {
        let stride = device.cap.doorbell_stride();
        2 * (usize::from(io_queue_pairs) + 1) * stride <= PAGE_BYTES
    }

    pub(crate) fn new(device: &Device) -> Result<Self, NvmeError> {
        let page = || {
            let failed = NvmeError::platform(&device.name, "allocating shadow doorbells");
            device.function.dma().alloc(PAGE_BYTES).map(|page| page.as_dma()).map_err(failed)
        };
        Ok(Self { values: page()?, events: page()? })
    }

    /// Addresses: doorbells, event indexes.
    pub(crate) fn addresses(&self) -> (u64, u64) {
        (self.values.iova(), self.events.iova())
    }

    /// Sets all doorbells and event indexes to 0, as they are for new queues.
    pub(crate) fn clear(&self, device: &Device) -> Result<(), NvmeError> {
        let failed = || NvmeError::bounds(&device.name, "clearing shadow doorbells");
        self.values.fill(0, PAGE_BYTES, 0).map_err(failed())?;
        self.events.fill(0, PAGE_BYTES, 0).map_err(failed())
    }

    /// The shadows of the doorbells of a queue pair: submission tail, completion head.
    pub(crate) fn of(&self, device: &Device, qid: u16) -> (ShadowDoorbell, ShadowDoorbell) {
        let stride = device.cap.doorbell_stride();
        let index = 2 * usize::from(qid);
        let shadow = |index: usize| ShadowDoorbell {
            values: self.values.clone(),
            events: self.events.clone(),
            offset: index * stride,
            last: 0,
            told: true,
            always: qid == 0,
        };
        (shadow(index), shadow(index + 1))
    }

    /// Keeps the pages for ever: the controller may still look at them and write to them.
    pub(crate) fn leak(&self) {
        std::mem::forget(self.values.clone());
        std::mem::forget(self.events.clone());
    }
}

/// The shadow of one doorbell.
#[derive(Debug)]
pub(crate) struct ShadowDoorbell {
    values: DmaSlice,
    events: DmaSlice,
    offset: usize,
    /// Value stored last.
    last: u32,
    /// Whether the register was rung with it. The values themselves do not tell: in a small queue they
    /// come back to the one that was rung last.
    told: bool,
    /// The admin queue's: controllers differ in whether they look at its shadow, so the register is
    /// always rung, too.
    always: bool,
}

impl ShadowDoorbell {
    /// Stores a doorbell's value: whether the register has to be rung as well.
    pub(crate) fn store(&mut self, value: u32) -> bool {
        let old = std::mem::replace(&mut self.last, value);
        // Entries and lists may lie in memory of a device that is mapped write-combining: only a fence
        // has them there before the value that tells of them. A store to a register needs none of its
        // own (see [`gcos_hw::Function::write32`]), but this is none.
        fence(Ordering::SeqCst);
        let stored = self.values.store_u32(self.offset, value.to_le(), Ordering::Release);
        // The value is visible before the event index is looked at. The controller stores the event
        // index before it looks at the value for the last time: one of the two sees the other.
        fence(Ordering::SeqCst);
        let event = self.events.load_u32(self.offset, Ordering::Acquire).map(u32::from_le);
        let ring = match (stored, event) {
            (Ok(()), Ok(event)) => self.always || is_passed(event, old, value),
            _ => true,
        };
        self.told = ring || self.told && old == value;
        ring
    }

    /// The value stored last, if the register was not rung with it.
    pub(crate) fn not_rung(&mut self) -> Option<u32> {
        (!std::mem::replace(&mut self.told, true)).then_some(self.last)
    }

    /// For queues that are made anew.
    pub(crate) fn reset(&mut self) {
        (self.last, self.told) = (0, true);
    }
}

/// Whether a doorbell that moves from `old` to `new` passes the event index: it is one of `old` up to
/// but not `new`. Values wrap at the queue's size, and so does what lies between them; the differences
/// wrap at 16 bits, which orders the same values alike.
fn is_passed(event: u32, old: u32, new: u32) -> bool {
    let behind = (new as u16).wrapping_sub(event as u16).wrapping_sub(1);
    behind < (new as u16).wrapping_sub(old as u16)
}

/// What to do where shadow doorbells are asked for: how many queue pairs they would serve.
pub(crate) fn refusal(device: &Device, io_queue_pairs: u16, lent: u16) -> Option<NvmeError> {
    let invalid = |what, expected: String, got: u16| NvmeError::Invalid {
        device: Arc::clone(&device.name),
        what,
        expected,
        got: got.into(),
    };
    if lent > 0 {
        // The controller would look for the doorbells of lent queues in memory, too.
        let expected = "0 with shadow doorbells, which the holder would not serve".into();
        return Some(invalid("lent queue pairs", expected, lent));
    }
    if !ShadowPages::hold(device, io_queue_pairs) {
        let most = (PAGE_BYTES / 2 / device.cap.doorbell_stride()).saturating_sub(1);
        let expected = format!("at most {most} with shadow doorbells");
        return Some(invalid("I/O queue pairs", expected, io_queue_pairs));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_device::{device, space};

    #[test]
    fn a_value_that_comes_back_without_a_ring_is_rung_when_asked() {
        for entries in [2, 3, 4] {
            let device = device(space());
            let pages = ShadowPages::new(&device).unwrap();
            let (mut tail, _) = pages.of(&device, 1);
            assert_eq!(tail.not_rung(), None, "nothing was posted");
            assert!(tail.store(1), "passes event index 0");
            assert_eq!(tail.not_rung(), None, "the register knows");
            // A controller that is busy looking: it wants no rings.
            for moved in 1..=entries {
                let value = (1 + moved) % entries;
                pages.events.store_u32(tail.offset, value, Ordering::Relaxed).unwrap();
                assert!(!tail.store(value));
            }
            assert_eq!(tail.last, 1, "once around");
            assert!(!tail.store(1), "moves nothing");
            assert_eq!(tail.not_rung(), Some(1), "{entries} entries");
            assert_eq!(tail.not_rung(), None, "once is enough");
        }
    }

    #[test]
    fn an_event_index_is_passed_when_it_lies_in_what_was_moved_over() {
        for entries in [2, 3, 64, 4096, 65_536u32] {
            let mut rng = fastrand::Rng::with_seed(entries.into());
            for _ in 0..5000 {
                let old = rng.u32(0..entries);
                let moved = rng.u32(1..entries);
                let new = (old + moved) % entries;
                let event = rng.u32(0..entries);
                let expected = (event + entries - old) % entries < moved;
                assert_eq!(is_passed(event, old, new), expected, "{event}: {old} to {new}");
            }
        }
    }
}
