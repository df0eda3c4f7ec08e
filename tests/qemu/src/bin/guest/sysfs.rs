//! PCI functions of the guest.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use gcos_hw::SharedMemory;
use gcos_hw::pci::PciAddress;

use crate::report::{Trouble, failed};

const DEVICES: &str = "/sys/bus/pci/devices";
/// Class of an NVMe controller: mass storage, non-volatile memory, NVM Express.
const NVME: u32 = 0x01_08_02;
/// Vendor and device of QEMU's device with shared memory.
const PEER: (u32, u32) = (0x1af4, 0x1110);
/// Its BAR that is memory.
pub(crate) const PEER_BAR: u8 = 2;

/// The folder of a function.
pub(crate) fn folder(address: &PciAddress) -> PathBuf {
    Path::new(DEVICES).join(address.to_string())
}

/// A number in hexadecimal that sysfs has of a function.
fn number(address: &PciAddress, name: &str) -> Option<u32> {
    let text = fs::read_to_string(folder(address).join(name)).ok()?;
    u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

fn functions(fits: impl Fn(&PciAddress) -> bool) -> Result<Vec<PciAddress>, Trouble> {
    let mut found = Vec::new();
    for entry in fs::read_dir(DEVICES)? {
        let name = entry?.file_name();
        let address: PciAddress = name.to_string_lossy().parse()?;
        if fits(&address) {
            found.push(address);
        }
    }
    found.sort();
    Ok(found)
}

/// NVMe controllers by address.
pub(crate) fn controllers() -> Result<Vec<PciAddress>, Trouble> {
    functions(|address| number(address, "class") == Some(NVME))
}

/// The one controller of this guest, or the first.
pub(crate) fn controller() -> Result<PciAddress, Trouble> {
    match controllers()?.first() {
        Some(address) => Ok(*address),
        None => failed("this guest has no NVMe controller"),
    }
}

/// Devices whose BAR is plain memory.
pub(crate) fn peers() -> Result<Vec<PciAddress>, Trouble> {
    functions(|address| {
        number(address, "vendor") == Some(PEER.0) && number(address, "device") == Some(PEER.1)
    })
}

/// The one peer of this guest, or the first.
pub(crate) fn peer() -> Result<PciAddress, Trouble> {
    match peers()?.first() {
        Some(address) => Ok(*address),
        None => failed("this guest has no peer device"),
    }
}

/// A peer's memory, to look at.
pub(crate) fn peer_memory() -> Result<SharedMemory, Trouble> {
    let file = fs::OpenOptions::new().read(true).write(true).open(peer_file(&peer()?))?;
    let len = usize::try_from(file.metadata()?.len())?;
    Ok(SharedMemory::of_file(&file, 0, len)?)
}

/// The file of a peer's memory.
pub(crate) fn peer_file(address: &PciAddress) -> PathBuf {
    folder(address).join(format!("resource{PEER_BAR}"))
}

/// The driver that has a function.
pub(crate) fn driver(address: &PciAddress) -> Option<String> {
    let target = fs::read_link(folder(address).join("driver")).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// Gives a function to vfio-pci, whoever has it.
pub(crate) fn bind(address: &PciAddress) -> Result<(), Trouble> {
    give(address, "vfio-pci")
}

/// Gives a function to a driver, or with an empty name to whichever takes it.
pub(crate) fn give(address: &PciAddress, to: &str) -> Result<(), Trouble> {
    let folder = folder(address);
    fs::write(folder.join("driver_override"), format!("{to}\n"))?;
    if driver(address).is_some() {
        unbind(address)?;
    }
    fs::write("/sys/bus/pci/drivers_probe", address.to_string())?;
    match driver(address) {
        Some(driver) if to.is_empty() || driver == to => Ok(()),
        other => failed(format!("{address} is with {other:?}, not with {to:?}")),
    }
}

/// The number of a function's IOMMU group.
pub(crate) fn group(address: &PciAddress) -> Result<String, Trouble> {
    let target = fs::read_link(folder(address).join("iommu_group"))?;
    let name = target.file_name().map(|name| name.to_string_lossy().into_owned());
    name.map_or_else(|| failed(format!("{address} has no IOMMU group")), Ok)
}

/// Switches the memory decoding of a function on that has no driver to do so.
pub(crate) fn enable(address: &PciAddress) -> Result<(), Trouble> {
    let enabled = folder(address).join("enable");
    // The kernel counts: once is enough.
    if fs::read_to_string(&enabled)?.trim() == "0" {
        fs::write(&enabled, "1")?;
    }
    Ok(())
}

/// Takes a function from its driver.
pub(crate) fn unbind(address: &PciAddress) -> Result<(), Trouble> {
    Ok(fs::write(folder(address).join("driver/unbind"), address.to_string())?)
}

/// Switches the memory decoding of a function on or off, behind everybody's back: bit 1 of the
/// command register.
pub(crate) fn decode(address: &PciAddress, on: bool) -> Result<(), Trouble> {
    let config =
        fs::OpenOptions::new().read(true).write(true).open(folder(address).join("config"))?;
    let mut command = [0; 2];
    config.read_exact_at(&mut command, 4)?;
    let word = u16::from_le_bytes(command);
    let word = if on { word | 2 } else { word & !2 };
    Ok(config.write_all_at(&word.to_le_bytes(), 4)?)
}

/// Takes a function off the bus.
pub(crate) fn remove(address: &PciAddress) -> Result<(), Trouble> {
    Ok(fs::write(folder(address).join("remove"), "1")?)
}

/// Looks for functions that are new on the bus.
pub(crate) fn rescan() -> Result<(), Trouble> {
    Ok(fs::write("/sys/bus/pci/rescan", "1")?)
}
