use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use gcos_cuda::GpuError;
use gcos_cuda::cufile::CuFileError;
use parking_lot::Mutex;

use super::Health;
use super::lane::{Failure, Moving, Piece, Queue};
use crate::device::DeviceTransfer;
use crate::device::mover::{Mover, until_ended};
use crate::device::staged::ByStaging;
use crate::{Engine, Extent, FileEngine, IoError, IoErrorKind, Request, Ticket};

/// Transfers in a row that cuFile may fail before it is left for good.
const PATIENCE: u32 = 3;

/// A transfer under way.
#[derive(Debug)]
pub(super) struct CuFileTicket {
    pub(super) file: Arc<FileEngine>,
    /// What does it if cuFile does not.
    pub(super) staging: Option<Arc<ByStaging>>,
    pub(super) health: Arc<Mutex<Health>>,
    pub(super) queue: Arc<Queue>,
    pub(super) transfer: DeviceTransfer,
    /// Pieces that threads do not have yet.
    pub(super) waiting: Option<Vec<Piece>>,
    pub(super) moving: Option<Arc<Moving>>,
    pub(super) write: bool,
    pub(super) flush: bool,
    /// What goes on after cuFile: a flush, or staging.
    pub(super) then: Option<Box<dyn Ticket>>,
    pub(super) end: Instant,
    pub(super) over: bool,
}

impl CuFileTicket {
    fn error(&self, kind: IoErrorKind, detail: impl Into<String>) -> IoError {
        self.transfer.error(self.file.geometry(), kind, detail)
    }

    fn extents(&self) -> &[Extent] {
        &self.transfer.extents
    }

    /// Gives the pieces to the threads. A write is refused while one that was given up may still reach the drive,
    /// as the file's engine refuses its own.
    fn begin(&mut self) -> Option<Result<(), IoError>> {
        if self.write && self.waiting.is_some() && self.file.fence_before(self.extents()).is_some()
        {
            let detail = "a change that was given up is still with the kernel; nothing is written until it ends";
            return Some(Err(self.error(IoErrorKind::Device, detail)));
        }
        if let Some(pieces) = self.waiting.take() {
            self.moving = pieces.first().map(|piece| Arc::clone(&piece.moving));
            let count = pieces.len();
            self.queue.state.lock().pieces.extend(pieces);
            for _ in 0..count {
                self.queue.changed.notify_one();
            }
        }
        None
    }

    /// How the threads' work ended, if it has or nobody waits any longer.
    fn moved(&mut self) -> Option<Result<(), Failed>> {
        let moving = self.moving.as_ref()?;
        let mut state = moving.state.lock();
        if state.loose && !self.write && (state.left == 0 || Instant::now() >= self.end) {
            state.given_up = true;
            return Some(Err(Failed::Loose));
        }
        if state.left == 0 {
            return Some(match state.failed.take() {
                None => Ok(()),
                Some(Failure::CuFile(error)) => Err(Failed::CuFile(error)),
                Some(Failure::Gpu(error)) => Err(Failed::Gpu(error)),
                Some(Failure::NotBegun) => Err(Failed::Late { hanging: false }),
            });
        }
        if Instant::now() < self.end {
            return None;
        }
        state.given_up = true;
        if state.copying > 0 {
            // Soon over; then nothing touches the memory of the transfer any more.
            return None;
        }
        if self.write {
            self.file.fence_given_up(&moving.fence, &self.transfer.extents);
        }
        let hanging = self.queue.calling.load(Ordering::Relaxed) > 0;
        Some(Err(Failed::Late { hanging }))
    }

