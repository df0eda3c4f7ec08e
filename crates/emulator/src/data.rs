//! Data pointers of commands: PRP lists and SGLs become pieces of mapped memory.

use gcos_layout::nvme::{DataPointer, SglDescriptor, SglKind, Sqe, Status};

use crate::table::{IovaTable, Unmapped};
use crate::transfer::Transfer;

/// PRP entries or SGL descriptors read at a time.
const PRP_CHUNK: usize = 512;
const SGL_CHUNK: usize = 256;
/// Descriptors that one SGL may have; more are an error, so that a loop of segments ends.
const SGL_LIMIT: usize = 1 << 16;

impl From<Unmapped> for Status {
    /// An access that the address table refuses ends the command (Base, Figure 94).
    fn from(_: Unmapped) -> Self {
        Status::DATA_TRANSFER_ERROR
    }
}

/// How a controller reads data pointers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walk<'a> {
    pub(crate) table: &'a IovaTable,
    /// Memory page size (CC.MPS) in bytes.
    pub(crate) page: u64,
    /// Whether SGLs are accepted.
    pub(crate) sgl: bool,
}

impl Walk<'_> {
    /// Adds the memory of a command with `len` bytes of data. Nothing of it is touched here, so a
    /// command that fails has changed nothing.
    pub(crate) fn map(&self, sqe: &Sqe, len: usize, out: &mut Transfer) -> Result<(), Status> {
        out.clear();
        match sqe.data_pointer() {
            Some(DataPointer::Prp { prp1, prp2 }) => self.prps(prp1, prp2, len, out),
            Some(DataPointer::Sgl(first)) if self.sgl => self.sgls(first, len, out),
            _ => Err(Status::INVALID_FIELD.with_dnr(true)),
        }
    }

    /// PRP entries (Base, section 4.1.1).
    fn prps(&self, prp1: u64, prp2: u64, len: usize, out: &mut Transfer) -> Result<(), Status> {
        let page = self.page as usize;
        if !prp1.is_multiple_of(4) {
            return Err(invalid_offset());
        }
        let first = len.min(page - (prp1 % self.page) as usize);
        self.table.pin(prp1, first, out)?;
        match len - first {
            0 => Ok(()),
            left if left <= page => self.page_entry(prp2, left, out),
            left => self.prp_list(prp2, left, out),
        }
    }

    fn page_entry(&self, entry: u64, len: usize, out: &mut Transfer) -> Result<(), Status> {
        if !entry.is_multiple_of(self.page) {
            return Err(invalid_offset());
        }
        Ok(self.table.pin(entry, len, out)?)
    }

    /// A PRP list; where data is left beyond a list page, the page's last entry points at the next.
    fn prp_list(&self, mut list: u64, mut left: usize, out: &mut Transfer) -> Result<(), Status> {
        let page = self.page as usize;
        if !list.is_multiple_of(8) {
            return Err(invalid_offset());
        }
        let mut buffer = [0; PRP_CHUNK * 8];
        while left > 0 {
            let room = (page - (list % self.page) as usize) / 8;
            let take = left.div_ceil(page).min(room).min(PRP_CHUNK);
            let (entries, _) = buffer.split_at_mut(take * 8);
            self.table.read(list, entries)?;
            list += entries.len() as u64;
            let is_end_of_page = take == room;
            for (index, entry) in entries.as_chunks::<8>().0.iter().enumerate() {
                let entry = u64::from_le_bytes(*entry);
                if is_end_of_page && index + 1 == take && left > page {
                    if !entry.is_multiple_of(self.page) {
                        return Err(invalid_offset());
                    }
                    list = entry;
                    break;
                }
                let part = left.min(page);
                self.page_entry(entry, part, out)?;
                left -= part;
            }
        }
        Ok(())
    }

    /// Scatter gather lists (Base, section 4.1.2).
    fn sgls(&self, first: SglDescriptor, len: usize, out: &mut Transfer) -> Result<(), Status> {
        let mut left = len;
        let mut next = self.descriptor(first, &mut left, out)?;
        let mut seen = 0;
        while let Some(segment) = next.take() {
            let count = segment.length as usize / SglDescriptor::BYTES;
            seen += count;
            if count == 0 || !(segment.length as usize).is_multiple_of(SglDescriptor::BYTES) {
                return Err(Status::INVALID_SGL_SEGMENT.with_dnr(true));
            }
            if seen > SGL_LIMIT {
                return Err(Status::INVALID_SGL_COUNT.with_dnr(true));
            }
            next = self.segment(segment, count, &mut left, out)?;
        }
        if left == 0 { Ok(()) } else { Err(Status::INVALID_SGL_DATA_LENGTH.with_dnr(true)) }
    }

    /// One segment: data descriptors, and as the last one of a segment that is not the last segment
    /// a pointer to the next.
    fn segment(
        &self,
        segment: SglDescriptor,
        count: usize,
        left: &mut usize,
        out: &mut Transfer,
    ) -> Result<Option<SglDescriptor>, Status> {
        let is_last = segment.kind == SglKind::LastSegment;
        let mut buffer = [0; SGL_CHUNK * SglDescriptor::BYTES];
        let mut done = 0;
        while done < count {
            let take = (count - done).min(SGL_CHUNK);
            let (bytes, _) = buffer.split_at_mut(take * SglDescriptor::BYTES);
            self.table.read(segment.address + (done * SglDescriptor::BYTES) as u64, bytes)?;
            for (index, raw) in bytes.as_chunks::<{ SglDescriptor::BYTES }>().0.iter().enumerate() {
                let descriptor = SglDescriptor::from_bytes(raw);
                let at_end = done + index + 1 == count;
                match self.descriptor(descriptor, left, out)? {
                    None if at_end && !is_last => {
                        return Err(Status::INVALID_SGL_SEGMENT.with_dnr(true));
                    }
                    None => {}
                    Some(next) if at_end && !is_last => return Ok(Some(next)),
                    Some(_) => return Err(Status::INVALID_SGL_SEGMENT.with_dnr(true)),
                }
            }
            done += take;
        }
        Ok(None)
    }

    /// One descriptor: data is added, a segment is handed back.
    fn descriptor(
        &self,
        descriptor: SglDescriptor,
        left: &mut usize,
        out: &mut Transfer,
    ) -> Result<Option<SglDescriptor>, Status> {
        if descriptor.subtype != 0 {
            return Err(Status::INVALID_SGL_TYPE.with_dnr(true));
        }
        match descriptor.kind {
            SglKind::DataBlock => {
                let len = descriptor.length as usize;
                *left =
                    left.checked_sub(len).ok_or(Status::INVALID_SGL_DATA_LENGTH.with_dnr(true))?;
                if len > 0 {
                    self.table.pin(descriptor.address, len, out)?;
                }
                Ok(None)
            }
            SglKind::Segment | SglKind::LastSegment => Ok(Some(descriptor)),
            SglKind::BitBucket | SglKind::Other(_) => Err(Status::INVALID_SGL_TYPE.with_dnr(true)),
        }
    }
}

