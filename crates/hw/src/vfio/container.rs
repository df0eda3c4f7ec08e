use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use vfio_ioctls::{VfioContainer, VfioError as LibraryError};

use super::{VfioError, cure, ioctl};
use crate::{DmaMapper, HwError, SharedMemory};

/// A container: one I/O address space that the devices of its groups share.
pub(super) struct Container {
    inner: VfioContainer,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Groups in the container. The kernel ends all mappings when the last one leaves.
    groups: usize,
    /// What is to be mapped while there is a group, by I/O virtual address. Holding the memory here
    /// keeps it from being freed before it has been unmapped.
    mappings: BTreeMap<u64, Mapping>,
}

#[derive(Debug)]
struct Mapping {
    memory: Arc<SharedMemory>,
    /// The device whose memory it was is not ours any more: the kernel has unmapped it, for good.
    ended: bool,
}

/// How long a group may stay busy that is to leave. Its devices are closed; what is in the way is a
/// child process between `fork` and `exec`, or a thread that unmaps a BAR.
const BUSY: Duration = Duration::from_secs(2);

/// What a container has mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mapped {
    /// Mappings.
    pub mappings: usize,
    /// Bytes in them.
    pub bytes: usize,
}

impl Container {
    pub(super) fn open() -> Result<Arc<Self>, VfioError> {
        let inner = VfioContainer::new(None).map_err(|error| {
            let source = match error {
                LibraryError::OpenContainer(source) => source,
                other => io::Error::other(other),
            };
            VfioError::Container { cure: cure::container(&source), source }
        })?;
        Ok(Arc::new(Self { inner, state: Mutex::default() }))
    }

    /// Takes a group in, through `join`; the first one brings the IOMMU with it.
    /// Buffers that outlived the drives that were there before are mapped again.
    ///
    /// # Errors
    /// Those of `join`, and through `refused` those of the rest. The group must then be closed.
    pub(super) fn join<E>(
        &self,
        join: impl FnOnce() -> Result<(), E>,
        refused: impl Fn(&'static str, io::Error) -> E,
    ) -> Result<(), E> {
        let mut state = self.state.lock();
        join()?;
        // The kernel knows best whether there is an IOMMU: groups may have left by themselves.
        let first = match ioctl::set_iommu(self) {
            Ok(()) => true,
            Err(error) if state.groups > 0 && error.raw_os_error() == Some(libc::EINVAL) => false,
            Err(error) => return Err(refused("VFIO_SET_IOMMU (type 1 v2)", error)),
        };
        for (&iova, mapping) in state.mappings.iter().filter(|(_, mapping)| first && !mapping.ended)
        {
            match self.map_now(iova, &mapping.memory) {
                // iommufd's container keeps its mappings when the last group leaves.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                result => result.map_err(|error| {
                    refused("mapping buffers for drives that were opened again", error)
                })?,
            }
        }
        state.groups += 1;
        Ok(())
    }

    /// Lets a group go, through `leave`.
    pub(super) fn leave(&self, leave: impl Fn() -> io::Result<()>) -> io::Result<()> {
        ioctl::retried(libc::EBUSY, BUSY, || {
            let mut state = self.state.lock();
            match leave() {
                // When the last device of a group goes (unbind, hot unplug) the kernel takes the group
                // out by itself as soon as the device is closed, and is often there first.
                Err(error) if error.raw_os_error() != Some(libc::EINVAL) => return Err(error),
                _ => {}
            }
            state.groups = state.groups.saturating_sub(1);
            Ok(())
        })
    }

    /// Ends all mappings of memory whose device is about to be given back, for good: the kernel would
    /// let the other drives go on reaching it.
    pub(super) fn evict(&self, memory: &Arc<SharedMemory>) {
        let mut state = self.state.lock();
        for (&iova, mapping) in &mut state.mappings {
            if mapping.ended || !Arc::ptr_eq(&mapping.memory, memory) {
                continue;
            }
            match self.unmap_now(iova, memory.len()) {
                Ok(()) => mapping.ended = true,
                Err(error) => {
                    tracing::error!(%error, iova, "drives still reach memory of a device given back");
                }
            }
        }
    }

    pub(super) fn mapped(&self) -> Mapped {
        let state = self.state.lock();
        Mapped { mappings: state.live().count(), bytes: state.bytes() }
    }

    fn map_now(&self, iova: u64, memory: &SharedMemory) -> io::Result<()> {
        let address = memory.address() as *mut u8;
        // SAFETY: the memory is reached through raw copies and atomics alone (`SharedMemory`), and
        // `state.mappings` keeps it until it has been unmapped.
        let result = unsafe { self.inner.vfio_dma_map(iova, memory.len(), address) };
        result.map_err(os_error)
    }

    /// Ends a mapping, if the kernel has not ended it already: with the last group, which it may take out
    /// before we do.
    fn unmap_now(&self, iova: u64, len: usize) -> io::Result<()> {
        let error = match self.inner.vfio_dma_unmap(iova, len) {
            // Mappings end whole, so a length other than ours is 0: nothing was mapped there any more.
            Ok(()) | Err(LibraryError::InvalidDmaUnmapSize) => return Ok(()),
            Err(error) => os_error(error),
        };
        // Without a group there is no IOMMU to ask, and no mapping either.
        let no_iommu = |e: io::Error| e.raw_os_error() == Some(libc::EINVAL);
        match error.raw_os_error() {
            Some(libc::EINVAL) if ioctl::iommu_info(self).is_err_and(no_iommu) => Ok(()),
            _ => Err(error),
        }
    }

    /// Usable addresses as the IOMMU of the present groups sees them.
    pub(super) fn ranges(&self) -> io::Result<Vec<Range<u64>>> {
        let info = ioctl::iommu_info(self)?;
        tracing::debug!(page_sizes = info.page_sizes, mappings_left = info.mappings_left,
            ranges = ?info.ranges, "the IOMMU's address space");
        Ok(info.ranges)
    }
}

impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as the container that is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.inner.as_raw_fd()) }
    }
}

impl State {
    fn live(&self) -> impl Iterator<Item = &Mapping> {
        self.mappings.values().filter(|mapping| !mapping.ended)
    }

    fn bytes(&self) -> usize {
        self.live().map(|mapping| mapping.memory.len()).sum()
    }
}

impl DmaMapper for Container {
    fn map(&self, iova: u64, memory: &Arc<SharedMemory>) -> Result<(), HwError> {
        let len = memory.len();
        let refused = |reason| HwError::Map { iova, len, reason };
        let mut state = self.state.lock();
        if state.groups == 0 {
            return Err(refused("no drive is left in the VFIO container; open one first".into()));
        }
        memory.pin();
        if let Err(error) = self.map_now(iova, memory) {
            return Err(refused(cure::map(&error, state.bytes(), len)));
        }
        state.mappings.insert(iova, Mapping { memory: Arc::clone(memory), ended: false });
        Ok(())
    }

    fn unmap(&self, iova: u64, len: usize) -> Result<(), HwError> {
        let refused = |reason| HwError::Map { iova, len, reason };
        let mut state = self.state.lock();
        let mapping = state.mappings.get(&iova).filter(|mapping| mapping.memory.len() == len);
        let Some(mapping) = mapping else {
            return Err(refused("it is not mapped with this length; mappings end whole".into()));
        };
        // Without a group, too: iommufd's container keeps its mappings when the last one leaves.
        if !mapping.ended {
            self.unmap_now(iova, len)
                .map_err(|error| refused(format!("the kernel did not unmap it: {error}")))?;
        }
        state.mappings.remove(&iova);
        Ok(())
    }
}

/// The system's error in an error of `vfio-ioctls`.
fn os_error(error: LibraryError) -> io::Error {
    match error {
        LibraryError::IommuDmaMap(error) | LibraryError::IommuDmaUnmap(error) => {
            io::Error::from_raw_os_error(error.errno())
        }
        other => io::Error::other(other),
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container").field("state", &self.state.lock()).finish_non_exhaustive()
    }
}
