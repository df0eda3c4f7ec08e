use std::fmt;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A record of udev that cuFile needs to recognise a file's file system, and does not find: usual in containers
/// and virtual machines without udevd. cuFile answers with 5027 then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdevGap {
    /// The record that is missing or incomplete.
    pub record: PathBuf,
    /// Lines that it should have, such as `E:ID_FS_USAGE=filesystem`.
    pub lines: Vec<String>,
}

/// Major and minor number of a device, as Linux packs them for programs.
fn numbers(dev: u64) -> (u64, u64) {
    let major = ((dev >> 8) & 0xFFF) | ((dev >> 32) & !0xFFF);
    let minor = (dev & 0xFF) | ((dev >> 12) & !0xFF);
    (major, minor)
}

/// Where a file is, and what is mounted.
fn place(file: &File) -> Option<(PathBuf, String)> {
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    Some((path, fs::read_to_string("/proc/self/mountinfo").ok()?))
}

impl UdevGap {
    /// Looks for what cuFile will miss for this file; `None` where nothing is missing, or nothing can be told.
    #[must_use]
    pub fn of(file: impl AsFd) -> Option<Self> {
        let file = File::from(file.as_fd().try_clone_to_owned().ok()?);
        let meta = file.metadata().ok()?;
        if meta.file_type().is_block_device() {
            return None;
        }
        let (path, mounts) = place(&file)?;
        Self::look(Path::new("/run/udev/data"), &mounts, &path, numbers(meta.dev()))
    }

    /// The type of the file system that a file lies on, such as `ext4`; `None` where it cannot be told.
    pub(super) fn file_system_of(file: &File) -> Option<String> {
        let (path, mounts) = place(file)?;
        let numbers = numbers(file.metadata().ok()?.dev());
        file_system(&mounts, &path, numbers).map(str::to_owned)
    }

    fn look(records: &Path, mounts: &str, path: &Path, (major, minor): (u64, u64)) -> Option<Self> {
        // File systems without a device have major number 0: cuFile has no record to look for.
        if major == 0 {
            return None;
        }
        let record = records.join(format!("b{major}:{minor}"));
        let text = fs::read_to_string(&record).unwrap_or_default();
        let wanted = ["E:ID_FS_TYPE=", "E:ID_FS_USAGE="];
        if wanted.iter().all(|key| text.lines().any(|line| line.starts_with(key))) {
            return None;
        }
        let kind = file_system(mounts, path, (major, minor)).unwrap_or("ext4");
        let lines = vec![format!("E:ID_FS_TYPE={kind}"), "E:ID_FS_USAGE=filesystem".to_owned()];
        Some(Self { record, lines })
    }
}

/// The type of the file system with these numbers, by the mount that is deepest on the way to the file.
fn file_system<'a>(mounts: &'a str, path: &Path, numbers: (u64, u64)) -> Option<&'a str> {
    let device = format!("{}:{}", numbers.0, numbers.1);
    let of_device = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ');
        let (found, point) = (fields.nth(2)?, fields.nth(1)?);
        (found == device).then_some((Path::new(point), right.split(' ').next()?))
    });
    let mut of_device: Vec<_> = of_device.collect();
    of_device.sort_by_key(|(point, _)| (path.starts_with(point), point.as_os_str().len()));
    of_device.last().map(|(_, kind)| *kind)
}

impl fmt::Display for UdevGap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} has not what udev records of a file system: run udevd, mount the host's /run/udev into the \
             container, or write the lines {} into it",
            self.record.display(),
            self.lines.join(" and "),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
29 1 254:0 / / rw,relatime - ext4 /dev/root rw
30 29 254:16 / /data rw,relatime shared:1 - xfs /dev/vdb rw
31 29 0:25 / /dev/shm rw - tmpfs shm rw
";

    #[test]
    fn a_missing_record_is_named_with_the_lines_that_it_should_have() {
        let records = std::env::temp_dir().join(format!("gcos-udev-{}", std::process::id()));
        fs::create_dir_all(&records).unwrap();
        let look = |path: &str, numbers| UdevGap::look(&records, MOUNTS, Path::new(path), numbers);
        let gap = look("/data/pool", (254, 16)).unwrap();
        assert_eq!(gap.record, records.join("b254:16"));
        assert_eq!(gap.lines, ["E:ID_FS_TYPE=xfs", "E:ID_FS_USAGE=filesystem"]);
        assert!(gap.to_string().contains("b254:16"), "{gap}");
        assert_eq!(look("/pool", (254, 0)).unwrap().lines[0], "E:ID_FS_TYPE=ext4");
        assert_eq!(look("/dev/shm/pool", (0, 25)), None, "no device, no record");
        fs::write(&gap.record, "E:ID_FS_TYPE=xfs\n").unwrap();
        assert!(look("/data/pool", (254, 16)).is_some(), "half a record");
        fs::write(&gap.record, "I:1\nE:ID_FS_TYPE=xfs\nE:ID_FS_USAGE=filesystem\n").unwrap();
        assert_eq!(look("/data/pool", (254, 16)), None);
        fs::remove_dir_all(&records).unwrap();
    }

    #[test]
    fn device_numbers_are_unpacked_as_linux_packs_them() {
        assert_eq!(numbers(0xFE10), (254, 16));
        assert_eq!(numbers(0x0010_0300), (3, 256));
    }
}
