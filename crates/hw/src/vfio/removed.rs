use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use crate::{HwError, SharedMemory};

/// Bytes that read as all ones; what lies beyond, in a BAR larger than any register file, reads as 0.
const MOST_ONES: usize = 1 << 20;

/// What a register file looks like when its device is gone: a memory file of all ones. It is made
/// while all is well, so that taking a device's place needs no memory.
#[derive(Debug)]
pub(super) struct Removed(File);

impl Removed {
    /// Stands in for up to `len` bytes of registers.
    pub(super) fn new(len: usize) -> Result<Self, HwError> {
        let os = |source| HwError::Os { what: "making a memory file".into(), source };
        // SAFETY: the name is a string that ends with a zero byte.
        let fd = unsafe { libc::memfd_create(c"gcos-removed".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(HwError::last_os("making a memory file"));
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.set_len(len as u64).map_err(os)?;
        file.write_all_at(&vec![0xff; len.min(MOST_ONES)], 0).map_err(os)?;
        Ok(Self(file))
    }

    /// Puts itself in the place of a BAR's mapping.
    pub(super) fn take_place_of(&self, memory: &SharedMemory) -> Result<(), HwError> {
        let os = |source| HwError::Os { what: "growing a memory file".into(), source };
        let len = memory.len() as u64;
        if self.0.metadata().map_err(os)?.len() < len {
            self.0.set_len(len).map_err(os)?;
        }
        memory.replace(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn registers_read_as_all_ones_and_writes_stay_here() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let bar = SharedMemory::of_file(&file, 0, 8192).unwrap();
        bar.store_u32(28, 7, Ordering::Relaxed).unwrap();
        let removed = Removed::new(4096).unwrap();
        removed.take_place_of(&bar).unwrap();
        assert_eq!(bar.load_u32(28, Ordering::Relaxed), Ok(u32::MAX));
        assert_eq!(bar.load_u32(4096, Ordering::Relaxed), Ok(0));
        bar.store_u32(20, 1, Ordering::Relaxed).unwrap();
        let mut back = [9; 32];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_eq!(back[28..], 7u32.to_ne_bytes());
        assert_eq!(back[20..24], [0; 4]);
        let other = SharedMemory::anonymous(4096).unwrap();
        removed.take_place_of(&other).unwrap();
        assert_eq!(other.load_u32(20, Ordering::Relaxed), Ok(u32::MAX));
    }
}
