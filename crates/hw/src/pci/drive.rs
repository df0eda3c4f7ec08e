use std::fmt;

use serde::Serialize;

use super::group::display;
use super::identity::controller_name;
use super::usage::Users;
use super::{Group, Identity, Member, PciAddress, Sysfs, Use};

/// The kernel's own driver for NVMe.
pub(crate) const KERNEL_DRIVER: &str = "nvme";
/// The driver that hands a function to a process.
pub(crate) const VFIO_DRIVER: &str = "vfio-pci";

/// An NVMe function and what the system knows of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drive {
    /// Where it is.
    #[serde(serialize_with = "display")]
    pub address: PciAddress,
    /// What it is.
    pub identity: Identity,
    /// The driver that is bound to it.
    pub driver: Option<String>,
    /// The only driver that may bind to it, if one is set.
    pub driver_override: Option<String>,
    /// Its IOMMU group; none where no IOMMU is on.
    pub group: Option<Group>,
    /// The NUMA node it hangs on, where the machine has several.
    pub numa_node: Option<u32>,
    /// Its connection, where it is PCI Express.
    pub link: Option<Link>,
    /// What the kernel's NVMe driver says of it, while that is bound.
    pub controller: Option<Controller>,
    /// Its namespaces, while the kernel's NVMe driver is bound.
    pub namespaces: Vec<Namespace>,
}

/// A PCI Express connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Transfers per second of a lane, as the kernel writes it: `16.0 GT/s PCIe`.
    pub speed: String,
    /// Number of lanes.
    pub width: u32,
    /// Best speed of the device.
    pub max_speed: Option<String>,
    /// Most lanes of the device.
    pub max_width: Option<u32>,
}

/// A controller of the kernel's NVMe driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Controller {
    /// Name, such as `nvme0`.
    pub name: String,
    /// Revision of the firmware.
    pub firmware: Option<String>,
    /// State: `live` is the good one.
    pub state: Option<String>,
    /// Composite temperature in degrees Celsius.
    pub temperature_celsius: Option<i32>,
}

/// A namespace of a controller that the kernel drives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Namespace {
    /// Name of the block device.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Logical block size in bytes.
    pub block_bytes: u32,
    /// Who uses it.
    pub uses: Vec<Use>,
}

impl Drive {
    /// Every NVMe function of the machine, by address.
    #[must_use]
    pub fn list(sysfs: &Sysfs) -> Vec<Self> {
        let users = Users::read(sysfs);
        let addresses = super::nvme_addresses(sysfs).into_iter();
        addresses.filter_map(|address| Self::look(sysfs, &users, address)).collect()
    }

    /// One NVMe function; `None` if there is none at the address.
    #[must_use]
    pub fn at(sysfs: &Sysfs, address: PciAddress) -> Option<Self> {
        let is_nvme = super::class_of(sysfs, address) == Some(super::NVME_CLASS);
        is_nvme.then(|| Self::look(sysfs, &Users::read(sysfs), address)).flatten()
    }

    fn look(sysfs: &Sysfs, users: &Users, address: PciAddress) -> Option<Self> {
        let folder = format!("sys/bus/pci/devices/{address}");
        let driver_override = sysfs.text(format!("{folder}/driver_override"));
        let controller = controller_name(sysfs, address);
        let namespaces = controller.as_ref().map_or_else(Vec::new, |controller| {
            namespaces(sysfs, users, &format!("{folder}/nvme/{controller}"))
        });
        Some(Self {
            address,
            identity: Identity::read(sysfs, address)?,
            driver: sysfs.link_name(format!("{folder}/driver")),
            driver_override: driver_override.filter(|text| text != "(null)"),
            group: Group::of(sysfs, address),
            // -1: the machine has one node, or the firmware does not say.
            numa_node: sysfs.number(format!("{folder}/numa_node")),
            link: link(sysfs, &folder),
            controller: controller.map(|name| look_at_controller(sysfs, &folder, name)),
            namespaces,
        })
    }

    /// Whether it is bound to VFIO, and will be after the next probe.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.driver.as_deref() == Some(VFIO_DRIVER)
    }

    /// What keeps the drive from being handed to a process, if `together` (of its group) are bound
    /// at the same time. Exclusive claims of others show only to those who may open the disk.
    #[must_use]
    pub fn obstacles(&self, together: &[PciAddress]) -> Vec<Obstacle> {
        let mut found = Vec::new();
        for namespace in &self.namespaces {
            found.extend(namespace.uses.iter().cloned().map(Obstacle::Used));
        }
        match self.driver.as_deref() {
            None | Some(KERNEL_DRIVER | VFIO_DRIVER) => {}
            Some(other) => found.push(Obstacle::OtherDriver(other.to_owned())),
        }
        match &self.group {
            None if self.is_behind_vmd() => found.push(Obstacle::BehindVmd),
            None => found.push(Obstacle::NoIommu),
            Some(group) if group.without_iommu => found.push(Obstacle::WithoutIommu),
            Some(group) => {
                let others = group
                    .others
                    .iter()
                    .filter(|member| !member.is_harmless() && !together.contains(&member.address));
                let others: Vec<_> = others.cloned().collect();
                if !others.is_empty() {
                    let vmd = self.is_behind_vmd();
                    found.push(if vmd { Obstacle::BehindVmd } else { Obstacle::Shared(others) });
                }
            }
        }
        found
    }

    /// Domains past 16 bits are made up by drivers of virtual root complexes; VMD's is the one that
    /// has NVMe drives.
    fn is_behind_vmd(&self) -> bool {
        self.address.domain > 0xffff
    }
}

