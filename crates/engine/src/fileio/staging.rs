//! Pinned host memory in between, in two halves: while the file is read into one, the GPU copies from the other.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gcos_cuda::{Event, ForeignMemory, Gpu, GpuError, GpuRange, Pinned, PinnedSlice, Stream};
use gcos_hw::{MemoryRange, PAGE_BYTES};
use parking_lot::Mutex;

use super::FileIoError;
use super::open::{Opened, Purpose};

/// Host memory of transfers, kept for the next.
#[derive(Debug)]
pub(super) struct Staging {
    gpu: Arc<Gpu>,
    bytes: usize,
    idle: Mutex<Vec<Lane>>,
}

/// What one transfer uses.
#[derive(Debug)]
struct Lane {
    stream: Stream,
    /// Made when it is first needed: a caller may bring memory.
    pinned: Option<Pinned>,
}

/// A transfer by way of host memory.
pub(super) struct Range<'a> {
    pub(super) file: &'a Opened,
    pub(super) path: &'a Path,
    pub(super) offset: u64,
    pub(super) memory: &'a ForeignMemory,
    pub(super) deadline: Duration,
}

/// One of the halves.
struct Half {
    host: PinnedSlice,
    /// The copy that uses it.
    busy: Option<Event>,
}

fn gpu_failed(what: &'static str) -> impl FnOnce(GpuError) -> FileIoError {
    move |source| FileIoError::Gpu { what, source }
}

impl Staging {
    /// With `bytes` for each transfer under way.
    pub(super) fn new(gpu: &Arc<Gpu>, bytes: usize) -> Self {
        let bytes = bytes.max(2 * PAGE_BYTES).next_multiple_of(2 * PAGE_BYTES);
        Self { gpu: Arc::clone(gpu), bytes, idle: Mutex::default() }
    }

    /// Moves a range, through `given` if the caller has host memory for it.
    pub(super) fn transfer(
        &self,
        range: &Range<'_>,
        purpose: Purpose,
        given: Option<&PinnedSlice>,
    ) -> Result<(), FileIoError> {
        let lane = self.idle.lock().pop();
        let mut lane = match lane {
            Some(lane) => lane,
            None => self.lane()?,
        };
        let host = match given {
            Some(given) => given.clone(),
            None => self.pinned(&mut lane)?,
        };
        let result = self.halves(&host).and_then(|halves| match purpose {
            Purpose::Read => range.read(&lane.stream, halves),
            Purpose::Write => range.write(&lane.stream, halves),
        });
        // After a failure copies may still be under way, from or to memory that is the caller's again with the
        // answer. Where they do not end, the lane is not used again: the stream keeps it.
        if result.is_err() {
            let what = "copies of a transfer that failed do not end: its memory must not be used";
            lane.stream.synchronize(range.deadline).map_err(gpu_failed(what))?;
        }
        self.idle.lock().push(lane);
        result
    }

    fn lane(&self) -> Result<Lane, FileIoError> {
        let stream = Stream::new(&self.gpu).map_err(gpu_failed("no stream for a transfer"))?;
        Ok(Lane { stream, pinned: None })
    }

    /// All of a lane's own memory.
    fn pinned(&self, lane: &mut Lane) -> Result<PinnedSlice, FileIoError> {
        if let Some(pinned) = &lane.pinned {
            return Ok(pinned.as_slice());
        }
        let made = Pinned::new(&self.gpu, self.bytes);
        let made = made.map_err(gpu_failed("no pinned memory for a transfer"))?;
        Ok(lane.pinned.insert(made).as_slice())
    }

