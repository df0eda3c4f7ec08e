//! Data pointers: PRP entries and lists (Base, section 4.1.1), SGLs (Base, section 4.1.2).

use gcos_hw::{DmaSlice, OutOfBounds, PAGE_BYTES};
use gcos_layout::nvme::{DataPointer, SglDescriptor};

const PAGE: u64 = PAGE_BYTES as u64;

/// PRP entries in a page of a list.
const ENTRIES_PER_PAGE: usize = PAGE_BYTES / 8;

/// A place in a list of segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Position {
    /// Index of the segment.
    pub(crate) segment: usize,
    /// Bytes into it.
    pub(crate) offset: usize,
}

impl Position {
    /// `bytes` further on.
    pub(crate) fn advance(mut self, segments: &[DmaSlice], bytes: usize) -> Self {
        self.offset += bytes;
        while let Some(segment) = segments.get(self.segment)
            && self.offset >= segment.len()
        {
            self.offset -= segment.len();
            self.segment += 1;
        }
        self
    }
}

/// The contiguous pieces of `left` bytes of segments: I/O virtual address and length. Neighbours in
/// address are joined.
#[derive(Debug, Clone)]
pub(crate) struct Fragments<'a> {
    segments: &'a [DmaSlice],
    at: Position,
    left: usize,
}

impl<'a> Fragments<'a> {
    pub(crate) fn new(segments: &'a [DmaSlice], at: Position, bytes: usize) -> Self {
        Self { segments, at, left: bytes }
    }

    /// The rest of the current segment, as far as wanted.
    fn piece(&self) -> Option<(u64, usize)> {
        let segment = self.segments.get(self.at.segment)?;
        let len = (segment.len() - self.at.offset).min(self.left);
        Some((segment.iova() + self.at.offset as u64, len))
    }

    fn skip_piece(&mut self, len: usize) {
        self.left -= len;
        self.at = self.at.advance(self.segments, len);
    }
}

impl Iterator for Fragments<'_> {
    type Item = (u64, usize);

    #[inline]
    fn next(&mut self) -> Option<(u64, usize)> {
        if self.left == 0 {
            return None;
        }
        let (iova, mut len) = self.piece()?;
        self.skip_piece(len);
        while self.left > 0
            && let Some((next, more)) = self.piece()
            && next == iova + len as u64
        {
            self.skip_piece(more);
            len += more;
        }
        Some((iova, len))
    }
}

/// Memory for the PRP list or SGL segment of one command: contiguous whole pages.
#[derive(Debug, Clone)]
pub(crate) struct ListArea<'a> {
    memory: &'a DmaSlice,
    offset: usize,
    bytes: usize,
}

impl<'a> ListArea<'a> {
    pub(crate) fn new(memory: &'a DmaSlice, offset: usize, bytes: usize) -> Self {
        Self { memory, offset, bytes }
    }

    pub(crate) fn iova(&self) -> u64 {
        self.memory.iova() + self.offset as u64
    }

    /// Copies `bytes` to `offset` of the area.
    #[inline]
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), OutOfBounds> {
        if offset + bytes.len() > self.bytes {
            return Err(OutOfBounds { offset, len: bytes.len(), size: self.bytes });
        }
        self.memory.write(self.offset + offset, bytes)
    }
}

/// Pages of list that a transfer of `bytes` can need, from any offset.
pub(crate) fn list_pages(bytes: usize) -> usize {
    // Entries after PRP1; every page but the last gives one entry to the chain.
    let entries = bytes.div_ceil(PAGE_BYTES);
    let chained = entries.saturating_sub(1).div_ceil(ENTRIES_PER_PAGE - 1);
    if entries <= ENTRIES_PER_PAGE { 1 } else { chained }
}

/// Whether PRP entries can express the fragments: all but the first begin on a page boundary, all
/// but the last end on one.
#[inline]
pub(crate) fn prp_can_express(fragments: Fragments<'_>) -> bool {
    let mut aligned_end = true;
    for (index, (iova, len)) in fragments.enumerate() {
        if index > 0 && (!aligned_end || iova % PAGE != 0) {
            return false;
        }
        aligned_end = (iova + len as u64).is_multiple_of(PAGE);
    }
    true
}

