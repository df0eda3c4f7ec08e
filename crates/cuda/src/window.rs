use std::ptr::NonNull;
use std::sync::Arc;

use gcos_hw::{PAGE_BYTES, SharedMemory};

use crate::gpu::Kind;
#[cfg(feature = "played")]
use crate::played::PlayedMemory;
use crate::range::within;
use crate::vmm::VmmMemory;
use crate::vulkan::CpuMapping;
use crate::{Gpu, GpuError};

/// GPU memory that the GPU, the CPU and, through the memory's mapping, drives reach.
///
/// The CPU's view is uncached reads (about 1 µs for a word) and write-combined stores: fit for polling
/// and for posting small records. Bulk goes through CUDA copies or a drive's transfers.
///
/// Windows are costly to make and take 2 MiB of the GPU's BAR1 at least: make few, large ones. The
/// memory lives until the window and every holder of [`VramWindow::memory`] are gone, DMA mappings and
/// commands in flight included, so it cannot be freed under a drive.
#[derive(Debug)]
pub struct VramWindow {
    gpu: Arc<Gpu>,
    device_address: u64,
    memory: Arc<SharedMemory>,
}

/// Dropped in this order: the CPU's view, then the memory.
#[derive(Debug)]
struct Mapped {
    _mapping: CpuMapping,
    _vram: VmmMemory,
}

impl VramWindow {
    /// Makes a window of `len` bytes, rounded up to 2 MiB. It holds whatever was there before.
    ///
    /// # Errors
    /// [`GpuError::NoWindow`] where the CPU cannot map GPU memory, with what to do;
    /// [`GpuError::Cuda`] when there is not enough memory.
    pub fn new(gpu: &Arc<Gpu>, len: usize) -> Result<Self, GpuError> {
        match gpu.kind() {
            Kind::Cuda(_) => Self::of_vram(gpu, len),
            #[cfg(feature = "played")]
            Kind::Played(played) => {
                if !played.options().windows {
                    let reason = "this played GPU was made without windows".to_owned();
                    return Err(GpuError::NoWindow { ordinal: gpu.ordinal(), reason });
                }
                let memory = Arc::new(PlayedMemory::new(played, len)?);
                let (base, len) = (memory.base(), memory.len());
                // SAFETY: the memory is of `len` bytes and lives as long as its owner, given here.
                let view = unsafe { SharedMemory::foreign(base, len, memory) };
                Self::over(gpu, base.as_ptr() as u64, view)
            }
        }
    }

    fn of_vram(gpu: &Arc<Gpu>, len: usize) -> Result<Self, GpuError> {
        let ordinal = gpu.ordinal();
        let vram = VmmMemory::new(gpu, len)?;
        let no_window = |reason| GpuError::NoWindow { ordinal, reason };
        let vulkan = gpu.vulkan().map_err(no_window)?;
        let mapping = CpuMapping::new(&vulkan, vram.export()?, vram.len()).map_err(no_window)?;
        let (base, len): (NonNull<u8>, usize) = (mapping.address(), vram.len());
        if !(base.as_ptr() as usize).is_multiple_of(PAGE_BYTES) {
            let reason = format!("Vulkan mapped it at {base:p}, expected a whole page");
            return Err(no_window(reason));
        }
        let device_address = vram.address();
        let mapped = Arc::new(Mapped { _mapping: mapping, _vram: vram });
        // SAFETY: the mapping is of `len` bytes and lives as long as its owner, given here.
        let view = unsafe { SharedMemory::foreign(base, len, mapped) };
        Self::over(gpu, device_address, view)
    }

    fn over(
        gpu: &Arc<Gpu>,
        device_address: u64,
        view: Result<SharedMemory, gcos_hw::HwError>,
    ) -> Result<Self, GpuError> {
        let memory = view.map_err(|source| GpuError::Memory { ordinal: gpu.ordinal(), source })?;
        Ok(Self { gpu: Arc::clone(gpu), device_address, memory: Arc::new(memory) })
    }

    /// The GPU.
    #[must_use]
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Address of the first byte for the GPU.
    #[must_use]
    pub fn device_address(&self) -> u64 {
        self.device_address
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether the length is 0 (it never is).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies bytes in, with the GPU's copy engine. Returns when they are there; waits for no work of
    /// streams.
    ///
    /// # Errors
    /// [`GpuError::OutOfBounds`] when the range does not fit, [`GpuError::Cuda`], [`GpuError::TimedOut`].
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) -> Result<(), GpuError> {
        let to = within(&self.gpu, (self.device_address, self.len()), offset, bytes.len())?;
        self.gpu.copy_in(to, bytes)
    }

    /// Copies bytes out, with the GPU's copy engine. Waits for no work of streams.
    ///
    /// # Errors
    /// [`GpuError::OutOfBounds`] when the range does not fit, [`GpuError::Cuda`], [`GpuError::TimedOut`].
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) -> Result<(), GpuError> {
        let from = within(&self.gpu, (self.device_address, self.len()), offset, out.len())?;
        self.gpu.copy_out(from, out)
    }

    /// The CPU's view, for [`gcos_hw::DmaSpace::adopt`].
    #[must_use]
    pub fn memory(&self) -> &Arc<SharedMemory> {
        &self.memory
    }

    /// Address of the first byte for the CPU.
    #[must_use]
    pub fn cpu_address(&self) -> usize {
        self.memory.address()
    }
}
