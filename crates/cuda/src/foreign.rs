use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys;

use crate::gpu::Kind;
use crate::range::{Hold, sealed, within};
use crate::{Gpu, GpuError, GpuRange};

/// Memory of somebody else on a GPU, such as a tensor of PyTorch, that was checked to be there. It has no
/// I/O virtual address: drives do not reach it, kernels and copies do.
///
/// Whoever made it keeps it alive: nothing here can.
#[derive(Debug, Clone)]
pub struct ForeignMemory {
    gpu: Arc<Gpu>,
    address: u64,
    len: usize,
}

/// What an address was found to be.
struct Found {
    base: u64,
    len: usize,
}

impl ForeignMemory {
    /// Checks that `len` bytes at `address` are memory of this GPU, all in one allocation.
    ///
    /// # Errors
    /// [`GpuError::Foreign`], which says what is there instead; [`GpuError::Cuda`].
    pub fn check(gpu: &Arc<Gpu>, address: u64, len: usize) -> Result<Self, GpuError> {
        let wrong =
            |reason: String| GpuError::Foreign { ordinal: gpu.ordinal(), address, len, reason };
        if len == 0 {
            return Err(wrong("expected 1 byte or more".to_owned()));
        }
        let Some(end) = address.checked_add(len as u64) else {
            return Err(wrong("expected a range inside the address space".to_owned()));
        };
        let found = match gpu.kind() {
            Kind::Cuda(cuda) => {
                let context = cuda.context.handle() as usize as u64;
                Self::ask(gpu, context, address)?.map_err(wrong)?
            }
            #[cfg(feature = "played")]
            Kind::Played(played) => Self::look_up(gpu, played.id(), address).map_err(wrong)?,
        };
        if end > found.base.saturating_add(found.len as u64) {
            return Err(wrong(format!(
                "expected a range inside one allocation, but this one has {} bytes at {:#x}, \
                 of which {} are left from there",
                found.len,
                found.base,
                found.len as u64 - (address - found.base),
            )));
        }
        Ok(Self { gpu: Arc::clone(gpu), address, len })
    }

    /// As [`ForeignMemory::check`], for what wants an alignment, a power of two in bytes.
    ///
    /// # Errors
    /// As there, and for an address that is not aligned.
    pub fn check_aligned(
        gpu: &Arc<Gpu>,
        address: u64,
        len: usize,
        align: u64,
    ) -> Result<Self, GpuError> {
        if !align.is_power_of_two() || !address.is_multiple_of(align) {
            let reason = format!(
                "expected an address that is a multiple of {align}, it is {} past one",
                address.checked_rem(align).unwrap_or_default(),
            );
            return Err(GpuError::Foreign { ordinal: gpu.ordinal(), address, len, reason });
        }
        Self::check(gpu, address, len)
    }

    /// What CUDA knows of an address.
    fn ask(gpu: &Gpu, context: u64, address: u64) -> Result<Result<Found, String>, GpuError> {
        use sys::CUpointer_attribute as Attribute;
        let (mut kind, mut ordinal, mut managed) = (0_u32, -1_i32, 0_u32);
        let (mut owner, mut base, mut len) = (0_u64, 0_u64, 0_usize);
        let mut attributes = [
            Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
            Attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
            Attribute::CU_POINTER_ATTRIBUTE_IS_MANAGED,
            Attribute::CU_POINTER_ATTRIBUTE_CONTEXT,
            Attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
            Attribute::CU_POINTER_ATTRIBUTE_RANGE_SIZE,
        ];
        let mut answers: [*mut c_void; 6] = [
            (&raw mut kind).cast(),
            (&raw mut ordinal).cast(),
            (&raw mut managed).cast(),
            (&raw mut owner).cast(),
            (&raw mut base).cast(),
            (&raw mut len).cast(),
        ];
        gpu.call("cuPointerGetAttributes", || {
            // SAFETY: as many attributes as places for answers, each of the type that CUDA documents.
            unsafe {
                sys::cuPointerGetAttributes(
                    attributes.len() as u32,
                    attributes.as_mut_ptr(),
                    answers.as_mut_ptr(),
                    address,
                )
            }
        })?;
        let unknown = "expected memory of this GPU, CUDA does not know the address: it is ordinary \
                       host memory, was freed, or was never valid";
        Ok(if kind == 0 {
            Err(unknown.to_owned())
        } else if managed != 0 {
            Err("expected memory of this GPU, it is managed memory, which moves".to_owned())
        } else if kind != sys::CUmemorytype::CU_MEMORYTYPE_DEVICE as u32 {
            Err("expected memory of this GPU, it is host memory that CUDA knows".to_owned())
        } else if usize::try_from(ordinal) != Ok(gpu.ordinal()) {
            Err(format!("expected memory of GPU {}, it is of GPU {ordinal}", gpu.ordinal()))
        } else if owner != 0 && owner != context {
            Err("expected memory of the primary context, it is of another context of CUDA"
                .to_owned())
        } else if base == 0 || address < base {
            Err(unknown.to_owned())
        } else {
            Ok(Found { base, len })
        })
    }

    #[cfg(feature = "played")]
    fn look_up(gpu: &Gpu, id: u64, address: u64) -> Result<Found, String> {
        use crate::played::{MemoryKind, look_up};
        let found = look_up(address).ok_or_else(|| {
            "expected memory of this GPU, it is ordinary host memory or was freed".to_owned()
        })?;
        if found.kind != MemoryKind::Device {
            return Err("expected memory of this GPU, it is host memory".to_owned());
        }
        if found.gpu_id != id {
            return Err(format!(
                "expected memory of GPU {}, it is of GPU {}{}",
                gpu.ordinal(),
                found.ordinal,
                if found.ordinal == gpu.ordinal() { ", another played one" } else { "" },
            ));
        }
        Ok(Found { base: found.base, len: found.len })
    }

    /// `len` bytes at `offset`.
    ///
    /// # Errors
    /// [`GpuError::OutOfBounds`].
    pub fn slice(&self, offset: usize, len: usize) -> Result<Self, GpuError> {
        let address = within(&self.gpu, (self.address, self.len), offset, len)?;
        Ok(Self { gpu: Arc::clone(&self.gpu), address, len })
    }

    /// Address of the first byte.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The GPU.
    #[must_use]
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }
}

impl sealed::Sealed for ForeignMemory {}

impl GpuRange for ForeignMemory {
    fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    fn device_address(&self) -> u64 {
        self.address
    }

    fn len(&self) -> usize {
        self.len
    }

    fn hold(&self) -> Option<Hold> {
        None
    }
}