/// Pages that a fragment touches.
fn pages((iova, len): (u64, usize)) -> usize {
    ((iova % PAGE) as usize + len).div_ceil(PAGE_BYTES)
}

/// The PRP entries of fragments that [`prp_can_express`], with a list in `area` where two entries do
/// not suffice.
///
/// # Errors
/// [`OutOfBounds`] when the list does not fit the area.
pub(crate) fn build_prp(
    fragments: Fragments<'_>,
    area: &ListArea<'_>,
) -> Result<DataPointer, OutOfBounds> {
    let total: usize = fragments.clone().map(pages).sum();
    let mut entries = fragments.flat_map(|(iova, len)| {
        let first = iova - iova % PAGE;
        (0..pages((iova, len)) as u64).map(move |n| (first + n * PAGE).max(iova))
    });
    let prp1 = entries.next().unwrap_or(0);
    let prp2 = match total {
        0 | 1 => 0,
        2 => entries.next().unwrap_or(0),
        _ => {
            write_list(entries, total - 1, area)?;
            area.iova()
        }
    };
    Ok(DataPointer::Prp { prp1, prp2 })
}

/// The PRP entries of one contiguous piece that touches at most two pages: what most small transfers
/// are, without the general walk.
#[inline]
pub(crate) fn build_short_prp(mut fragments: Fragments<'_>) -> Option<DataPointer> {
    let (prp1, len) = fragments.next()?;
    let pages = pages((prp1, len));
    if fragments.left > 0 || pages > 2 {
        return None;
    }
    let prp2 = if pages == 2 { prp1 - prp1 % PAGE + PAGE } else { 0 };
    Some(DataPointer::Prp { prp1, prp2 })
}

/// Writes `count` entries as a list. The last entry of a page that is not the last page is the
/// address of the next page.
fn write_list(
    entries: impl Iterator<Item = u64>,
    count: usize,
    area: &ListArea<'_>,
) -> Result<(), OutOfBounds> {
    let mut at = 0;
    for (index, entry) in entries.enumerate() {
        let last_in_page = at % ENTRIES_PER_PAGE == ENTRIES_PER_PAGE - 1;
        if last_in_page && index + 1 < count {
            let next = area.iova() + (at as u64 + 1) * 8;
            area.write(at * 8, &next.to_le_bytes())?;
            at += 1;
        }
        area.write(at * 8, &entry.to_le_bytes())?;
        at += 1;
    }
    Ok(())
}

