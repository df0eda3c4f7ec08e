//! Objects that device I/O reads, and reading them by the host.

use std::sync::Arc;
use std::time::Duration;

use gcos_engine::IoErrorKind;
use gcos_engine::device::{Event, GpuError};
use gcos_layout::media::{GRAIN_BYTES, ObjectHeader};

use super::context::Device;
use super::launch::{Arrived, Failed, Flight};
use super::memory::{DeviceRun, Direction};
use super::plan::Places;
use crate::StoreError;
use crate::object::{Object, Verdict, check_grains};
use crate::payload::Into;
use crate::pool::Pool;

/// Bytes that the host reads, verifies and hands to the GPU at a time, in whole grains.
const HOST_STEP: u32 = 128 * GRAIN_BYTES;

/// An object that is read. Its space is not given away while this lives.
#[derive(Debug)]
pub(super) struct Held {
    pool: Arc<Pool>,
    pub(super) object: Object,
    pub(super) key: Vec<u8>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pool.unhold(&self.object);
    }
}

impl Held {
    /// Takes over the hold of an object that was found.
    pub(super) fn new(pool: &Arc<Pool>, object: Object, key: &[u8]) -> Arc<Self> {
        Arc::new(Self { pool: Arc::clone(pool), object, key: key.to_vec() })
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// How it lies on its drives.
    pub(super) fn places(&self) -> Places<'_> {
        Places {
            shape: self.object.shape,
            pieces: &self.object.pieces,
            head: self.object.head,
            header_bytes: self.object.header_bytes(&self.key).into(),
        }
    }

    /// Header of this object, if what has arrived is that.
    pub(super) fn header(&self, flight: &Flight, at: u64) -> Result<ObjectHeader, Verdict> {
        let len = self.object.header_bytes(&self.key);
        let bytes = flight.header(at, len);
        let bytes = bytes.map_err(|error| self.pool.verdict(self.object.head.drive, &error))?;
        self.object.header(&self.key, &bytes)
    }

    /// Compares what the GPU computed with what the header says.
    pub(super) fn verify(&self, header: &ObjectHeader, arrived: &Arrived) -> Result<(), Verdict> {
        check_grains(header, arrived.first_grain, &arrived.sums, self.object.head.drive)
    }

    /// What a failed transfer says of the object. It says nothing of the drive: that the GPU's way to it is
    /// gone is no sign that the host's is.
    pub(super) fn verdict(failed: &Failed) -> Verdict {
        let (drive, detail) = (failed.drive, failed.error.io_detail());
        match failed.error.io_kind() {
            Some(IoErrorKind::Media) => Verdict::Damaged { drive, detail },
            Some(IoErrorKind::Unfinished) => Verdict::Unfinished { detail },
            _ => Verdict::Failed { detail },
        }
    }

    /// Does by the host what the GPU and the drives did not bring to a good end: reads into memory of the
    /// host, verifies there, and copies what is proven. If what it finds is damaged, it reads once more
    /// where that was not the second time already.
    pub(super) fn read_by_host(
        &self,
        device: &Device,
        offset: u64,
        sink: &DeviceRun,
        first: &Verdict,
    ) -> Verdict {
        let verdict = self.read_steps(device, offset, sink);
        let again = !matches!(first, Verdict::Damaged { .. });
        match verdict {
            Verdict::Damaged { .. } if again => self.read_steps(device, offset, sink),
            verdict => verdict,
        }
    }

    fn read_steps(&self, device: &Device, offset: u64, sink: &DeviceRun) -> Verdict {
        let end = offset + sink.len();
        let mut at = offset;
        while at < end {
            let step_end = (at / u64::from(HOST_STEP) + 1) * u64::from(HOST_STEP);
            let len = step_end.min(end) - at;
            let verdict = self.read_step(device, at, len, at - offset, sink);
            if !matches!(verdict, Verdict::Good) {
                return verdict;
            }
            at += len;
        }
        Verdict::Good
    }

    fn read_step(&self, device: &Device, at: u64, len: u64, to: u64, sink: &DeviceRun) -> Verdict {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let (offset, take) =
            (u32::try_from(at).unwrap_or(u32::MAX), u32::try_from(len).unwrap_or(u32::MAX));
        let into = Into::Bytes(&mut bytes);
        match self.pool.read_again(&self.object, self.key.clone(), offset, take, into) {
            Verdict::Good => {}
            verdict => return verdict,
        }
        let deadline = self.pool.options.io_deadline;
        match device.move_bytes(sink, to, &mut bytes, Direction::In, deadline) {
            Ok(()) => Verdict::Good,
            // The GPU still copies.
            Err(error @ StoreError::Gpu(GpuError::TimedOut { .. })) => {
                Verdict::Unfinished { detail: error.chain() }
            }
            Err(error) => Verdict::Failed { detail: error.chain() },
        }
    }

    /// Removes the object, which a second read has found damaged.
    pub(super) fn drop_damaged(&self) {
        self.pool.drop_damaged(&self.key, self.object.generation);
    }
}

/// What a read that has ended amounts to, before the host has had its turn. A header that was read with it is
/// put into `header`, which has it for later reads.
pub(super) fn ended(
    held: &Held,
    flight: &mut Flight,
    index: usize,
    header: &mut Option<Box<ObjectHeader>>,
) -> Result<(), Verdict> {
    let arrived = flight.item(index).map_err(|failed| Held::verdict(&failed))?;
    if let Some(at) = arrived.header {
        *header = Some(Box::new(held.header(flight, at)?));
    }
    match header {
        Some(header) => held.verify(header, &arrived),
        None => Err(Verdict::Failed { detail: "its header was not read".to_owned() }),
    }
}

/// Waits for what was in a stream before. The error is what follows for reads that come after it.
pub(super) fn passed(before: &Event, left: Duration) -> Result<(), Verdict> {
    before.synchronize(left).map_err(|error| match error {
        GpuError::TimedOut { .. } => not_passed(),
        error => Verdict::Failed { detail: StoreError::from(error).chain() },
    })
}

/// What follows for reads whose stream has not passed in time: they will still be made.
pub(super) fn not_passed() -> Verdict {
    Verdict::Unfinished { detail: late().to_string() }
}

/// Error of a stream that did not pass in time.
pub(super) fn late() -> StoreError {
    StoreError::invalid(
        "stream",
        "one whose work before this ends within the I/O deadline",
        "one that did not",
    )
}
