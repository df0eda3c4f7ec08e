use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys;

#[cfg(feature = "played")]
use crate::gate::PlayedGate;
use crate::gate::{GateKind, Words};
use crate::gpu::Kind;
#[cfg(feature = "played")]
use crate::played::Worker;
use crate::{Event, Gate, Gpu, GpuError, GpuRange, PinnedSlice, kept, poll};

/// Work of a GPU that is done in order. Cloning is cheap and gives the same stream.
///
/// Dropping it while work is under way is safe: the work goes on.
#[derive(Debug, Clone)]
pub struct Stream {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    gpu: Arc<Gpu>,
    kind: StreamKind,
}

#[derive(Debug)]
enum StreamKind {
    Cuda(CudaStream),
    #[cfg(feature = "played")]
    Played(Arc<Worker>),
}

/// The driver's name for another stream in each thread: it cannot be asked from elsewhere.
const PER_THREAD: u64 = 2;

#[derive(Debug)]
struct CudaStream {
    handle: sys::CUstream,
    owned: bool,
}

// SAFETY: CUDA's handles may be used from any thread, at the same time.
unsafe impl Send for CudaStream {}
// SAFETY: as above.
unsafe impl Sync for CudaStream {}

impl Drop for Inner {
    fn drop(&mut self) {
        if let StreamKind::Cuda(CudaStream { handle, owned: true }) = self.kind {
            // CUDA finishes the work before it lets go of the stream, and does not wait for that here.
            let end =
                // SAFETY: the handle is ours and is not used again.
                self.gpu.call("cuStreamDestroy", || unsafe { sys::cuStreamDestroy_v2(handle) });
            if let Err(error) = end {
                tracing::debug!(%error, "a stream was not destroyed");
            }
        }
        kept::sweep();
    }
}

impl Stream {
    fn made(gpu: &Arc<Gpu>, kind: StreamKind) -> Self {
        Self { inner: Arc::new(Inner { gpu: Arc::clone(gpu), kind }) }
    }

    /// A new stream that waits for no other one, the default stream included.
    ///
    /// # Errors
    /// [`GpuError::Cuda`], [`GpuError::Stream`].
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, GpuError> {
        match gpu.kind() {
            Kind::Cuda(_) => {
                let mut handle = std::ptr::null_mut();
                let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
                gpu.call("cuStreamCreate", || {
                    // SAFETY: the pointer is to a live handle.
                    unsafe { sys::cuStreamCreate(&mut handle, flags) }
                })?;
                Ok(Self::made(gpu, StreamKind::Cuda(CudaStream { handle, owned: true })))
            }
            #[cfg(feature = "played")]
            Kind::Played(played) => {
                Ok(Self::made(gpu, StreamKind::Played(played.stream(gpu.ordinal())?)))
            }
        }
    }

    /// The default stream: the one that programs use which do not say any.
    ///
    /// # Errors
    /// [`GpuError::Stream`] where the threads of a played GPU cannot be started.
    pub fn default(gpu: &Arc<Gpu>) -> Result<Self, GpuError> {
        match gpu.kind() {
            Kind::Cuda(_) => {
                let handle = std::ptr::null_mut();
                Ok(Self::made(gpu, StreamKind::Cuda(CudaStream { handle, owned: false })))
            }
            #[cfg(feature = "played")]
            Kind::Played(played) => {
                Ok(Self::made(gpu, StreamKind::Played(played.default_stream(gpu.ordinal())?)))
            }
        }
    }

    /// A stream of somebody else, such as PyTorch's `torch.cuda.Stream.cuda_stream`; 0 is the default
    /// stream.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] when it belongs to another context of CUDA, [`GpuError::Cuda`].
    ///
    /// # Safety
    /// The handle is of a stream that lives until the last clone of what is returned, and what it was
    /// asked to do, is gone.
    pub unsafe fn borrow(gpu: &Arc<Gpu>, raw: u64) -> Result<Self, GpuError> {
        if raw == 0 {
            return Self::default(gpu);
        }
        let foreign = |expected| GpuError::Invalid {
            ordinal: gpu.ordinal(),
            what: "stream of another owner",
            expected,
            got: raw,
        };
        if raw == PER_THREAD {
            return Err(foreign("one stream, not the default stream of each thread"));
        }
        match gpu.kind() {
            Kind::Cuda(cuda) => {
                let handle = raw as usize as sys::CUstream;
                let mut context = std::ptr::null_mut();
                gpu.call("cuStreamGetCtx", || {
                    // SAFETY: the caller vouches for the handle; the pointer is to a live value.
                    unsafe { sys::cuStreamGetCtx(handle, &mut context) }
                })?;
                if context != cuda.context.handle() {
                    return Err(foreign("a stream of this GPU's primary context"));
                }
                Ok(Self::made(gpu, StreamKind::Cuda(CudaStream { handle, owned: false })))
            }
            #[cfg(feature = "played")]
            Kind::Played(played) => match played.find_stream(raw) {
                Some(worker) => Ok(Self::made(gpu, StreamKind::Played(worker))),
                None => Err(foreign("a stream of this played GPU")),
            },
        }
    }