    /// What follows an end of the threads' work.
    fn after(&mut self, ended: Result<(), Failed>) -> Result<Option<Box<dyn Ticket>>, IoError> {
        let left = self.end.saturating_duration_since(Instant::now());
        match ended {
            Ok(()) => {
                self.health.lock().in_a_row = 0;
                if !self.flush {
                    return Ok(None);
                }
                self.file.submit(Request::flush(left)).map(Some)
            }
            Err(Failed::Late { hanging }) => {
                // Nothing is done again: the call may still come to its end.
                if hanging && self.staging.is_some() {
                    self.blame(&"its calls do not come back in time");
                }
                let detail = "cuFile did not end it in time; the call itself cannot be given up";
                // A read that comes late ends in memory of the thread's own.
                let kind = match self.write {
                    true => IoErrorKind::Unfinished,
                    false => IoErrorKind::Timeout,
                };
                Err(self.error(kind, detail))
            }
            Err(Failed::Loose) => {
                let detail = "a copy on the GPU has not ended, and may still be made";
                Err(self.error(IoErrorKind::Unfinished, detail))
            }
            Err(Failed::Gpu(error)) => {
                let detail = format!("a copy on the GPU failed: {error}");
                Err(self.error(IoErrorKind::Device, detail))
            }
            Err(Failed::CuFile(error)) => {
                let failed = self.failed(&error);
                let Some(staging) = self.staging.clone().filter(|_| is_its_own(&error)) else {
                    return Err(failed);
                };
                self.blame(&error);
                staging.submit(self.transfer.clone(), left).map(Some)
            }
        }
    }

    /// Counts a failure of cuFile's own, and leaves it after several in a row.
    fn blame(&self, error: &dyn fmt::Display) {
        let mut health = self.health.lock();
        health.in_a_row += 1;
        if health.in_a_row >= PATIENCE && health.left.is_none() {
            let reason = format!("cuFile failed {PATIENCE} times in a row: {error}");
            tracing::warn!(
                drive = self.file.geometry().name,
                reason,
                "a GPU's transfers go through host memory from now on"
            );
            health.left = Some(reason);
        }
    }

    fn failed(&self, error: &CuFileError) -> IoError {
        let kind = match error {
            CuFileError::Os { source, .. } => kind_of(source),
            CuFileError::Short { .. } if !self.write => IoErrorKind::Media,
            _ => IoErrorKind::Device,
        };
        let mut text = error.to_string();
        if let Some(source) = error.os() {
            text = format!("{text}: {source}");
        }
        self.error(kind, text)
    }
}

/// Why the threads did not do it.
enum Failed {
    CuFile(CuFileError),
    Gpu(GpuError),
    Late {
        /// Threads are in calls of cuFile that may be the cause.
        hanging: bool,
    },
    /// A copy to the memory of the transfer may still be made.
    Loose,
}

/// Whether it is the library that failed, not the drive: the same transfer may go well without it.
fn is_its_own(error: &CuFileError) -> bool {
    error.os().is_none_or(|source| kind_of(source) == IoErrorKind::Invalid)
}

/// What an error of the system says of the drive. The numbers are those of Linux.
fn kind_of(error: &std::io::Error) -> IoErrorKind {
    const MEDIA: [i32; 6] = [5, 61, 74, 84, 117, 121];
    const GONE: [i32; 4] = [6, 19, 108, 123];
    const INVALID: [i32; 3] = [14, 22, 95];
    match error.raw_os_error() {
        Some(number) if MEDIA.contains(&number) => IoErrorKind::Media,
        Some(number) if GONE.contains(&number) => IoErrorKind::Gone,
        Some(number) if INVALID.contains(&number) => IoErrorKind::Invalid,
        _ => IoErrorKind::Device,
    }
}

impl Ticket for CuFileTicket {
    fn wakes(&self) -> bool {
        self.moving.is_some() && self.then.is_none()
    }

    fn poll(&mut self) -> Option<Result<(), IoError>> {
        if self.over {
            return None;
        }
        if let Some(then) = &mut self.then {
            let ended = then.poll()?;
            self.over = true;
            return Some(ended);
        }
        if let Some(failed) = self.begin() {
            self.over = true;
            return Some(failed);
        }
        let ended = self.moved()?;
        match self.after(ended) {
            Ok(Some(then)) => {
                self.then = Some(then);
                self.poll()
            }
            Ok(None) => {
                self.over = true;
                Some(Ok(()))
            }
            Err(error) => {
                self.over = true;
                Some(Err(error))
            }
        }
    }

    fn wait(mut self: Box<Self>) -> Result<(), IoError> {
        if self.over {
            return Err(self.error(IoErrorKind::Invalid, "the result was taken already"));
        }
        until_ended(&mut *self)
    }
}
