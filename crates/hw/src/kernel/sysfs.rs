//! What sysfs and the kernel say about a block device.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// `BLKSSZGET`: bytes of a logical block.
const BLKSSZGET: libc::Ioctl = 0x1268;
/// `BLKGETSIZE64`: bytes of the device. The number holds the size of a pointer.
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272u32 as libc::Ioctl;
/// `BLKDISCARD`: a range is no longer needed.
const BLKDISCARD: libc::Ioctl = 0x1277;

/// Bytes of a block device.
pub(super) fn size_bytes(file: &File) -> io::Result<u64> {
    let mut bytes = 0u64;
    // SAFETY: a valid descriptor, and room for the 8 bytes that the call stores.
    match unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &mut bytes) } {
        0 => Ok(bytes),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes of a logical block.
pub(super) fn block_bytes(file: &File) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: a valid descriptor, and room for the int that the call stores.
    match unsafe { libc::ioctl(file.as_raw_fd(), BLKSSZGET, &mut bytes) } {
        0 => Ok(bytes.unsigned_abs()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Tells the device that a range is no longer needed.
pub(super) fn discard(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: a valid descriptor, and the two words that the call reads.
    match unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD, range.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The folder of sysfs for a block device.
#[derive(Debug)]
pub(super) struct BlockDevice {
    folder: PathBuf,
}

impl BlockDevice {
    /// The device of this number, in a sysfs mounted at `/sys`.
    pub(super) fn of(number: libc::dev_t) -> Self {
        Self::at(Path::new("/sys/dev/block"), number)
    }

    fn at(blocks: &Path, number: libc::dev_t) -> Self {
        let name = format!("{}:{}", libc::major(number), libc::minor(number));
        let link = blocks.join(name);
        Self { folder: fs::canonicalize(&link).unwrap_or(link) }
    }

    /// The folder of the whole device, where this may be a partition of it.
    fn whole(&self) -> &Path {
        match self.folder.parent() {
            Some(parent) if self.folder.join("partition").exists() => parent,
            _ => &self.folder,
        }
    }

    /// The first of these files that says something, trimmed; "" where none does.
    fn first(&self, names: &[&str]) -> String {
        let texts = names.iter().filter_map(|name| fs::read(self.whole().join(name)).ok());
        let trimmed = texts.map(|text| String::from_utf8_lossy(&text).trim().to_owned());
        trimmed.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
    }

    /// Serial number of the drive: NVMe and virtio tell it as text, SCSI in its page 0x80.
    pub(super) fn serial(&self) -> String {
        let text = self.first(&["device/serial", "serial"]);
        if !text.is_empty() {
            return text;
        }
        let page = fs::read(self.whole().join("device/vpd_pg80")).unwrap_or_default();
        // Four bytes of header.
        page.get(4..).map_or_else(String::new, |serial| {
            String::from_utf8_lossy(serial).trim_matches(['\0', ' ']).to_owned()
        })
    }

    /// Model of the drive.
    pub(super) fn model(&self) -> String {
        self.first(&["device/model"])
    }

    /// Whether the kernel can pass a discard on.
    pub(super) fn discards(&self) -> bool {
        self.first(&["queue/discard_max_bytes"]).parse::<u64>().is_ok_and(|bytes| bytes > 0)
    }

    /// Names of devices that are built on this one, such as a RAID or an encrypted volume.
    pub(super) fn holders(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.join("holders")).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Whether `other` is this device, a partition of it, or the device that this is a partition of.
    pub(super) fn overlaps(&self, other: &BlockDevice) -> bool {
        self.folder == other.folder
            || self.whole() == other.folder
            || other.whole() == self.folder.as_path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sysfs with one disk and one partition.
    fn machine() -> (tempfile::TempDir, [BlockDevice; 3]) {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, bytes: &[u8]| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        write("259:0/device/serial", b"S64A  \n");
        write("259:0/device/model", b"ACME 9000   \n");
        write("259:0/queue/discard_max_bytes", b"2199023255040\n");
        write("259:0/p1/partition", b"1\n");
        write("259:0/p1/holders/dm-3/x", b"");
        write("8:0/device/vpd_pg80", b"\0\x80\0\x08  XYZ-1\0");
        write("8:0/queue/discard_max_bytes", b"0\n");
        let at =
            |name: &str| BlockDevice { folder: fs::canonicalize(root.path().join(name)).unwrap() };
        let devices = [at("259:0"), at("259:0/p1"), at("8:0")];
        (root, devices)
    }

    #[test]
    fn a_partition_has_the_serial_number_and_the_model_of_its_drive() {
        let (_root, [disk, part, scsi]) = machine();
        for device in [&disk, &part] {
            let told = (device.serial(), device.model(), device.discards());
            assert_eq!(told, ("S64A".to_owned(), "ACME 9000".to_owned(), true));
        }
        assert_eq!((scsi.serial(), scsi.model()), ("XYZ-1".to_owned(), String::new()));
        assert!(!scsi.discards());
        assert_eq!(part.holders(), ["dm-3"]);
        assert!(disk.holders().is_empty());
    }

    #[test]
    fn a_disk_and_its_partitions_overlap_and_others_do_not() {
        let (_root, [disk, part, scsi]) = machine();
        assert!(disk.overlaps(&part) && part.overlaps(&disk) && disk.overlaps(&disk));
        assert!(!disk.overlaps(&scsi) && !scsi.overlaps(&part));
    }

    #[test]
    fn a_device_that_sysfs_does_not_know_has_no_words() {
        let gone = BlockDevice::at(Path::new("/nonexistent"), libc::makedev(7, 1));
        assert_eq!((gone.serial(), gone.model()), (String::new(), String::new()));
        assert!(!gone.discards() && gone.holders().is_empty());
    }
}
