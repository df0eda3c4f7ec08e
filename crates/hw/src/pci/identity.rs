use std::fmt;
use std::fs::File;
use std::io::Read;

use serde::{Deserialize, Serialize};

use super::{PciAddress, Sysfs};

/// Class code of an NVMe controller with its I/O interface (NVMe over PCIe Transport, 3.8.1).
pub const NVME_CLASS: u32 = 0x01_08_02;

/// Extended capability "Device Serial Number" (PCI Express Base Specification, 7.9.3).
const SERIAL_CAPABILITY: u32 = 3;
const EXTENDED_BYTES: usize = 4096;
const EXTENDED_START: usize = 256;

/// What tells one PCI function from another, wherever it sits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device, a number that the vendor gave.
    pub device: u16,
    /// Vendor of the board.
    pub subsystem_vendor: u16,
    /// Board, a number that its vendor gave.
    pub subsystem_device: u16,
    /// PCI Express device serial number in hexadecimal, where the device has one. Only root can read
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_serial: Option<String>,
    /// Serial number that the NVMe controller states, where the kernel's driver has shown it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Model that the NVMe controller states, where the kernel's driver has shown it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

impl Identity {
    /// Reads what sysfs shows of the function; `None` if there is no such function.
    #[must_use]
    pub fn read(sysfs: &Sysfs, address: PciAddress) -> Option<Self> {
        let folder = format!("sys/bus/pci/devices/{address}");
        let id =
            |name: &str| sysfs.hex(format!("{folder}/{name}")).and_then(|id| id.try_into().ok());
        let controller = controller_name(sysfs, address);
        let shown = |name: &str| {
            let controller = controller.as_ref()?;
            sysfs.text(format!("{folder}/nvme/{controller}/{name}"))
        };
        Some(Self {
            vendor: id("vendor")?,
            device: id("device")?,
            subsystem_vendor: id("subsystem_vendor").unwrap_or(0),
            subsystem_device: id("subsystem_device").unwrap_or(0),
            pci_serial: pci_serial(sysfs, address),
            serial: shown("serial"),
            model: shown("model"),
        })
    }

    /// Whether both can be the same device. Serial numbers are compared where both are known.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        let ids = |i: &Self| (i.vendor, i.device, i.subsystem_vendor, i.subsystem_device);
        let same = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
        ids(self) == ids(other)
            && same(&self.pci_serial, &other.pci_serial)
            && same(&self.serial, &other.serial)
    }

    /// Whether a serial number that both show says that they are the same device.
    #[must_use]
    pub fn is_surely(&self, other: &Self) -> bool {
        let equal = |a: &Option<String>, b: &Option<String>| a.is_some() && a == b;
        let serial =
            equal(&self.pci_serial, &other.pci_serial) || equal(&self.serial, &other.serial);
        self.agrees_with(other) && serial
    }

    /// What is known, from both. `self` is the newer.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self {
            pci_serial: self.pci_serial.or_else(|| other.pci_serial.clone()),
            serial: self.serial.or_else(|| other.serial.clone()),
            model: self.model.or_else(|| other.model.clone()),
            ..self
        }
    }
}

impl fmt::Display for Identity {
    /// For people: model, numbers, serial number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(model) = &self.model {
            write!(f, "{model} ")?;
        }
        write!(f, "[{:04x}:{:04x}]", self.vendor, self.device)?;
        match self.serial.as_ref().or(self.pci_serial.as_ref()) {
            Some(serial) => write!(f, ", serial number {serial}"),
            None => Ok(()),
        }
    }
}

/// Name that the kernel's NVMe driver gave the controller, such as `nvme0`.
pub(crate) fn controller_name(sysfs: &Sysfs, address: PciAddress) -> Option<String> {
    let names = sysfs.names(format!("sys/bus/pci/devices/{address}/nvme"));
    names.into_iter().find(|name| name.starts_with("nvme"))
}

fn pci_serial(sysfs: &Sysfs, address: PciAddress) -> Option<String> {
    let path = sysfs.path(format!("sys/bus/pci/devices/{address}/config"));
    let mut config = Vec::new();
    File::open(path).ok()?.take(EXTENDED_BYTES as u64).read_to_end(&mut config).ok()?;
    serial_in(&config).map(|serial| format!("{serial:016x}"))
}

/// The serial number in a copy of the configuration space, if it is in there.
fn serial_in(config: &[u8]) -> Option<u64> {
    let word = |at: usize| {
        let bytes = config.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let mut at = EXTENDED_START;
    // Each capability has at least one word, so more steps than words are a loop.
    for _ in 0..(EXTENDED_BYTES - EXTENDED_START) / 4 {
        let header = word(at)?;
        // All ones: the device does not answer. Zero: no capability.
        if header == u32::MAX || header == 0 {
            return None;
        }
        if header & 0xffff == SERIAL_CAPABILITY {
            let serial = u64::from(word(at + 8)?) << 32 | u64::from(word(at + 4)?);
            return (serial != 0 && serial != u64::MAX).then_some(serial);
        }
        at = usize::try_from(header >> 20).ok()? & !3;
        if at < EXTENDED_START {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(capabilities: &[(usize, u32)]) -> Vec<u8> {
        let mut config = vec![0; EXTENDED_BYTES];
        for (at, word) in capabilities {
            config[*at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        config
    }

    #[test]
    fn the_serial_number_is_found_behind_other_capabilities() {
        let found = config(&[
            (0x100, 0x1480_0001),
            (0x148, 0x0001_0003),
            (0x14c, 0x5566_7788),
            (0x150, 0x1122_3344),
        ]);
        assert_eq!(serial_in(&found), Some(0x1122_3344_5566_7788));
    }

    #[test]
    fn what_is_no_list_of_capabilities_has_no_serial_number_and_ends() {
        assert_eq!(serial_in(&[]), None);
        assert_eq!(serial_in(&[0; 64]), None, "what others than root may read");
        assert_eq!(serial_in(&config(&[])), None);
        assert_eq!(serial_in(&vec![0xff; EXTENDED_BYTES]), None, "removed");
        assert_eq!(serial_in(&config(&[(0x100, 0x1000_0001)])), None, "points at itself");
        assert_eq!(serial_in(&config(&[(0x100, 0x0400_0001)])), None, "points below the start");
        assert_eq!(serial_in(&config(&[(0x100, 0xffc0_0001), (0xffc, 3)])), None, "cut off");
        assert_eq!(serial_in(&config(&[(0x100, 3)])), None, "a serial number of zeros");
    }

    #[test]
    fn identities_agree_unless_something_known_differs() {
        let identity = Identity {
            vendor: 0x144d,
            device: 0xa80a,
            subsystem_vendor: 0x144d,
            subsystem_device: 0xa801,
            pci_serial: None,
            serial: Some("S1".to_owned()),
            model: None,
        };
        let quiet = Identity { serial: None, ..identity.clone() };
        let other = Identity { serial: Some("S2".to_owned()), ..identity.clone() };
        let model = Identity { device: 0xa80b, ..identity.clone() };
        assert!(identity.agrees_with(&quiet) && quiet.agrees_with(&identity));
        assert!(!identity.agrees_with(&other) && !identity.agrees_with(&model));
        assert!(identity.is_surely(&identity) && !identity.is_surely(&quiet));
        assert_eq!(quiet.or(&identity), identity);
    }
}
