use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys;

#[cfg(feature = "played")]
use crate::played::Mark;
use crate::{Gpu, GpuError, poll};

/// A point in a stream: comes when all work given to the stream before it has ended.
#[derive(Debug, Clone)]
pub struct Event {
    inner: Arc<Inner>,
}

#[derive(Debug)]
enum Inner {
    Cuda(CudaEvent),
    #[cfg(feature = "played")]
    Played(Arc<Gpu>, Mark),
}

#[derive(Debug)]
struct CudaEvent {
    gpu: Arc<Gpu>,
    handle: sys::CUevent,
}

// SAFETY: CUDA's handles may be used from any thread, at the same time.
unsafe impl Send for CudaEvent {}
// SAFETY: as above.
unsafe impl Sync for CudaEvent {}

impl Drop for CudaEvent {
    fn drop(&mut self) {
        // CUDA keeps an event that is still awaited until it has come.
        let ended =
            // SAFETY: the handle is ours and is not used again.
            self.gpu.call("cuEventDestroy", || unsafe { sys::cuEventDestroy_v2(self.handle) });
        if let Err(error) = ended {
            tracing::debug!(%error, "an event was not destroyed");
        }
    }
}

impl Event {
    /// Records the event in a stream of CUDA.
    pub(crate) fn record(gpu: &Arc<Gpu>, stream: sys::CUstream) -> Result<Self, GpuError> {
        let mut event = CudaEvent { gpu: Arc::clone(gpu), handle: std::ptr::null_mut() };
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        gpu.call("cuEventCreate", || {
            // SAFETY: the pointer is to a live handle.
            unsafe { sys::cuEventCreate(&mut event.handle, flags) }
        })?;
        gpu.call("cuEventRecord", || {
            // SAFETY: both handles are live.
            unsafe { sys::cuEventRecord(event.handle, stream) }
        })?;
        Ok(Self { inner: Arc::new(Inner::Cuda(event)) })
    }

    #[cfg(feature = "played")]
    pub(crate) fn of_played(gpu: &Arc<Gpu>, mark: Mark) -> Self {
        Self { inner: Arc::new(Inner::Played(Arc::clone(gpu), mark)) }
    }

    /// The GPU.
    #[must_use]
    pub fn gpu(&self) -> &Arc<Gpu> {
        match &*self.inner {
            Inner::Cuda(event) => &event.gpu,
            #[cfg(feature = "played")]
            Inner::Played(gpu, _) => gpu,
        }
    }

    /// Whether it has come. Never waits.
    ///
    /// # Errors
    /// [`GpuError::Cuda`] or [`GpuError::Stream`] when work on the GPU has failed: what was before the
    /// event may not have been done.
    pub fn query(&self) -> Result<bool, GpuError> {
        match &*self.inner {
            Inner::Cuda(event) => event.gpu.ask("cuEventQuery", || {
                // SAFETY: the handle is live.
                unsafe { sys::cuEventQuery(event.handle) }
            }),
            #[cfg(feature = "played")]
            Inner::Played(gpu, mark) => mark.query(gpu.ordinal()),
        }
    }

    /// Waits until it has come, asking again and again.
    ///
    /// # Errors
    /// As [`Event::query`], and [`GpuError::TimedOut`].
    pub fn synchronize(&self, deadline: Duration) -> Result<(), GpuError> {
        if poll::until(deadline, || self.query())? {
            return Ok(());
        }
        let ordinal = self.gpu().ordinal();
        Err(GpuError::TimedOut { ordinal, what: "work before an event", after: deadline })
    }

    pub(crate) fn handle(&self) -> Option<sys::CUevent> {
        match &*self.inner {
            Inner::Cuda(event) => Some(event.handle),
            #[cfg(feature = "played")]
            Inner::Played(..) => None,
        }
    }

    #[cfg(feature = "played")]
    pub(crate) fn mark(&self) -> Option<&Mark> {
        match &*self.inner {
            Inner::Cuda(_) => None,
            Inner::Played(_, mark) => Some(mark),
        }
    }
}
