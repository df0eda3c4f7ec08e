use std::collections::BTreeMap;

/// What is free of a range of bytes: first fit, neighbours joined.
#[derive(Debug)]
pub(crate) struct FreeList {
    /// Start → length; no two touch.
    free: BTreeMap<usize, usize>,
    free_bytes: usize,
}

impl FreeList {
    /// All of `len` bytes are free.
    pub(crate) fn new(len: usize) -> Self {
        let free = if len > 0 { BTreeMap::from([(0, len)]) } else { BTreeMap::new() };
        Self { free, free_bytes: len }
    }

    pub(crate) fn free_bytes(&self) -> usize {
        self.free_bytes
    }

    pub(crate) fn largest(&self) -> usize {
        self.free.values().copied().max().unwrap_or(0)
    }

    /// Takes `len` bytes at an offset that, added to `base`, is a multiple of `align`, a power of two.
    pub(crate) fn take(&mut self, base: u64, len: usize, align: usize) -> Option<usize> {
        let found = self.free.iter().find_map(|(&start, &size)| {
            let at = (base + start as u64).checked_next_multiple_of(align as u64)? - base;
            let at = usize::try_from(at).ok()?;
            let end = at.checked_add(len)?;
            (end <= start + size).then_some((start, size, at, end))
        });
        let (start, size, at, end) = found?;
        self.free.remove(&start);
        for (from, to) in [(start, at), (end, start + size)] {
            if from < to {
                self.free.insert(from, to - from);
            }
        }
        self.free_bytes -= len;
        Some(at)
    }

    /// Gives back what [`FreeList::take`] gave, once.
    pub(crate) fn give(&mut self, offset: usize, len: usize) {
        let (mut start, mut end) = (offset, offset + len);
        let after = self.free.range(offset..).next().map(|(&at, &size)| (at, size));
        let before = self.free.range(..offset).next_back().map(|(&at, &size)| (at, size));
        assert!(after.is_none_or(|(at, _)| at >= end), "freed twice: {offset}+{len}");
        assert!(before.is_none_or(|(at, size)| at + size <= start), "freed twice: {offset}+{len}");
        if let Some((at, size)) = after
            && at == end
        {
            self.free.remove(&at);
            end += size;
        }
        if let Some((at, size)) = before
            && at + size == start
        {
            start = at;
        }
        self.free.insert(start, end - start);
        self.free_bytes += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 1 << 20;

    /// What must hold after every step.
    fn check(list: &FreeList, taken: &[(usize, usize)]) {
        let used: usize = taken.iter().map(|&(_, len)| len).sum();
        assert_eq!(list.free_bytes(), SIZE - used);
        let mut end_of_last = None;
        for (&start, &len) in &list.free {
            assert!(len > 0);
            assert_ne!(end_of_last, Some(start), "neighbours were not joined");
            assert!(end_of_last.is_none_or(|end| end < start));
            end_of_last = Some(start + len);
        }
        let mut all: Vec<_> = taken.to_vec();
        all.extend(list.free.iter().map(|(&start, &len)| (start, len)));
        all.sort_unstable();
        let mut at = 0;
        for (start, len) in all {
            assert_eq!(start, at, "a gap, or bytes that were given out twice");
            at += len;
        }
        assert_eq!(at, SIZE);
    }

    #[test]
    fn every_byte_is_free_or_taken_once_whatever_the_order() {
        for seed in 0..32 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let base = rng.u64(0..1 << 40) & !0xFFF;
            let mut list = FreeList::new(SIZE);
            let mut taken: Vec<(usize, usize)> = Vec::new();
            for _ in 0..400 {
                if taken.is_empty() || rng.u32(0..100) < 55 {
                    let len = rng.usize(1..SIZE / 12);
                    let align = 1 << rng.u32(0..18);
                    let largest = list.largest();
                    match list.take(base, len, align) {
                        Some(at) => {
                            assert!((base + at as u64).is_multiple_of(align as u64));
                            taken.push((at, len));
                        }
                        // Never refused where it fits whatever the alignment.
                        None => assert!(largest < len + align, "{largest} {len} {align}"),
                    }
                } else {
                    let (at, len) = taken.swap_remove(rng.usize(..taken.len()));
                    list.give(at, len);
                }
                check(&list, &taken);
            }
            for (at, len) in taken.drain(..) {
                list.give(at, len);
            }
            assert_eq!(list.largest(), SIZE);
        }
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn giving_back_twice_is_found_out() {
        let mut list = FreeList::new(4096);
        let at = list.take(0, 256, 1).unwrap();
        list.give(at, 256);
        list.give(at, 256);
    }
}
