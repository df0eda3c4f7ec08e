//! Who uses a block device: mounts, swap, devices built on it, processes that have it open.

use std::fmt;
use std::fs::File;

use serde::Serialize;

use super::Sysfs;

/// Deepest pile of devices on devices that is followed.
const DEEPEST: usize = 16;

/// One use of a block device, a partition of it, or something built on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "use", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Use {
    /// A file system of it is mounted.
    Mounted {
        /// The block device that is mounted.
        device: String,
        /// Where.
        at: String,
    },
    /// It is swap space.
    Swap {
        /// The block device.
        device: String,
    },
    /// Another block device is built on it.
    Held {
        /// The block device that is built on.
        device: String,
        /// The one on top, with what it is: LVM, multipath, md.
        by: String,
    },
    /// The kernel says that somebody has claimed it: a mount in another namespace, a ZFS or bcache
    /// member, an exclusive open.
    Claimed {
        /// The block device.
        device: String,
    },
    /// A process has it open.
    Open {
        /// The block device.
        device: String,
        /// The process.
        pid: u32,
        /// Its program.
        program: String,
    },
}

impl Use {
    /// Whether the running system depends on it.
    #[must_use]
    pub fn is_system(&self) -> bool {
        let folders = ["/", "/boot", "/boot/efi", "/usr", "/var", "/etc"];
        matches!(self, Self::Mounted { at, .. } if folders.contains(&at.as_str()))
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { device, at } => write!(f, "{device} is mounted at {at}"),
            Self::Swap { device } => write!(f, "{device} is swap space"),
            Self::Held { device, by } => write!(f, "{device} is part of {by}"),
            Self::Claimed { device } => write!(f, "{device} is claimed exclusively"),
            Self::Open { device, pid, program } => {
                write!(f, "{device} is open in process {pid} ({program})")
            }
        }
    }
}

/// What of the machine says who uses what, read once for all devices.
#[derive(Debug)]
pub(crate) struct Users {
    sysfs: Sysfs,
    mounts: Vec<Mount>,
    swaps: Vec<String>,
    open: Vec<(u32, String)>,
}

#[derive(Debug)]
struct Mount {
    /// `major:minor`, which some file systems make up.
    number: String,
    at: String,
    /// Last part of the path of the device, symbolic links followed.
    source: Option<String>,
}

impl Users {
    pub(crate) fn read(sysfs: &Sysfs) -> Self {
        let mounts = sysfs.text("proc/self/mountinfo").unwrap_or_default();
        let swaps = sysfs.text("proc/swaps").unwrap_or_default();
        let swaps = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        Self {
            mounts: mounts.lines().filter_map(|line| mount(sysfs, line)).collect(),
            swaps: swaps.filter_map(|path| device_name(sysfs, &unescape(path))).collect(),
            open: sysfs.open_files(),
            sysfs: sysfs.clone(),
        }
    }

    /// Uses of a whole disk: of itself, of its partitions, of what is built on them. Whether
    /// somebody has claimed it shows only to those who may open it.
    pub(crate) fn of_disk(&self, disk: &str) -> Vec<Use> {
        let mut found = Vec::new();
        self.collect(disk, 0, &mut found);
        for partition in self.partitions(disk) {
            self.collect(&partition, 0, &mut found);
        }
        // What was found explains a claim already.
        let explained = |one: &Use| !matches!(one, Use::Open { .. });
        if !found.iter().any(explained)
            && let Err(ClaimError::Claimed(claimed)) = self.claim(disk)
        {
            found.push(claimed);
        }
        found
    }

    /// Names of the partitions of a disk.
    fn partitions(&self, disk: &str) -> Vec<String> {
        let names = self.sysfs.names(format!("sys/class/block/{disk}"));
        let is =
            |name: &String| self.sysfs.exists(format!("sys/class/block/{disk}/{name}/partition"));
        names.into_iter().filter(is).collect()
    }