fn invalid_offset() -> Status {
    Status::INVALID_PRP_OFFSET.with_dnr(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gcos_hw::{DmaMapper, SharedMemory};
    use std::sync::Arc;

    const BASE: u64 = 0x100_0000;
    const PAGE: usize = 4096;

    struct Bed {
        table: Arc<IovaTable>,
        memory: Arc<SharedMemory>,
    }

    impl Bed {
        fn new(pages: usize) -> Self {
            let table = IovaTable::new();
            let memory = Arc::new(SharedMemory::anonymous(pages * PAGE).unwrap());
            table.map(BASE, &memory).unwrap();
            Self { table, memory }
        }

        fn page(index: u64) -> u64 {
            BASE + index * PAGE as u64
        }

        fn put(&self, at: usize, values: impl IntoIterator<Item = u64>) {
            for (index, value) in values.into_iter().enumerate() {
                self.memory.write(at + index * 8, &value.to_le_bytes()).unwrap();
            }
        }

        fn map(&self, data: DataPointer, len: usize) -> Result<Vec<(usize, usize)>, Status> {
            let walk = Walk { table: &self.table, page: PAGE as u64, sgl: true };
            let mut out = Transfer::default();
            walk.map(&Sqe::new(1, 1).with_data_pointer(data), len, &mut out)
                .map_err(Status::code)?;
            assert_eq!(out.len(), len);
            Ok(out.pieces().map(|(_, offset, len)| (offset, len)).collect())
        }

        fn prp(&self, prp1: u64, prp2: u64, len: usize) -> Result<Vec<(usize, usize)>, Status> {
            self.map(DataPointer::Prp { prp1, prp2 }, len)
        }
    }

    #[test]
    fn one_and_two_pages_need_no_list() {
        let bed = Bed::new(8);
        assert_eq!(bed.prp(BASE + 512, 0, 512), Ok(vec![(512, 512)]));
        let two = bed.prp(BASE + 4096 - 512, Bed::page(4), 4096);
        assert_eq!(two, Ok(vec![(4096 - 512, 512), (4 * 4096, 4096 - 512)]));
    }

    #[test]
    fn offsets_are_allowed_in_the_first_entry_only() {
        let bed = Bed::new(8);
        assert_eq!(bed.prp(BASE + 2, 0, 512), Err(Status::INVALID_PRP_OFFSET));
        assert_eq!(bed.prp(BASE, BASE + 8, 8192), Err(Status::INVALID_PRP_OFFSET));
        assert_eq!(bed.prp(BASE, BASE + 4, 4 * 4096), Err(Status::INVALID_PRP_OFFSET));
        bed.put(0, [Bed::page(3), Bed::page(4) + 512, Bed::page(5)]);
        assert_eq!(bed.prp(Bed::page(1), BASE, 4 * 4096), Err(Status::INVALID_PRP_OFFSET));
    }

    #[test]
    fn lists_are_chained_through_the_last_entry_of_a_page() {
        let pages = 700;
        let bed = Bed::new(pages + 2);
        // The list starts late in page 0, so that 2 entries and a chain pointer fit.
        let late = PAGE - 3 * 8;
        bed.put(late, [Bed::page(3), Bed::page(4), Bed::page(1)]);
        // Page 1: 511 entries and a chain pointer, which goes to page 2.
        bed.put(PAGE, (5..5 + 511).map(Bed::page).chain([Bed::page(2)]));
        bed.put(2 * PAGE, (516..700).map(Bed::page));
        let len = (1 + 2 + 511 + 184) * PAGE;
        let mapped = bed.prp(Bed::page(700), BASE + late as u64, len);
        assert_eq!(mapped, Ok(vec![(700 * PAGE, PAGE), (3 * PAGE, len - PAGE)]));
    }

    #[test]
    fn a_list_that_exactly_fills_its_page_has_no_chain_pointer() {
        let bed = Bed::new(600);
        bed.put(0, (2..2 + 512).map(Bed::page));
        let mapped = bed.prp(Bed::page(1), BASE, 513 * PAGE);
        assert_eq!(mapped, Ok(vec![(PAGE, 513 * PAGE)]));
        bed.put(511 * 8, [Bed::page(1) + 8]);
        assert_eq!(bed.prp(Bed::page(1), BASE, 514 * PAGE), Err(Status::INVALID_PRP_OFFSET));
    }

    #[test]
    fn unmapped_data_and_lists_are_transfer_errors() {
        let bed = Bed::new(4);
        let end = Bed::page(4);
        assert_eq!(bed.prp(end - 512, 0, 512), Ok(vec![(4 * PAGE - 512, 512)]));
        assert_eq!(bed.prp(end, 0, 512), Err(Status::DATA_TRANSFER_ERROR));
        assert_eq!(bed.prp(BASE, end, 3 * PAGE), Err(Status::DATA_TRANSFER_ERROR));
        bed.put(0, [Bed::page(1), end]);
        assert_eq!(bed.prp(Bed::page(2), BASE, 3 * PAGE), Err(Status::DATA_TRANSFER_ERROR));
    }

    fn put_sgl(bed: &Bed, at: usize, descriptors: &[SglDescriptor]) {
        for (index, descriptor) in descriptors.iter().enumerate() {
            bed.memory.write(at + index * 16, &descriptor.to_bytes()).unwrap();
        }
    }

    #[test]
    fn sgl_segments_are_followed_to_the_last() {
        let bed = Bed::new(8);
        let data = SglDescriptor::data;
        let last = SglDescriptor::segment(Bed::page(1), 2, true);
        put_sgl(&bed, 0, &[data(Bed::page(2) + 1, 100), last]);
        put_sgl(&bed, PAGE, &[data(Bed::page(3), 12), data(Bed::page(3) + 12, 400)]);
        let first = SglDescriptor::segment(BASE, 2, false);
        let mapped = bed.map(DataPointer::Sgl(first), 512);
        assert_eq!(mapped, Ok(vec![(2 * PAGE + 1, 100), (3 * PAGE, 412)]));
        let single = data(Bed::page(5), 512);
        assert_eq!(bed.map(DataPointer::Sgl(single), 512), Ok(vec![(5 * PAGE, 512)]));
    }

    #[test]
    fn broken_sgls_have_their_own_statuses() {
        let bed = Bed::new(8);
        let data = SglDescriptor::data;
        let run = |first: SglDescriptor| bed.map(DataPointer::Sgl(first), 512).unwrap_err();
        assert_eq!(run(data(BASE, 511)), Status::INVALID_SGL_DATA_LENGTH);
        assert_eq!(run(data(BASE, 513)), Status::INVALID_SGL_DATA_LENGTH);
        assert_eq!(run(data(Bed::page(8) - 511, 512)), Status::DATA_TRANSFER_ERROR);
        assert_eq!(run(SglDescriptor { subtype: 1, ..data(BASE, 512) }), Status::INVALID_SGL_TYPE);
        let bucket = SglDescriptor { kind: SglKind::BitBucket, ..data(0, 512) };
        assert_eq!(run(bucket), Status::INVALID_SGL_TYPE);
        let short = SglDescriptor { length: 24, ..SglDescriptor::segment(BASE, 1, true) };
        assert_eq!(run(short), Status::INVALID_SGL_SEGMENT);
        let unmapped = SglDescriptor::segment(Bed::page(8), 1, true);
        assert_eq!(run(unmapped), Status::DATA_TRANSFER_ERROR);
        // A segment inside a last segment, and a segment that names no next one.
        put_sgl(&bed, 0, &[SglDescriptor::segment(BASE, 1, true)]);
        assert_eq!(run(SglDescriptor::segment(BASE, 1, true)), Status::INVALID_SGL_SEGMENT);
        put_sgl(&bed, 0, &[data(BASE, 512)]);
        assert_eq!(run(SglDescriptor::segment(BASE, 1, false)), Status::INVALID_SGL_SEGMENT);
        // A segment that points at itself for ever.
        put_sgl(&bed, 0, &[SglDescriptor::segment(BASE, 1, false)]);
        assert_eq!(run(SglDescriptor::segment(BASE, 1, false)), Status::INVALID_SGL_COUNT);
    }
}
