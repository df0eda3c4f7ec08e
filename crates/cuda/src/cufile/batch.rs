use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::abi::{
    BatchParams, IoEvents, IoParams, MODE_BATCH, OPCODE_READ, OPCODE_WRITE, RawBatch,
    STATUS_CANCELED, STATUS_COMPLETE, STATUS_FAILED, STATUS_INVALID, STATUS_TIMEOUT, Timespec,
};
use super::driver::on;
use super::handle::target;
use super::{CuFile, CuFileError, CuFileHandle, RegisteredBuffer, library};
use crate::range::Hold;
use crate::{Gpu, GpuRange};

/// How long a batch that is dropped waits for its transfers.
const PATIENCE: Duration = Duration::from_secs(10);

/// Transfers that are given to cuFile together, and asked for together.
pub struct Batch {
    cufile: Arc<CuFile>,
    gpu: Arc<Gpu>,
    raw: RawBatch,
    capacity: usize,
    next: u64,
    under_way: HashMap<u64, UnderWay>,
}

// SAFETY: the library lets any thread use a batch; methods that use it take `&mut self`.
unsafe impl Send for Batch {}

/// What a transfer holds until it has ended.
struct UnderWay {
    tag: u64,
    offset: u64,
    _handle: Arc<CuFileHandle>,
    _registered: Option<Arc<RegisteredBuffer>>,
    _memory: Option<Hold>,
}

/// One transfer of a batch. It holds its memory.
pub struct BatchOp {
    /// Comes back with the result.
    pub tag: u64,
    write: bool,
    offset: u64,
    base: u64,
    base_offset: u64,
    len: usize,
    gpu: Arc<Gpu>,
    handle: Arc<CuFileHandle>,
    registered: Option<Arc<RegisteredBuffer>>,
    memory: Option<Hold>,
}

/// The end of a transfer of a batch.
#[derive(Debug)]
pub struct BatchDone {
    /// That of the [`BatchOp`].
    pub tag: u64,
    /// Bytes moved; fewer than asked for where a file ends.
    pub result: Result<usize, CuFileError>,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} of {} under way)", self.under_way.len(), self.capacity)
    }
}

impl fmt::Debug for BatchOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.write { "write" } else { "read" };
        write!(f, "BatchOp({what} of {} bytes at {})", self.len, self.offset)
    }
}

impl BatchOp {
    /// A read from `offset` of the file.
    ///
    /// # Errors
    /// [`CuFileError::Invalid`] for memory outside `registered`.
    pub fn read<R: GpuRange>(
        tag: u64,
        handle: &Arc<CuFileHandle>,
        into: &R,
        offset: u64,
        registered: Option<&Arc<RegisteredBuffer>>,
    ) -> Result<Self, CuFileError> {
        Self::new(tag, false, handle, into, offset, registered)
    }

    /// A write at `offset` of the file.
    ///
    /// # Errors
    /// As [`BatchOp::read`].
    pub fn write<R: GpuRange>(
        tag: u64,
        handle: &Arc<CuFileHandle>,
        from: &R,
        offset: u64,
        registered: Option<&Arc<RegisteredBuffer>>,
    ) -> Result<Self, CuFileError> {
        Self::new(tag, true, handle, from, offset, registered)
    }

    fn new<R: GpuRange>(
        tag: u64,
        write: bool,
        handle: &Arc<CuFileHandle>,
        memory: &R,
        offset: u64,
        registered: Option<&Arc<RegisteredBuffer>>,
    ) -> Result<Self, CuFileError> {
        let (base, base_offset) = target(memory, registered.map(Arc::as_ref))?;
        Ok(Self {
            tag,
            write,
            offset,
            base,
            base_offset,
            len: memory.len(),
            gpu: Arc::clone(memory.gpu()),
            handle: Arc::clone(handle),
            registered: registered.cloned(),
            memory: memory.hold(),
        })
    }