    fn collect(&self, device: &str, depth: usize, found: &mut Vec<Use>) {
        let number = self.sysfs.text(format!("sys/class/block/{device}/dev"));
        let name = || device.to_owned();
        for mount in &self.mounts {
            let by_number = number.as_ref() == Some(&mount.number);
            if by_number || mount.source.as_deref() == Some(device) {
                add(found, Use::Mounted { device: name(), at: mount.at.clone() });
            }
        }
        if self.swaps.iter().any(|swap| swap == device) {
            add(found, Use::Swap { device: name() });
        }
        let node = format!("/dev/{device}");
        for (pid, _) in self.open.iter().filter(|(_, target)| *target == node) {
            let program = self.sysfs.program(*pid);
            add(found, Use::Open { device: name(), pid: *pid, program });
        }
        for holder in self.sysfs.names(format!("sys/class/block/{device}/holders")) {
            let by = self.describe(&holder);
            add(found, Use::Held { device: name(), by });
            if depth < DEEPEST {
                self.collect(&holder, depth + 1, found);
            }
        }
    }

    /// What kind of device is built on another.
    fn describe(&self, holder: &str) -> String {
        let attribute = |path: &str| self.sysfs.text(format!("sys/class/block/{holder}/{path}"));
        if let Some(level) = attribute("md/level") {
            return format!("{holder} (md {level})");
        }
        let Some(name) = attribute("dm/name") else { return holder.to_owned() };
        let uuid = attribute("dm/uuid").unwrap_or_default();
        let kind = match uuid.split('-').next() {
            Some("LVM") => "LVM volume",
            Some("mpath") => "multipath device",
            Some("CRYPT") => "encrypted device",
            _ => "device-mapper device",
        };
        format!("{holder} ({kind} {name})")
    }

    /// Claims a whole disk, having seen that none of its partitions is claimed. While the file lives
    /// nobody mounts the disk or builds on it.
    ///
    /// # Errors
    /// The claim that is in the way, or the system's error where it is another one than `EBUSY`.
    pub(crate) fn claim(&self, disk: &str) -> Result<Option<File>, ClaimError> {
        // Partitions first: with the disk claimed, opening them would fail because of ourselves.
        for partition in self.partitions(disk) {
            self.claim_one(&partition)?;
        }
        self.claim_one(disk)
    }

    fn claim_one(&self, device: &str) -> Result<Option<File>, ClaimError> {
        let node = self.sysfs.path(format!("dev/{device}"));
        match self.sysfs.kernel().claim(&node) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                Err(ClaimError::Claimed(Use::Claimed { device: device.to_owned() }))
            }
            // No node (a container's /dev), or a device that is going away: nobody mounts that
            // here, and what the kernel itself builds on it is among the holders.
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound
                    || matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV)) =>
            {
                Ok(None)
            }
            Err(error) => Err(ClaimError::Io { device: device.to_owned(), error }),
        }
    }
}

/// Why a disk could not be claimed.
#[derive(Debug)]
pub(crate) enum ClaimError {
    Claimed(Use),
    Io { device: String, error: std::io::Error },
}

fn add(found: &mut Vec<Use>, one: Use) {
    if !found.contains(&one) {
        found.push(one);
    }
}

/// A line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn mount(sysfs: &Sysfs, line: &str) -> Option<Mount> {
    let (head, tail) = line.split_once(" - ")?;
    let mut head = head.split(' ').skip(2);
    let (number, at) = (head.next()?.to_owned(), unescape(head.nth(1)?));
    let source = tail.split(' ').nth(1).and_then(|path| device_name(sysfs, &unescape(path)));
    Some(Mount { number, at, source })
}

/// Name of a block device by the path of its node or of a symbolic link to it.
fn device_name(sysfs: &Sysfs, path: &str) -> Option<String> {
    let name = path.strip_prefix("/dev/")?;
    let linked = sysfs.link_name(path);
    Some(linked.unwrap_or_else(|| name.to_owned()))
}

/// Spaces and the like stand in these files as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let value =
            digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_their_optional_fields_and_escapes() {
        let sysfs = Sysfs::new("/nowhere");
        let line =
            r"36 35 259:1 / /mnt/a\040b rw,noatime shared:1 master:2 - ext4 /dev/nvme0n1p1 rw";
        let read = mount(&sysfs, line).unwrap();
        assert_eq!((read.number.as_str(), read.at.as_str()), ("259:1", "/mnt/a b"));
        assert_eq!(read.source.as_deref(), Some("nvme0n1p1"));
        let none = mount(&sysfs, "22 27 0:21 / /proc rw,relatime - proc proc rw").unwrap();
        assert_eq!(none.source, None);
        assert!(mount(&sysfs, "garbage").is_none());
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(unescape(r"a\134b\"), r"a\b\");
        assert_eq!(unescape(r"\9\77"), r"\9\77");
    }
}
