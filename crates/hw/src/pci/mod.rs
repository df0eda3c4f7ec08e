//! PCI functions as sysfs shows them: finding NVMe drives, who uses them, taking one from the
//! kernel's driver for VFIO and giving it back, and names that stay.
//!
//! Everything goes through [`Sysfs`], whose root and kernel tests replace.

mod address;
mod bind;
mod drive;
mod group;
mod identity;
mod names;
mod sysfs;
mod usage;

pub use address::{PciAddress, PciAddressError};
pub use bind::{BindError, Change, bind, check, hand_over, unbind};
pub use drive::{Controller, Drive, Link, Namespace, Obstacle};
pub use group::{Group, Holder, Member};
pub use identity::{Identity, NVME_CLASS};
pub use names::{NAME_PREFIX, Named, Names, NamesError};
pub use sysfs::{Kernel, Sysfs};
pub use usage::Use;

/// Class code of the function at an address; `None` if there is none.
#[must_use]
pub fn class_of(sysfs: &Sysfs, address: PciAddress) -> Option<u32> {
    sysfs.hex(format!("sys/bus/pci/devices/{address}/class"))
}

/// Addresses of all NVMe functions, in order.
#[must_use]
pub fn nvme_addresses(sysfs: &Sysfs) -> Vec<PciAddress> {
    let names = sysfs.names("sys/bus/pci/devices");
    let addresses = names.iter().filter_map(|name| name.parse().ok());
    let mut found: Vec<PciAddress> =
        addresses.filter(|&address| class_of(sysfs, address) == Some(NVME_CLASS)).collect();
    found.sort_unstable();
    found
}
