use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicIsize, AtomicUsize, Ordering};
use std::time::Duration;

use super::abi::{RawStream, ReadWriteAsync, STREAM_FIXED};
use super::driver::on;
use super::handle::target;
use super::{CuFile, CuFileError, CuFileHandle, RegisteredBuffer, library};
use crate::{Event, GpuError, GpuRange, Stream};

/// A stream that cuFile knows, so that transfers in its order are cheaper.
///
/// cuFile puts its transfers into the stream one behind the other, and has no way to give one up; the engines of
/// GCOS use threads of the host instead. This is for programs that want the order of a stream and nothing else.
#[derive(Debug)]
pub struct CuFileStream {
    cufile: Arc<CuFile>,
    stream: Stream,
}

/// What the library reads and writes while a transfer is under way.
#[derive(Debug)]
struct Cells {
    size: AtomicUsize,
    file_offset: AtomicI64,
    buffer_offset: AtomicI64,
    moved: AtomicIsize,
}

/// Claim to the result of a transfer in a stream. Dropping it does not stop the transfer.
#[derive(Debug)]
pub struct AsyncIo {
    call: &'static str,
    offset: u64,
    cells: Arc<Cells>,
    event: Event,
}

/// CUDA's handle. A played GPU's streams have none: the library never sees them.
fn raw(stream: &Stream) -> RawStream {
    stream.cuda().map_or(std::ptr::null_mut(), |handle| handle.cast())
}

impl CuFileStream {
    /// Lets cuFile know the stream.
    ///
    /// # Errors
    /// [`CuFileError::TooOld`], [`CuFileError::Call`], [`CuFileError::Gpu`].
    pub fn register(cufile: &Arc<CuFile>, stream: &Stream) -> Result<Self, CuFileError> {
        let register = cufile.library().stream()?.register;
        let registered = on(stream.gpu(), || {
            // SAFETY: the stream is live, and deregistered before it ends.
            unsafe { register(raw(stream), STREAM_FIXED) }
        })?;
        library::done("cuFileStreamRegister", registered)?;
        Ok(Self { cufile: Arc::clone(cufile), stream: stream.clone() })
    }

    /// Reads from `offset` of the file when the stream comes to it.
    ///
    /// # Errors
    /// [`CuFileError::Invalid`] for memory of another GPU than the stream's, [`CuFileError::Call`],
    /// [`CuFileError::Gpu`].
    pub fn read<R: GpuRange>(
        &self,
        handle: &Arc<CuFileHandle>,
        into: &R,
        offset: u64,
        registered: Option<&Arc<RegisteredBuffer>>,
    ) -> Result<AsyncIo, CuFileError> {
        let function = self.cufile.library().stream()?.read;
        self.start("cuFileReadAsync", function, handle, into, offset, registered)
    }

    /// Writes at `offset` of the file when the stream comes to it.
    ///
    /// # Errors
    /// As [`CuFileStream::read`].
    pub fn write<R: GpuRange>(
        &self,
        handle: &Arc<CuFileHandle>,
        from: &R,
        offset: u64,
        registered: Option<&Arc<RegisteredBuffer>>,
    ) -> Result<AsyncIo, CuFileError> {
        let function = self.cufile.library().stream()?.write;
        self.start("cuFileWriteAsync", function, handle, from, offset, registered)
    }

