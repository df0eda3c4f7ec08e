use std::sync::{Arc, OnceLock};

use gcos_emulator::AddressSpace;
use gcos_hw::DmaSpace;
use gcos_hw::kernel::host_space;
use gcos_hw::vfio::VfioSpace;

use super::OpenError;
use crate::config::{Config, PathKind};

/// How the drives of a pool are reached, and the address space that they share.
///
/// Drives behind VFIO need memory that their IOMMU maps, software controllers look addresses up in
/// their own space; the kernel takes host memory of either, or of a space of its own.
#[derive(Debug)]
pub(super) struct Platform {
    queues: Queues,
    /// Made where nothing else gives a space.
    host: OnceLock<Arc<DmaSpace>>,
}

/// What is behind the drives that have queues.
#[derive(Debug)]
pub(super) enum Queues {
    /// There are none.
    None,
    /// Software controllers in this process.
    Emulated(AddressSpace),
    /// The userspace driver, through VFIO.
    Vfio(Arc<VfioSpace>),
}

/// Takes the entries of `disk.paths` apart.
pub(super) fn kinds(config: &Config) -> Result<Vec<(&str, PathKind)>, OpenError> {
    let kind = |path: &'_ String| {
        PathKind::parse(path).map_err(|source| OpenError::Path { path: path.clone(), source })
    };
    config.disk.paths.iter().map(|path| Ok((path.as_str(), kind(path)?))).collect()
}

impl Platform {
    /// Whether one platform suits all entries.
    pub(super) fn check(kinds: &[(&str, PathKind)]) -> Result<(), OpenError> {
        Self::first_of_each(kinds).map(drop)
    }

    /// The first real drive and the first in software; never both.
    fn first_of_each(
        kinds: &[(&str, PathKind)],
    ) -> Result<(Option<String>, Option<String>), OpenError> {
        let find = |wanted: fn(&PathKind) -> bool| {
            kinds.iter().find(|(_, kind)| wanted(kind)).map(|(path, _)| (*path).to_owned())
        };
        let real = find(|kind| matches!(kind, PathKind::Pci(_) | PathKind::Bound(_)));
        let software =
            find(|kind| matches!(kind, PathKind::EmulatedFile(_) | PathKind::EmulatedRam(_)));
        match (real, software) {
            (Some(real), Some(software)) => Err(OpenError::Mixed { real, software }),
            found => Ok(found),
        }
    }

    /// The one platform that suits all entries.
    pub(super) fn of(kinds: &[(&str, PathKind)]) -> Result<Self, OpenError> {
        let queues = match Self::first_of_each(kinds)? {
            (Some(path), _) => {
                let space = VfioSpace::open();
                space.map(Queues::Vfio).map_err(|source| OpenError::Vfio { path, source })?
            }
            (None, Some(_)) => Queues::Emulated(AddressSpace::new()?),
            (None, None) => Queues::None,
        };
        Ok(Self { queues, host: OnceLock::new() })
    }

    /// What is behind the drives that have queues.
    pub(super) fn queues(&self) -> &Queues {
        &self.queues
    }

    /// The address space. That of real drives is known once one has been opened, so open them first:
    /// afterwards this stays what it is.
    pub(super) fn dma(&self) -> Result<Arc<DmaSpace>, OpenError> {
        let space = match &self.queues {
            Queues::Emulated(space) => Some(&space.dma),
            Queues::Vfio(space) => space.dma(),
            Queues::None => None,
        };
        if let Some(space) = space.or(self.host.get()) {
            return Ok(Arc::clone(space));
        }
        let space = host_space()?;
        Ok(Arc::clone(self.host.get_or_init(|| space)))
    }
}
