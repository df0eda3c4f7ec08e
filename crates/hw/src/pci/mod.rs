//! PCI functions as sysfs shows them.

mod address;

pub use address::{PciAddress, PciAddressError};
