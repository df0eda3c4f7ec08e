//! Who else has a block device: for the message when it cannot be had alone.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::sysfs::BlockDevice;

/// Of a device that somebody has, and nobody knows who.
pub(super) const UNKNOWN: &str = "another program has it open for itself (another store, a file-system check, a RAID, LVM); end that first";

/// In words, who has the block device of this number, and what to do; `None` where nobody is known.
pub(super) fn of_device(number: libc::dev_t) -> Option<String> {
    let mounts = fs::read("/proc/self/mounts").unwrap_or_default();
    let swaps = fs::read("/proc/swaps").unwrap_or_default();
    let device = BlockDevice::of(number);
    let same = |path: &Path| {
        let other = fs::metadata(path).ok().filter(|found| found.file_type().is_block_device());
        other.is_some_and(|found| device.overlaps(&BlockDevice::of(found.rdev())))
    };
    if let Some((source, at)) = entries(&mounts, 2).find(|(source, _)| same(source)) {
        let (source, at) = (source.display(), at.display());
        return Some(format!("{source} is mounted at {at}; unmount it, or use another device"));
    }
    if let Some((source, _)) = entries(&swaps, 1).find(|(source, _)| same(source)) {
        return Some(format!("{} is swap space; turn it off with swapoff", source.display()));
    }
    let holders = device.holders();
    let built = || format!("{} is built on it; take that apart first", holders.join(", "));
    (!holders.is_empty()).then(built)
}

/// First and last of the first `columns` columns of each line that begins with an absolute path.
fn entries(table: &[u8], columns: usize) -> impl Iterator<Item = (PathBuf, PathBuf)> + '_ {
    table.split(|&byte| byte == b'\n').filter(|line| line.first() == Some(&b'/')).filter_map(
        move |line| {
            let mut fields = line.split(|byte| matches!(byte, b' ' | b'\t')).take(columns);
            let first = unescape(fields.next()?);
            let last = fields.last().map_or_else(|| first.clone(), unescape);
            Some((first, last))
        },
    )
}

/// The kernel writes blanks, tabs, line ends and backslashes of paths as a backslash and three octal
/// digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = |digits: &[u8; 3]| {
            let value = digits.iter().try_fold(0u32, |value, digit| {
                (b'0'..=b'7').contains(digit).then(|| value * 8 + u32::from(digit - b'0'))
            });
            value.and_then(|value| u8::try_from(value).ok())
        };
        match after.first_chunk::<3>().filter(|_| byte == b'\\').and_then(octal) {
            Some(value) => {
                bytes.push(value);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_blanks_in_paths() {
        let table =
            b"proc /proc proc rw 0 0\n/dev/sda1 /mnt/my\\040disk\\134x ext4 rw 0 0\n/dev/b / x\n";
        let found: Vec<_> = entries(table, 2).collect();
        let path = |text: &str| PathBuf::from(text);
        assert_eq!(
            found,
            [(path("/dev/sda1"), path("/mnt/my disk\\x")), (path("/dev/b"), path("/"))]
        );
        let swaps = b"Filename\tType\n/dev/sdb2 partition\t1\n";
        assert_eq!(entries(swaps, 1).next().unwrap().0, path("/dev/sdb2"));
        assert_eq!(unescape(b"\\9"), path("\\9"));
    }
}
