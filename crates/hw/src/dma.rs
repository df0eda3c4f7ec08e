use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::{HwError, OutOfBounds, PAGE_BYTES, SharedMemory};

/// Large page of IOMMUs on x86-64 and aarch64, in bytes.
const LARGE_PAGE_BYTES: usize = 2 << 20;

/// Makes memory reachable by devices at an I/O virtual address.
///
/// Implemented by the software controller's IOVA table and by VFIO containers. Several controllers
/// may share one mapper, and then all reach the same memory at the same addresses.
pub trait DmaMapper: Send + Sync + fmt::Debug {
    /// The memory for a new buffer of `len` bytes that will be mapped at `iova`: anonymous, unless the
    /// devices behind this mapper reach other memory only.
    ///
    /// # Errors
    /// [`HwError`] when there is none.
    fn memory(&self, iova: u64, len: usize) -> Result<Arc<SharedMemory>, HwError> {
        let _ = iova;
        SharedMemory::anonymous(len).map(Arc::new)
    }

    /// Lets devices reach the whole of `memory` at `iova`, a multiple of the page size.
    ///
    /// # Errors
    /// [`HwError::Map`] or [`HwError::Os`]; nothing is mapped then.
    fn map(&self, iova: u64, memory: &Arc<SharedMemory>) -> Result<(), HwError>;

    /// Ends a mapping made by [`DmaMapper::map`] with the same address and length. When it returns
    /// no device reaches the memory any more.
    ///
    /// # Errors
    /// [`HwError::Map`] or [`HwError::Os`]; the memory must then be kept, since a device may still
    /// reach it.
    fn unmap(&self, iova: u64, len: usize) -> Result<(), HwError>;
}

/// An I/O virtual address space: hands out device-visible buffers.
#[derive(Debug)]
pub struct DmaSpace {
    mapper: Arc<dyn DmaMapper>,
    addresses: Mutex<Addresses>,
}

/// I/O virtual addresses.
#[derive(Debug, Default)]
struct Addresses {
    /// What may be handed out.
    usable: Vec<Range<u64>>,
    /// What of it is free: start → length, coalesced.
    free: BTreeMap<u64, u64>,
}

/// The parts of a range that lie in `usable`.
fn inside(range: Range<u64>, usable: &[Range<u64>]) -> impl Iterator<Item = Range<u64>> {
    let part = move |all: &Range<u64>| range.start.max(all.start)..range.end.min(all.end);
    usable.iter().map(part).filter(|part| !part.is_empty())
}

impl Addresses {
    /// Frees what is usable of a range.
    fn give(&mut self, range: Range<u64>) {
        for Range { mut start, mut end } in inside(range, &self.usable) {
            if let Some(after) = self.free.remove(&end) {
                end += after;
            }
            if let Some((&before, &size)) = self.free.range(..start).next_back()
                && before + size == start
            {
                start = before;
            }
            self.free.insert(start, end - start);
        }
    }
}

impl DmaSpace {
    /// A space over `usable` I/O virtual addresses (half-open, multiples of the page size).
    ///
    /// # Errors
    /// [`HwError::Invalid`] for a range that is empty or not page-aligned.
    pub fn new(mapper: Arc<dyn DmaMapper>, usable: &[Range<u64>]) -> Result<Arc<Self>, HwError> {
        let mut addresses = Addresses { usable: usable.to_vec(), ..Addresses::default() };
        for range in usable {
            let page = PAGE_BYTES as u64;
            if range.start >= range.end || range.start % page != 0 || range.end % page != 0 {
                return Err(HwError::Invalid {
                    what: "usable I/O virtual address range",
                    expected: "a non-empty range of whole 4 KiB pages",
                    got: range.start,
                });
            }
            addresses.free.insert(range.start, range.end - range.start);
        }
        Ok(Arc::new(Self { mapper, addresses: Mutex::new(addresses) }))
    }

