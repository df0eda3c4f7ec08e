//! Memory that two items of one get have in common: whatever they read, it would hold the bytes of one of them at most.

use std::collections::BTreeMap;

use super::Item;
use crate::region::Place;

/// Which of the items have memory that another has, too. The first of them may have it.
pub(super) fn overlapping(items: &[Item]) -> Vec<bool> {
    let spans = |item: &Item| item.regions.iter().map(|region| span(&region.place)).collect();
    found(items.iter().map(spans))
}

/// Where memory lies: on which GPU, if on any, from where to where.
type Span = (Option<usize>, u64, u64);

fn span(place: &Place) -> Span {
    let (gpu, start, len) = match place {
        Place::Host(range) => (None, range.address() as u64, range.len()),
        Place::Cuda { gpu, address, len } => (Some(*gpu), *address, *len),
    };
    (gpu, start, start.saturating_add(len as u64))
}

fn found(items: impl Iterator<Item = Vec<Span>>) -> Vec<bool> {
    let mut taken: BTreeMap<(Option<usize>, u64), u64> = BTreeMap::new();
    let refused = |spans: Vec<Span>| {
        let mut own = Vec::new();
        let overlaps = spans.into_iter().any(|(gpu, start, end)| {
            let before = taken.range((gpu, 0)..(gpu, end)).next_back();
            let overlaps = before.is_some_and(|(_, other_end)| *other_end > start);
            if !overlaps {
                taken.insert((gpu, start), end);
                own.push((gpu, start));
            }
            overlaps
        });
        // One that is refused is not in the way of others; what is taken never overlaps, so looking at the
        // nearest is enough.
        if overlaps {
            taken.retain(|start, _| !own.contains(start));
        }
        overlaps
    };
    items.map(refused).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_that_share_a_byte_are_found_wherever_it_lies() {
        let of = |items: &[&[Span]]| found(items.iter().map(|spans| spans.to_vec()));
        let host = |start, end| (None, start, end);
        assert_eq!(of(&[&[host(0, 10)], &[host(10, 20)], &[host(9, 11)]]), [false, false, true]);
        assert_eq!(of(&[&[host(5, 10)], &[(Some(0), 5, 10)], &[(Some(1), 5, 10)]]), [false; 3]);
        assert_eq!(of(&[&[(Some(1), 0, 8)], &[(Some(1), 7, 9)]]), [false, true]);
        assert_eq!(of(&[&[host(0, 10), host(5, 6)], &[host(0, 10)]]), [true, false]);
        assert_eq!(of(&[&[host(0, u64::MAX)], &[host(u64::MAX - 1, u64::MAX)]]), [false, true]);
    }
}
