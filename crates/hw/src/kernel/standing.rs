use std::ops::Range;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::{Batch, Carrier};

/// What has happened to a target that every way to it must know of: it outlives the way it happened on.
///
/// Batches are not kept alive: one that is gone has ended, since each of its jobs keeps it. Neither are
/// carriers: one that is gone has nothing under way.
#[derive(Debug, Default)]
pub struct Standing {
    distrusted: OnceLock<String>,
    asking: Mutex<Option<Under>>,
    loose: Mutex<Vec<Loose>>,
}

/// A batch that may be under way, and who learns of its end.
#[derive(Debug)]
struct Under {
    batch: Weak<Batch>,
    carrier: Weak<dyn Carrier>,
}

impl Under {
    fn new(batch: &Arc<Batch>, carrier: &Arc<dyn Carrier>) -> Self {
        Self { batch: Arc::downgrade(batch), carrier: Arc::downgrade(carrier) }
    }

    fn unfinished(&self) -> Option<Arc<Batch>> {
        self.batch.upgrade().filter(|batch| !batch.is_finished())
    }
}

/// A write or a deallocation that nobody waits for any more.
#[derive(Debug)]
struct Loose {
    under: Under,
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

    /// Lets `batch`, which goes by `carrier`, be the one that asks the kernel to make something durable, or
    /// tells who is.
    ///
    /// # Errors
    /// The batch that asks and is not finished.
    pub fn ask_alone(
        &self,
        batch: &Arc<Batch>,
        carrier: &Arc<dyn Carrier>,
    ) -> Result<(), Arc<Batch>> {
        let mut asking = self.asking.lock();
        match asking.as_ref().and_then(Under::unfinished) {
            Some(other) => Err(other),
            None => {
                *asking = Some(Under::new(batch, carrier));
                Ok(())
            }
        }
    }

    /// Remembers changes to `ranges` by `carrier` that nobody waits for any more and that may still be made.
    /// `given_up`: their deadline has passed, and whoever asked was told that they failed.
    pub fn let_loose(
        &self,
        batch: &Arc<Batch>,
        carrier: &Arc<dyn Carrier>,
        ranges: Vec<Range<u64>>,
        given_up: bool,
    ) {
        let under = Under::new(batch, carrier);
        self.loose.lock().push(Loose { under, ranges, given_up });
    }

    /// Has every carrier look that has one of these under way: nobody else may use it any more.
    pub fn look(&self) {
        let upgrade =
            |under: &Under| under.carrier.upgrade().filter(|_| under.unfinished().is_some());
        let mut carriers: Vec<_> = self.asking.lock().iter().filter_map(upgrade).collect();
        carriers.extend(self.loose.lock().iter().filter_map(|loose| upgrade(&loose.under)));
        // Without the locks: what they find out calls back.
        carriers.iter().for_each(|carrier| carrier.poll());
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
        loose.retain(|loose| loose.under.unfinished().is_some());
        loose.iter().filter(|loose| which(loose)).find_map(|loose| loose.under.unfinished())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Instant;

    use super::*;
    use crate::kernel::{Job, JobOp};

    /// Learns of the end of one batch when it is asked to look.
    #[derive(Debug)]
    struct Lazy(Arc<Batch>);

    impl Carrier for Lazy {
        fn start(&self, _job: Job, _until: Instant) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn go(&self) {}

        fn poll(&self) {
            self.0.end(JobOp::Discard, Ok(()));
        }

        fn wait(&self, batch: &Arc<Batch>, _until: Instant) -> bool {
            batch.is_finished()
        }

        fn cancel(&self, _batch: &Arc<Batch>) {}

        fn drain(&self, _until: Instant) -> bool {
            true
        }
    }

    fn carrier(batch: &Arc<Batch>) -> Arc<dyn Carrier> {
        Arc::new(Lazy(Arc::clone(batch)))
    }

    #[test]
    fn each_carrier_is_asked_to_look_whose_batch_is_in_the_way() {
        let standing = Standing::default();
        let batches: Vec<_> = (0..3).map(|_| Batch::new(1, None)).collect();
        let carriers: Vec<_> = batches.iter().map(carrier).collect();
        standing.let_loose(&batches[0], &carriers[0], vec![0..10, 20..30], true);
        standing.ask_alone(&batches[1], &carriers[1]).unwrap();
        assert!(standing.given_up().is_some());
        standing.look();
        let finished: Vec<_> = batches.iter().map(|batch| batch.is_finished()).collect();
        assert_eq!(finished, [true, true, false]);
        assert!(standing.given_up().is_none());
        standing.ask_alone(&batches[2], &carriers[2]).unwrap();
    }

    #[test]
    fn only_what_overlaps_and_is_not_finished_is_in_the_way() {
        let standing = Standing::default();
        let (one, other) = (Batch::new(1, None), Batch::new(1, None));
        let carrier = carrier(&Batch::new(1, None));
        standing.let_loose(&one, &carrier, vec![0..10, 100..110], false);
        standing.let_loose(&other, &carrier, vec![105..106, 200..201], true);
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
        let carrier = carrier(&Batch::new(1, None));
        standing.ask_alone(&one, &carrier).unwrap();
        assert!(Arc::ptr_eq(&standing.ask_alone(&other, &carrier).unwrap_err(), &one));
        one.end(JobOp::Sync, Ok(()));
        standing.ask_alone(&other, &carrier).unwrap();
        assert!(standing.distrust("first".to_owned()) && !standing.distrust("second".to_owned()));
        assert_eq!(standing.distrusted(), Some("first"));
    }
}