    fn params(&self, cookie: u64) -> Result<IoParams, CuFileError> {
        let file_offset = i64::try_from(self.offset).map_err(|_| CuFileError::Invalid {
            what: "offset of a transfer in a file",
            expected: "less than 2^63",
            got: self.offset,
        })?;
        Ok(IoParams {
            mode: MODE_BATCH,
            batch: BatchParams {
                dev_ptr_base: self.base as *mut c_void,
                file_offset,
                dev_ptr_offset: self.base_offset as i64,
                size: self.len,
            },
            fh: self.handle.raw(),
            opcode: if self.write { OPCODE_WRITE } else { OPCODE_READ },
            cookie: cookie as *mut c_void,
        })
    }
}

impl Batch {
    /// A batch with room for so many transfers at a time.
    ///
    /// # Errors
    /// [`CuFileError::TooOld`], [`CuFileError::Invalid`] for a capacity of 0 or more than the driver allows,
    /// [`CuFileError::Call`].
    pub fn new(cufile: &Arc<CuFile>, gpu: &Arc<Gpu>, capacity: u32) -> Result<Self, CuFileError> {
        let calls = cufile.library().batch()?;
        let most = match cufile.properties().max_batch {
            0 => u32::MAX,
            most => most,
        };
        if capacity == 0 || capacity > most {
            return Err(CuFileError::Invalid {
                what: "transfers of a batch",
                expected: "1 or more, and no more than properties.io_batchsize of cufile.json",
                got: capacity.into(),
            });
        }
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pointer is to a live value; the batch is destroyed by `drop`.
        let made = on(gpu, || unsafe { (calls.set_up)(&mut raw, capacity) })?;
        library::done("cuFileBatchIOSetUp", made)?;
        Ok(Self {
            cufile: Arc::clone(cufile),
            gpu: Arc::clone(gpu),
            raw,
            capacity: capacity as usize,
            next: 1,
            under_way: HashMap::new(),
        })
    }

    /// Transfers that have not ended.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Starts transfers. Each holds its memory until it was seen to have ended.
    ///
    /// # Errors
    /// [`CuFileError::Invalid`] for more than there is room for or memory of another GPU;
    /// [`CuFileError::Call`]. None was started then.
    pub fn submit(&mut self, ops: Vec<BatchOp>) -> Result<(), CuFileError> {
        if ops.is_empty() {
            return Ok(());
        }
        if ops.len() > self.capacity - self.under_way.len() {
            return Err(CuFileError::Invalid {
                what: "transfers given to a batch",
                expected: "no more than it has room for",
                got: ops.len() as u64,
            });
        }
        if let Some(op) = ops.iter().find(|op| !op.gpu.same(&self.gpu)) {
            return Err(CuFileError::Invalid {
                what: "GPU of the memory given to a batch",
                expected: "the batch's GPU",
                got: op.gpu.ordinal() as u64,
            });
        }
        let calls = *self.cufile.library().batch()?;
        let first = self.next;
        let cookies = first..;
        let params = cookies.zip(&ops).map(|(cookie, op)| op.params(cookie));
        let mut params = params.collect::<Result<Vec<_>, _>>()?;
        let count = u32::try_from(params.len()).unwrap_or(u32::MAX);
        // They are ours to keep before the library knows them.
        for (cookie, op) in (first..).zip(ops) {
            let BatchOp { tag, offset, handle, registered, memory, .. } = op;
            let (_handle, _registered, _memory) = (handle, registered, memory);
            let held = UnderWay { tag, offset, _handle, _registered, _memory };
            self.under_way.insert(cookie, held);
            self.next = cookie + 1;
        }
        let submitted = on(&self.gpu, || {
            // SAFETY: `count` live records; the memory that they name is held until each has ended.
            unsafe { (calls.submit)(self.raw, count, params.as_mut_ptr(), 0) }
        });
        let submitted = submitted.map_err(CuFileError::from);
        let result = submitted.and_then(|error| library::done("cuFileBatchIOSubmit", error));
        if result.is_err() {
            for cookie in first..self.next {
                self.under_way.remove(&cookie);
            }
        }
        result
    }