/// The SGL of any fragments: one data block in the command, or one last segment in `area`. `None`
/// when the area has no room for so many descriptors.
pub(crate) fn build_sgl(fragments: Fragments<'_>, area: &ListArea<'_>) -> Option<DataPointer> {
    let count = fragments.clone().count();
    let mut descriptors = fragments.map(|(iova, len)| SglDescriptor::data(iova, len as u32));
    if count == 1 {
        return descriptors.next().map(DataPointer::Sgl);
    }
    for (index, descriptor) in descriptors.enumerate() {
        area.write(index * SglDescriptor::BYTES, &descriptor.to_bytes()).ok()?;
    }
    Some(DataPointer::Sgl(SglDescriptor::segment(area.iova(), count as u32, true)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_device::space;
    use gcos_hw::DmaBuffer;

    /// The pages that a PRP pointer names, as a controller would walk them.
    fn walk(pointer: DataPointer, pages: usize, lists: &DmaBuffer) -> Vec<u64> {
        let DataPointer::Prp { prp1, prp2 } = pointer else { panic!("{pointer:?}") };
        let slice = lists.as_dma();
        let mut out = vec![prp1];
        match pages {
            1 => assert_eq!(prp2, 0),
            2 => out.push(prp2),
            _ => {
                let mut at = (prp2 - slice.iova()) as usize;
                while out.len() < pages {
                    let mut word = [0; 8];
                    slice.read(at, &mut word).unwrap();
                    let entry = u64::from_le_bytes(word);
                    if at % PAGE_BYTES == PAGE_BYTES - 8 && out.len() + 1 < pages {
                        at = (entry - slice.iova()) as usize;
                    } else {
                        out.push(entry);
                        at += 8;
                    }
                }
            }
        }
        out
    }

    #[test]
    fn every_length_and_offset_gives_the_pages_it_touches() {
        let space = space();
        let data = space.alloc(1100 * PAGE_BYTES).unwrap();
        let bytes = 1030 * PAGE_BYTES;
        let lists = space.alloc(list_pages(bytes) * PAGE_BYTES).unwrap();
        let list_slice = lists.as_dma();
        let area = ListArea::new(&list_slice, 0, list_slice.len());
        for pages in [1, 2, 3, 4, 511, 512, 513, 514, 515, 1023, 1024, 1025, 1030] {
            for offset in [0, 4, 512, 4092] {
                let len = (pages * PAGE_BYTES - offset).min(bytes);
                let segment = [data.slice(offset, len).unwrap()];
                let fragments = Fragments::new(&segment, Position::default(), len);
                assert!(prp_can_express(fragments.clone()));
                let base = data.as_dma().iova();
                let expected: Vec<u64> = (0..pages as u64)
                    .map(|n| if n == 0 { base + offset as u64 } else { base + n * PAGE })
                    .collect();
                let short = build_short_prp(fragments.clone());
                let pointer = build_prp(fragments, &area).unwrap();
                assert_eq!(short, (pages <= 2).then_some(pointer));
                assert_eq!(walk(pointer, pages, &lists), expected, "{pages} pages from {offset}");
            }
        }
    }

    #[test]
    fn a_list_that_does_not_fit_is_an_error_and_not_an_overrun() {
        let space = space();
        let data = space.alloc(600 * PAGE_BYTES).unwrap();
        let lists = space.alloc(PAGE_BYTES).unwrap().as_dma();
        let area = ListArea::new(&lists, 0, PAGE_BYTES);
        let segment = [data.as_dma()];
        let fragments = Fragments::new(&segment, Position::default(), 600 * PAGE_BYTES);
        assert!(build_prp(fragments, &area).is_err());
    }

    #[test]
    fn interior_boundaries_off_a_page_are_left_to_others() {
        let space = space();
        let data = space.alloc(8 * PAGE_BYTES).unwrap();
        let express = |pieces: &[(usize, usize)]| {
            let slices: Vec<_> =
                pieces.iter().map(|&(at, len)| data.slice(at, len).unwrap()).collect();
            let bytes = pieces.iter().map(|p| p.1).sum();
            prp_can_express(Fragments::new(&slices, Position::default(), bytes))
        };
        assert!(express(&[(4, 4092), (8192, 4096), (20_480, 100)]));
        assert!(express(&[(100, 50), (150, 900)]), "neighbours are one fragment");
        assert!(!express(&[(0, 512), (8192, 512)]), "ends within a page");
        assert!(!express(&[(0, 4096), (8196, 512)]), "begins within a page");
    }

    #[test]
    fn positions_skip_whole_segments_and_empty_ones() {
        let space = space();
        let data = space.alloc(PAGE_BYTES).unwrap();
        let slices: Vec<_> = [10, 0, 20].iter().map(|&len| data.slice(0, len).unwrap()).collect();
        let at = Position::default().advance(&slices, 10);
        assert_eq!(at, Position { segment: 2, offset: 0 });
        assert_eq!(at.advance(&slices, 20).segment, 3);
    }

    #[test]
    fn an_sgl_names_every_fragment_or_gives_up() {
        let space = space();
        let data = space.alloc(8 * PAGE_BYTES).unwrap();
        let lists = space.alloc(PAGE_BYTES).unwrap().as_dma();
        let area = ListArea::new(&lists, 0, 32);
        let slices: Vec<_> = (0..3).map(|i| data.slice(i * 8192, 512).unwrap()).collect();
        let two = Fragments::new(&slices, Position::default(), 1024);
        let expected = SglDescriptor::segment(lists.iova(), 2, true);
        assert_eq!(build_sgl(two, &area), Some(DataPointer::Sgl(expected)));
        let mut second = [0; 16];
        lists.read(16, &mut second).unwrap();
        let expected = SglDescriptor::data(data.as_dma().iova() + 8192, 512);
        assert_eq!(SglDescriptor::from_bytes(&second), expected);
        assert_eq!(build_sgl(Fragments::new(&slices, Position::default(), 1536), &area), None);
    }
}