    /// Allocates zeroed memory of `len` bytes (rounded up to pages) and maps it.
    ///
    /// # Errors
    /// [`HwError`] when memory or addresses run out or the mapping is refused.
    pub fn alloc(self: &Arc<Self>, len: usize) -> Result<DmaBuffer, HwError> {
        let rounded = len.checked_next_multiple_of(PAGE_BYTES).filter(|&n| n > 0);
        let rounded = rounded.ok_or(HwError::Invalid {
            what: "length of a DMA buffer",
            expected: "1 byte or more, below the address space",
            got: len as u64,
        })?;
        let iova = self.take_iova(rounded)?;
        match self.mapper.memory(iova, rounded) {
            Ok(memory) => self.map(iova, memory, len, false),
            Err(error) => {
                self.give_iova(iova, rounded);
                Err(error)
            }
        }
    }

    /// Maps memory that exists already, such as a window into a peer device's BAR, so that the devices
    /// of this space reach it. It is mapped until the buffer and every slice of it are gone, and the
    /// memory is kept alive for as long.
    ///
    /// # Errors
    /// [`HwError`] when addresses run out or the mapping is refused.
    pub fn adopt(self: &Arc<Self>, memory: Arc<SharedMemory>) -> Result<DmaBuffer, HwError> {
        let len = memory.len();
        let iova = self.take_iova(len)?;
        self.map(iova, memory, len, true)
    }

    fn map(
        self: &Arc<Self>,
        iova: u64,
        memory: Arc<SharedMemory>,
        len: usize,
        adopted: bool,
    ) -> Result<DmaBuffer, HwError> {
        if let Err(error) = self.mapper.map(iova, &memory) {
            self.give_iova(iova, memory.len());
            return Err(error);
        }
        let region = Region { memory, iova, adopted, space: Arc::clone(self) };
        Ok(DmaBuffer { region: Arc::new(region), len })
    }

    /// Gives up addresses outside `usable`, because a device that has joined does not reach them: those
    /// that are free at once, the others when their buffers are gone.
    pub fn restrict(&self, usable: &[Range<u64>]) {
        let mut addresses = self.addresses.lock();
        addresses.usable =
            addresses.usable.iter().flat_map(|range| inside(range.clone(), usable)).collect();
        for (start, size) in std::mem::take(&mut addresses.free) {
            addresses.give(start..start + size);
        }
    }

    /// First fit, with an unmapped page behind each mapping so that an overrun faults. Large memory
    /// begins at a multiple of 2 MiB where there is room, so that the IOMMU can use large pages for it.
    fn take_iova(&self, len: usize) -> Result<u64, HwError> {
        let need = len.saturating_add(PAGE_BYTES) as u64;
        let free = &mut self.addresses.lock().free;
        let alignments = if len >= LARGE_PAGE_BYTES {
            [LARGE_PAGE_BYTES as u64, PAGE_BYTES as u64].as_slice()
        } else {
            &[PAGE_BYTES as u64]
        };
        let fit = |alignment: u64| {
            free.iter().find_map(|(&start, &size)| {
                let at = start.checked_next_multiple_of(alignment)?;
                let end = at.checked_add(need)?;
                (end - start <= size).then_some((start, size, at, end))
            })
        };
        let Some((start, size, at, end)) = alignments.iter().find_map(|&n| fit(n)) else {
            return Err(HwError::IovaExhausted { len });
        };
        free.remove(&start);
        for (from, to) in [(start, at), (end, start + size)] {
            if from < to {
                free.insert(from, to - from);
            }
        }
        Ok(at)
    }

    fn give_iova(&self, iova: u64, len: usize) {
        self.addresses.lock().give(iova..iova + (len + PAGE_BYTES) as u64);
    }
}

/// Memory mapped at an I/O virtual address; unmapped, then freed, when the last user is gone.
#[derive(Debug)]
struct Region {
    memory: Arc<SharedMemory>,
    iova: u64,
    /// Whether others than the devices of this space may change it: then there is no exclusive access.
    adopted: bool,
    space: Arc<DmaSpace>,
}

impl Drop for Region {
    fn drop(&mut self) {
        let len = self.memory.len();
        match self.space.mapper.unmap(self.iova, len) {
            Ok(()) => self.space.give_iova(self.iova, len),
            Err(error) => {
                // A device may still reach it: leak the memory and its addresses rather than let
                // the device write into somebody else's.
                tracing::error!(%error, iova = self.iova, len, "DMA memory leaked: unmap failed");
                std::mem::forget(Arc::clone(&self.memory));
            }
        }
    }
}

