use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::lines::{self, LINE_BYTES, LineLoads};
use crate::{HwError, OutOfBounds, PAGE_BYTES};

/// From this size on, huge pages are asked for.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Bytes copied to the stack at a time by [`SharedMemory::for_each_chunk`]; stays in the L1 cache.
const CHUNK_BYTES: usize = 8192;

/// Page-aligned memory that other agents (a device, another thread, a GPU) may change at any time.
///
/// It is only ever copied from and to; no reference into it escapes while others may write, so a
/// device that writes late corrupts bytes but cannot break Rust's aliasing rules. Words that carry
/// synchronisation (phase bits, doorbells) are read and written as atomics.
#[derive(Debug)]
pub struct SharedMemory {
    base: NonNull<u8>,
    len: usize,
    /// Whether the kernel holds the pages for a device, so that they must not be exchanged.
    pinned: AtomicBool,
    backing: Backing,
}

/// Who the memory belongs to.
enum Backing {
    /// This process alone: fresh pages.
    Anonymous,
    /// A file or a device that was mapped here.
    Mapped,
    /// Somebody else's memory of the host, who has it back when this is dropped.
    Lent(#[expect(dead_code, reason = "held for its drop")] Arc<dyn Send + Sync>),
    /// Somebody who mapped another device's and takes it back when this is dropped.
    Foreign(#[expect(dead_code, reason = "held for its drop")] Arc<dyn Send + Sync>),
}

impl fmt::Debug for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "anonymous",
            Self::Mapped => "mapped",
            Self::Lent(_) => "lent",
            Self::Foreign(_) => "foreign",
        })
    }
}

