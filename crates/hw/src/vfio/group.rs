use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::container::Container;
use super::error::GET_DEVICE_FD;
use super::{VfioError, cure, ioctl};
use crate::SharedMemory;
use crate::pci::{self, PciAddress, Sysfs};

/// How long a device may be locked by others, such as its last driver or a neighbour that is reset,
/// before it can be opened.
const LOCKED: Duration = Duration::from_secs(5);

/// How long a group's node may be in use before it can be opened: a child process between `fork` and
/// `exec` may hold it for a moment.
const BUSY: Duration = Duration::from_millis(250);

/// Where the kernel shows PCI functions.
pub(super) const DEVICES: &str = "/sys/bus/pci/devices";

/// The groups in a container. Each is opened once, however many of its devices are open.
#[derive(Debug)]
pub(super) struct Groups {
    container: Arc<Container>,
    /// Copied and dropped under the lock alone, so that a group is never opened while it is closed.
    open: Mutex<HashMap<u32, Arc<Group>>>,
}

impl Groups {
    pub(super) fn new(container: Arc<Container>) -> Arc<Self> {
        Arc::new(Self { container, open: Mutex::default() })
    }

    /// A share in a group, which is opened if it is not.
    pub(super) fn enter(
        self: &Arc<Self>,
        device: PciAddress,
        group: &pci::Group,
    ) -> Result<Member, VfioError> {
        let id = group.number;
        let mut open = self.open.lock();
        let group = match open.get(&id) {
            Some(group) => Arc::clone(group),
            None => {
                let group = Arc::new(Group::open(&self.container, device, group)?);
                open.insert(id, Arc::clone(&group));
                group
            }
        };
        Ok(Member { id, group: Some(group), groups: Arc::clone(self) })
    }
}

/// A share in a group. The group leaves its container with the last one.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: u32,
    /// `None` only while it is dropped.
    group: Option<Arc<Group>>,
    groups: Arc<Groups>,
}

impl Member {
    /// Opens a device of the group.
    pub(super) fn device(&self, device: PciAddress) -> Result<OwnedFd, VfioError> {
        match &self.group {
            Some(group) => group.device(device),
            None => Err(VfioError::NoIommu { device }),
        }
    }

    /// Ends what drives of the container reach of a device's memory.
    pub(super) fn evict(&self, memory: &Arc<SharedMemory>) {
        self.groups.container.evict(memory);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut open = self.groups.open.lock();
        self.group = None;
        if open.get(&self.id).is_some_and(|group| Arc::strong_count(group) == 1) {
            open.remove(&self.id);
        }
    }
}

/// An IOMMU group in a container: the devices that the IOMMU tells apart from all others, though not
/// from each other.
#[derive(Debug)]
struct Group {
    id: u32,
    file: File,
    container: Arc<Container>,
}

impl Group {
    /// Opens the group and puts it into the container.
    fn open(
        container: &Arc<Container>,
        device: PciAddress,
        group: &pci::Group,
    ) -> Result<Self, VfioError> {
        let id = group.number;
        let fail =
            |what, cure: String, source| VfioError::Call { device, group: id, what, cure, source };
        let path = PathBuf::from(format!("/dev/vfio/{id}"));
        let open = || OpenOptions::new().read(true).write(true).open(&path);
        let file = match ioctl::retried(libc::EBUSY, BUSY, open) {
            Ok(file) => file,
            Err(error) => {
                return Err(fail("opening the group", cure::group(&error, device, id), error));
            }
        };
        match ioctl::group_is_viable(&file) {
            Ok(true) => {}
            Ok(false) => {
                return Err(VfioError::NotViable { device, group: id, others: in_the_way(group) });
            }
            Err(error) => {
                let cure = "see the kernel's log (dmesg)".to_owned();
                return Err(fail("VFIO_GROUP_GET_STATUS", cure, error));
            }
        }
        // A group that stays behind without an IOMMU leaves when its file is closed.
        container.join(
            || {
                let joined = ioctl::group_join(&file, container);
                joined.map_err(|e| fail("VFIO_GROUP_SET_CONTAINER", cure::join(&e), e))
            },
            |what, error| fail(what, cure::iommu(&error), error),
        )?;
        Ok(Self { id, file, container: Arc::clone(container) })
    }

    /// Opens a device of the group.
    fn device(&self, device: PciAddress) -> Result<OwnedFd, VfioError> {
        let open = || ioctl::group_device(&self.file, device);
        let opened = ioctl::retried(libc::EAGAIN, LOCKED, open);
        opened.map_err(|source| {
            let cure = cure::device(&source, device);
            VfioError::Call { device, group: self.id, what: GET_DEVICE_FD, cure, source }
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = self.container.leave(|| ioctl::group_leave(&self.file)) {
            // The kernel takes it out when whoever still has it open ends.
            tracing::error!(group = self.id, %error, "the IOMMU group could not leave its container: \
                a child process of this one, or a mapping of a BAR, keeps it");
        }
    }
}

/// The IOMMU group of a function that is bound to vfio-pci.
pub(super) fn of_device(device: PciAddress) -> Result<pci::Group, VfioError> {
    let machine = Sysfs::new("/");
    if pci::class_of(&machine, device).is_none() {
        return Err(VfioError::NoDevice { device });
    }
    let driver = machine.link_name(format!("{DEVICES}/{device}/driver"));
    if driver.as_deref() != Some("vfio-pci") {
        return Err(VfioError::NotBound { device, driver });
    }
    match pci::Group::of(&machine, device) {
        None => Err(VfioError::NoIommu { device }),
        Some(group) if group.without_iommu => {
            Err(VfioError::NoIommuMode { device, group: group.number })
        }
        Some(group) => Ok(group),
    }
}

/// Devices of a group that keep it from being viable, each with its driver.
fn in_the_way(group: &pci::Group) -> Vec<String> {
    let others = group.others.iter().filter(|member| !member.is_harmless());
    let found: Vec<_> = others.map(ToString::to_string).collect();
    if found.is_empty() { vec!["other devices are".into()] } else { found }
}
