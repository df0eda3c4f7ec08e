use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use vfio_bindings::bindings::vfio as sys;

use super::group::Member;
use super::ioctl::{self, RegionInfo};
use super::{VfioError, cure};
use crate::pci::PciAddress;
use crate::{EventFd, SharedMemory};

/// PCI command register: offset in configuration space, and its bits (PCI Local Bus 3.0, 6.2.2).
pub(super) const COMMAND: u64 = 0x04;
pub(super) const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_NO_INTX: u16 = 1 << 10;

/// How long to wait for a reset while the kernel has the device locked.
pub(super) const LOCKED: Duration = Duration::from_secs(1);

/// An open VFIO device. Closing it gives the device back: the kernel resets it.
#[derive(Debug)]
pub(super) struct Device {
    address: PciAddress,
    // Closed before the group leaves its container: the kernel refuses the other order.
    file: File,
    config: RegionInfo,
    resettable: bool,
    group: Member,
}

impl Device {
    pub(super) fn open(address: PciAddress, group: Member) -> Result<Self, VfioError> {
        let fd: OwnedFd = group.device(address)?;
        let call = |what, source| VfioError::Call {
            device: address,
            group: group.id,
            what,
            cure: "see the kernel's log (dmesg)".into(),
            source,
        };
        let flags = ioctl::device_flags(fd.as_fd()).map_err(|e| call("VFIO_DEVICE_GET_INFO", e))?;
        if flags & sys::VFIO_DEVICE_FLAGS_PCI == 0 {
            let what = format!("expected a PCI device, VFIO says flags {flags:#x}");
            return Err(VfioError::Unsuitable { device: address, group: group.id, what });
        }
        let config = ioctl::device_region(fd.as_fd(), sys::VFIO_PCI_CONFIG_REGION_INDEX)
            .map_err(|e| call("VFIO_DEVICE_GET_REGION_INFO (configuration space)", e))?;
        let resettable = flags & sys::VFIO_DEVICE_FLAGS_RESET != 0;
        Ok(Self { address, file: fd.into(), config, resettable, group })
    }

    fn call(&self, what: &'static str, cure: String, source: io::Error) -> VfioError {
        VfioError::Call { device: self.address, group: self.group.id, what, cure, source }
    }

    pub(super) fn unsuitable(&self, what: String) -> VfioError {
        VfioError::Unsuitable { device: self.address, group: self.group.id, what }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// A 16-bit word of the configuration space.
    fn read_config(&self, offset: u64) -> io::Result<u16> {
        let mut word = [0; 2];
        self.file.read_exact_at(&mut word, self.config.offset + offset)?;
        Ok(u16::from_le_bytes(word))
    }

    fn write_config(&self, offset: u64, value: u16) -> io::Result<()> {
        self.file.write_all_at(&value.to_le_bytes(), self.config.offset + offset)
    }

    /// Lets the device decode its BARs and start transfers, with `master`; or stops it from that.
    ///
    /// Pin interrupts are switched off: completions of the admin queue would raise one while MSI-X is
    /// off, with nobody to serve it, until the kernel cuts off whoever shares the line.
    pub(super) fn command(&self, master: bool) -> Result<(), VfioError> {
        let change = || {
            let old = self.read_config(COMMAND)?;
            let new = match master {
                true => old | COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_NO_INTX,
                false => old & !COMMAND_BUS_MASTER,
            };
            self.write_config(COMMAND, new)?;
            // Reading it back also waits for transfers that are on their way.
            self.read_config(COMMAND).map(|now| (now, new))
        };
        let what = "writing the PCI command register";
        let (now, new) = change().map_err(|e| {
            self.call(
                what,
                "the drive may have been removed; see the kernel's log (dmesg)".into(),
                e,
            )
        })?;
        let bits = COMMAND_MEMORY | COMMAND_BUS_MASTER;
        if master && now & bits != new & bits {
            let expected = "expected memory decoding and bus mastering to be on";
            return Err(
                self.unsuitable(format!("{expected}, the PCI command register says {now:#06x}"))
            );
        }
        Ok(())
    }

    /// Maps a whole BAR.
    pub(super) fn map_bar(&self, index: u32) -> Result<SharedMemory, VfioError> {
        let info = ioctl::device_region(self.fd(), index).map_err(|e| {
            self.call("VFIO_DEVICE_GET_REGION_INFO", "see the kernel's log (dmesg)".into(), e)
        })?;
        if info.len == 0 {
            return Err(self.unsuitable(format!("it has no BAR {index}")));
        }
        if info.flags & sys::VFIO_REGION_INFO_FLAG_MMAP == 0 {
            let what = format!(
                "BAR {index} ({} bytes) cannot be mapped: it is smaller than a page, or Linux is older \
                 than 4.16, which does not map a BAR with an MSI-X table",
                info.len
            );
            return Err(self.unsuitable(what));
        }
        let len = usize::try_from(info.len).unwrap_or(usize::MAX);
        let bar = SharedMemory::of_file(&self.file, info.offset, len)
            .map_err(|source| VfioError::Resource { device: self.address, source })?;
        // A child process would keep the device from being given back.
        bar.keep_from_children();
        Ok(bar)
    }

    /// How many MSI-X vectors the device has.
    pub(super) fn vectors(&self) -> Result<u32, VfioError> {
        ioctl::device_interrupts(self.fd(), sys::VFIO_PCI_MSIX_IRQ_INDEX)
            .map_err(|e| self.call("VFIO_DEVICE_GET_IRQ_INFO (MSI-X)", cure::interrupts(&e), e))
    }

    /// Asks for a signal when the kernel wants the device back.
    pub(super) fn on_request(&self, event: &EventFd) -> Result<(), VfioError> {
        let index = sys::VFIO_PCI_REQ_IRQ_INDEX;
        ioctl::route_interrupts(self.fd(), index, 0, &[Some(event)]).map_err(|e| {
            self.call("VFIO_DEVICE_SET_IRQS (device request)", cure::interrupts(&e), e)
        })
    }

    /// Resets the device, where the platform can: whether it could. Waits up to `patience` while the
    /// kernel has it locked.
    pub(super) fn reset(&self, patience: Duration) -> Result<bool, VfioError> {
        if !self.resettable {
            return Ok(false);
        }
        ioctl::retried(libc::EAGAIN, patience, || ioctl::device_reset(self.fd()))
            .map(|()| true)
            .map_err(|e| self.call("VFIO_DEVICE_RESET", cure::reset(&e), e))
    }

    /// Ends what other drives reach of the device's memory.
    pub(super) fn evict(&self, memory: &Arc<SharedMemory>) {
        self.group.evict(memory);
    }
}
