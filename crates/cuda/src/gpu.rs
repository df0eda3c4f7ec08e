use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError, result, sys};

use crate::{CudaCall, GpuError};

/// A GPU, with its primary context retained: the one that PyTorch and others use.
#[derive(Debug)]
pub struct Gpu {
    context: Arc<CudaContext>,
    ordinal: usize,
    name: String,
    uuid: [u8; 16],
}

/// Finds out whether there is a CUDA driver, without linking to it.
fn load() -> Result<(), GpuError> {
    // SAFETY: loading libcuda.so.1 runs its initialisers, which is what every CUDA program does.
    if !unsafe { sys::is_culib_present() } {
        return Err(GpuError::NoDriver);
    }
    Ok(())
}

/// How many GPUs the driver shows.
///
/// # Errors
/// [`GpuError::NoDriver`], or [`GpuError::Cuda`] when the driver does not start.
pub fn gpus() -> Result<usize, GpuError> {
    load()?;
    let fail = |call, error| GpuError::Cuda { ordinal: 0, source: CudaCall::new(call, error) };
    match result::init() {
        Ok(()) => {}
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => return Ok(0),
        Err(error) => return Err(fail("cuInit", error)),
    }
    let count = result::device::get_count().map_err(|error| fail("cuDeviceGetCount", error))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

impl Gpu {
    /// Opens the GPU with this number, as CUDA counts them.
    ///
    /// # Errors
    /// [`GpuError::NoDriver`], [`GpuError::NoGpu`], [`GpuError::Cuda`].
    pub fn open(ordinal: usize) -> Result<Arc<Self>, GpuError> {
        let count = gpus()?;
        if ordinal >= count {
            return Err(GpuError::NoGpu { ordinal, count });
        }
        let fail = |call| {
            move |error: DriverError| GpuError::Cuda { ordinal, source: CudaCall::new(call, error) }
        };
        let context = CudaContext::new(ordinal).map_err(fail("cuDevicePrimaryCtxRetain"))?;
        let device = context.cu_device();
        let name = result::device::get_name(device).map_err(fail("cuDeviceGetName"))?;
        let uuid = result::device::get_uuid(device).map_err(fail("cuDeviceGetUuid"))?;
        let uuid = uuid.bytes.map(|byte| byte as u8);
        Ok(Arc::new(Self { context, ordinal, name, uuid }))
    }

    /// Its number.
    #[must_use]
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Its name, such as `NVIDIA H200`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What Vulkan knows it by, too.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// The context, for calls of the driver.
    #[must_use]
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Makes the context current in the calling thread and does a call of the driver.
    pub(crate) fn call(
        &self,
        call: &'static str,
        f: impl FnOnce() -> sys::CUresult,
    ) -> Result<(), GpuError> {
        let result = self.context.bind_to_thread().and_then(|()| f().result());
        result.map_err(|error| GpuError::Cuda {
            ordinal: self.ordinal,
            source: CudaCall::new(call, error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_with_a_cure() {
        let error = Gpu::open(9999).unwrap_err();
        match error {
            GpuError::NoDriver => assert!(error.to_string().contains("install the NVIDIA driver")),
            GpuError::NoGpu { ordinal: 9999, .. } => {}
            // A driver without a device, as in a container that was not given one.
            GpuError::Cuda { ref source, .. } => assert!(source.name.starts_with("CUDA_ERROR")),
            other => panic!("{other}"),
        }
    }
}
