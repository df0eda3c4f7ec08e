use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::driver::on;
use super::{CuFile, CuFileError, library};
use crate::range::Hold;
use crate::{Gpu, GpuRange};

/// How much memory may be registered with cuFile at a time. It takes as much of the GPU's BAR1, which others
/// want, too.
#[derive(Debug)]
pub struct BufferBudget {
    limit: u64,
    used: Mutex<u64>,
}

impl BufferBudget {
    /// A bound in bytes; with 0 nothing is registered.
    #[must_use]
    pub fn new(limit_bytes: u64) -> Arc<Self> {
        Arc::new(Self { limit: limit_bytes, used: Mutex::new(0) })
    }

    /// A bound in MiB, as the configuration has it (`kernel_path.cufile_buffer_mib`).
    #[must_use]
    pub fn of_mib(mib: u64) -> Arc<Self> {
        Self::new(mib.saturating_mul(1 << 20))
    }

    /// The bound in bytes.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        self.limit
    }

    /// Bytes registered now.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        *self.used.lock()
    }

    fn take(self: &Arc<Self>, len: u64) -> Result<Share, CuFileError> {
        let mut used = self.used.lock();
        match used.checked_add(len).filter(|&after| after <= self.limit) {
            Some(after) => {
                *used = after;
                Ok(Share { budget: Arc::clone(self), len })
            }
            None => Err(CuFileError::Budget { wanted: len, used: *used, limit: self.limit }),
        }
    }
}

/// Part of a budget that is used.
#[derive(Debug)]
struct Share {
    budget: Arc<BufferBudget>,
    len: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.budget.used.lock() -= self.len;
    }
}

/// Memory that is registered with cuFile: with nvidia-fs, transfers to and from it need no copy. The memory
/// stays until this is dropped.
pub struct RegisteredBuffer {
    cufile: Arc<CuFile>,
    gpu: Arc<Gpu>,
    base: u64,
    len: usize,
    _share: Share,
    _hold: Mutex<Option<Hold>>,
}

impl fmt::Debug for RegisteredBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegisteredBuffer({} bytes at {:#x})", self.len, self.base)
    }
}

impl CuFile {
    /// Registers memory, as far as the budget allows.
    ///
    /// # Errors
    /// [`CuFileError::Budget`], [`CuFileError::Call`] with what cuFile says, [`CuFileError::Gpu`].
    pub fn register_buffer<R: GpuRange>(
        self: &Arc<Self>,
        memory: &R,
        budget: &Arc<BufferBudget>,
    ) -> Result<RegisteredBuffer, CuFileError> {
        let (gpu, base, len) = (memory.gpu(), memory.device_address(), memory.len());
        let share = budget.take(len as u64)?;
        let registered = on(gpu, || {
            // SAFETY: a range of memory that the GPU reaches, which is kept until it is deregistered; the
            // library only remembers and pins it.
            unsafe { (self.library().buf_register)(base as *const c_void, len, 0) }
        })?;
        library::done("cuFileBufRegister", registered)?;
        Ok(RegisteredBuffer {
            cufile: Arc::clone(self),
            gpu: Arc::clone(gpu),
            base,
            len,
            _share: share,
            _hold: Mutex::new(memory.hold()),
        })
    }
}

impl RegisteredBuffer {
    /// Address of the first byte for the GPU.
    #[must_use]
    pub fn device_address(&self) -> u64 {
        self.base
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

    /// Where a range begins in it, if it lies in it.
    pub(super) fn offset_of(&self, gpu: &Gpu, address: u64, len: usize) -> Option<u64> {
        let offset = address.checked_sub(self.base)?;
        let end = offset.checked_add(len as u64)?;
        (end <= self.len as u64 && self.gpu.same(gpu)).then_some(offset)
    }
}

impl Drop for RegisteredBuffer {
    fn drop(&mut self) {
        let base = self.base as *const c_void;
        let deregistered = on(&self.gpu, || {
            // SAFETY: registered when this was made; transfers borrow or hold this value.
            unsafe { (self.cufile.library().buf_deregister)(base) }
        });
        let deregistered = deregistered.map_err(CuFileError::from);
        if let Err(error) =
            deregistered.and_then(|error| library::done("cuFileBufDeregister", error))
        {
            tracing::debug!(%error, len = self.len, "memory was not deregistered");
        }
    }
}