    /// Those that have ended since the last call. Waits for `least` of them, no longer than `deadline`.
    ///
    /// # Errors
    /// [`CuFileError::Call`] when the batch cannot be asked.
    pub fn poll(
        &mut self,
        least: usize,
        deadline: Duration,
    ) -> Result<Vec<BatchDone>, CuFileError> {
        if self.under_way.is_empty() {
            return Ok(Vec::new());
        }
        let calls = *self.cufile.library().batch()?;
        let least = least.min(self.under_way.len());
        let empty = IoEvents { cookie: std::ptr::null_mut(), status: 0, ret: 0 };
        let mut events = vec![empty; self.under_way.len()];
        let mut count = u32::try_from(events.len()).unwrap_or(u32::MAX);
        let mut time = Timespec {
            seconds: i64::try_from(deadline.as_secs()).unwrap_or(i64::MAX),
            nanos: deadline.subsec_nanos().into(),
        };
        let asked = on(&self.gpu, || {
            let least = u32::try_from(least).unwrap_or(u32::MAX);
            // SAFETY: room for `count` records, and live values behind the other pointers.
            unsafe {
                (calls.get_status)(self.raw, least, &mut count, events.as_mut_ptr(), &mut time)
            }
        })?;
        library::done("cuFileBatchIOGetStatus", asked)?;
        events.truncate(count as usize);
        Ok(events.into_iter().filter_map(|event| self.ended(event)).collect())
    }

    fn ended(&mut self, event: IoEvents) -> Option<BatchDone> {
        let call = "a transfer of a batch";
        let cookie = event.cookie as usize as u64;
        let offset = self.under_way.get(&cookie)?.offset;
        let gone = |what| Err(CuFileError::Ended { call, offset, what });
        let result = match event.status {
            STATUS_COMPLETE => match isize::try_from(event.ret) {
                Ok(moved) => Ok(moved.unsigned_abs()),
                Err(_) => Err(negative(call, offset, event.ret)),
            },
            STATUS_FAILED if isize::try_from(event.ret).is_err() => {
                Err(negative(call, offset, event.ret))
            }
            STATUS_FAILED => gone("failed without a reason"),
            STATUS_INVALID => gone("refused as invalid"),
            STATUS_CANCELED => gone("cancelled"),
            STATUS_TIMEOUT => gone("given up by cuFile after its time"),
            _ => return None,
        };
        let held = self.under_way.remove(&cookie)?;
        Some(BatchDone { tag: held.tag, result })
    }

    /// Asks for an early end of all that are under way; they still have to be polled.
    ///
    /// # Errors
    /// [`CuFileError::Call`].
    pub fn cancel(&mut self) -> Result<(), CuFileError> {
        let calls = *self.cufile.library().batch()?;
        // SAFETY: the batch is live.
        let cancelled = on(&self.gpu, || unsafe { (calls.cancel)(self.raw) })?;
        library::done("cuFileBatchIOCancel", cancelled)
    }
}

/// A negative number in a field without a sign. The system's error is in the number itself.
fn negative(call: &'static str, offset: u64, ret: usize) -> CuFileError {
    let system = std::io::Error::from_raw_os_error(5);
    library::of_negative(call, offset, ret as isize as i64, system)
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.under_way.is_empty() {
            // What cannot be cancelled ends by itself.
            let _ = self.cancel();
        }
        let start = Instant::now();
        while !self.under_way.is_empty() && start.elapsed() < PATIENCE {
            if self.poll(1, Duration::from_millis(100)).is_err() {
                break;
            }
        }
        if !self.under_way.is_empty() {
            // The library still writes to their memory: it stays, and so does the batch.
            tracing::error!(count = self.under_way.len(), "transfers of a batch did not end");
            std::mem::forget(std::mem::take(&mut self.under_way));
            std::mem::forget(Arc::clone(&self.cufile));
            return;
        }
        if let Ok(calls) = self.cufile.library().batch() {
            let destroy = calls.destroy;
            // SAFETY: the batch is ours and has nothing under way.
            let destroyed = on(&self.gpu, || unsafe { destroy(self.raw) });
            if let Err(error) = destroyed {
                tracing::debug!(%error, "a batch was not destroyed");
            }
        }
    }
}
