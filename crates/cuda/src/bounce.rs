//! Copies between a GPU and ordinary memory that return when they are done: through a small pinned buffer
//! and a stream of their own, so that they wait for nobody else's work and can be given up.

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys;
use gcos_hw::SharedMemory;
use parking_lot::Mutex;

use crate::context::Context;
use crate::{Gpu, GpuError, poll};

/// Bytes that go at a time: at the speed of pinned memory this takes some 20 µs.
const BOUNCE_BYTES: usize = 1 << 20;
/// Longest wait for one piece: far beyond anything but a GPU that has stopped.
const PIECE_DEADLINE: Duration = Duration::from_secs(10);

/// The way through, made when it is first needed.
pub(crate) struct Bounce {
    context: Arc<Context>,
    ordinal: usize,
    lane: Mutex<Option<Lane>>,
}

struct Lane {
    stream: sys::CUstream,
    memory: SharedMemory,
}

// SAFETY: CUDA's handles may be used from any thread; the lane is used under a lock.
unsafe impl Send for Lane {}

impl std::fmt::Debug for Bounce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bounce").field("gpu", &self.ordinal).finish_non_exhaustive()
    }
}

impl Bounce {
    pub(crate) fn new(context: Arc<Context>, ordinal: usize) -> Self {
        Self { context, ordinal, lane: Mutex::new(None) }
    }

    fn make(&self, gpu: &Gpu) -> Result<Lane, GpuError> {
        let memory = SharedMemory::anonymous(BOUNCE_BYTES)
            .map_err(|source| GpuError::Memory { ordinal: self.ordinal, source })?;
        let base = memory.address() as *mut std::ffi::c_void;
        gpu.call("cuMemHostRegister", || {
            // SAFETY: a mapping of ours of this length, which is unregistered before it ends.
            unsafe { sys::cuMemHostRegister_v2(base, memory.len(), 0) }
        })?;
        let mut lane = Lane { stream: std::ptr::null_mut(), memory };
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        let made = gpu.call("cuStreamCreate", || {
            // SAFETY: the pointer is to a live handle.
            unsafe { sys::cuStreamCreate(&mut lane.stream, flags) }
        });
        match made {
            Ok(()) => Ok(lane),
            Err(error) => {
                self.end(lane);
                Err(error)
            }
        }
    }

    fn end(&self, lane: Lane) {
        let end = |call, f: &mut dyn FnMut() -> sys::CUresult| {
            if let Err(error) = self.context.call(f) {
                tracing::debug!(?error, call, gpu = self.ordinal, "not ended");
            }
        };
        if !lane.stream.is_null() {
            // SAFETY: the stream is ours and is not used again.
            end("cuStreamDestroy", &mut || unsafe { sys::cuStreamDestroy_v2(lane.stream) });
        }
        let base = lane.memory.address() as *mut std::ffi::c_void;
        // SAFETY: registered when the lane was made; no copy is under way.
        end("cuMemHostUnregister", &mut || unsafe { sys::cuMemHostUnregister(base) });
    }

    /// Does one piece: `start` gives it to the stream.
    fn piece(
        &self,
        gpu: &Gpu,
        slot: &mut Option<Lane>,
        call: &'static str,
        start: impl FnOnce(&Lane) -> sys::CUresult,
    ) -> Result<(), GpuError> {
        let Some(lane) = slot.as_ref() else {
            return Err(GpuError::Stream { ordinal: self.ordinal, reason: "no lane".to_owned() });
        };
        let stream = lane.stream;
        let done = gpu.call(call, || start(lane)).and_then(|()| {
            poll::until(PIECE_DEADLINE, || {
                // SAFETY: the stream lives as long as the lane.
                gpu.ask("cuStreamQuery", || unsafe { sys::cuStreamQuery(stream) })
            })
        });
        match done {
            Ok(true) => Ok(()),
            Ok(false) => {
                // The GPU may still write to the pinned memory: it is left to it.
                std::mem::forget(slot.take());
                let what = "a copy between the GPU and the host";
                Err(GpuError::TimedOut { ordinal: self.ordinal, what, after: PIECE_DEADLINE })
            }
            Err(error) => {
                std::mem::forget(slot.take());
                Err(error)
            }
        }
    }

    /// Copies bytes to the GPU.
    pub(crate) fn copy_in(&self, gpu: &Gpu, to: u64, bytes: &[u8]) -> Result<(), GpuError> {
        let mut slot = self.lane.lock();
        for (at, piece) in (0_u64..).step_by(BOUNCE_BYTES).zip(bytes.chunks(BOUNCE_BYTES)) {
            if slot.is_none() {
                *slot = Some(self.make(gpu)?);
            }
            if let Some(lane) = slot.as_ref() {
                lane.memory.write(0, piece).map_err(|source| self.bounds(source))?;
            }
            self.piece(gpu, &mut slot, "cuMemcpyHtoDAsync", |lane| {
                let from = lane.memory.address() as *const std::ffi::c_void;
                // SAFETY: the piece lies in the pinned memory, which outlives the copy; the caller has
                // checked the target.
                unsafe { sys::cuMemcpyHtoDAsync_v2(to + at, from, piece.len(), lane.stream) }
            })?;
        }
        Ok(())
    }

    /// Copies bytes from the GPU.
    pub(crate) fn copy_out(&self, gpu: &Gpu, from: u64, out: &mut [u8]) -> Result<(), GpuError> {
        let mut slot = self.lane.lock();
        for (at, piece) in (0_u64..).step_by(BOUNCE_BYTES).zip(out.chunks_mut(BOUNCE_BYTES)) {
            if slot.is_none() {
                *slot = Some(self.make(gpu)?);
            }
            self.piece(gpu, &mut slot, "cuMemcpyDtoHAsync", |lane| {
                let to = lane.memory.address() as *mut std::ffi::c_void;
                // SAFETY: the piece fits the pinned memory, which outlives the copy; the caller has
                // checked the source.
                unsafe { sys::cuMemcpyDtoHAsync_v2(to, from + at, piece.len(), lane.stream) }
            })?;
            if let Some(lane) = slot.as_ref() {
                lane.memory.read(0, piece).map_err(|source| self.bounds(source))?;
            }
        }
        Ok(())
    }

    fn bounds(&self, source: gcos_hw::OutOfBounds) -> GpuError {
        GpuError::OutOfBounds { ordinal: self.ordinal, source }
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.lock().take() {
            self.end(lane);
        }
    }
}