// SAFETY: the mapping is owned by this value alone and lives until it is dropped; all access goes
// through raw copies and atomics, which tolerate concurrent change.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Maps `len` bytes of zeroed anonymous memory, rounded up to whole pages. Pages are taken from
    /// the system when first touched.
    ///
    /// # Errors
    /// [`HwError::Invalid`] for a length of 0, [`HwError::Os`] when the system has no memory.
    pub fn anonymous(len: usize) -> Result<Self, HwError> {
        let invalid = HwError::Invalid {
            what: "memory length",
            expected: "1 byte or more, below the address space",
            got: len as u64,
        };
        let Some(rounded) = len.checked_next_multiple_of(PAGE_BYTES).filter(|&n| n > 0) else {
            return Err(invalid);
        };
        // Miri knows no other flags, and no advice.
        let reserve = if cfg!(miri) { 0 } else { libc::MAP_NORESERVE };
        // SAFETY: a fresh private anonymous mapping touches no existing memory.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                rounded,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | reserve,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(HwError::last_os(format!("mmap of {rounded} bytes of anonymous memory")));
        }
        let Some(base) = NonNull::new(base.cast::<u8>()) else { return Err(invalid) };
        if rounded >= HUGE_PAGE_BYTES && !cfg!(miri) {
            // Fewer faults and address translations. A kernel without huge pages refuses, and the
            // memory works all the same.
            // SAFETY: advice on a mapping that was just made and belongs to nobody else.
            unsafe { libc::madvise(base.as_ptr().cast(), rounded, libc::MADV_HUGEPAGE) };
        }
        Ok(Self { base, len: rounded, pinned: AtomicBool::new(false), backing: Backing::Anonymous })
    }

    /// Maps `len` bytes of a file, shared with everyone else who maps them: a memory file, or a region
    /// of a device (a BAR through sysfs or VFIO). `offset` and `len` are multiples of the page size.
    ///
    /// What lies behind the mapping is the caller's business: on a plain file that is cut short under
    /// the mapping, access raises SIGBUS.
    ///
    /// # Errors
    /// [`HwError::Invalid`] for an offset or a length that is no multiple of the page size,
    /// [`HwError::Os`] when the file cannot be mapped there.
    pub fn of_file(file: impl AsFd, offset: u64, len: usize) -> Result<Self, HwError> {
        let page = PAGE_BYTES as u64;
        let invalid = |what, got| HwError::Invalid {
            what,
            expected: "a multiple of 4096 within the address space, the length not 0",
            got,
        };
        if len == 0 || !len.is_multiple_of(PAGE_BYTES) {
            return Err(invalid("length of a file mapping", len as u64));
        }
        let start = libc::off_t::try_from(offset).ok().filter(|_| offset.is_multiple_of(page));
        let Some(start) = start else {
            return Err(invalid("offset of a file mapping", offset));
        };
        // SAFETY: the kernel chooses fresh addresses, so no existing memory is touched.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_fd().as_raw_fd(),
                start,
            )
        };
        if base == libc::MAP_FAILED {
            let what = format!("mmap of {len} bytes at offset {offset:#x} of a file or device");
            return Err(HwError::last_os(what));
        }
        match NonNull::new(base.cast::<u8>()) {
            Some(base) => {
                Ok(Self { base, len, pinned: AtomicBool::new(false), backing: Backing::Mapped })
            }
            None => Err(invalid("address of a file mapping", 0)),
        }
    }

    /// Wraps memory that somebody else has mapped, such as a window into GPU memory. It goes back when
    /// this is dropped, by dropping `owner`.
    ///
    /// # Errors
    /// [`HwError::Invalid`] when the address or the length is no multiple of the page size.
    ///
    /// # Safety
    /// `len` bytes at `base` stay mapped, readable and writable, for as long as `owner` lives, and no
    /// Rust reference into them exists meanwhile.
    pub unsafe fn foreign(
        base: NonNull<u8>,
        len: usize,
        owner: Arc<dyn Send + Sync>,
    ) -> Result<Self, HwError> {
        Self::of_another(base, len, Backing::Foreign(owner))
    }

    /// Wraps ordinary memory of the host that somebody else has, such as a buffer of an inference engine: the
    /// kernel can move blocks to and from it, which it cannot with what [`SharedMemory::foreign`] wraps. It
    /// is theirs alone again when this is dropped, by dropping `owner`.
    ///
    /// # Errors
    /// [`HwError::Invalid`] when the address or the length is no multiple of the page size.
    ///
    /// # Safety
    /// As [`SharedMemory::foreign`].
    pub unsafe fn lent(
        base: NonNull<u8>,
        len: usize,
        owner: Arc<dyn Send + Sync>,
    ) -> Result<Self, HwError> {
        Self::of_another(base, len, Backing::Lent(owner))
    }

    fn of_another(base: NonNull<u8>, len: usize, backing: Backing) -> Result<Self, HwError> {
        let address = base.as_ptr() as usize;
        if len == 0 || !len.is_multiple_of(PAGE_BYTES) || !address.is_multiple_of(PAGE_BYTES) {
            return Err(HwError::Invalid {
                what: "memory of another owner",
                expected: "an address and a length that are multiples of 4096",
                got: if len.is_multiple_of(PAGE_BYTES) { address } else { len } as u64,
            });
        }
        Ok(Self { base, len, pinned: AtomicBool::new(false), backing })
    }

    /// Length in bytes, a multiple of the page size.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: empty memory cannot be made. Present because `len` is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of the first byte, for handing to the kernel or a device library.
    #[must_use]
    pub fn address(&self) -> usize {
        self.base.as_ptr() as usize
    }

    fn is_anonymous(&self) -> bool {
        matches!(self.backing, Backing::Anonymous)
    }

    #[inline]
    fn at(&self, offset: usize, len: usize) -> Result<*mut u8, OutOfBounds> {
        match offset.checked_add(len) {
            // SAFETY: offset is within the mapping, checked just now.
            Some(end) if end <= self.len => Ok(unsafe { self.base.as_ptr().add(offset) }),
            _ => Err(OutOfBounds { offset, len, size: self.len }),
        }
    }

    #[inline]
    pub(crate) fn raw(&self, offset: usize, len: usize) -> Result<*mut u8, OutOfBounds> {
        self.at(offset, len)
    }

    /// Copies `out.len()` bytes at `offset` out.
    ///
    /// # Errors
    /// [`OutOfBounds`] when the range does not fit.
    #[inline]
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), OutOfBounds> {
        if self.is_foreign() && out.len() >= LINE_BYTES {
            return self.read_foreign(offset, out);
        }
        let from = self.at(offset, out.len())?;
        // SAFETY: the source range is inside the mapping; `out` is exclusive, so they do not overlap.
        unsafe { ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) };
        Ok(())
    }

    /// Copies out of another device's memory: whole lines by the widest loads, of which many are on the bus
    /// at a time; plain loads there go one after the other, a microsecond each.
    fn read_foreign(&self, offset: usize, out: &mut [u8]) -> Result<(), OutOfBounds> {
        self.at(offset, out.len())?;
        let before = (offset.next_multiple_of(LINE_BYTES) - offset).min(out.len());
        let whole = (out.len() - before) / LINE_BYTES * LINE_BYTES;
        let (head, rest) = out.split_at_mut(before);
        let (lines, tail) = rest.split_at_mut(whole);
        self.read_lines(LineLoads::widest(), offset + before, lines)?;
        for (at, part) in [(offset, head), (offset + before + whole, tail)] {
            let from = self.at(at, part.len())?;
            // SAFETY: as in `read`; less than a line.
            unsafe { ptr::copy_nonoverlapping(from, part.as_mut_ptr(), part.len()) };
        }
        Ok(())
    }

    /// Copies whole lines of 64 bytes out, each byte loaded once and none before this call: for memory of
    /// another device, where a load is a trip over the bus.
    ///
    /// # Errors
    /// [`OutOfBounds`] when the range does not fit, or offset or length are no multiples of 64, or this
    /// processor lacks these loads.
    #[inline]
    pub fn read_lines(
        &self,
        loads: LineLoads,
        offset: usize,
        out: &mut [u8],
    ) -> Result<(), OutOfBounds> {
        let from = self.at(offset, out.len())?;
        let whole = offset.is_multiple_of(LINE_BYTES) && out.len().is_multiple_of(LINE_BYTES);
        if !whole || !loads.is_available() {
            return Err(OutOfBounds { offset, len: out.len(), size: self.len });
        }
        // SAFETY: the range is inside the mapping, which begins at a page, so a multiple of 64 in it is
        // aligned; the processor has the loads, checked just now.
        unsafe { lines::read_lines(loads, from, out) };
        Ok(())
    }

    /// Whether it belongs to somebody who mapped it, such as a window into GPU memory: stores may be
    /// gathered (see [`crate::order_stores`]), loads take a trip over the bus.
    #[must_use]
    #[inline]
    pub fn is_foreign(&self) -> bool {
        matches!(self.backing, Backing::Foreign(_))
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Errors
    /// [`OutOfBounds`] when the range does not fit.
    #[inline]
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), OutOfBounds> {
        let to = self.at(offset, bytes.len())?;
        // SAFETY: the target range is inside the mapping and no reference into it exists.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// Sets `len` bytes at `offset` to `byte`.
    ///
    /// # Errors
    /// [`OutOfBounds`] when the range does not fit.
    pub fn fill(&self, offset: usize, len: usize, byte: u8) -> Result<(), OutOfBounds> {
        let to = self.at(offset, len)?;
        // SAFETY: the range is inside the mapping and no reference into it exists.
        unsafe { ptr::write_bytes(to, byte, len) };
        Ok(())
    }

    /// Copies `len` bytes from `source` at `source_offset` to `offset` here. The two may be the same
    /// memory and may overlap.
    ///
    /// # Errors
    /// [`OutOfBounds`] when either range does not fit.
    pub fn copy_from(
        &self,
        offset: usize,
        source: &SharedMemory,
        source_offset: usize,
        len: usize,
    ) -> Result<(), OutOfBounds> {
        let from = source.at(source_offset, len)?;
        let to = self.at(offset, len)?;
        if source.is_foreign() && len >= LINE_BYTES && !ptr::eq(self, source) {
            let mut done = 0;
            return source.for_each_chunk(source_offset, len, |piece| {
                // SAFETY: the pieces are `len` bytes in all, which fit at `to`, checked just now; they lie on
                // the stack.
                unsafe { ptr::copy_nonoverlapping(piece.as_ptr(), to.add(done), piece.len()) };
                done += piece.len();
            });
        }
        // SAFETY: both ranges are inside their mappings; `copy` allows overlap.
        unsafe { ptr::copy(from, to, len) };
        Ok(())
    }

    /// Calls `f` with consecutive pieces of `len` bytes at `offset`, each copied to the stack first,
    /// so that what `f` sees cannot change under it.
    ///
    /// # Errors
    /// [`OutOfBounds`] when the range does not fit; `f` is then not called.
    pub fn for_each_chunk(
        &self,
        offset: usize,
        len: usize,
        mut f: impl FnMut(&[u8]),
    ) -> Result<(), OutOfBounds> {
        self.at(offset, len)?;
        if self.is_foreign() {
            return self.for_each_foreign_chunk(offset, len, f);
        }
        let mut stack = std::mem::MaybeUninit::<[u8; CHUNK_BYTES]>::uninit();
        let mut done = 0;
        while done < len {
            let take = (len - done).min(CHUNK_BYTES);
            let from = self.at(offset + done, take)?;
            let to = stack.as_mut_ptr().cast::<u8>();
            // SAFETY: `take` bytes fit both the mapping (checked) and the stack array; after the
            // copy they are initialised, and the slice ends before the next copy.
            let piece = unsafe {
                ptr::copy_nonoverlapping(from, to, take);
                std::slice::from_raw_parts(to, take)
            };
            f(piece);
            done += take;
        }
        Ok(())
    }

    /// As [`SharedMemory::for_each_chunk`], where loads are dearer than clearing the stack.
    fn for_each_foreign_chunk(
        &self,
        offset: usize,
        len: usize,
        mut f: impl FnMut(&[u8]),
    ) -> Result<(), OutOfBounds> {
        let mut stack = [0; CHUNK_BYTES];
        let mut done = 0;
        while done < len {
            let take = (len - done).min(CHUNK_BYTES);
            let Some(piece) = stack.get_mut(..take) else { break };
            self.read(offset + done, piece)?;
            f(piece);
            done += take;
        }
        Ok(())
    }

    #[inline]
    fn word(&self, offset: usize, len: usize) -> Result<*mut u8, OutOfBounds> {
        let at = self.at(offset, len)?;
        if offset.is_multiple_of(len) {
            Ok(at)
        } else {
            Err(OutOfBounds { offset, len, size: self.len })
        }
    }

    /// Loads the 32-bit word at `offset` (native endian).
    ///
    /// # Errors
    /// [`OutOfBounds`] when it does not fit or is not aligned to 4 bytes.
    #[inline]
    pub fn load_u32(&self, offset: usize, order: Ordering) -> Result<u32, OutOfBounds> {
        let at = self.word(offset, 4)?.cast::<u32>();
        // SAFETY: inside the mapping and aligned; atomics tolerate concurrent change.
        Ok(unsafe { AtomicU32::from_ptr(at) }.load(order))
    }

    /// Loads the 64-bit word at `offset` (native endian).
    ///
    /// # Errors
    /// [`OutOfBounds`] when it does not fit or is not aligned to 8 bytes.
    #[inline]
    pub fn load_u64(&self, offset: usize, order: Ordering) -> Result<u64, OutOfBounds> {
        let at = self.word(offset, 8)?.cast::<u64>();
        // SAFETY: inside the mapping and aligned; atomics tolerate concurrent change.
        Ok(unsafe { AtomicU64::from_ptr(at) }.load(order))
    }

    /// Stores the 32-bit word at `offset` (native endian).
    ///
    /// # Errors
    /// [`OutOfBounds`] when it does not fit or is not aligned to 4 bytes.
    #[inline]
    pub fn store_u32(&self, offset: usize, value: u32, order: Ordering) -> Result<(), OutOfBounds> {
        let at = self.word(offset, 4)?.cast::<u32>();
        // SAFETY: inside the mapping and aligned; atomics tolerate concurrent change.
        unsafe { AtomicU32::from_ptr(at) }.store(value, order);
        Ok(())
    }

    /// Stores the 64-bit word at `offset` (native endian).
    ///
    /// # Errors
    /// [`OutOfBounds`] when it does not fit or is not aligned to 8 bytes.
    #[inline]
    pub fn store_u64(&self, offset: usize, value: u64, order: Ordering) -> Result<(), OutOfBounds> {
        let at = self.word(offset, 8)?.cast::<u64>();
        // SAFETY: inside the mapping and aligned; atomics tolerate concurrent change.
        unsafe { AtomicU64::from_ptr(at) }.store(value, order);
        Ok(())
    }

    /// Gives whole pages in the range back to the system; they read as zeros afterwards. Partial
    /// pages at the ends are zeroed, as is everything in the memory of a file or a device, and in memory
    /// that a device reaches: it would go on with the old pages.
    ///
    /// # Errors
    /// [`OutOfBounds`] when the range does not fit.
    pub fn discard(&self, offset: usize, len: usize) -> Result<(), OutOfBounds> {
        if !self.is_anonymous() || self.pinned.load(Ordering::Relaxed) {
            return self.fill(offset, len, 0);
        }
        self.at(offset, len)?;
        let end = offset + len;
        let first = offset.next_multiple_of(PAGE_BYTES).min(end);
        let last = (end / PAGE_BYTES * PAGE_BYTES).max(first);
        self.fill(offset, first - offset, 0)?;
        self.fill(last, end - last, 0)?;
        if last > first {
            let at = self.at(first, last - first)?;
            // SAFETY: whole pages of our own private anonymous mapping; they become zero pages.
            let rc = unsafe { libc::madvise(at.cast(), last - first, libc::MADV_DONTNEED) };
            if rc != 0 {
                self.fill(first, last - first, 0)?;
            }
        }
        Ok(())
    }

    /// To be called before the kernel takes hold of the pages for a device: from now on the pages stay
    /// the same ones. A child process (`fork` without `exec`) does not get private memory: on kernels
    /// before 5.12 the parent's first write after a fork would go to a copy that no device sees.
    pub(crate) fn pin(&self) {
        self.pinned.store(true, Ordering::Relaxed);
        if self.is_anonymous() {
            self.keep_from_children();
        }
    }

    /// Keeps the mapping out of child processes.
    pub(crate) fn keep_from_children(&self) {
        // SAFETY: advice on a mapping of ours that changes nothing in this process.
        let rc = unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, libc::MADV_DONTFORK) };
        if rc != 0 {
            let error = std::io::Error::last_os_error();
            tracing::debug!(%error, len = self.len, "child processes get device memory, too");
        }
    }

    /// Puts pages of a file in the place of the memory, for good: what is read is then the file's
    /// first `len` bytes, and what is written goes nowhere else. The addresses stay valid, so threads
    /// that are in the middle of an access see either the old or the new.
    ///
    /// # Errors
    /// [`HwError::Os`]; the memory is then what it was.
    pub(crate) fn replace(&self, file: impl AsFd) -> Result<(), HwError> {
        // SAFETY: the range is ours until `self` is dropped, nobody holds a reference into it, and
        // MAP_FIXED exchanges the pages in one step.
        let base = unsafe {
            libc::mmap(
                self.base.as_ptr().cast(),
                self.len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                file.as_fd().as_raw_fd(),
                0,
            )
        };
        match base == libc::MAP_FAILED {
            true => Err(HwError::last_os(format!("mmap over {} bytes of device memory", self.len))),
            false => Ok(()),
        }
    }

    /// Whole memory as a slice, for an owner that knows that nobody else touches it.
    ///
    /// # Safety
    /// No other agent may access the memory while the slice lives.
    pub(crate) unsafe fn exclusive(&self) -> *mut [u8] {
        ptr::slice_from_raw_parts_mut(self.base.as_ptr(), self.len)
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        if matches!(self.backing, Backing::Foreign(_) | Backing::Lent(_)) {
            return;
        }
        // SAFETY: the mapping is ours and nothing refers to it any more.
        let rc = unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        if rc != 0 {
            tracing::error!(error = %std::io::Error::last_os_error(), "munmap failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn lent_memory_is_the_hosts_and_stays_mapped_when_it_goes_back() {
        let whole = Arc::new(SharedMemory::anonymous(3 * PAGE_BYTES).unwrap());
        let inside = NonNull::new(whole.raw(PAGE_BYTES, PAGE_BYTES).unwrap()).unwrap();
        // SAFETY: the memory lives as long as its owner, which is given, and only copies reach it.
        let lent = |at, len| unsafe { SharedMemory::lent(at, len, Arc::clone(&whole) as _) };
        let memory = lent(inside, PAGE_BYTES).unwrap();
        assert!(!memory.is_foreign(), "the kernel has pages for it");
        memory.write(5, &[7; 100]).unwrap();
        assert_eq!(Arc::strong_count(&whole), 2);
        drop(memory);
        assert_eq!(Arc::strong_count(&whole), 1);
        let mut back = [0; 100];
        whole.read(PAGE_BYTES + 5, &mut back).unwrap();
        assert_eq!(back, [7; 100]);
        assert!(lent(inside, 100).is_err());
        assert!(lent(inside, 0).is_err());
    }

    #[test]
    fn length_is_rounded_to_pages_and_zeroed() {
        let memory = SharedMemory::anonymous(5).unwrap();
        assert_eq!(memory.len(), PAGE_BYTES);
        let mut out = [1u8; 16];
        memory.read(PAGE_BYTES - 16, &mut out).unwrap();
        assert_eq!(out, [0; 16]);
    }

    #[test]
    fn zero_length_is_refused() {
        assert!(matches!(SharedMemory::anonymous(0), Err(HwError::Invalid { .. })));
        assert!(matches!(SharedMemory::anonymous(usize::MAX), Err(HwError::Invalid { .. })));
    }

    #[test]
    fn access_past_the_end_is_an_error_and_changes_nothing() {
        let memory = SharedMemory::anonymous(PAGE_BYTES).unwrap();
        assert!(memory.write(PAGE_BYTES - 1, &[1, 2]).is_err());
        assert!(memory.read(usize::MAX, &mut [0; 2]).is_err());
        assert!(memory.load_u32(2, Ordering::Relaxed).is_err());
        let mut last = [7u8];
        memory.read(PAGE_BYTES - 1, &mut last).unwrap();
        assert_eq!(last, [0]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "a fence of the processor")]
    fn memory_of_others_is_read_whole_from_any_offset() {
        let below = Arc::new(SharedMemory::anonymous(8 * PAGE_BYTES).unwrap());
        let bytes: Vec<u8> = (0..below.len()).map(|i| (i * 31 % 251) as u8).collect();
        below.write(0, &bytes).unwrap();
        let base = NonNull::new(below.address() as *mut u8).unwrap();
        // SAFETY: the mapping lives as long as the owner given, and nobody holds a reference into it.
        let foreign = unsafe { SharedMemory::foreign(base, below.len(), below.clone()) }.unwrap();
        assert!(foreign.is_foreign() && !below.is_foreign());
        let target = SharedMemory::anonymous(8 * PAGE_BYTES).unwrap();
        for (at, len) in [(0, 64), (4, 64), (60, 8), (63, 66), (1, 20_000), (64, 9000), (32_767, 1)]
        {
            let mut out = vec![0; len];
            foreign.read(at, &mut out).unwrap();
            assert!(out == bytes[at..at + len], "{len} bytes at {at}");
            target.copy_from(3, &foreign, at, len).unwrap();
            target.read(3, &mut out).unwrap();
            assert!(out == bytes[at..at + len], "copied: {len} bytes at {at}");
        }
        assert!(foreign.read(foreign.len() - 64, &mut [0; 65]).is_err());
        assert!(target.copy_from(0, &foreign, foreign.len() - 64, 65).is_err());
        // Within the same memory a copy may overlap.
        foreign.copy_from(100, &foreign, 0, 5000).unwrap();
        let mut out = vec![0; 5000];
        foreign.read(100, &mut out).unwrap();
        assert!(out == bytes[..5000]);
    }

    #[test]
    fn chunks_cover_the_range_once_in_order() {
        let memory = SharedMemory::anonymous(5 * CHUNK_BYTES).unwrap();
        let bytes: Vec<u8> = (0..memory.len()).map(|i| (i * 31 % 251) as u8).collect();
        memory.write(0, &bytes).unwrap();
        let mut seen = Vec::new();
        memory
            .for_each_chunk(100, 3 * CHUNK_BYTES + 7, |piece| seen.extend_from_slice(piece))
            .unwrap();
        assert_eq!(seen, bytes[100..100 + 3 * CHUNK_BYTES + 7]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "madvise")]
    fn memory_that_a_device_reaches_keeps_its_pages_and_stays_out_of_children() {
        let memory = SharedMemory::anonymous(4 * PAGE_BYTES).unwrap();
        memory.fill(0, memory.len(), 0xab).unwrap();
        // Flags of the mapping that the memory is in: it may be one with its neighbours.
        let flags = || {
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let contains = |line: &&str| {
                let Some((range, _)) = line.split_once(' ') else { return false };
                let Some((from, to)) = range.split_once('-') else { return false };
                let number = |text| usize::from_str_radix(text, 16);
                let (Ok(from), Ok(to)) = (number(from), number(to)) else { return false };
                (from..to).contains(&memory.address())
            };
            let mut lines = maps.lines().skip_while(|line| !contains(line));
            lines.find(|line| line.starts_with("VmFlags:")).unwrap().to_owned()
        };
        // Pages that are in memory: the highest bit of each one's entry.
        let present = || {
            let pagemap = std::fs::File::open("/proc/self/pagemap").unwrap();
            let mut entries = [0; 4 * 8];
            let at = (memory.address() / PAGE_BYTES * 8) as u64;
            pagemap.read_exact_at(&mut entries, at).unwrap();
            entries.chunks(8).filter(|entry| entry[7] & 0x80 != 0).count()
        };
        assert!(!flags().contains(" dc"), "{}", flags());
        memory.discard(0, memory.len()).unwrap();
        assert_eq!(present(), 0);
        memory.fill(0, memory.len(), 0xab).unwrap();
        memory.pin();
        assert!(flags().contains(" dc"), "{}", flags());
        assert_eq!(present(), 4);
        memory.discard(0, memory.len()).unwrap();
        assert_eq!(present(), 4);
        assert_eq!(memory.load_u64(PAGE_BYTES, Ordering::Relaxed), Ok(0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "madvise")]
    fn discard_zeroes_exactly_the_range() {
        let memory = SharedMemory::anonymous(4 * PAGE_BYTES).unwrap();
        memory.fill(0, memory.len(), 0xab).unwrap();
        memory.discard(100, 2 * PAGE_BYTES).unwrap();
        let mut all = vec![0; memory.len()];
        memory.read(0, &mut all).unwrap();
        for (i, byte) in all.iter().enumerate() {
            let inside = (100..100 + 2 * PAGE_BYTES).contains(&i);
            assert_eq!(*byte == 0, inside, "offset {i}");
        }
    }
}
