//! A request, cut into what is handed to the kernel one by one.

use gcos_hw::{DmaSlice, OutOfBounds};
use smallvec::SmallVec;

use crate::{Extent, Request};

/// Most bytes of one transfer. The kernel cuts it further as the device likes; larger ones win nothing
/// and make others wait.
pub(super) const MAX_TRANSFER: usize = 8 << 20;

/// A range of the target and the memory for it.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) extent: Extent,
    pub(super) memory: SmallVec<[DmaSlice; 2]>,
}

/// What the kernel takes without a copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Addresses are multiples of this, in bytes.
    pub(super) memory_align: usize,
    /// Lengths of elements are multiples of this, in bytes.
    pub(super) length_align: usize,
}

impl Rules {
    /// Whether a piece can go without a copy. Memory of another device never: the kernel has no pages
    /// for it.
    pub(super) fn allow(self, piece: &Piece) -> bool {
        piece.memory.iter().all(|slice| {
            let (memory, offset) = slice.memory();
            !memory.is_foreign()
                && (memory.address() + offset).is_multiple_of(self.memory_align)
                && slice.len().is_multiple_of(self.length_align)
        })
    }
}

/// Cuts a read or a write. The request has been checked.
pub(super) fn pieces(request: &Request) -> Result<Vec<Piece>, OutOfBounds> {
    let mut pieces = Vec::with_capacity(request.extents.len());
    let mut segments = request.segments.iter().filter(|segment| !segment.is_empty());
    let mut rest: Option<DmaSlice> = None;
    for extent in cut(&request.extents) {
        let mut memory = SmallVec::new();
        let mut missing = extent.len as usize;
        while missing > 0 {
            let Some(segment) = rest.take().or_else(|| segments.next().cloned()) else { break };
            let take = segment.len().min(missing);
            missing -= take;
            if take < segment.len() {
                rest = Some(segment.slice(take, segment.len() - take)?);
                memory.push(segment.slice(0, take)?);
            } else {
                memory.push(segment);
            }
        }
        pieces.push(Piece { extent, memory });
    }
    Ok(pieces)
}

/// Extents in parts of at most [`MAX_TRANSFER`] bytes.
fn cut(extents: &[Extent]) -> impl Iterator<Item = Extent> + '_ {
    extents.iter().flat_map(|&Extent { offset, len }| {
        (0..len)
            .step_by(MAX_TRANSFER)
            .map(move |at| Extent { offset: offset + at, len: (len - at).min(MAX_TRANSFER as u64) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;
    use gcos_hw::kernel::host_space;
    use std::time::Duration;

    #[test]
    fn pieces_follow_the_extents_and_take_the_segments_in_order() {
        let buffer = host_space().unwrap().alloc(20 << 20).unwrap();
        let big = MAX_TRANSFER as u64 + 8192;
        let extents = [Extent { offset: 4096, len: big }, Extent { offset: 1 << 30, len: 4096 }];
        let lens = [100, 4000, MAX_TRANSFER, 0, 8192 - 4100 + 4096];
        let mut at = 0;
        let segments = lens.iter().map(|&len| {
            at += len;
            buffer.slice(at - len, len).unwrap()
        });
        let request = Request {
            op: Op::Read,
            extents: extents.into_iter().collect(),
            segments: segments.collect(),
            deadline: Duration::ZERO,
        };
        let pieces = pieces(&request).unwrap();
        let ranges: Vec<_> = pieces.iter().map(|p| (p.extent.offset, p.extent.len)).collect();
        let max = MAX_TRANSFER as u64;
        assert_eq!(ranges, [(4096, max), (4096 + max, 8192), (1 << 30, 4096)]);
        let lens = |i: usize| pieces[i].memory.iter().map(DmaSlice::len).collect::<Vec<_>>();
        assert_eq!(lens(0), [100, 4000, MAX_TRANSFER - 4100]);
        assert_eq!(lens(1), [4100, 8192 - 4100]);
        assert_eq!(lens(2), [4096]);
        let starts: Vec<_> =
            pieces.iter().flat_map(|p| &p.memory).map(|m| (m.memory().1, m.len())).collect();
        assert!(starts.windows(2).all(|pair| pair[0].0 + pair[0].1 == pair[1].0), "{starts:?}");
    }

    #[test]
    fn what_is_off_the_block_is_not_allowed() {
        let buffer = host_space().unwrap().alloc(1 << 16).unwrap();
        let rules = Rules { memory_align: 512, length_align: 4096 };
        let allowed = |at, len| {
            let extent = Extent { offset: 0, len: len as u64 };
            let memory = std::iter::once(buffer.slice(at, len).unwrap()).collect();
            rules.allow(&Piece { extent, memory })
        };
        assert!(allowed(0, 4096) && allowed(512, 8192));
        assert!(!allowed(256, 4096) && !allowed(0, 512));
    }
}
