use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cudarc::driver::sys;
use gcos_hw::SharedMemory;

use crate::gpu::Kind;
#[cfg(feature = "played")]
use crate::played::{Known, MemoryKind};
use crate::range::{Hold, sealed};
use crate::{Gpu, GpuError, GpuRange};

/// Host memory, or registers of a device, that the GPU reaches. Cloning is cheap and gives the same memory.
///
/// The GPU reaches it until the last clone and slice of this value are gone; for memory that
/// [`Pinned::new`] made, until [`Pinned::memory`] is gone too.
#[derive(Debug, Clone)]
pub struct Pinned {
    registration: Arc<Registration>,
    memory: Arc<SharedMemory>,
}

/// The GPU reaches the memory for as long as this lives.
#[derive(Debug)]
struct Registration {
    gpu: Arc<Gpu>,
    device_address: u64,
    #[cfg(feature = "played")]
    _known: Option<Known>,
    // Last: the mapping outlives the registration.
    memory: Arc<SharedMemory>,
}

impl Registration {
    fn new(
        gpu: &Arc<Gpu>,
        memory: Arc<SharedMemory>,
        what: &'static str,
        flags: u32,
    ) -> Result<Self, GpuError> {
        let base = memory.address();
        match gpu.kind() {
            Kind::Cuda(_) => {
                let registered = gpu.call("cuMemHostRegister", || {
                    // SAFETY: the mapping lives as long as this value, which unregisters it; whoever else
                    // reads or writes it does so through `SharedMemory`.
                    unsafe { sys::cuMemHostRegister_v2(base as *mut c_void, memory.len(), flags) }
                });
                registered.map_err(|error| refused(error, what, flags))?;
                let mut made = Self {
                    gpu: Arc::clone(gpu),
                    device_address: 0,
                    #[cfg(feature = "played")]
                    _known: None,
                    memory,
                };
                gpu.call("cuMemHostGetDevicePointer", || {
                    // SAFETY: registered just now; the pointer is to a live value.
                    unsafe {
                        sys::cuMemHostGetDevicePointer_v2(
                            &mut made.device_address,
                            base as *mut c_void,
                            0,
                        )
                    }
                })?;
                Ok(made)
            }
            #[cfg(feature = "played")]
            Kind::Played(played) => {
                let known = Known::new(played, base as u64, memory.len(), MemoryKind::Host);
                let gpu = Arc::clone(gpu);
                Ok(Self { gpu, device_address: base as u64, _known: Some(known), memory })
            }
        }
    }
}

/// A refusal, with what to do.
fn refused(error: GpuError, what: &'static str, flags: u32) -> GpuError {
    let GpuError::Cuda { ordinal, source } = error else { return error };
    let cure = match source.name.as_str() {
        "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED" => {
            "it is registered already; register memory once and share the value"
        }
        "CUDA_ERROR_OUT_OF_MEMORY" => "the system has not enough memory that can be locked",
        _ if flags & sys::CU_MEMHOSTREGISTER_IOMEMORY != 0 => {
            "expected one mapping of a device's registers, and a process with CAP_SYS_ADMIN or the NVIDIA \
             driver's option PeerMappingOverride=1 \
             (options nvidia NVreg_RegistryDwords=\"PeerMappingOverride=1\" in /etc/modprobe.d)"
        }
        _ => {
            "expected anonymous memory, or a file that lies in memory (memfd, /dev/shm); pages of a file on a \
             disk cannot be held"
        }
    };
    GpuError::NotReachable { ordinal, what, cure: cure.to_owned(), source: Box::new(source) }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if !self.gpu.is_played() {
            let base = self.memory.address() as *mut c_void;
            let end =
                // SAFETY: registered when this was made, and nothing uses it through the GPU any more.
                self.gpu.call("cuMemHostUnregister", || unsafe { sys::cuMemHostUnregister(base) });
            if let Err(error) = end {
                // The GPU may still reach the pages: they are kept.
                tracing::error!(%error, len = self.memory.len(), "host memory was not unregistered");
                std::mem::forget(Arc::clone(&self.memory));
            }
        }
    }
}

/// The GPU reaches it, from every context.
const PORTABLE: u32 = sys::CU_MEMHOSTREGISTER_PORTABLE | sys::CU_MEMHOSTREGISTER_DEVICEMAP;

