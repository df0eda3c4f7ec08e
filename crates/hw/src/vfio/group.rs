use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::container::Container;
use super::{VfioError, cure, ioctl};
use crate::pci::PciAddress;

/// How long a device may be locked by others, such as its last driver, before it can be opened.
const BUSY: Duration = Duration::from_secs(5);

/// Where the kernel shows PCI functions.
pub(super) const DEVICES: &str = "/sys/bus/pci/devices";

/// An IOMMU group in a container: the devices that the IOMMU tells apart from all others, though not
/// from each other.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: u32,
    file: File,
    container: Arc<Container>,
}

impl Group {
    /// Opens the group and puts it into the container.
    pub(super) fn open(
        container: &Arc<Container>,
        device: PciAddress,
        id: u32,
    ) -> Result<Arc<Self>, VfioError> {
        let fail =
            |what, cure: String, source| VfioError::Call { device, group: id, what, cure, source };
        let path = PathBuf::from(format!("/dev/vfio/{id}"));
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(_) if Path::new(&format!("/dev/vfio/noiommu-{id}")).exists() => {
                return Err(VfioError::NoIommuMode { device, group: id });
            }
            Err(error) => {
                return Err(fail("opening the group", cure::group(&error, device, id), error));
            }
        };
        match ioctl::group_is_viable(&file) {
            Ok(true) => {}
            Ok(false) => {
                return Err(VfioError::NotViable { device, group: id, others: others(id) });
            }
            Err(error) => {
                let cure = "see the kernel's log (dmesg)".to_owned();
                return Err(fail("VFIO_GROUP_GET_STATUS", cure, error));
            }
        }
        let call = |what, result: io::Result<()>| {
            result.map_err(|error| fail(what, cure::join(&error), error))
        };
        container.join(
            || call("VFIO_GROUP_SET_CONTAINER", ioctl::group_join(&file, container)),
            || {
                // A group that stays behind without an IOMMU leaves when its file is closed.
                call("VFIO_SET_IOMMU (type 1 v2)", ioctl::set_iommu(container))
            },
            |error| {
                fail("mapping buffers for drives that were opened again", cure::join(&error), error)
            },
        )?;
        Ok(Arc::new(Self { id, file, container: Arc::clone(container) }))
    }

    /// Opens a device of the group.
    pub(super) fn device(&self, device: PciAddress) -> Result<OwnedFd, VfioError> {
        let end = Instant::now() + BUSY;
        let opened = loop {
            match ioctl::group_device(&self.file, device) {
                // Somebody else holds the device's lock, such as a driver that is just leaving it.
                Err(error)
                    if error.raw_os_error() == Some(libc::EAGAIN) && Instant::now() < end =>
                {
                    thread::sleep(Duration::from_millis(10));
                }
                opened => break opened,
            }
        };
        opened.map_err(|source| {
            let cure = cure::device(&source, device);
            VfioError::Call {
                device,
                group: self.id,
                what: "VFIO_GROUP_GET_DEVICE_FD",
                cure,
                source,
            }
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = self.container.leave(|| ioctl::group_leave(&self.file)) {
            // The kernel takes it out when the process ends; until then nobody else can have it.
            tracing::error!(group = self.id, %error, "the IOMMU group could not leave its container");
        }
    }
}

/// The IOMMU group of a function that is bound to vfio-pci.
pub(super) fn of_device(device: PciAddress) -> Result<u32, VfioError> {
    let folder = Path::new(DEVICES).join(device.to_string());
    if !folder.exists() {
        return Err(VfioError::NoDevice { device });
    }
    let driver = link_name(&folder.join("driver"));
    if driver.as_deref() != Some("vfio-pci") {
        return Err(VfioError::NotBound { device, driver });
    }
    let group = link_name(&folder.join("iommu_group")).and_then(|name| name.parse().ok());
    group.ok_or(VfioError::NoIommu { device })
}

/// Devices of a group that keep it from being viable, each with its driver.
fn others(group: u32) -> Vec<String> {
    let folder = format!("/sys/kernel/iommu_groups/{group}/devices");
    let Ok(entries) = fs::read_dir(folder) else { return vec!["other devices are".into()] };
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let driver = link_name(&entry.path().join("driver"))?;
            let ours = ["vfio-pci", "pcieport", "pci-stub"].contains(&driver.as_str());
            (!ours).then(|| format!("{} ({driver})", entry.file_name().to_string_lossy()))
        })
        .collect();
    found.sort();
    if found.is_empty() { vec!["other devices are".into()] } else { found }
}

/// Last part of where a symbolic link points.
fn link_name(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}
