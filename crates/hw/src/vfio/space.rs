use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::container::{Container, Mapped};
use super::device::Device;
use super::group::{self, Groups};
use super::{VfioError, VfioFunction, cure, iova};
use crate::DmaSpace;
use crate::pci::PciAddress;

/// One I/O address space for any number of drives: a VFIO container.
///
/// Memory from [`VfioSpace::dma`] is reached by every drive of the space at the same address, by those
/// that join later as well. Memory outlives the space where buffers of it do.
#[derive(Debug)]
pub struct VfioSpace {
    container: Arc<Container>,
    groups: Arc<Groups>,
    dma: OnceLock<Arc<DmaSpace>>,
    /// Functions that are driven.
    open: Mutex<HashSet<PciAddress>>,
}

impl VfioSpace {
    /// Opens a container without drives.
    ///
    /// # Errors
    /// [`VfioError::Container`] when VFIO is not there or may not be used.
    pub fn open() -> Result<Arc<Self>, VfioError> {
        let container = Container::open()?;
        let groups = Groups::new(Arc::clone(&container));
        Ok(Arc::new(Self { container, groups, dma: OnceLock::new(), open: Mutex::default() }))
    }

    /// Opens a drive that is bound to vfio-pci. The kernel resets it as it is opened and closed.
    ///
    /// # Errors
    /// [`VfioError`], which names the drive, its IOMMU group, what failed and what to do.
    pub fn function(self: &Arc<Self>, address: PciAddress) -> Result<Arc<VfioFunction>, VfioError> {
        let group = group::of_device(address)?;
        let claim = Claim::take(self, address)?;
        let member = self.groups.enter(address, &group)?;
        let dma = self.address_space(address, group.number)?;
        let device = Device::open(address, member)?;
        VfioFunction::start(claim, device, dma)
    }

    /// The address space, which is known once there is a group; another group may narrow it.
    fn address_space(&self, device: PciAddress, group: u32) -> Result<Arc<DmaSpace>, VfioError> {
        let resource = |source| VfioError::Resource { device, source };
        let ranges = self.container.ranges().map_err(|source| {
            let what = "VFIO_IOMMU_GET_INFO";
            VfioError::Call { device, group, what, cure: cure::iommu(&source), source }
        })?;
        let usable = iova::usable(&ranges, &iova::pci_windows(Path::new(group::DEVICES)));
        if let Some(dma) = self.dma.get() {
            dma.restrict(&usable);
            return Ok(Arc::clone(dma));
        }
        if usable.is_empty() {
            let what = format!("the IOMMU has no addresses outside PCI windows: {ranges:x?}");
            return Err(VfioError::Unsuitable { device, group, what });
        }
        let dma = DmaSpace::new(Arc::clone(&self.container) as _, &usable).map_err(resource)?;
        Ok(Arc::clone(self.dma.get_or_init(|| dma)))
    }

    /// The address space of the drives; `None` until the first one has been opened.
    #[must_use]
    pub fn dma(&self) -> Option<&Arc<DmaSpace>> {
        self.dma.get()
    }

    /// What drives can reach at present.
    #[must_use]
    pub fn mapped(&self) -> Mapped {
        self.container.mapped()
    }
}

/// The right to drive a function: held by one [`VfioFunction`] of a space at a time, until the function
/// has been given back.
#[derive(Debug)]
pub(super) struct Claim {
    space: Arc<VfioSpace>,
    pub(super) address: PciAddress,
}

impl Claim {
    fn take(space: &Arc<VfioSpace>, address: PciAddress) -> Result<Self, VfioError> {
        if !space.open.lock().insert(address) {
            return Err(VfioError::InUse { device: address });
        }
        Ok(Self { space: Arc::clone(space), address })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.space.open.lock().remove(&self.address);
    }
}
