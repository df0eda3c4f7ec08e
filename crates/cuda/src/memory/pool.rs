use std::sync::Arc;

use gcos_hw::{DmaBuffer, DmaSpace};
use parking_lot::Mutex;

use super::free::FreeList;
use super::rung::{Place, Probe, Rung, first_that};
use super::slice::{Block, DeviceBuffer, DeviceSlice};
use crate::{Gpu, GpuError, kept};

/// What windows are multiples of, and the largest alignment that may be asked for.
const GRANULE_BYTES: usize = 2 << 20;
/// What lengths are rounded up to: no two allocations share a cache line of the GPU.
const UNIT_BYTES: usize = 256;

/// How [`DeviceMemory`] is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryOptions {
    /// Bytes of a window, rounded up to 2 MiB. An allocation that is larger gets a window of its own.
    pub window_bytes: usize,
    /// Most windows: they never have more than this times `window_bytes` in all.
    pub most_windows: usize,
    /// What to try, in order.
    pub rungs: Vec<Rung>,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self { window_bytes: 256 << 20, most_windows: 16, rungs: Rung::ALL.to_vec() }
    }
}

impl MemoryOptions {
    fn most_bytes(&self) -> usize {
        self.window_bytes.saturating_mul(self.most_windows)
    }
}

/// What of the memory is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryStats {
    /// Windows made.
    pub windows: usize,
    /// Bytes in all of them.
    pub window_bytes: usize,
    /// Bytes given out.
    pub used_bytes: usize,
    /// Allocations that are alive.
    pub allocations: usize,
    /// The largest run of free bytes in a window.
    pub largest_free_bytes: usize,
}

/// Memory that a GPU and the drives of one [`DmaSpace`] reach, in few large windows that grow on demand up
/// to a bound, and are given back when this and all that was allocated are gone.
///
/// The content of new memory is whatever was there before.
#[derive(Debug)]
pub struct DeviceMemory {
    pool: Arc<Pool>,
    probe: Probe,
}

/// What all allocations share.
#[derive(Debug)]
pub(crate) struct Pool {
    gpu: Arc<Gpu>,
    space: Arc<DmaSpace>,
    options: MemoryOptions,
    rung: Rung,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    windows: Vec<Window>,
    allocations: usize,
}

#[derive(Debug)]
struct Window {
    // Unmapped from the drives first.
    dma: DmaBuffer,
    place: Place,
    free: FreeList,
}

impl Window {
    fn new(
        gpu: &Arc<Gpu>,
        space: &Arc<DmaSpace>,
        rung: Rung,
        len: usize,
    ) -> Result<Self, GpuError> {
        let place = Place::new(gpu, rung, len)?;
        let dma = place.adopt(gpu, space)?;
        let free = FreeList::new(place.memory().len());
        Ok(Self { dma, place, free })
    }
}

impl Pool {
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    pub(crate) fn give(&self, window: usize, offset: usize, len: usize) {
        let mut state = self.state.lock();
        state.allocations -= 1;
        if let Some(window) = state.windows.get_mut(window) {
            window.free.give(offset, len);
        }
    }

    /// Takes from the windows that there are.
    fn take(
        self: &Arc<Self>,
        state: &mut State,
        len: usize,
        align: usize,
    ) -> Option<(Block, usize)> {
        let found = state.windows.iter_mut().enumerate().find_map(|(index, window)| {
            let base = window.place.device_address;
            Some((index, base, window.free.take(base, len, align)?))
        });
        let (window, base, offset) = found?;
        state.allocations += 1;
        let (pool, device_address) = (Arc::clone(self), base + offset as u64);
        Some((Block { pool, window, offset, len, device_address }, offset))
    }

    fn grow(&self, state: &mut State, len: usize) -> Result<(), GpuError> {
        let have: usize = state.windows.iter().map(|window| window.place.memory().len()).sum();
        let room = self.options.most_bytes().saturating_sub(have);
        let wanted = len.next_multiple_of(GRANULE_BYTES).max(self.options.window_bytes);
        if wanted > room {
            let used = have - state.windows.iter().map(|w| w.free.free_bytes()).sum::<usize>();
            return Err(GpuError::NoRoom {
                ordinal: self.gpu.ordinal(),
                len,
                reason: format!(
                    "{} windows have {have} bytes, {used} of them used, of at most {}; free some, or \
                     raise the bound",
                    state.windows.len(),
                    self.options.most_bytes(),
                ),
            });
        }
        let window = Window::new(&self.gpu, &self.space, self.rung, wanted)?;
        state.windows.push(window);
        Ok(())
    }
}

