use std::fmt;
use std::path::{Path, PathBuf};

use gcos_hw::pci::PciAddress;

use crate::units;

/// How an entry of `disk.paths` reaches a drive.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathKind {
    /// A PCI address such as `0000:c1:00.0`: the userspace driver.
    Pci(PciAddress),
    /// `/dev/libnvm*`, a name for a drive that is bound to the userspace driver.
    Bound(PathBuf),
    /// A block device or a plain file: the kernel's I/O path.
    Kernel(PathBuf),
    /// `emulated:FILE`: the software controller over an image file.
    EmulatedFile(PathBuf),
    /// `emulated:ram:SIZE`: the software controller over memory of this process. Size in bytes.
    EmulatedRam(u64),
}

/// Why an entry of `disk.paths` was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// Nothing there.
    #[error("empty; expected a PCI address, a device, a file, emulated:FILE or emulated:ram:SIZE")]
    Empty,
    /// `emulated:` without anything behind it.
    #[error("names no image; expected emulated:FILE or emulated:ram:SIZE")]
    NoImage,
    /// The size behind `emulated:ram:` is unusable.
    #[error(
        "the size of the memory image is unusable: {0}; expected for example emulated:ram:1GiB"
    )]
    RamSize(String),
}

impl PathKind {
    /// Takes an entry apart. Nothing is looked up on the machine.
    ///
    /// # Errors
    /// [`PathError`] when it is empty or incomplete.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.trim().is_empty() {
            return Err(PathError::Empty);
        }
        if let Some(image) = text.strip_prefix("emulated:") {
            return Self::parse_image(image);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Pci(address));
        }
        if text.starts_with("/dev/libnvm") {
            return Ok(Self::Bound(text.into()));
        }
        Ok(Self::Kernel(text.into()))
    }

    fn parse_image(image: &str) -> Result<Self, PathError> {
        if let Some(size) = image.strip_prefix("ram:") {
            let bytes = units::parse_size(size).map_err(|e| PathError::RamSize(e.to_string()))?;
            if bytes == 0 || !bytes.is_multiple_of(4096) {
                let text = format!("{bytes} bytes are no multiple of 4096");
                return Err(PathError::RamSize(text));
            }
            return Ok(Self::EmulatedRam(bytes));
        }
        if image.is_empty() || image == "ram" {
            return Err(PathError::NoImage);
        }
        Ok(Self::EmulatedFile(image.into()))
    }

    /// The image file, where the entry names one.
    #[must_use]
    pub fn image(&self) -> Option<&Path> {
        match self {
            Self::EmulatedFile(path) => Some(path),
            _ => None,
        }
    }
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => address.fmt(f),
            Self::Bound(path) | Self::Kernel(path) => write!(f, "{}", path.display()),
            Self::EmulatedFile(path) => write!(f, "emulated:{}", path.display()),
            Self::EmulatedRam(bytes) => write!(f, "emulated:ram:{}", units::size(*bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_told_apart() {
        let kind = |text: &str| PathKind::parse(text).unwrap();
        assert_eq!(kind("0000:C1:00.0"), PathKind::Pci("c1:00.0".parse().unwrap()));
        assert_eq!(kind("/dev/libnvm0"), PathKind::Bound("/dev/libnvm0".into()));
        assert_eq!(kind("/dev/nvme0n1"), PathKind::Kernel("/dev/nvme0n1".into()));
        assert_eq!(kind("c1:00.9"), PathKind::Kernel("c1:00.9".into()));
        assert_eq!(kind("pool.img"), PathKind::Kernel("pool.img".into()));
        assert_eq!(kind("emulated:pool.img"), PathKind::EmulatedFile("pool.img".into()));
        assert_eq!(kind("emulated:./ram"), PathKind::EmulatedFile("./ram".into()));
        assert_eq!(kind("emulated:ram:1GiB"), PathKind::EmulatedRam(1 << 30));
    }

    #[test]
    fn incomplete_entries_are_refused() {
        assert_eq!(PathKind::parse(" "), Err(PathError::Empty));
        assert_eq!(PathKind::parse("emulated:"), Err(PathError::NoImage));
        assert_eq!(PathKind::parse("emulated:ram"), Err(PathError::NoImage));
        for bad in ["emulated:ram:", "emulated:ram:0", "emulated:ram:100", "emulated:ram:1GB"] {
            assert!(matches!(PathKind::parse(bad), Err(PathError::RamSize(_))), "{bad}");
        }
    }

    #[test]
    fn entries_print_as_they_were_written() {
        for text in ["0000:c1:00.0", "/dev/libnvm3", "emulated:a/b.img", "emulated:ram:64MiB"] {
            assert_eq!(PathKind::parse(text).unwrap().to_string(), text);
        }
    }
}
