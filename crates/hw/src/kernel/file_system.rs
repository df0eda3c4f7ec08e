//! What a file lies on: the name of the file system, and what it asks of direct I/O.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use crate::{PAGE_BYTES, SharedMemory};

/// Numbers of file systems (statfs(2)) that data is likely to lie on, or that have no direct I/O.
const NAMES: &[(u64, &str)] = &[
    (0xef53, "ext4"),
    (0x5846_5342, "XFS"),
    (0x9123_683e, "btrfs"),
    (0xf2f5_2010, "f2fs"),
    (0x2fc1_2fc1, "ZFS"),
    (0xca45_1a4e, "bcachefs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x794c_7630, "overlay"),
    (0x6969, "NFS"),
    (0x6573_5546, "FUSE"),
    (0xff53_4d42, "SMB"),
    (0xfe53_4d42, "SMB"),
    (0x517b, "SMB"),
    (0x0bd0_0bd0, "Lustre"),
    (0x00c3_6400, "Ceph"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x4750_4653, "GPFS"),
    (0x0102_1997, "9p"),
    (0x6a65_6a62, "virtiofs"),
    (0x7371_7368, "squashfs"),
    (0x9584_58f6, "hugetlbfs"),
    (0x4d44, "FAT"),
    (0x2011_bab0, "exFAT"),
    (0x5346_544e, "NTFS"),
];

/// The name of the file system that `file` lies on; its number where the name is unknown.
pub(super) fn name(file: &File) -> io::Result<String> {
    let mut found = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: a valid descriptor, and room for one statfs that the call fills.
    let rc = unsafe { libc::fstatfs(file.as_raw_fd(), found.as_mut_ptr()) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled by the call, and zeroed before: plain numbers, of which any are valid.
    let magic = unsafe { found.assume_init() }.f_type as u64 & 0xffff_ffff;
    let known = NAMES.iter().find(|(number, _)| *number == magic);
    Ok(known.map_or_else(|| format!("number {magic:#x}"), |(_, name)| (*name).to_owned()))
}

/// What direct I/O asks for, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Alignment {
    /// Of addresses in memory.
    pub(super) memory: u32,
    /// Of offsets and lengths.
    pub(super) offset: u32,
}

impl Alignment {
    /// Whether there is direct I/O, and blocks of 512 or 4096 bytes in whole pages suit it.
    pub(super) fn is_usable(&self) -> bool {
        let suits = |align: u32| align > 0 && (PAGE_BYTES as u32).is_multiple_of(align);
        suits(self.memory) && suits(self.offset)
    }
}

/// What the kernel says that direct I/O asks for; `None` where it does not say (before Linux 6.1, and
/// for file systems that do not know). Zeros: there is none.
pub(super) fn told(file: &File) -> Option<Alignment> {
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: a valid descriptor, an empty path that ends in 0, and room for one statx.
    let rc = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            found.as_mut_ptr(),
        )
    };
    // SAFETY: zeroed before: plain numbers, of which any are valid.
    let found = unsafe { found.assume_init() };
    let told = rc == 0 && found.stx_mask & libc::STATX_DIOALIGN != 0;
    told.then_some(Alignment {
        memory: found.stx_dio_mem_align,
        offset: found.stx_dio_offset_align,
    })
}

/// Finds out by reading what offsets direct I/O takes: 512 or 4096; `None` where neither is read.
pub(super) fn probed(file: &File) -> Option<Alignment> {
    let memory = SharedMemory::anonymous(2 * PAGE_BYTES).ok()?;
    [512, 4096].into_iter().find_map(|offset: u32| {
        let len = offset as usize;
        let at = memory.raw(len, len).ok()?;
        let position = libc::off_t::from(offset);
        // SAFETY: `len` bytes of our own memory, checked just now.
        let got = unsafe { libc::pread(file.as_raw_fd(), at.cast(), len, position) };
        // A file of one block ends there: also good.
        (got >= 0).then_some(Alignment { memory: offset, offset })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_do_not_divide_a_page_are_not_for_us() {
        for (memory, offset, usable) in [
            (1, 512, true),
            (512, 512, true),
            (4, 4096, true),
            (4096, 2048, true),
            (0, 0, false),
            (512, 0, false),
            (512, 8192, false),
            (8192, 512, false),
            (512, 520, false),
        ] {
            let alignment = Alignment { memory, offset };
            assert_eq!(alignment.is_usable(), usable, "{alignment:?}");
        }
    }

    #[test]
    fn the_file_system_of_proc_is_a_number_and_probing_finds_a_block() {
        let proc = File::open("/proc/self/status").unwrap();
        assert_eq!(name(&proc).unwrap(), "number 0x9fa0");
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 16).unwrap();
        // Without O_DIRECT anything is read.
        assert_eq!(probed(&file), Some(Alignment { memory: 512, offset: 512 }));
    }
}