impl DeviceMemory {
    /// Makes the first window, of the best rung that works.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] for options without sense, [`GpuError::NoRoom`] when no rung works, with the
    /// reason of each.
    pub fn new(
        gpu: &Arc<Gpu>,
        space: &Arc<DmaSpace>,
        options: MemoryOptions,
    ) -> Result<Arc<Self>, GpuError> {
        let rounded = options.window_bytes.checked_next_multiple_of(GRANULE_BYTES);
        let window_bytes = rounded.filter(|&n| n > 0 && options.most_windows > 0);
        let window_bytes = window_bytes.ok_or(GpuError::Invalid {
            ordinal: gpu.ordinal(),
            what: "bytes of a window, and most windows",
            expected: "1 or more of each",
            got: options.window_bytes as u64,
        })?;
        let options = MemoryOptions { window_bytes, ..options };
        let (window, probe) = first_that(gpu, &options.rungs, window_bytes, |rung| {
            Window::new(gpu, space, rung, window_bytes)
        })?;
        let rung = probe.rung;
        if probe.refusals.is_empty() {
            tracing::debug!(gpu = gpu.ordinal(), %rung, "memory for drives");
        } else {
            tracing::info!(gpu = gpu.ordinal(), %probe, "memory for drives");
        }
        let state = State { windows: vec![window], allocations: 0 };
        let (gpu, space) = (Arc::clone(gpu), Arc::clone(space));
        let pool = Pool { gpu, space, options, rung, state: Mutex::new(state) };
        Ok(Arc::new(Self { pool: Arc::new(pool), probe }))
    }

    /// Takes `len` bytes at a device address that is a multiple of `align`, a power of two up to 2 MiB. The
    /// I/O virtual address is aligned as well, up to the alignment of the window's own.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] for a length of 0 or another alignment, [`GpuError::NoRoom`] at the bound, or
    /// what making a further window fails with.
    pub fn alloc(&self, len: usize, align: usize) -> Result<DeviceBuffer, GpuError> {
        let ordinal = self.pool.gpu.ordinal();
        let invalid = |what, expected, got: usize| GpuError::Invalid {
            ordinal,
            what,
            expected,
            got: got as u64,
        };
        if !align.is_power_of_two() || align > GRANULE_BYTES {
            return Err(invalid("alignment of GPU memory", "a power of two up to 2 MiB", align));
        }
        let rounded =
            len.checked_next_multiple_of(UNIT_BYTES).filter(|&n| n > 0 && n <= isize::MAX as usize);
        let rounded = rounded.ok_or_else(|| {
            invalid("length of GPU memory", "1 byte or more, below the address space", len)
        })?;
        let taken = {
            let mut state = self.pool.state.lock();
            self.pool.take(&mut state, rounded, align)
        };
        let taken = match taken {
            Some(taken) => taken,
            None => {
                // Streams may have passed what they kept. It ends outside the lock.
                kept::sweep();
                let mut state = self.pool.state.lock();
                match self.pool.take(&mut state, rounded, align) {
                    Some(taken) => taken,
                    None => {
                        self.pool.grow(&mut state, rounded)?;
                        let taken = self.pool.take(&mut state, rounded, align);
                        taken.ok_or_else(|| invalid("length of GPU memory", "less", len))?
                    }
                }
            }
        };
        let (block, offset) = taken;
        let dma = {
            let state = self.pool.state.lock();
            state.windows.get(block.window).map(|window| window.dma.slice(offset, len))
        };
        match dma {
            Some(Ok(dma)) => Ok(DeviceBuffer::new(DeviceSlice::new(block, dma))),
            Some(Err(source)) => Err(GpuError::OutOfBounds { ordinal, source }),
            None => Err(invalid("window of GPU memory", "one that was made", block.window)),
        }
    }

    /// The GPU.
    #[must_use]
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.pool.gpu
    }

    /// The address space of the drives that reach it.
    #[must_use]
    pub fn space(&self) -> &Arc<DmaSpace> {
        &self.pool.space
    }

    /// Where the memory lies.
    #[must_use]
    pub fn rung(&self) -> Rung {
        self.pool.rung
    }

    /// What was found out when it was made: why a better rung could not be had.
    #[must_use]
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// What is used.
    #[must_use]
    pub fn stats(&self) -> MemoryStats {
        let state = self.pool.state.lock();
        let window_bytes = state.windows.iter().map(|window| window.place.memory().len()).sum();
        let free: usize = state.windows.iter().map(|window| window.free.free_bytes()).sum();
        MemoryStats {
            windows: state.windows.len(),
            window_bytes,
            used_bytes: window_bytes - free,
            allocations: state.allocations,
            largest_free_bytes: state.windows.iter().map(|w| w.free.largest()).max().unwrap_or(0),
        }
    }
}
