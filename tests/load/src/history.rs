use std::sync::atomic::{AtomicU64, Ordering};

/// Moments, in an order that all threads agree on.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// A moment after all that were given before.
    pub fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// A change of a key: from when to when it was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// Number of the payload that it puts; `None` for a removal.
    pub version: Option<u64>,
    /// When it began.
    pub start: u64,
    /// When it was acknowledged; `None` while it is under way, and for one that failed: it may have
    /// happened, or not.
    pub end: Option<u64>,
}

/// The changes of one key, as far as they can still matter.
#[derive(Debug, Default)]
pub struct History(Vec<Write>);

impl History {
    /// A change begins.
    pub fn begin(&mut self, version: Option<u64>, start: u64) {
        self.0.push(Write { version, start, end: None });
    }

    /// The change that began at `start` was acknowledged.
    pub fn end(&mut self, start: u64, end: u64) {
        if let Some(write) = self.0.iter_mut().find(|write| write.start == start) {
            write.end = Some(end);
        }
    }

    /// The change that began at `start` did nothing: the object that was there was kept.
    pub fn cancel(&mut self, start: u64) {
        self.0.retain(|write| write.start != start);
    }

    /// Whether a get that ran from `start` to `end` may have found `version`: it was put before the get
    /// ended, and no other change lies wholly between the two.
    #[must_use]
    pub fn allows(&self, version: u64, start: u64, end: u64) -> bool {
        let Some(put) = self.0.iter().find(|write| write.version == Some(version)) else {
            return false;
        };
        let buried = self.0.iter().any(|write| {
            let after = put.end.is_some_and(|acknowledged| write.start > acknowledged);
            after && write.end.is_some_and(|ended| ended < start)
        });
        put.start < end && !buried
    }

    /// Forgets what no operation that begins at `oldest` or later can find any more.
    pub fn prune(&mut self, oldest: u64) {
        let settled = |write: &Write| write.end.filter(|end| *end < oldest);
        let last = self.0.iter().filter(|write| settled(write).is_some()).map(|w| w.start).max();
        if let Some(last) = last {
            self.0.retain(|write| write.end.is_none_or(|end| end >= last));
        }
    }

    /// Number of changes that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(writes: &[(Option<u64>, u64, Option<u64>)]) -> History {
        History(writes.iter().map(|&(version, start, end)| Write { version, start, end }).collect())
    }

    #[test]
    fn what_was_replaced_or_removed_before_a_get_began_is_not_allowed() {
        let history = of(&[(Some(1), 1, Some(2)), (Some(2), 3, Some(6))]);
        assert!(history.allows(1, 4, 5), "the second is under way");
        assert!(history.allows(2, 4, 5), "and may be seen");
        assert!(history.allows(1, 5, 9), "the get began before the second was acknowledged");
        assert!(!history.allows(1, 7, 8), "replaced");
        assert!(history.allows(2, 7, 8));
        let history = of(&[(Some(1), 1, Some(2)), (None, 3, Some(4))]);
        assert!(!history.allows(1, 5, 6), "removed");
        assert!(history.allows(1, 3, 6), "the removal may come later");
    }

    #[test]
    fn what_was_never_put_or_later_is_not_allowed() {
        let history = of(&[(Some(1), 5, None)]);
        assert!(!history.allows(2, 6, 7), "of another key");
        assert!(!history.allows(1, 2, 4), "not begun yet");
        assert!(history.allows(1, 6, 7), "under way, or failed and there all the same");
    }

    #[test]
    fn writes_that_overlap_may_be_seen_in_either_order() {
        let history = of(&[(Some(1), 1, Some(4)), (Some(2), 2, Some(3))]);
        assert!(history.allows(1, 5, 6) && history.allows(2, 5, 6));
    }

    #[test]
    fn what_is_forgotten_can_not_be_found() {
        let mut history = of(&[
            (Some(1), 1, Some(2)),
            (Some(2), 3, Some(4)),
            (Some(3), 5, Some(8)),
            (None, 6, None),
        ]);
        history.prune(7);
        assert_eq!(history.len(), 3, "the first was replaced before anybody who is still there");
        assert!(!history.allows(1, 7, 9));
        assert!(history.allows(2, 7, 9) && history.allows(3, 7, 9));
    }
}
