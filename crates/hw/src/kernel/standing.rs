use std::ops::Range;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::Batch;

/// What has happened to a target that every way to it must know of: it outlives the way it happened on.
///
/// Batches are not kept alive: one that is gone has ended, since each of its jobs keeps it.
#[derive(Debug, Default)]
pub struct Standing {
    distrusted: OnceLock<String>,
    asking: Mutex<Weak<Batch>>,
    loose: Mutex<Vec<Loose>>,
}

/// A write or a deallocation that nobody waits for any more.
#[derive(Debug)]
struct Loose {
    batch: Weak<Batch>,
    ranges: Vec<Range<u64>>,
    given_up: bool,
}

impl Standing {
    /// Remembers for good that making writes durable has failed: whether this is the first time.
    pub fn distrust(&self, why: String) -> bool {
        self.distrusted.set(why).is_ok()
    }

    /// Why the kernel's word on durability is worth nothing any more.
    #[must_use]
    pub fn distrusted(&self) -> Option<&str> {
        self.distrusted.get().map(String::as_str)
    }

    /// Lets `batch` be the one that asks the kernel to make something durable, or tells who is.
    ///
    /// # Errors
    /// The batch that asks and is not finished.
    pub fn ask_alone(&self, batch: &Arc<Batch>) -> Result<(), Arc<Batch>> {
        let mut asking = self.asking.lock();
        match unfinished(&asking) {
            Some(other) => Err(other),
            None => {
                *asking = Arc::downgrade(batch);
                Ok(())
            }
        }
    }

    /// Remembers changes to `ranges` that nobody waits for any more and that may still be made. `given_up`:
    /// their deadline has passed, and whoever asked was told that they failed.
    pub fn let_loose(&self, batch: &Arc<Batch>, ranges: Vec<Range<u64>>, given_up: bool) {
        let batch = Arc::downgrade(batch);
        self.loose.lock().push(Loose { batch, ranges, given_up });
    }

    /// Changes that were given up and may still be made.
    #[must_use]
    pub fn given_up(&self) -> Option<Arc<Batch>> {
        self.find(|loose| loose.given_up)
    }

    /// Changes to some of these ranges that nobody waits for and that may still be made.
    #[must_use]
    pub fn before(&self, ranges: &[Range<u64>]) -> Option<Arc<Batch>> {
        let overlap =
            |one: &Range<u64>, other: &Range<u64>| one.start < other.end && other.start < one.end;
        self.find(|loose| {
            loose.ranges.iter().any(|one| ranges.iter().any(|other| overlap(one, other)))
        })
    }

    fn find(&self, which: impl Fn(&Loose) -> bool) -> Option<Arc<Batch>> {
        let mut loose = self.loose.lock();
        loose.retain(|loose| unfinished(&loose.batch).is_some());
        loose.iter().filter(|loose| which(loose)).find_map(|loose| unfinished(&loose.batch))
    }
}

fn unfinished(batch: &Weak<Batch>) -> Option<Arc<Batch>> {
    batch.upgrade().filter(|batch| !batch.is_finished())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::JobOp;

    #[test]
    fn only_what_overlaps_and_is_not_finished_is_in_the_way() {
        let standing = Standing::default();
        let (one, other) = (Batch::new(1, None), Batch::new(1, None));
        standing.let_loose(&one, vec![0..10, 100..110], false);
        standing.let_loose(&other, vec![105..106, 200..201], true);
        let before = |offset, len| standing.before(&[1000..1001, offset..offset + len]);
        assert!(before(10, 90).is_none());
        assert!(Arc::ptr_eq(&before(9, 1).unwrap(), &one));
        assert!(Arc::ptr_eq(&before(90, 100).unwrap(), &one));
        assert!(Arc::ptr_eq(&standing.given_up().unwrap(), &other));
        one.end(JobOp::Discard, Ok(()));
        assert!(Arc::ptr_eq(&before(90, 100).unwrap(), &other));
        other.end(JobOp::Discard, Ok(()));
        assert!(before(0, 900).is_none() && standing.given_up().is_none());
        assert!(standing.loose.lock().is_empty());
    }

    #[test]
    fn one_asks_at_a_time_and_the_first_failure_is_kept() {
        let standing = Standing::default();
        let (one, other) = (Batch::new(1, None), Batch::new(1, None));
        standing.ask_alone(&one).unwrap();
        assert!(Arc::ptr_eq(&standing.ask_alone(&other).unwrap_err(), &one));
        one.end(JobOp::Sync, Ok(()));
        standing.ask_alone(&other).unwrap();
        assert!(standing.distrust("first".to_owned()) && !standing.distrust("second".to_owned()));
        assert_eq!(standing.distrusted(), Some("first"));
    }
}