    /// The GPU.
    #[must_use]
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.inner.gpu
    }

    /// CUDA's handle as a number, 0 for the default stream. For a played GPU any number that
    /// [`Stream::borrow`] knows.
    #[must_use]
    pub fn raw(&self) -> u64 {
        match &self.inner.kind {
            StreamKind::Cuda(stream) => stream.handle as usize as u64,
            #[cfg(feature = "played")]
            StreamKind::Played(worker) => worker.id(),
        }
    }

    /// Whether all work given to it has ended. Never waits.
    ///
    /// # Errors
    /// [`GpuError::Cuda`] or [`GpuError::Stream`] when work on the GPU has failed.
    pub fn query(&self) -> Result<bool, GpuError> {
        match &self.inner.kind {
            StreamKind::Cuda(stream) => {
                // SAFETY: the handle is live.
                self.gpu().ask("cuStreamQuery", || unsafe { sys::cuStreamQuery(stream.handle) })
            }
            #[cfg(feature = "played")]
            StreamKind::Played(worker) => worker.mark().query(self.gpu().ordinal()),
        }
    }

    /// Waits until all work given to it has ended, asking again and again.
    ///
    /// # Errors
    /// As [`Stream::query`], and [`GpuError::TimedOut`].
    pub fn synchronize(&self, deadline: Duration) -> Result<(), GpuError> {
        let done = poll::until(deadline, || self.query());
        kept::sweep();
        if done? {
            return Ok(());
        }
        let ordinal = self.gpu().ordinal();
        Err(GpuError::TimedOut { ordinal, what: "work of a stream", after: deadline })
    }

    /// Marks this point of the stream.
    ///
    /// # Errors
    /// [`GpuError::Cuda`].
    pub fn record(&self) -> Result<Event, GpuError> {
        self.not_captured()?;
        match &self.inner.kind {
            StreamKind::Cuda(stream) => Event::record(self.gpu(), stream.handle),
            #[cfg(feature = "played")]
            StreamKind::Played(worker) => Ok(Event::of_played(self.gpu(), worker.mark())),
        }
    }

    /// Work given to this stream from now on begins when the event has come. The caller does not wait.
    ///
    /// # Errors
    /// [`GpuError::Cuda`], [`GpuError::Invalid`] for an event of another kind of GPU.
    pub fn wait(&self, event: &Event) -> Result<(), GpuError> {
        let invalid = || GpuError::Invalid {
            ordinal: self.gpu().ordinal(),
            what: "event to wait for",
            expected: "one of a GPU of the same kind",
            got: event.gpu().ordinal() as u64,
        };
        match &self.inner.kind {
            StreamKind::Cuda(stream) => {
                let handle = event.handle().ok_or_else(invalid)?;
                self.gpu().call("cuStreamWaitEvent", || {
                    // SAFETY: both handles are live.
                    unsafe { sys::cuStreamWaitEvent(stream.handle, handle, 0) }
                })
            }
            #[cfg(feature = "played")]
            StreamKind::Played(worker) => {
                let mark = event.mark().ok_or_else(invalid)?.clone();
                worker.submit(move || mark.wait());
                Ok(())
            }
        }
    }

    /// Keeps something until the stream has passed this point: memory that work given to it uses. It is
    /// dropped some time later, by whoever uses the crate next.
    ///
    /// If the point cannot be marked, because CUDA has failed, it is kept for good.
    pub fn keep<T: Send + 'static>(&self, held: T) {
        match &self.inner.kind {
            StreamKind::Cuda(stream) => match Event::record(self.gpu(), stream.handle) {
                Ok(event) => kept::keep(self.raw(), event, Box::new(held)),
                Err(error) => {
                    tracing::debug!(%error, "memory of a stream is kept for good");
                    std::mem::forget(held);
                }
            },
            #[cfg(feature = "played")]
            StreamKind::Played(worker) => worker.submit(move || {
                drop(held);
                Ok(())
            }),
        }
    }

    /// Copies `from` to `to`, which have the same length, in the order of the stream. Both are kept until it
    /// is done.
    ///
    /// Where both lie in host memory, CUDA returns when that is done, and lets other threads wait with it: never
    /// to be used behind a [`Gate`] whose opening takes work of the GPU.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] when lengths or GPUs differ, [`GpuError::Cuda`].
    pub fn copy<F: GpuRange, T: GpuRange>(&self, from: &F, to: &T) -> Result<(), GpuError> {
        self.not_captured()?;
        self.mine(from)?;
        self.mine(to)?;
        if from.len() != to.len() {
            return Err(GpuError::Invalid {
                ordinal: self.gpu().ordinal(),
                what: "length of the target of a copy",
                expected: "that of the source",
                got: to.len() as u64,
            });
        }
        if from.is_empty() {
            return Ok(());
        }
        let (source, target, len) = (from.device_address(), to.device_address(), from.len());
        let held = (from.hold(), to.hold());
        match &self.inner.kind {
            StreamKind::Cuda(stream) => {
                self.gpu().call("cuMemcpyAsync", || {
                    // SAFETY: both ranges are memory that the GPU reaches, and are kept until the stream
                    // has passed.
                    unsafe { sys::cuMemcpyAsync(target, source, len, stream.handle) }
                })?;
                self.keep_some(held);
            }
            #[cfg(feature = "played")]
            StreamKind::Played(worker) => {
                let job = move || {
                    crate::played::copy(source, target, len);
                    drop(held);
                    Ok(())
                };
                if let Kind::Played(played) = self.gpu().kind() {
                    played.copy_in_stream(worker, (source, target), job);
                }
            }
        }
        Ok(())
    }

    /// Sets every byte of `to`, in the order of the stream.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] for memory of another GPU, [`GpuError::Cuda`].
    pub fn fill<T: GpuRange>(&self, to: &T, byte: u8) -> Result<(), GpuError> {
        self.not_captured()?;
        self.mine(to)?;
        if to.is_empty() {
            return Ok(());
        }
        let (target, len, held) = (to.device_address(), to.len(), to.hold());
        match &self.inner.kind {
            StreamKind::Cuda(stream) => {
                self.gpu().call("cuMemsetD8Async", || {
                    // SAFETY: memory that the GPU reaches, kept until the stream has passed.
                    unsafe { sys::cuMemsetD8Async(target, byte, len, stream.handle) }
                })?;
                self.keep_some((held, None));
            }
            #[cfg(feature = "played")]
            StreamKind::Played(worker) => worker.submit(move || {
                crate::played::fill(target, byte, len);
                drop(held);
                Ok(())
            }),
        }
        Ok(())
    }

    /// Stores a word that the host may watch, after all work before it, and visible after its results.
    /// `at` is 4 bytes long and aligned to 4.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] for another length or alignment, [`GpuError::Cuda`].
    pub fn write_word(&self, at: &PinnedSlice, value: u32) -> Result<(), GpuError> {
        self.mine(at)?;
        let target = at.device_address();
        if at.len() != 4 || !target.is_multiple_of(4) {
            return Err(GpuError::Invalid {
                ordinal: self.gpu().ordinal(),
                what: "word that a stream writes",
                expected: "4 bytes, aligned to 4",
                got: target,
            });
        }
        match &self.inner.kind {
            StreamKind::Cuda(stream) => {
                // With the default flags the driver orders all earlier writes of the stream before it.
                self.gpu().call("cuStreamWriteValue32", || {
                    // SAFETY: a word of registered memory, kept until the stream has passed.
                    unsafe { sys::cuStreamWriteValue32_v2(stream.handle, target, value, 0) }
                })?;
                self.keep_some((at.hold(), None));
            }
            #[cfg(feature = "played")]
            StreamKind::Played(worker) => {
                let at = at.clone();
                worker.submit(move || at.store(value));
            }
        }
        Ok(())
    }

    /// Calls a function on the host, in the order of the stream: work after it begins when it has returned.
    /// It must be quick and must not use a GPU, not even by dropping what belongs to one. If the GPU fails
    /// before, it is never called.
    ///
    /// # Errors
    /// [`GpuError::Cuda`]; the function is then not called.
    pub fn host(&self, f: Box<dyn FnOnce() + Send>) -> Result<(), GpuError> {
        self.not_captured()?;
        match &self.inner.kind {
            StreamKind::Cuda(stream) => {
                let data: *mut Box<dyn FnOnce() + Send> = Box::into_raw(Box::new(f));
                let given = self.gpu().call("cuLaunchHostFunc", || {
                    // SAFETY: `data` is what `run_once` takes back, once.
                    unsafe { sys::cuLaunchHostFunc(stream.handle, Some(run_once), data.cast()) }
                });
                if given.is_err() {
                    // SAFETY: CUDA has refused it, so it is still ours.
                    drop(unsafe { Box::from_raw(data) });
                }
                given
            }
            #[cfg(feature = "played")]
            StreamKind::Played(worker) => {
                worker.submit(move || {
                    f();
                    Ok(())
                });
                Ok(())
            }
        }
    }

    /// Lets work given from now on begin when the gate is opened, which also happens when it is dropped. For
    /// work that the host does in the order of the stream, without the GPU: see [`Gate`].
    ///
    /// # Errors
    /// [`GpuError`] when words to write and to watch cannot be had, or the stream does not take them.
    pub fn gate(&self) -> Result<Gate, GpuError> {
        self.not_captured()?;
        match &self.inner.kind {
            StreamKind::Cuda(stream) => {
                let words = Words::take(self.gpu())?;
                let (reached, open) = (words.reached.device_address(), words.open.device_address());
                let value = words.value;
                // From here on the words go back by the gate's end.
                let gate = Gate::new(GateKind::Cuda(Some(words)));
                self.gpu().call("cuStreamWriteValue32", || {
                    // SAFETY: a word of memory that stays registered.
                    unsafe { sys::cuStreamWriteValue32_v2(stream.handle, reached, value, 0) }
                })?;
                let flags = sys::CUstreamWaitValue_flags::CU_STREAM_WAIT_VALUE_GEQ as u32;
                self.gpu().call("cuStreamWaitValue32", || {
                    // SAFETY: as above.
                    unsafe { sys::cuStreamWaitValue32_v2(stream.handle, open, value, flags) }
                })?;
                Ok(gate)
            }
            #[cfg(feature = "played")]
            StreamKind::Played(worker) => {
                let gate = Arc::<PlayedGate>::default();
                let queue = match self.gpu().kind() {
                    Kind::Played(played) => played.shared_queue(),
                    Kind::Cuda(_) => None,
                };
                let passed = Arc::clone(&gate);
                worker.submit(move || {
                    passed.pass(queue);
                    Ok(())
                });
                Ok(Gate::new(GateKind::Played(gate)))
            }
        }
    }

    /// Refuses a stream that is being captured into a graph: its work would not be done now, and again and again
    /// later, with memory that is somebody else's by then. Streams of our own take no part in captures.
    pub(crate) fn not_captured(&self) -> Result<(), GpuError> {
        let StreamKind::Cuda(CudaStream { handle, owned: false }) = &self.inner.kind else {
            return Ok(());
        };
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        self.gpu().call("cuStreamIsCapturing", || {
            // SAFETY: the handle is live, the pointer is to a live value.
            unsafe { sys::cuStreamIsCapturing(*handle, &mut status) }
        })?;
        if status == sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
            return Ok(());
        }
        Err(GpuError::Invalid {
            ordinal: self.gpu().ordinal(),
            what: "stream",
            expected: "one that is not being captured into a graph",
            got: self.raw(),
        })
    }

    /// Whether memory is of this stream's GPU.
    fn mine<R: GpuRange>(&self, range: &R) -> Result<(), GpuError> {
        if range.gpu().same(self.gpu()) {
            return Ok(());
        }
        Err(GpuError::Invalid {
            ordinal: self.gpu().ordinal(),
            what: "GPU of the memory given to a stream",
            expected: "the stream's GPU",
            got: range.gpu().ordinal() as u64,
        })
    }

    fn keep_some(&self, held: (Option<crate::range::Hold>, Option<crate::range::Hold>)) {
        if held.0.is_some() || held.1.is_some() {
            self.keep(held);
        }
    }

    /// CUDA's handle.
    pub(crate) fn cuda(&self) -> Option<sys::CUstream> {
        match &self.inner.kind {
            StreamKind::Cuda(stream) => Some(stream.handle),
            #[cfg(feature = "played")]
            StreamKind::Played(_) => None,
        }
    }

    /// The thread of a played GPU's stream.
    #[cfg(feature = "played")]
    pub(crate) fn worker(&self) -> Option<&Arc<Worker>> {
        match &self.inner.kind {
            StreamKind::Cuda(_) => None,
            StreamKind::Played(worker) => Some(worker),
        }
    }
}

/// Takes back what [`Stream::host`] gave, and calls it.
unsafe extern "C" fn run_once(data: *mut c_void) {
    // SAFETY: made by `Box::into_raw` for this call, which comes once.
    let f = unsafe { Box::from_raw(data.cast::<Box<dyn FnOnce() + Send>>()) };
    // A panic must not pass through the driver.
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err() {
        tracing::error!("a function on a stream panicked");
    }
}
