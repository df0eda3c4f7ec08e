//! IOMMU groups: what VFIO hands out, and who holds it.

use std::fmt;

use serde::{Serialize, Serializer};

use super::{PciAddress, Sysfs, class_of};

/// Class and subclass of a PCI-to-PCI bridge, which VFIO lets stay with the kernel.
const BRIDGE: u32 = 0x0604;

/// One function of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Its address.
    #[serde(serialize_with = "display")]
    pub address: PciAddress,
    /// Class code, 24 bits.
    pub class: u32,
    /// The driver that is bound to it.
    pub driver: Option<String>,
}

impl Member {
    /// Whether VFIO can hand out the group while this function is as it is.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        self.class >> 8 == BRIDGE
            || self.driver.as_deref().is_none_or(|driver| {
                driver.contains("vfio") || matches!(driver, "pci-stub" | "pcieport")
            })
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, self.driver.as_deref().unwrap_or("no driver"))
    }
}

pub(crate) fn display<T: fmt::Display, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// The functions that the IOMMU cannot tell apart from one function; VFIO hands out all or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Number; the node is `/dev/vfio/NUMBER`.
    pub number: u32,
    /// The other functions of the group.
    pub others: Vec<Member>,
    /// VFIO made it up, without an IOMMU: it protects nothing.
    pub without_iommu: bool,
}

impl Group {
    /// The group of a function; `None` where no IOMMU is on.
    #[must_use]
    pub fn of(sysfs: &Sysfs, address: PciAddress) -> Option<Self> {
        let folder = format!("sys/bus/pci/devices/{address}");
        let number = sysfs.link_name(format!("{folder}/iommu_group"))?.parse().ok()?;
        let group = format!("sys/kernel/iommu_groups/{number}");
        let others = sysfs.names(format!("{group}/devices")).into_iter();
        let others = others.filter_map(|name| name.parse().ok()).filter(|&a| a != address);
        Some(Self {
            number,
            others: others.map(|address| member(sysfs, address)).collect(),
            without_iommu: sysfs.text(format!("{group}/name")).as_deref() == Some("vfio-noiommu"),
        })
    }

    /// The node that stands for the group.
    #[must_use]
    pub fn node(&self) -> String {
        format!("/dev/vfio/{}", self.number)
    }

    /// The processes that hold the group, or the device by its own node, as far as they can be seen.
    #[must_use]
    pub fn holders(&self, sysfs: &Sysfs, address: PciAddress) -> Vec<Holder> {
        let mut nodes = vec![self.node()];
        for name in sysfs.names(format!("sys/bus/pci/devices/{address}/vfio-dev")) {
            nodes.push(format!("/dev/vfio/devices/{name}"));
        }
        let open = sysfs.open_files().into_iter().filter(|(_, target)| nodes.contains(target));
        let mut found: Vec<Holder> =
            open.map(|(pid, _)| Holder { pid, program: sysfs.program(pid) }).collect();
        found.dedup();
        found
    }
}

/// A process that holds a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its program.
    pub program: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.program)
    }
}

fn member(sysfs: &Sysfs, address: PciAddress) -> Member {
    let driver = sysfs.link_name(format!("sys/bus/pci/devices/{address}/driver"));
    Member { address, class: class_of(sysfs, address).unwrap_or(0), driver }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_in_the_way_of_nobody_if_vfio_would_hand_it_out() {
        let member = |class: u32, driver: Option<&str>| Member {
            address: "c0:01.0".parse().unwrap(),
            class,
            driver: driver.map(str::to_owned),
        };
        for (class, driver) in [
            (0x060400, Some("pcieport")),
            (0x060400, Some("shpchp")),
            (0x010802, Some("vfio-pci")),
            (0x020000, Some("mlx5_vfio_pci")),
            (0x0c0330, Some("pci-stub")),
            (0x0c0330, None),
        ] {
            assert!(member(class, driver).is_harmless(), "{class:06x} {driver:?}");
        }
        assert!(!member(0x010802, Some("nvme")).is_harmless());
        assert!(!member(0x060100, Some("lpc_ich")).is_harmless());
    }
}