    fn start<R: GpuRange>(
        &self,
        call: &'static str,
        function: ReadWriteAsync,
        handle: &Arc<CuFileHandle>,
        memory: &R,
        offset: u64,
        registered: Option<&Arc<RegisteredBuffer>>,
    ) -> Result<AsyncIo, CuFileError> {
        self.stream.not_captured()?;
        let stream = &self.stream;
        if !memory.gpu().same(stream.gpu()) {
            return Err(CuFileError::Gpu(GpuError::Invalid {
                ordinal: stream.gpu().ordinal(),
                what: "GPU of the memory given to a stream",
                expected: "the stream's GPU",
                got: memory.gpu().ordinal() as u64,
            }));
        }
        let (base, buffer_offset) = target(memory, registered.map(Arc::as_ref))?;
        let file_offset = i64::try_from(offset).map_err(|_| CuFileError::Invalid {
            what: "offset of a transfer in a file",
            expected: "less than 2^63",
            got: offset,
        })?;
        let cells = Arc::new(Cells {
            size: AtomicUsize::new(memory.len()),
            file_offset: AtomicI64::new(file_offset),
            buffer_offset: AtomicI64::new(buffer_offset as i64),
            moved: AtomicIsize::new(0),
        });
        let held = (Arc::clone(&cells), Arc::clone(handle), registered.cloned(), memory.hold());
        let (handle, work) = (Arc::clone(handle), Arc::clone(&cells));
        let give = move |stream: RawStream| {
            let base = base as *mut c_void;
            // SAFETY: the cells, the handle and the memory are kept until the stream has passed; the
            // library reads and writes the cells, which others read only.
            unsafe {
                function(
                    handle.raw(),
                    base,
                    work.size.as_ptr(),
                    work.file_offset.as_ptr(),
                    work.buffer_offset.as_ptr(),
                    work.moved.as_ptr(),
                    stream,
                )
            }
        };
        if stream.cuda().is_some() {
            let given = on(stream.gpu(), || give(raw(stream)))?;
            library::done(call, given)?;
        } else {
            self.play(call, give)?;
        }
        stream.keep(held);
        Ok(AsyncIo { call, offset, cells, event: stream.record()? })
    }

    /// The thread of a played stream calls the library when it comes to it. The transfer's result has what went
    /// wrong.
    fn play(
        &self,
        call: &'static str,
        give: impl FnOnce(RawStream) -> super::abi::RawError + Send + 'static,
    ) -> Result<(), CuFileError> {
        self.stream.host(Box::new(move || {
            if let Err(error) = library::done(call, give(std::ptr::null_mut())) {
                tracing::debug!(%error, "a played stream's transfer was refused");
            }
        }))?;
        Ok(())
    }
}

impl Drop for CuFileStream {
    fn drop(&mut self) {
        let Ok(calls) = self.cufile.library().stream() else { return };
        let deregister = calls.deregister;
        let ended = on(self.stream.gpu(), || {
            // SAFETY: registered when this was made.
            unsafe { deregister(raw(&self.stream)) }
        });
        let ended = ended.map_err(CuFileError::from);
        if let Err(error) = ended.and_then(|error| library::done("cuFileStreamDeregister", error)) {
            tracing::debug!(%error, "a stream was not deregistered");
        }
    }
}

impl AsyncIo {
    /// The result, once the stream has passed: bytes moved, fewer than asked for where the file ends.
    pub fn poll(&self) -> Option<Result<usize, CuFileError>> {
        match self.event.query() {
            Ok(false) => None,
            Ok(true) => Some(self.result()),
            Err(error) => Some(Err(error.into())),
        }
    }

    fn result(&self) -> Result<usize, CuFileError> {
        let moved = self.cells.moved.load(Ordering::Acquire);
        // Its errno was another thread's: -1 says only that the system refused.
        let system = std::io::Error::other("the system refused; cufile.log has the reason");
        usize::try_from(moved)
            .map_err(|_| library::of_negative(self.call, self.offset, moved as i64, system))
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// What the transfer failed with; [`CuFileError::TimedOut`] when it did not end in time: it goes on, and
    /// its memory stays lent.
    pub fn wait(&self, deadline: Duration) -> Result<usize, CuFileError> {
        match self.event.synchronize(deadline) {
            Ok(()) => self.result(),
            Err(GpuError::TimedOut { after, .. }) => {
                Err(CuFileError::TimedOut { what: "a transfer of cuFile in a stream", after })
            }
            Err(error) => Err(error.into()),
        }
    }
}
