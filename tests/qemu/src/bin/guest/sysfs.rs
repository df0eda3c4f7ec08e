//! PCI functions of the guest.

use std::fs;
use std::path::{Path, PathBuf};

use gcos_hw::pci::PciAddress;

use crate::report::{Trouble, failed};

const DEVICES: &str = "/sys/bus/pci/devices";
/// Class of an NVMe controller: mass storage, non-volatile memory, NVM Express.
const NVME: u32 = 0x01_08_02;
/// Vendor and device of QEMU's device with shared memory.
const PEER: (u32, u32) = (0x1af4, 0x1110);
/// Its BAR that is memory.
const PEER_BAR: &str = "resource2";

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

/// The file of a peer's memory.
pub(crate) fn peer_file(address: &PciAddress) -> PathBuf {
    folder(address).join(PEER_BAR)
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
        fs::write(folder.join("driver/unbind"), address.to_string())?;
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