/// Owner of device-visible memory.
///
/// Parts are lent to I/O as [`DmaSlice`]s. The memory stays mapped until the buffer and every slice
/// of it are gone, so it cannot be freed under a command in flight.
#[derive(Debug)]
pub struct DmaBuffer {
    region: Arc<Region>,
    len: usize,
}

impl DmaBuffer {
    /// Length in bytes as asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is 0 (it never is).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The whole buffer as an I/O segment.
    #[must_use]
    pub fn as_dma(&self) -> DmaSlice {
        DmaSlice { region: Arc::clone(&self.region), offset: 0, len: self.len, holder: None }
    }

    /// `len` bytes at `offset` as an I/O segment.
    ///
    /// # Errors
    /// [`OutOfBounds`] when the range does not fit.
    pub fn slice(&self, offset: usize, len: usize) -> Result<DmaSlice, OutOfBounds> {
        self.as_dma().slice(offset, len)
    }

    /// Direct access to the bytes while no I/O segment of this buffer is alive.
    ///
    /// # Errors
    /// [`HwError::Busy`] while a segment lives: a device may be writing. [`HwError::Invalid`] for
    /// memory that was adopted: whoever else has it may be writing.
    pub fn bytes_mut(&mut self) -> Result<&mut [u8], HwError> {
        if self.region.adopted {
            return Err(HwError::Invalid {
                what: "direct access to a DMA buffer",
                expected: "memory that was allocated for it, not adopted; copy with read and write",
                got: self.region.iova,
            });
        }
        let loans = Arc::strong_count(&self.region) - 1;
        if Arc::get_mut(&mut self.region).is_none() {
            return Err(HwError::Busy { loans });
        }
        // SAFETY: no slice exists (the region has one owner) and none can be made while `self` is
        // borrowed mutably; devices reach the memory only through commands that hold slices.
        let all = unsafe { &mut *self.region.memory.exclusive() };
        Ok(all.split_at_mut(self.len).0)
    }
}

/// Part of a [`DmaBuffer`], lent to I/O. Cloning is cheap and keeps the memory mapped.
#[derive(Debug, Clone)]
pub struct DmaSlice {
    region: Arc<Region>,
    offset: usize,
    len: usize,
    holder: Option<Arc<dyn Holder>>,
}

/// What a slice keeps alive beside the mapping, such as its place in an allocator: it ends with the last
/// slice that has it.
pub trait Holder: Send + Sync + fmt::Debug {}

impl DmaSlice {
    /// Length in bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// I/O virtual address of the first byte. The slice's bytes follow without a gap.
    #[must_use]
    #[inline]
    pub fn iova(&self) -> u64 {
        self.region.iova + self.offset as u64
    }

    /// `len` bytes at `offset` of this slice.
    ///
    /// # Errors
    /// [`OutOfBounds`] when the range does not fit.
    #[inline]
    pub fn slice(&self, offset: usize, len: usize) -> Result<DmaSlice, OutOfBounds> {
        self.check(offset, len)?;
        let (region, holder) = (Arc::clone(&self.region), self.holder.clone());
        Ok(Self { region, offset: self.offset + offset, len, holder })
    }

    /// The same slice, which keeps `holder` alive too, and so do all that are made from it. For an
    /// allocator that gives out parts of a buffer: the part is free again when no slice has it.
    #[must_use]
    pub fn held_with(self, holder: Arc<dyn Holder>) -> Self {
        Self { holder: Some(holder), ..self }
    }

