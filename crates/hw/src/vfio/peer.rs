use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::device::{COMMAND, COMMAND_MEMORY};
use super::group::DEVICES;
use crate::pci::PciAddress;
use crate::{HwError, PAGE_BYTES, SharedMemory};

/// A memory BAR of another device, mapped through sysfs: where queues and data can live when a drive
/// is to reach that device's memory instead of the host's.
///
/// Needs the right to open the device's `resourceN` file (root, or a changed owner). The device must
/// have a driver, or none, that leaves its memory decoding on for as long as the memory is in use: with
/// decoding off, reads and writes by a drive report success and move zeros.
#[derive(Debug)]
pub struct PeerBar {
    address: PciAddress,
    config: File,
    memory: Arc<SharedMemory>,
}

/// Why a BAR of a peer cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// A file of the device cannot be opened or read.
    #[error(
        "{device}: {file} cannot be used; the peer must exist, and its BAR be a memory BAR that this user may open"
    )]
    File {
        /// The peer.
        device: PciAddress,
        /// The file below its folder in sysfs.
        file: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Memory decoding is off.
    #[error(
        "{device}: its memory decoding is off, so nothing would reach its memory; bind its driver, or \
         write 1 to its `enable` file"
    )]
    NotDecoding {
        /// The peer.
        device: PciAddress,
    },
    /// The BAR cannot be mapped.
    #[error("{device}: BAR {bar} cannot be mapped")]
    Map {
        /// The peer.
        device: PciAddress,
        /// Number of the BAR.
        bar: u8,
        /// Why.
        #[source]
        source: HwError,
    },
}

impl PeerBar {
    /// Maps a BAR. With `write_combining`, stores are gathered (the BAR must be prefetchable): faster
    /// for the CPU, and ordered by the driver before it rings a doorbell.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn open(address: PciAddress, bar: u8, write_combining: bool) -> Result<Self, PeerError> {
        Self::open_below(Path::new(DEVICES), address, bar, write_combining)
    }

    fn open_below(
        devices: &Path,
        address: PciAddress,
        bar: u8,
        write_combining: bool,
    ) -> Result<Self, PeerError> {
        let folder = devices.join(address.to_string());
        let suffix = if write_combining { "_wc" } else { "" };
        let name = format!("resource{bar}{suffix}");
        let fail = |file: &str| {
            let file = file.to_owned();
            move |source| PeerError::File { device: address, file, source }
        };
        let config = File::open(folder.join("config")).map_err(fail("config"))?;
        let file = OpenOptions::new().read(true).write(true).open(folder.join(&name));
        let file = file.map_err(fail(&name))?;
        let len = file.metadata().map_err(fail(&name))?.len();
        let len = usize::try_from(len).unwrap_or(0) / PAGE_BYTES * PAGE_BYTES;
        let memory = SharedMemory::of_file(&file, 0, len).map_err(|source| PeerError::Map {
            device: address,
            bar,
            source,
        })?;
        let peer = Self { address, config, memory: Arc::new(memory) };
        peer.check()?;
        Ok(peer)
    }

    /// The BAR's memory, for [`crate::DmaSpace::adopt`].
    #[must_use]
    pub fn memory(&self) -> &Arc<SharedMemory> {
        &self.memory
    }

    /// Checks that the peer still decodes its memory.
    ///
    /// # Errors
    /// [`PeerError::NotDecoding`] when it does not, [`PeerError::File`] when it has gone.
    pub fn check(&self) -> Result<(), PeerError> {
        let mut word = [0; 2];
        self.config.read_exact_at(&mut word, COMMAND).map_err(|source| PeerError::File {
            device: self.address,
            file: "config".into(),
            source,
        })?;
        let command = u16::from_le_bytes(word);
        // A device that is gone reads as all ones.
        if command & COMMAND_MEMORY == 0 || command == u16::MAX {
            return Err(PeerError::NotDecoding { device: self.address });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn fake(command: u16) -> (tempfile::TempDir, PciAddress) {
        let devices = tempfile::tempdir().unwrap();
        let address: PciAddress = "0000:00:05.0".parse().unwrap();
        let folder = devices.path().join(address.to_string());
        fs::create_dir(&folder).unwrap();
        let mut config = [0; 64];
        config[4..6].copy_from_slice(&command.to_le_bytes());
        fs::write(folder.join("config"), config).unwrap();
        fs::write(folder.join("resource2"), [0x5a; 8192]).unwrap();
        (devices, address)
    }

    #[test]
    fn a_bar_is_mapped_whole_and_its_decoding_watched() {
        let (devices, address) = fake(0x0002);
        let peer = PeerBar::open_below(devices.path(), address, 2, false).unwrap();
        let mut byte = [0];
        peer.memory().read(8191, &mut byte).unwrap();
        assert_eq!((peer.memory().len(), byte), (8192, [0x5a]));
        let config = devices.path().join(address.to_string()).join("config");
        for command in [0u16, u16::MAX] {
            let file = OpenOptions::new().write(true).open(&config).unwrap();
            file.write_all_at(&command.to_le_bytes(), 4).unwrap();
            assert!(matches!(peer.check(), Err(PeerError::NotDecoding { .. })), "{command:#x}");
        }
    }

    #[test]
    fn a_peer_that_does_not_decode_or_lacks_the_bar_is_refused() {
        let (devices, address) = fake(0);
        let open = |bar, wc| PeerBar::open_below(devices.path(), address, bar, wc);
        assert!(matches!(open(2, false), Err(PeerError::NotDecoding { .. })));
        assert!(matches!(open(2, true), Err(PeerError::File { .. })));
        assert!(matches!(open(0, false), Err(PeerError::File { .. })));
        let gone = "0000:00:06.0".parse().unwrap();
        let open = PeerBar::open_below(devices.path(), gone, 2, false);
        assert!(matches!(open, Err(PeerError::File { .. })));
    }
}
