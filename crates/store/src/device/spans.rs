//! Segments of memory as one run of bytes, by numbers only.

use smallvec::SmallVec;

/// Controllers take addresses and lengths in multiples of this.
const DWORD: u64 = 4;
const PAGE: u64 = 4096;

/// Bytes of one of several memories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bytes {
    /// Which memory.
    pub(super) memory: usize,
    /// Offset of the first byte in it.
    pub(super) offset: u64,
    /// Length.
    pub(super) len: u64,
}

/// Memory that drives reach without a copy.
#[derive(Debug)]
pub(super) struct Direct {
    pub(super) parts: Parts,
    /// Whether it is whole pages.
    pub(super) paged: bool,
}

/// Memory that one request moves.
pub(super) type Parts = SmallVec<[Bytes; 2]>;

/// One memory of several that make up a payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// Which memory.
    pub(super) memory: usize,
    /// Its length in bytes.
    pub(super) len: u64,
    /// I/O virtual address, if drives reach it.
    pub(super) iova: Option<u64>,
}

/// Memories in order, as one run of bytes.
#[derive(Debug, Default)]
pub(super) struct Spans {
    spans: Vec<Span>,
    /// Where each begins.
    starts: Vec<u64>,
    len: u64,
}

impl Spans {
    pub(super) fn new(spans: impl IntoIterator<Item = Span>) -> Self {
        let mut all = Self::default();
        for span in spans.into_iter().filter(|span| span.len > 0) {
            all.starts.push(all.len);
            all.len += span.len;
            all.spans.push(span);
        }
        all
    }

    /// Length of all.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// `len` bytes from `offset` on; fewer where they end.
    pub(super) fn cut(&self, offset: u64, len: u64) -> Parts {
        self.pieces(offset, len).map(|(bytes, _)| bytes).collect()
    }

    /// The same, if drives reach all of it without a copy.
    pub(super) fn direct(&self, offset: u64, len: u64) -> Option<Direct> {
        let mut direct = Direct { parts: Parts::new(), paged: true };
        for (bytes, iova) in self.pieces(offset, len) {
            let bits = iova? | bytes.len;
            if !bits.is_multiple_of(DWORD) {
                return None;
            }
            direct.paged &= bits.is_multiple_of(PAGE);
            direct.parts.push(bytes);
        }
        Some(direct)
    }

    fn pieces(&self, offset: u64, len: u64) -> impl Iterator<Item = (Bytes, Option<u64>)> {
        let first = self.starts.partition_point(|&start| start <= offset).saturating_sub(1);
        let end = offset.saturating_add(len).min(self.len);
        let spans = self.spans.iter().zip(&self.starts).skip(first);
        spans.take_while(move |(_, start)| **start < end).filter_map(move |(span, &start)| {
            let (from, to) = (offset.max(start), end.min(start + span.len));
            let at = from - start;
            let bytes = Bytes { memory: span.memory, offset: at, len: to.saturating_sub(from) };
            (from < to).then_some((bytes, span.iova.map(|iova| iova + at)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans() -> Spans {
        let span = |memory, len, iova| Span { memory, len, iova };
        Spans::new([
            span(4, 4096, Some(0x1000)),
            span(5, 0, None),
            span(6, 100, Some(0x4000)),
            span(7, 50, None),
            span(8, 6, Some(0x8002)),
        ])
    }

    #[test]
    fn cuts_are_found_wherever_they_begin_and_end() {
        let spans = spans();
        assert_eq!(spans.len(), 4252);
        for from in 0..spans.len() {
            for len in [0, 1, 7, 100, 151, 5000] {
                let cut = spans.cut(from, len);
                let sum: u64 = cut.iter().map(|bytes| bytes.len).sum();
                assert_eq!(sum, len.min(spans.len() - from), "{from} {len}");
                assert!(cut.iter().all(|bytes| bytes.len > 0));
            }
        }
        let bytes = |memory, offset, len| Bytes { memory, offset, len };
        assert_eq!(
            spans.cut(4090, 160).as_slice(),
            [bytes(4, 4090, 6), bytes(6, 0, 100), bytes(7, 0, 50), bytes(8, 0, 4)]
        );
    }

    #[test]
    fn only_dwords_that_drives_reach_are_direct_and_only_pages_are_paged() {
        let spans = spans();
        assert!(spans.direct(0, 4096).unwrap().paged);
        assert!(!spans.direct(4, 4096).unwrap().paged);
        assert!(spans.direct(2, 4).is_none(), "not at a multiple of 4");
        assert!(spans.direct(4096, 101).is_none(), "ends where no drive reaches");
        assert!(spans.direct(4246, 4).is_none(), "memory that begins between dwords");
        assert!(spans.direct(0, 0).unwrap().parts.is_empty());
    }
}
