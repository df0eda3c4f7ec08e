use std::sync::Arc;

use cudarc::driver::{DriverError, sys};

use crate::GpuError;

/// The primary context of a GPU, retained: the one that PyTorch and others use.
///
/// Which context is current in a thread is left as it was found. Others in the process take it for the
/// choice of a GPU.
#[derive(Debug)]
pub(crate) struct Context {
    device: sys::CUdevice,
    handle: sys::CUcontext,
}

// SAFETY: CUDA's handles may be used from any thread, at the same time.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Retains that of the GPU with this number. The driver has been initialised.
    pub(crate) fn retain(ordinal: usize) -> Result<Arc<Self>, GpuError> {
        let number = i32::try_from(ordinal).unwrap_or(i32::MAX);
        let (mut device, mut handle) = (0, std::ptr::null_mut());
        // SAFETY: the pointer is to a live value.
        let found = unsafe { sys::cuDeviceGet(&mut device, number) }.result();
        found.map_err(|error| GpuError::cuda(ordinal, "cuDeviceGet", error))?;
        // SAFETY: as above; it is released once, by `drop`.
        let retained = unsafe { sys::cuDevicePrimaryCtxRetain(&mut handle, device) }.result();
        retained.map_err(|error| GpuError::cuda(ordinal, "cuDevicePrimaryCtxRetain", error))?;
        Ok(Arc::new(Self { device, handle }))
    }

    pub(crate) fn device(&self) -> sys::CUdevice {
        self.device
    }

    pub(crate) fn handle(&self) -> sys::CUcontext {
        self.handle
    }

    /// Does a call of the driver in this context.
    pub(crate) fn call(&self, f: impl FnOnce() -> sys::CUresult) -> Result<(), DriverError> {
        let mut before = std::ptr::null_mut();
        // SAFETY: the pointer is to a live value.
        unsafe { sys::cuCtxGetCurrent(&mut before) }.result()?;
        if before == self.handle {
            return uncaptured(f).result();
        }
        // SAFETY: the context is retained.
        unsafe { sys::cuCtxSetCurrent(self.handle) }.result()?;
        let result = uncaptured(f).result();
        // SAFETY: it was current before, or is none.
        let restored = unsafe { sys::cuCtxSetCurrent(before) }.result();
        if let Err(error) = restored {
            tracing::debug!(?error, "the context that was current is so no more");
        }
        result
    }
}

/// Does a call of the driver whoever captures a graph meanwhile. Usually a capture forbids other threads much,
/// such as asking for an event: the call would fail and say nothing of the event, and the capture would be void.
/// That is to protect captures from work that they miss; none of ours belongs to one.
fn uncaptured(f: impl FnOnce() -> sys::CUresult) -> sys::CUresult {
    let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: the pointer is to a live value; it concerns this thread alone.
    let relaxed = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) };
    let result = f();
    if relaxed == sys::CUresult::CUDA_SUCCESS {
        // SAFETY: as above; the mode is the one that was there.
        let restored = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) };
        if restored != sys::CUresult::CUDA_SUCCESS {
            tracing::debug!(?restored, "the mode of capture is not what it was");
        }
    }
    result
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once by `retain`.
        let released = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) }.result();
        if let Err(error) = released {
            tracing::debug!(?error, device = self.device, "a context was not released");
        }
    }
}