/// What keeps a drive from being handed to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// The system or somebody uses what is on it.
    Used(Use),
    /// A driver that is neither the kernel's NVMe driver nor VFIO.
    OtherDriver(String),
    /// There is no IOMMU group.
    NoIommu,
    /// VFIO runs without an IOMMU.
    WithoutIommu,
    /// It sits behind Intel's Volume Management Device.
    BehindVmd,
    /// Others of its group are in use.
    Shared(Vec<Member>),
}

impl fmt::Display for Obstacle {
    /// What is in the way, and the cure.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Used(one) if one.is_system() => {
                write!(f, "the running system is on this drive: {one}; choose another drive")
            }
            Self::Used(one) => {
                let cure = match one {
                    Use::Mounted { at, .. } => format!("umount {at}, and take it out of /etc/fstab"),
                    Use::Swap { device } => {
                        format!("swapoff /dev/{device}, and take it out of /etc/fstab")
                    }
                    Use::Held { .. } => "take that apart first, if its data may go".to_owned(),
                    Use::Claimed { .. } => {
                        "find who does it: a mount in another namespace (a container), a ZFS pool \
                         (zpool status), or a program that opened it exclusively"
                            .to_owned()
                    }
                    Use::Open { .. } => "end that program first".to_owned(),
                };
                write!(f, "{one}; {cure}")
            }
            Self::OtherDriver(driver) => write!(
                f,
                "the driver {driver} is bound to it, expected nvme or vfio-pci; give the drive back \
                 with the tool that bound it"
            ),
            Self::NoIommu => f.write_str(
                "it has no IOMMU group: the IOMMU is off; switch it on in the firmware setup (VT-d, \
                 AMD-Vi) and on the kernel's command line (intel_iommu=on), then reboot",
            ),
            Self::WithoutIommu => f.write_str(
                "VFIO runs without an IOMMU (enable_unsafe_noiommu_mode), which lets the drive write \
                 anywhere in memory; switch the IOMMU on and that mode off",
            ),
            Self::BehindVmd => f.write_str(
                "it sits behind Intel VMD, which keeps its drives together; switch VMD off for its \
                 slot in the firmware setup",
            ),
            Self::Shared(others) => {
                let list: Vec<_> = others.iter().map(Member::to_string).collect();
                write!(
                    f,
                    "its IOMMU group holds other devices in use: {}; put the drive into another \
                     slot, or, if they are spare drives too, bind all of them with one command",
                    list.join(", ")
                )
            }
        }
    }
}

fn link(sysfs: &Sysfs, folder: &str) -> Option<Link> {
    Some(Link {
        speed: sysfs.text(format!("{folder}/current_link_speed"))?,
        width: sysfs.number(format!("{folder}/current_link_width"))?,
        max_speed: sysfs.text(format!("{folder}/max_link_speed")),
        max_width: sysfs.number(format!("{folder}/max_link_width")),
    })
}

fn look_at_controller(sysfs: &Sysfs, folder: &str, name: String) -> Controller {
    let own = format!("{folder}/nvme/{name}");
    // Kernels before 5.12 hang the sensor on the PCI function.
    let sensors = [own.clone(), format!("{own}/hwmon"), format!("{folder}/hwmon")];
    let mut inputs = sensors.iter().flat_map(|place| {
        let names = sysfs.names(place).into_iter().filter(|name| name.starts_with("hwmon"));
        names.map(move |name| format!("{place}/{name}/temp1_input"))
    });
    let milli: Option<i32> = inputs.find_map(|path| sysfs.number(path));
    Controller {
        firmware: sysfs.text(format!("{own}/firmware_rev")),
        state: sysfs.text(format!("{own}/state")),
        temperature_celsius: milli.map(|milli| milli.div_euclid(1000)),
        name,
    }
}

fn namespaces(sysfs: &Sysfs, users: &Users, controller: &str) -> Vec<Namespace> {
    let names = sysfs.names(controller);
    let disks = names.iter().filter_map(|name| disk_of(name));
    let mut found: Vec<Namespace> = disks
        .filter_map(|name| {
            let block = format!("sys/class/block/{name}");
            // In units of 512 bytes, whatever the block size.
            let sectors: u64 = sysfs.number(format!("{block}/size"))?;
            Some(Namespace {
                bytes: sectors.saturating_mul(512),
                block_bytes: sysfs.number(format!("{block}/queue/logical_block_size"))?,
                uses: users.of_disk(&name),
                name,
            })
        })
        .collect();
    found.dedup_by(|a, b| a.name == b.name);
    found
}

/// The disk that an entry below a controller stands for. `nvme0c1n2` is a path of controller 1 to
/// the disk `nvme0n2`, where the kernel's multipathing is on.
fn disk_of(entry: &str) -> Option<String> {
    let rest = entry.strip_prefix("nvme")?;
    let (head, namespace) = rest.rsplit_once('n')?;
    let subsystem = head.split_once('c').map_or(head, |(subsystem, _)| subsystem);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let path = head.split_once('c').is_none_or(|(_, controller)| digits(controller));
    (digits(subsystem) && digits(namespace) && path).then(|| format!("nvme{subsystem}n{namespace}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_a_controller_that_are_disks_are_told_from_others() {
        for (entry, disk) in [
            ("nvme0n1", Some("nvme0n1")),
            ("nvme12c3n45", Some("nvme12n45")),
            ("ng0n1", None),
            ("nvme0", None),
            ("nvme0cn1", None),
            ("nvme0n", None),
            ("nvmen1", None),
            ("hwmon3", None),
        ] {
            assert_eq!(disk_of(entry).as_deref(), disk, "{entry}");
        }
    }
}
