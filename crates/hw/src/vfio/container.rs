use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use vfio_ioctls::{VfioContainer, VfioError as LibraryError};

use super::{VfioError, cure, ioctl};
use crate::{DmaMapper, HwError, SharedMemory};

/// A container: one I/O address space that the devices of its groups share.
pub(super) struct Container {
    inner: VfioContainer,
    state: Mutex<State>,
    /// Set for good when the kernel has ended all mappings at once: with the last group gone.
    torn_down: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Groups in the container.
    groups: usize,
    /// Mappings: I/O virtual address → length in bytes.
    mappings: BTreeMap<u64, usize>,
}

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
        let (state, torn_down) = (Mutex::default(), AtomicBool::new(false));
        Ok(Arc::new(Self { inner, state, torn_down }))
    }

    /// Takes a group in, through `join`; the first one brings the IOMMU with it, through `choose`.
    pub(super) fn join<E>(
        &self,
        join: impl FnOnce() -> Result<(), E>,
        choose: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut state = self.state.lock();
        join()?;
        if state.groups == 0 {
            choose()?;
            self.torn_down.store(false, Ordering::Release);
        }
        state.groups += 1;
        Ok(())
    }

    /// Lets a group go, through `leave`. With the last group the kernel ends every mapping.
    pub(super) fn leave(&self, leave: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock();
        leave()?;
        state.groups -= 1;
        if state.groups == 0 {
            self.torn_down.store(true, Ordering::Release);
            state.mappings.clear();
        }
        Ok(())
    }

    pub(super) fn mapped(&self) -> Mapped {
        let state = self.state.lock();
        Mapped { mappings: state.mappings.len(), bytes: state.mappings.values().sum() }
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

impl DmaMapper for Container {
    fn map(&self, iova: u64, memory: &Arc<SharedMemory>) -> Result<(), HwError> {
        let len = memory.len();
        let refused = |reason| HwError::Map { iova, len, reason };
        let mut state = self.state.lock();
        if state.groups == 0 {
            return Err(refused("no drive is left in the VFIO container; open one first".into()));
        }
        // SAFETY: the memory is reached through raw copies and atomics alone (`SharedMemory`), and
        // `DmaSpace` keeps it mapped in this process until it has been unmapped here.
        let result = unsafe { self.inner.vfio_dma_map(iova, len, memory.address() as *mut u8) };
        match result {
            Ok(()) => {
                state.mappings.insert(iova, len);
                Ok(())
            }
            Err(error) => {
                let mapped: usize = state.mappings.values().sum();
                Err(refused(cure::map(&os_error(error), mapped, len)))
            }
        }
    }

    fn unmap(&self, iova: u64, len: usize) -> Result<(), HwError> {
        let mut state = self.state.lock();
        match state.mappings.get(&iova) {
            Some(&mapped) if mapped == len => {}
            // The kernel has unmapped it, with everything else, when the last group left.
            None if self.torn_down.load(Ordering::Acquire) => return Ok(()),
            _ => {
                let reason = "it is not mapped with this length; mappings end whole".into();
                return Err(HwError::Map { iova, len, reason });
            }
        }
        self.inner.vfio_dma_unmap(iova, len).map_err(|error| {
            let reason = format!("the kernel did not unmap it: {}", os_error(error));
            HwError::Map { iova, len, reason }
        })?;
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