    fn halves(&self, host: &PinnedSlice) -> Result<[Half; 2], FileIoError> {
        if !host.gpu().same(&self.gpu) {
            let ordinal = host.gpu().ordinal() as u64;
            let (what, expected) = ("GPU of the host memory", "that of the transfer");
            return Err(FileIoError::Invalid { what, expected, got: ordinal });
        }
        let (_, start) = host.pinned();
        let half = host.len() / 2 / PAGE_BYTES * PAGE_BYTES;
        if half == 0 || !start.is_multiple_of(PAGE_BYTES) {
            return Err(FileIoError::Invalid {
                what: "host memory for a transfer",
                expected: "8192 bytes or more, from a multiple of 4096 on",
                got: host.len() as u64,
            });
        }
        let part = |at| {
            let host = host.slice(at, half).map_err(gpu_failed("host memory of a transfer"))?;
            Ok(Half { host, busy: None })
        };
        Ok([part(0)?, part(half)?])
    }
}

impl Half {
    /// Waits for the copy that uses it.
    fn wait(&mut self, deadline: Duration) -> Result<(), FileIoError> {
        match self.busy.take() {
            Some(event) => event.synchronize(deadline).map_err(gpu_failed("a copy of the GPU")),
            None => Ok(()),
        }
    }

    fn part(&self, len: usize) -> Result<PinnedSlice, FileIoError> {
        self.host.slice(0, len).map_err(gpu_failed("host memory of a transfer"))
    }

    fn range(&self, len: usize) -> MemoryRange {
        let (pinned, offset) = self.host.pinned();
        MemoryRange { memory: Arc::clone(pinned.memory()), offset, len }
    }
}

impl Range<'_> {
    /// Pieces of at most `most` bytes: offset in the range, and length. Where the range begins off a page, the
    /// first piece ends at one, so that the others are whole.
    fn pieces(&self, most: usize) -> Vec<(usize, usize)> {
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < self.memory.len() {
            let past = ((self.offset + at as u64) % PAGE_BYTES as u64) as usize;
            let left = self.memory.len() - at;
            // A piece of whole pages leaves what is less at the end to a piece of its own.
            let whole = left / PAGE_BYTES * PAGE_BYTES;
            let len = match past {
                0 if whole > 0 => whole.min(most),
                0 => left,
                _ => left.min(PAGE_BYTES - past),
            };
            pieces.push((at, len));
            at += len;
        }
        pieces
    }

    fn memory(&self, at: usize, len: usize) -> Result<ForeignMemory, FileIoError> {
        self.memory.slice(at, len).map_err(FileIoError::Memory)
    }

    fn io(&self, half: &Half, at: usize, len: usize, purpose: Purpose) -> Result<(), FileIoError> {
        let offset = self.offset + at as u64;
        let file = self.file.fit(offset, len);
        let moved = match purpose {
            Purpose::Read => file.read_at(&[half.range(len)], offset),
            Purpose::Write => file.write_at(&[half.range(len)], offset),
        };
        moved.map_err(|source| failed(self.path, purpose, (offset, len), source))
    }

    fn read(&self, stream: &Stream, mut halves: [Half; 2]) -> Result<(), FileIoError> {
        let pieces = self.pieces(halves[0].host.len());
        let mut turn = 0;
        for (at, len) in pieces {
            let half = &mut halves[turn];
            half.wait(self.deadline)?;
            self.io(half, at, len, Purpose::Read)?;
            let copied = stream.copy(&half.part(len)?, &self.memory(at, len)?);
            copied.map_err(gpu_failed("a copy to the GPU"))?;
            half.busy = Some(stream.record().map_err(gpu_failed("a copy to the GPU"))?);
            turn = 1 - turn;
        }
        halves.iter_mut().try_for_each(|half| half.wait(self.deadline))
    }

    fn write(&self, stream: &Stream, mut halves: [Half; 2]) -> Result<(), FileIoError> {
        let mut copied: Option<(usize, usize)> = None;
        let mut turn = 0;
        for (at, len) in self.pieces(halves[0].host.len()) {
            let half = &mut halves[turn];
            let given = stream.copy(&self.memory(at, len)?, &half.part(len)?);
            given.map_err(gpu_failed("a copy from the GPU"))?;
            half.busy = Some(stream.record().map_err(gpu_failed("a copy from the GPU"))?);
            turn = 1 - turn;
            // While this is copied, the one before is written.
            if let Some((at, len)) = copied.replace((at, len)) {
                let half = &mut halves[turn];
                half.wait(self.deadline)?;
                self.io(half, at, len, Purpose::Write)?;
            }
        }
        if let Some((at, len)) = copied {
            let half = &mut halves[1 - turn];
            half.wait(self.deadline)?;
            self.io(half, at, len, Purpose::Write)?;
        }
        Ok(())
    }
}

