//! Writes and deallocations that nobody waits for any more and the kernel still holds: they may reach the
//! target at any time. Whoever writes to the same blocks waits for them, so that what is acknowledged
//! later is not overwritten by what was given up before.

use std::sync::Arc;

use gcos_hw::kernel::Batch;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::Extent;

/// What may still reach the target.
#[derive(Debug, Default)]
pub(super) struct Fence {
    loose: Mutex<Vec<Loose>>,
}

#[derive(Debug)]
struct Loose {
    batch: Arc<Batch>,
    extents: SmallVec<[Extent; 1]>,
}

impl Fence {
    /// Remembers what was given up.
    pub(super) fn add(&self, batch: &Arc<Batch>, extents: SmallVec<[Extent; 1]>) {
        self.loose.lock().push(Loose { batch: Arc::clone(batch), extents });
    }

    /// One that overlaps `extents` and is not finished.
    pub(super) fn before(&self, extents: &[Extent]) -> Option<Arc<Batch>> {
        let mut loose = self.loose.lock();
        loose.retain(|loose| !loose.batch.is_finished());
        let hits = |loose: &&Loose| {
            loose.extents.iter().any(|one| extents.iter().any(|other| overlap(one, other)))
        };
        loose.iter().find(hits).map(|loose| Arc::clone(&loose.batch))
    }
}

fn overlap(one: &Extent, other: &Extent) -> bool {
    let end = |extent: &Extent| extent.offset.saturating_add(extent.len);
    one.offset < end(other) && other.offset < end(one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gcos_hw::kernel::JobOp;

    #[test]
    fn only_what_overlaps_and_is_not_finished_is_in_the_way() {
        let fence = Fence::default();
        let extent = |offset, len| Extent { offset, len };
        let (one, other) = (Batch::new(1, None), Batch::new(1, None));
        fence.add(&one, [extent(0, 10), extent(100, 10)].into_iter().collect());
        fence.add(&other, SmallVec::from_buf([extent(105, 1)]));
        let before = |offset, len| fence.before(&[extent(1000, 1), extent(offset, len)]);
        assert!(before(10, 90).is_none());
        assert!(Arc::ptr_eq(&before(9, 1).unwrap(), &one));
        assert!(Arc::ptr_eq(&before(90, 100).unwrap(), &one));
        one.end(JobOp::Discard, Ok(()));
        assert!(Arc::ptr_eq(&before(90, 100).unwrap(), &other));
        other.end(JobOp::Discard, Ok(()));
        assert!(before(0, 1000).is_none() && fence.loose.lock().is_empty());
    }
}
