use std::sync::Arc;

use gcos_emulator::AddressSpace;
use gcos_hw::DmaSpace;
use gcos_hw::vfio::VfioSpace;

use super::OpenError;
use crate::config::{Config, PathKind};

/// How all drives of a pool are reached, and the address space that they share.
#[derive(Debug)]
pub(super) enum Platform {
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
        Self::first_real(kinds).map(drop)
    }

    /// The first real drive, where they are real.
    fn first_real(kinds: &[(&str, PathKind)]) -> Result<Option<String>, OpenError> {
        let find = |wanted: fn(&PathKind) -> bool| {
            kinds.iter().find(|(_, kind)| wanted(kind)).map(|(path, _)| (*path).to_owned())
        };
        if let Some(path) = find(|kind| matches!(kind, PathKind::Kernel(_))) {
            return Err(OpenError::NoKernelPath { path });
        }
        let real = find(|kind| matches!(kind, PathKind::Pci(_) | PathKind::Bound(_)));
        let software =
            find(|kind| matches!(kind, PathKind::EmulatedFile(_) | PathKind::EmulatedRam(_)));
        match (real, software) {
            (Some(real), Some(software)) => Err(OpenError::Mixed { real, software }),
            (real, _) => Ok(real),
        }
    }

    /// The one platform that suits all entries.
    pub(super) fn of(kinds: &[(&str, PathKind)]) -> Result<Self, OpenError> {
        match Self::first_real(kinds)? {
            Some(path) => {
                let space = VfioSpace::open();
                space.map(Self::Vfio).map_err(|source| OpenError::Vfio { path, source })
            }
            None => Ok(Self::Emulated(AddressSpace::new()?)),
        }
    }

    /// The address space; for real drives known once one has been opened.
    pub(super) fn dma(&self) -> Option<Arc<DmaSpace>> {
        match self {
            Self::Emulated(space) => Some(Arc::clone(&space.dma)),
            Self::Vfio(space) => space.dma().cloned(),
        }
    }
}