    #[inline]
    fn check(&self, offset: usize, len: usize) -> Result<usize, OutOfBounds> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(self.offset + offset),
            _ => Err(OutOfBounds { offset, len, size: self.len }),
        }
    }

    /// The memory below and this slice's offset in it.
    #[must_use]
    #[inline]
    pub fn memory(&self) -> (&SharedMemory, usize) {
        (&self.region.memory, self.offset)
    }

    /// Copies bytes out. See [`SharedMemory::read`].
    ///
    /// # Errors
    /// [`OutOfBounds`] when the range does not fit.
    #[inline]
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), OutOfBounds> {
        let at = self.check(offset, out.len())?;
        self.region.memory.read(at, out)
    }

    /// Copies bytes in. See [`SharedMemory::write`].
    ///
    /// # Errors
    /// [`OutOfBounds`] when the range does not fit.
    #[inline]
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), OutOfBounds> {
        let at = self.check(offset, bytes.len())?;
        self.region.memory.write(at, bytes)
    }

    /// Sets bytes. See [`SharedMemory::fill`].
    ///
    /// # Errors
    /// [`OutOfBounds`] when the range does not fit.
    pub fn fill(&self, offset: usize, len: usize, byte: u8) -> Result<(), OutOfBounds> {
        let at = self.check(offset, len)?;
        self.region.memory.fill(at, len, byte)
    }

    /// Copies from another slice. See [`SharedMemory::copy_from`].
    ///
    /// # Errors
    /// [`OutOfBounds`] when a range does not fit.
    pub fn copy_from(
        &self,
        offset: usize,
        source: &DmaSlice,
        source_offset: usize,
        len: usize,
    ) -> Result<(), OutOfBounds> {
        let to = self.check(offset, len)?;
        let from = source.check(source_offset, len)?;
        self.region.memory.copy_from(to, &source.region.memory, from, len)
    }

    /// Visits the bytes through a stack copy. See [`SharedMemory::for_each_chunk`].
    ///
    /// # Errors
    /// [`OutOfBounds`] when the range does not fit.
    pub fn for_each_chunk(
        &self,
        offset: usize,
        len: usize,
        f: impl FnMut(&[u8]),
    ) -> Result<(), OutOfBounds> {
        let at = self.check(offset, len)?;
        self.region.memory.for_each_chunk(at, len, f)
    }

    /// Loads a 32-bit word. See [`SharedMemory::load_u32`].
    ///
    /// # Errors
    /// [`OutOfBounds`] when it does not fit or is not aligned.
    #[inline]
    pub fn load_u32(&self, offset: usize, order: Ordering) -> Result<u32, OutOfBounds> {
        let at = self.check(offset, 4)?;
        self.region.memory.load_u32(at, order)
    }

    /// Stores a 32-bit word. See [`SharedMemory::store_u32`].
    ///
    /// # Errors
    /// [`OutOfBounds`] when it does not fit or is not aligned.
    #[inline]
    pub fn store_u32(&self, offset: usize, value: u32, order: Ordering) -> Result<(), OutOfBounds> {
        let at = self.check(offset, 4)?;
        self.region.memory.store_u32(at, value, order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Table(Mutex<BTreeMap<u64, usize>>);

    impl DmaMapper for Table {
        fn map(&self, iova: u64, memory: &Arc<SharedMemory>) -> Result<(), HwError> {
            self.0.lock().insert(iova, memory.len());
            Ok(())
        }
        fn unmap(&self, iova: u64, len: usize) -> Result<(), HwError> {
            assert_eq!(self.0.lock().remove(&iova), Some(len));
            Ok(())
        }
    }

    fn space() -> (Arc<Table>, Arc<DmaSpace>) {
        let table = Arc::new(Table::default());
        let usable = 0x10_0000..0x20_0000;
        let space = DmaSpace::new(table.clone(), std::slice::from_ref(&usable)).unwrap();
        (table, space)
    }

    #[test]
    fn memory_stays_mapped_while_a_slice_lives() {
        let (table, space) = space();
        let buffer = space.alloc(100).unwrap();
        let slice = buffer.slice(10, 20).unwrap();
        drop(buffer);
        assert_eq!(table.0.lock().len(), 1);
        slice.write(0, &[1; 20]).unwrap();
        drop(slice);
        assert!(table.0.lock().is_empty());
    }

    #[test]
    fn bytes_are_refused_while_lent() {
        let (_table, space) = space();
        let mut buffer = space.alloc(100).unwrap();
        let slice = buffer.as_dma();
        assert!(matches!(buffer.bytes_mut(), Err(HwError::Busy { loans: 1 })));
        drop(slice);
        assert_eq!(buffer.bytes_mut().unwrap().len(), 100);
    }

    #[test]
    #[cfg_attr(miri, ignore = "a mapping of a file")]
    fn adopted_memory_is_mapped_while_in_use_and_never_handed_out_as_bytes() {
        let (table, space) = space();
        let file = tempfile::tempfile().unwrap();
        file.set_len(2 * PAGE_BYTES as u64).unwrap();
        let memory = Arc::new(SharedMemory::of_file(&file, 4096, PAGE_BYTES).unwrap());
        let mut buffer = space.adopt(Arc::clone(&memory)).unwrap();
        buffer.as_dma().write(5, &[1, 2]).unwrap();
        assert!(matches!(buffer.bytes_mut(), Err(HwError::Invalid { .. })));
        assert_eq!(table.0.lock().len(), 1);
        drop(buffer);
        assert!(table.0.lock().is_empty());
        let mut back = [0; 2];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut back, 4096 + 5).unwrap();
        assert_eq!(back, [1, 2]);
        for (offset, len) in [(1, 4096), (0, 100), (0, 0), (u64::MAX - 4095, 4096)] {
            assert!(SharedMemory::of_file(&file, offset, len).is_err(), "{offset} {len}");
        }
    }

    #[test]
    fn addresses_are_reused_coalesced_and_never_adjacent() {
        let (_table, space) = space();
        for _ in 0..3 {
            let buffers: Vec<_> = (1..20).map(|n| space.alloc(n * 1000).unwrap()).collect();
            for pair in buffers.windows(2) {
                let (a, b) = (pair[0].as_dma(), pair[1].as_dma());
                assert!(a.iova() + (a.memory().0.len() as u64) < b.iova());
            }
        }
        assert_eq!(space.addresses.lock().free, BTreeMap::from([(0x10_0000, 0x10_0000)]));
        assert!(matches!(space.alloc(0x10_0000), Err(HwError::IovaExhausted { .. })));
    }

    #[test]
    fn addresses_that_a_device_does_not_reach_are_given_up() {
        let (_table, space) = space();
        space.restrict(&[0x8_0000..0x11_0000, 0x1f_0000..0x30_0000]);
        let free = BTreeMap::from([(0x10_0000, 0x1_0000), (0x1f_0000, 0x1_0000)]);
        assert_eq!(space.addresses.lock().free, free);
    }

    #[test]
    fn addresses_that_a_device_does_not_reach_are_given_up_when_their_buffer_goes() {
        let (_table, space) = space();
        let buffers = [space.alloc(3 * PAGE_BYTES).unwrap(), space.alloc(PAGE_BYTES).unwrap()];
        assert_eq!(buffers[0].as_dma().iova(), 0x10_0000);
        // The middle of the first buffer is out of reach now.
        space.restrict(&[0..0x10_1000, 0x10_2000..0x11_0000]);
        drop(buffers);
        let free = BTreeMap::from([(0x10_0000, 0x1000), (0x10_2000, 0xe000)]);
        assert_eq!(space.addresses.lock().free, free);
        assert_eq!(space.alloc(PAGE_BYTES).unwrap().as_dma().iova(), 0x10_2000);
    }

    #[test]
    fn large_memory_begins_at_large_pages_while_there_is_room() {
        let table = Arc::new(Table::default());
        let usable = 0x10_0000..0xa8_0000;
        let space = DmaSpace::new(table.clone(), std::slice::from_ref(&usable)).unwrap();
        let start = |buffer: &DmaBuffer| buffer.as_dma().iova();
        let small = space.alloc(100).unwrap();
        let large = space.alloc(LARGE_PAGE_BYTES).unwrap();
        let next = space.alloc(100).unwrap();
        let other = space.alloc(LARGE_PAGE_BYTES).unwrap();
        // No room at a large page any more.
        let last = space.alloc(LARGE_PAGE_BYTES).unwrap();
        let starts = [&small, &large, &next, &other, &last].map(start);
        assert_eq!(starts, [0x10_0000, 0x20_0000, 0x10_2000, 0x60_0000, 0x80_1000]);
        drop((small, large, next, other, last));
        assert_eq!(space.addresses.lock().free, BTreeMap::from([(0x10_0000, 0x98_0000)]));
    }

    #[test]
    fn a_slice_of_a_slice_stays_inside() {
        let (_table, space) = space();
        let buffer = space.alloc(100).unwrap();
        let outer = buffer.slice(50, 50).unwrap();
        assert!(outer.slice(40, 11).is_err());
        assert!(outer.write(49, &[1, 2]).is_err());
        assert!(outer.slice(usize::MAX, 2).is_err());
    }
}
