use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::SharedMemory;

/// `len` bytes at `offset` of shared memory: one element of a vectored transfer.
#[derive(Debug, Clone)]
pub struct MemoryRange {
    /// The memory.
    pub memory: Arc<SharedMemory>,
    /// Offset of the first byte.
    pub offset: usize,
    /// Number of bytes.
    pub len: usize,
}

/// Elements per system call (Linux `UIO_MAXIOV`).
pub(crate) const IOV_MAX: usize = 1024;

/// A regular file, read and written straight from and to shared memory.
#[derive(Debug)]
pub struct FileIo {
    file: File,
    direct: bool,
}

impl FileIo {
    /// Opens `path` for reading and writing. With `direct` the page cache is bypassed (`O_DIRECT`)
    /// where the file system can; [`FileIo::is_direct`] tells whether it does.
    ///
    /// # Errors
    /// The system's error from opening.
    pub fn open(path: &Path, direct: bool) -> io::Result<Self> {
        let plain = || OpenOptions::new().read(true).write(true).open(path);
        if !direct {
            return Ok(Self { file: plain()?, direct: false });
        }
        let flags = libc::O_DIRECT;
        match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
            Ok(file) => Ok(Self { file, direct: true }),
            // File systems without direct I/O (tmpfs on older kernels, some overlays) say EINVAL.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                Ok(Self { file: plain()?, direct: false })
            }
            Err(error) => Err(error),
        }
    }

    /// Takes a file that was opened without `O_DIRECT`.
    #[must_use]
    pub fn of(file: File) -> Self {
        Self { file, direct: false }
    }

    /// The same file once more, so that transfers bypass the page cache (`O_DIRECT`): this file, whatever its
    /// path leads to by now. `None` where the file system cannot, and where there is no `/proc`.
    ///
    /// # Errors
    /// The system's error from opening.
    pub fn direct(&self, write: bool) -> io::Result<Option<Self>> {
        let link = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let mut options = OpenOptions::new();
        match options.read(true).write(write).custom_flags(libc::O_DIRECT).open(link) {
            Ok(file) => Ok(Some(Self { file, direct: true })),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINVAL | libc::ENOENT) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Whether transfers bypass the page cache, and so need offsets, lengths and memory aligned to
    /// the device's block size.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// The open file, for locks and metadata.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads the ranges, in order, from `offset` on. Bytes past the end of the file read as zeros.
    ///
    /// # Errors
    /// The system's error; the ranges may then be partly filled.
    pub fn read_at(&self, ranges: &[MemoryRange], offset: u64) -> io::Result<()> {
        self.transfer(ranges, offset, false)
    }

    /// Writes the ranges, in order, at `offset`.
    ///
    /// # Errors
    /// The system's error; the file may then be partly written.
    pub fn write_at(&self, ranges: &[MemoryRange], offset: u64) -> io::Result<()> {
        self.transfer(ranges, offset, true)
    }

    /// Makes completed writes durable (`fdatasync`).
    ///
    /// # Errors
    /// The system's error. After one, earlier writes must be taken as lost.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives the range back to the file system; it reads as zeros afterwards.
    ///
    /// # Errors
    /// The system's error, `EOPNOTSUPP` where the file system cannot punch holes.
    pub fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (offset, len) = (to_off(offset)?, to_off(len)?);
        // SAFETY: a valid descriptor and no pointers.
        match unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset, len) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn transfer(&self, ranges: &[MemoryRange], mut offset: u64, write: bool) -> io::Result<()> {
        let mut iovecs = Vec::with_capacity(ranges.len().min(IOV_MAX));
        for group in ranges.chunks(IOV_MAX) {
            iovecs.clear();
            for range in group {
                let base = range.memory.raw(range.offset, range.len).map_err(io::Error::other)?;
                iovecs.push(libc::iovec { iov_base: base.cast(), iov_len: range.len });
            }
            offset = self.transfer_group(&mut iovecs, offset, write)?;
        }
        Ok(())
    }

    /// One group of at most `IOV_MAX` elements, resumed until nothing is left.
    fn transfer_group(
        &self,
        mut left: &mut [libc::iovec],
        mut offset: u64,
        write: bool,
    ) -> io::Result<u64> {
        let fd = self.file.as_raw_fd();
        loop {
            while left.first().is_some_and(|iov| iov.iov_len == 0) {
                left = left.split_at_mut(1).1;
            }
            if left.is_empty() {
                return Ok(offset);
            }
            let at = to_off(offset)?;
            let count = left.len() as libc::c_int;
            // SAFETY: each element was checked to lie in memory that the caller's ranges keep
            // alive over this call; the kernel only copies from or to it.
            let moved = unsafe {
                if write {
                    libc::pwritev(fd, left.as_ptr(), count, at)
                } else {
                    libc::preadv(fd, left.as_ptr(), count, at)
                }
            };
            match moved {
                0 if write => return Err(io::ErrorKind::WriteZero.into()),
                0 => {
                    for iov in left.iter() {
                        // SAFETY: checked range, as above: the file ended, the rest is zeros.
                        unsafe { std::ptr::write_bytes(iov.iov_base.cast::<u8>(), 0, iov.iov_len) };
                    }
                    return Ok(offset);
                }
                n if n > 0 => {
                    offset += n as u64;
                    advance(left, n as usize);
                }
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }
}

/// Opens a file, with these options, without waiting for anybody, such as the other end of a FIFO.
///
/// # Errors
/// The system's error.
pub fn open_at_once(path: &Path, options: &OpenOptions) -> io::Result<File> {
    // It changes nothing for reads and writes of plain files and block devices.
    options.clone().custom_flags(libc::O_NONBLOCK).open(path)
}

/// Drops `done` bytes from the front of the elements; finished ones are left with length 0.
pub(crate) fn advance(iovecs: &mut [libc::iovec], mut done: usize) {
    for iov in iovecs {
        let step = done.min(iov.iov_len);
        iov.iov_base = iov.iov_base.cast::<u8>().wrapping_add(step).cast();
        iov.iov_len -= step;
        done -= step;
        if done == 0 {
            return;
        }
    }
}

pub(crate) fn to_off(value: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(value)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "file offset past 2^63"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectored_round_trip_and_zeros_past_the_end() {
        let path = std::env::temp_dir().join(format!("gcos-hw-file-{}", std::process::id()));
        std::fs::write(&path, vec![0u8; 8192]).unwrap();
        let io = FileIo::open(&path, true).unwrap();
        let memory = Arc::new(SharedMemory::anonymous(16384).unwrap());
        let bytes: Vec<u8> = (0..8192u32).map(|i| (i % 253) as u8).collect();
        memory.write(0, &bytes).unwrap();
        let range = |offset, len| MemoryRange { memory: Arc::clone(&memory), offset, len };
        io.write_at(&[range(4096, 4096), range(0, 4096)], 0).unwrap();
        io.sync().unwrap();
        io.read_at(&[range(8192, 8192)], 4096).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut out = vec![1; 8192];
        memory.read(8192, &mut out).unwrap();
        assert_eq!(out[..4096], bytes[..4096]);
        assert_eq!(out[4096..], [0; 4096]);
    }

    #[test]
    fn a_file_is_the_same_past_the_page_cache_whatever_its_path_leads_to() {
        let folder = tempfile::tempdir().unwrap();
        let [path, other] = ["one", "other"].map(|name| folder.path().join(name));
        std::fs::write(&path, [1; 4096]).unwrap();
        std::fs::write(&other, [2; 4096]).unwrap();
        let plain = FileIo::of(File::open(&path).unwrap());
        std::fs::rename(&other, &path).unwrap();
        let Some(direct) = plain.direct(false).unwrap() else { return };
        assert!(direct.is_direct() && !plain.is_direct());
        let memory = Arc::new(SharedMemory::anonymous(4096).unwrap());
        let range = MemoryRange { memory: Arc::clone(&memory), offset: 0, len: 4096 };
        direct.read_at(&[range], 0).unwrap();
        let mut out = [0; 1];
        memory.read(0, &mut out).unwrap();
        assert_eq!(out, [1]);
    }
}
