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
