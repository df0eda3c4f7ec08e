//! Which drives get fresh checkpoints, and in which order.
//!
//! A fresh checkpoint forgets removes and dropped objects. What they kept down may be an older object of
//! the key on another drive, which would come back if the repair were interrupted then: that drive
//! must forget it first.

use std::collections::BTreeSet;

/// The drives wanted and those that must come before one of them, in order. `pairs` (a, b): a before
/// b. In a circle the order is the drives' own.
pub(super) fn order(wanted: &BTreeSet<u8>, pairs: &BTreeSet<(u8, u8)>) -> Vec<u8> {
    let mut left = wanted.clone();
    loop {
        let more: Vec<u8> = pairs
            .iter()
            .filter(|(a, b)| left.contains(b) && !left.contains(a))
            .map(|p| p.0)
            .collect();
        if more.is_empty() {
            break;
        }
        left.extend(more);
    }
    let mut order = Vec::with_capacity(left.len());
    while let Some(&first) = left.first() {
        let waits =
            |b: u8| pairs.iter().any(|&(a, other)| other == b && a != b && left.contains(&a));
        let next = left.iter().copied().find(|&drive| !waits(drive)).unwrap_or(first);
        left.remove(&next);
        order.push(next);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_down_is_forgotten_first() {
        let pairs = BTreeSet::from([(3, 1), (2, 3), (7, 6)]);
        assert_eq!(order(&BTreeSet::from([1]), &pairs), [2, 3, 1]);
        assert_eq!(order(&BTreeSet::from([0]), &pairs), [0]);
    }

    #[test]
    fn a_circle_ends() {
        let pairs = BTreeSet::from([(1, 2), (2, 1), (1, 1)]);
        assert_eq!(order(&BTreeSet::from([2]), &pairs), [1, 2]);
    }
}
