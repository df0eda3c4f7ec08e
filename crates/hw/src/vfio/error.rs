use std::io;

use crate::HwError;
use crate::pci::PciAddress;

/// Why a drive cannot be driven through VFIO, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VfioError {
    /// There is no container to be had.
    #[error("VFIO is not usable: {cure}")]
    Container {
        /// What to do.
        cure: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// There is no such PCI function.
    #[error("{device}: there is no such PCI function; `gcos devices` lists those that are NVMe")]
    NoDevice {
        /// The function.
        device: PciAddress,
    },
    /// Another driver has the function.
    #[error(
        "{device}: {}, not to vfio-pci; `gcos bind {device}` hands it over",
        driver.as_ref().map_or("bound to no driver".into(), |name| format!("bound to {name}"))
    )]
    NotBound {
        /// The function.
        device: PciAddress,
        /// Its driver.
        driver: Option<String>,
    },
    /// The IOMMU does not isolate the function.
    #[error(
        "{device}: it is in no IOMMU group: the IOMMU is off; switch VT-d or AMD-Vi on in the firmware \
         and, on Intel, boot with intel_iommu=on"
    )]
    NoIommu {
        /// The function.
        device: PciAddress,
    },
    /// VFIO runs without an IOMMU.
    #[error(
        "{device} (IOMMU group {group}): VFIO has it in no-IOMMU mode, in which the drive could write \
         anywhere in memory; switch the IOMMU on"
    )]
    NoIommuMode {
        /// The function.
        device: PciAddress,
        /// Its IOMMU group.
        group: u32,
    },
    /// Other devices of the group are in use.
    #[error(
        "{device} (IOMMU group {group}): the group is not viable: {} in use by other drivers; bind \
         every device of the group to vfio-pci or to none, or move the drive to another slot",
        others.join(", ")
    )]
    NotViable {
        /// The function.
        device: PciAddress,
        /// Its IOMMU group.
        group: u32,
        /// The devices in the way, each with its driver.
        others: Vec<String>,
    },
    /// A call failed.
    #[error("{device} (IOMMU group {group}): {what} failed; {cure}")]
    Call {
        /// The function.
        device: PciAddress,
        /// Its IOMMU group.
        group: u32,
        /// What was being done.
        what: &'static str,
        /// What to do.
        cure: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The device lacks something.
    #[error("{device} (IOMMU group {group}): {what}")]
    Unsuitable {
        /// The function.
        device: PciAddress,
        /// Its IOMMU group.
        group: u32,
        /// What was expected and what was found.
        what: String,
    },
    /// The function is open in this process already.
    #[error("{device}: it is open in this process already; one driver at a time may have it")]
    InUse {
        /// The function.
        device: PciAddress,
    },
    /// Memory, events or addresses could not be had.
    #[error("{device}")]
    Resource {
        /// The function.
        device: PciAddress,
        /// Why.
        #[source]
        source: HwError,
    },
}

/// What opening a device of a group is called in messages.
pub(super) const GET_DEVICE_FD: &str = "VFIO_GROUP_GET_DEVICE_FD";

impl VfioError {
    /// Whether the device itself has gone or does not answer, rather than being in use or out of reach.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::NoDevice { .. } => true,
            Self::Call { what, source, .. } => match source.raw_os_error() {
                Some(libc::EIO) => true,
                Some(libc::ENODEV) => *what == GET_DEVICE_FD,
                _ => false,
            },
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_left_the_bus_is_gone_and_a_missing_backend_is_not() {
        let device: PciAddress = "0000:01:00.0".parse().unwrap();
        let call = |what, number| VfioError::Call {
            device,
            group: 7,
            what,
            cure: String::new(),
            source: io::Error::from_raw_os_error(number),
        };
        assert!(VfioError::NoDevice { device }.is_gone());
        assert!(call(GET_DEVICE_FD, libc::ENODEV).is_gone());
        assert!(call("writing the PCI command register", libc::EIO).is_gone());
        assert!(!call("VFIO_SET_IOMMU (type 1 v2)", libc::ENODEV).is_gone());
        assert!(!call(GET_DEVICE_FD, libc::EBUSY).is_gone());
        assert!(!VfioError::InUse { device }.is_gone());
    }
}