/// What the system says of a transfer.
pub(super) fn failed(
    path: &Path,
    purpose: Purpose,
    (offset, len): (u64, usize),
    source: std::io::Error,
) -> FileIoError {
    use std::io::ErrorKind as Kind;
    let (path, size) = (path.to_owned(), len as u64);
    match source.kind() {
        Kind::StorageFull | Kind::QuotaExceeded | Kind::WriteZero => {
            FileIoError::NoRoom { path, offset, size, source }
        }
        _ => FileIoError::Io { what: purpose.name(), path, offset, size, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gcos_cuda::UnmappedMemory;
    use std::thread;

    const PATIENCE: Duration = Duration::from_millis(500);
    const LEN: usize = 64 << 10;

    /// Reads a file of ones into memory, by copies that begin after `held`: its answer, and the memory's first
    /// byte after it was set to 9 behind that answer and all copies are over.
    fn read_held_for(held: Duration) -> (FileIoError, u8, usize) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![1; LEN]).unwrap();
        let gpu = Gpu::played();
        let staging = Staging::new(&gpu, 2 * PAGE_BYTES);
        let lane = staging.lane().unwrap();
        let (stream, gate) = (lane.stream.clone(), lane.stream.gate().unwrap());
        staging.idle.lock().push(lane);
        let own = UnmappedMemory::new(&gpu, LEN).unwrap();
        let memory = &ForeignMemory::check(&gpu, own.device_address(), LEN).unwrap();
        let opened = &Opened::open(file.path(), Purpose::Read).unwrap();
        let range =
            Range { file: opened, path: file.path(), offset: 0, memory, deadline: PATIENCE };
        let error = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(held);
                gate.open();
            });
            let error = staging.transfer(&range, Purpose::Read, None).unwrap_err();
            own.copy_in(0, &vec![9; LEN]).unwrap();
            error
        });
        stream.synchronize(Duration::from_secs(20)).unwrap();
        let mut out = [0; 1];
        own.copy_out(0, &mut out).unwrap();
        (error, out[0], staging.idle.lock().len())
    }

    #[test]
    fn a_transfer_that_fails_answers_when_its_copies_are_over_or_says_that_they_are_not() {
        let (error, byte, idle) = read_held_for(PATIENCE + Duration::from_millis(200));
        assert_eq!((byte, idle), (9, 1), "{error}");
        assert!(error.to_string().contains("a copy of the GPU"), "{error}");
        let (error, byte, idle) = read_held_for(4 * PATIENCE);
        assert_eq!((byte, idle), (1, 0), "{error}");
        assert!(error.to_string().contains("must not be used"), "{error}");
    }

    #[test]
    fn memory_is_made_for_those_alone_who_bring_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![1; LEN]).unwrap();
        let gpu = Gpu::played();
        let (staging, given) = (Staging::new(&gpu, LEN), Pinned::new(&gpu, LEN).unwrap());
        let own = UnmappedMemory::new(&gpu, LEN).unwrap();
        let memory = &ForeignMemory::check(&gpu, own.device_address(), LEN).unwrap();
        let opened = &Opened::open(file.path(), Purpose::Read).unwrap();
        let range =
            Range { file: opened, path: file.path(), offset: 0, memory, deadline: PATIENCE };
        for (given, has_own) in [(Some(&given.as_slice()), false), (None, true)] {
            staging.transfer(&range, Purpose::Read, given).unwrap();
            assert_eq!(staging.idle.lock()[0].pinned.is_some(), has_own);
        }
    }
}