impl Pinned {
    /// New zeroed memory of `len` bytes, rounded up to whole pages of 4 KiB.
    ///
    /// # Errors
    /// [`GpuError::Memory`] for a length of 0 or when the system has no memory,
    /// [`GpuError::NotReachable`].
    pub fn new(gpu: &Arc<Gpu>, len: usize) -> Result<Self, GpuError> {
        let failed = |source| GpuError::Memory { ordinal: gpu.ordinal(), source };
        let memory = Arc::new(SharedMemory::anonymous(len).map_err(failed)?);
        let registration = Registration::new(gpu, memory, "host memory", PORTABLE)?;
        let registration = Arc::new(registration);
        let (base, len) = (registration.memory.address() as *mut u8, registration.memory.len());
        let base = NonNull::new(base).ok_or(GpuError::Invalid {
            ordinal: gpu.ordinal(),
            what: "address of host memory",
            expected: "not 0",
            got: 0,
        })?;
        // SAFETY: the mapping lives as long as the registration, which is the owner given.
        let view = unsafe { SharedMemory::foreign(base, len, Arc::clone(&registration) as _) };
        Ok(Self { registration, memory: Arc::new(view.map_err(failed)?) })
    }

    /// Lets the GPU reach memory that exists already: anonymous memory, or a file's in memory.
    ///
    /// Its pages must stay: do not discard any of it ([`SharedMemory::discard`]) while the GPU reaches it.
    ///
    /// # Errors
    /// [`GpuError::NotReachable`].
    pub fn register(gpu: &Arc<Gpu>, memory: Arc<SharedMemory>) -> Result<Self, GpuError> {
        let registration = Registration::new(gpu, Arc::clone(&memory), "host memory", PORTABLE)?;
        Ok(Self { registration: Arc::new(registration), memory })
    }

    /// Lets the GPU reach registers of a device, such as a drive's doorbells: one mapping, of a BAR.
    ///
    /// # Errors
    /// [`GpuError::NotReachable`]: the driver wants CAP_SYS_ADMIN or its option `PeerMappingOverride=1`
    /// for this.
    pub fn register_registers(gpu: &Arc<Gpu>, memory: Arc<SharedMemory>) -> Result<Self, GpuError> {
        let flags = PORTABLE | sys::CU_MEMHOSTREGISTER_IOMEMORY;
        let registration =
            Registration::new(gpu, Arc::clone(&memory), "a device's registers", flags)?;
        Ok(Self { registration: Arc::new(registration), memory })
    }

    /// The GPU.
    #[must_use]
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.registration.gpu
    }

    /// The memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<SharedMemory> {
        &self.memory
    }

    /// Address of the first byte for the GPU.
    #[must_use]
    pub fn device_address(&self) -> u64 {
        self.registration.device_address
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether the length is 0 (it never is).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// `len` bytes at `offset`.
    ///
    /// # Errors
    /// [`GpuError::OutOfBounds`].
    pub fn slice(&self, offset: usize, len: usize) -> Result<PinnedSlice, GpuError> {
        let whole = PinnedSlice { pinned: self.clone(), offset: 0, len: self.len() };
        whole.slice(offset, len)
    }

    /// The whole of it.
    #[must_use]
    pub fn as_slice(&self) -> PinnedSlice {
        PinnedSlice { pinned: self.clone(), offset: 0, len: self.len() }
    }
}

/// Part of [`Pinned`] memory. Cloning is cheap and keeps the memory.
#[derive(Debug, Clone)]
pub struct PinnedSlice {
    pinned: Pinned,
    offset: usize,
    len: usize,
}

impl PinnedSlice {
    /// `len` bytes at `offset` of this slice.
    ///
    /// # Errors
    /// [`GpuError::OutOfBounds`].
    pub fn slice(&self, offset: usize, len: usize) -> Result<Self, GpuError> {
        crate::range::within(self.pinned.gpu(), (0, self.len), offset, len)?;
        Ok(Self { pinned: self.pinned.clone(), offset: self.offset + offset, len })
    }

    /// What it is part of, and the offset in it.
    #[must_use]
    pub fn pinned(&self) -> (&Pinned, usize) {
        (&self.pinned, self.offset)
    }

    /// Stores the word at its start.
    #[cfg(feature = "played")]
    pub(crate) fn store(&self, value: u32) -> Result<(), String> {
        self.store_ordered(value, Ordering::Release).map_err(|error| error.to_string())
    }

    /// The word at its start, 0 where there is none.
    pub(crate) fn load(&self) -> u32 {
        self.pinned.memory.load_u32(self.offset, Ordering::Acquire).unwrap_or(0)
    }

    /// Stores the word at its start, with this order among the host's own stores.
    pub(crate) fn store_ordered(&self, value: u32, order: Ordering) -> Result<(), GpuError> {
        let ordinal = self.pinned.gpu().ordinal();
        let stored = self.pinned.memory.store_u32(self.offset, value, order);
        stored.map_err(|source| GpuError::OutOfBounds { ordinal, source })
    }
}

impl sealed::Sealed for PinnedSlice {}

impl GpuRange for PinnedSlice {
    fn gpu(&self) -> &Arc<Gpu> {
        self.pinned.gpu()
    }

    fn device_address(&self) -> u64 {
        self.pinned.device_address() + self.offset as u64
    }

    fn len(&self) -> usize {
        self.len
    }

    fn hold(&self) -> Option<Hold> {
        Some(Box::new(self.clone()))
    }
}
