use std::sync::Arc;
use std::time::Duration;

use gcos_engine::{Engine, Request};
use gcos_hw::DmaBuffer;

use crate::DiskError;

/// Largest single transfer.
pub(crate) const TRANSFER_BYTES: usize = 1 << 20;

/// Plain reads and writes of one drive, through one buffer.
#[derive(Debug)]
pub(crate) struct Disk<'a> {
    engine: &'a Arc<dyn Engine>,
    buffer: DmaBuffer,
    deadline: Duration,
    /// Whether writes are left out.
    dry: bool,
}

impl<'a> Disk<'a> {
    pub(crate) fn new(
        engine: &'a Arc<dyn Engine>,
        deadline: Duration,
        dry: bool,
    ) -> Result<Self, DiskError> {
        let buffer = engine.dma().alloc(TRANSFER_BYTES)?;
        Ok(Self { engine, buffer, deadline, dry })
    }

    pub(crate) fn name(&self) -> &'a str {
        &self.engine.geometry().name
    }

    pub(crate) fn engine(&self) -> &'a Arc<dyn Engine> {
        self.engine
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Reads `len` bytes, whole blocks, into fresh memory: the caller bounds `len`.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, DiskError> {
        let mut out = vec![0; len];
        let mut at = offset;
        for part in out.chunks_mut(TRANSFER_BYTES) {
            let segment = self.buffer.slice(0, part.len())?;
            self.engine.run(Request::read(at, segment.clone(), self.deadline))?;
            segment.read(0, part)?;
            at = at.saturating_add(part.len() as u64);
        }
        Ok(out)
    }

    /// Writes whole blocks. Does nothing in a dry run.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8], fua: bool) -> Result<(), DiskError> {
        if self.dry {
            return Ok(());
        }
        let mut at = offset;
        for part in bytes.chunks(TRANSFER_BYTES) {
            let segment = self.buffer.slice(0, part.len())?;
            segment.write(0, part)?;
            self.engine.run(Request::write(at, segment, fua, self.deadline))?;
            at = at.saturating_add(part.len() as u64);
        }
        Ok(())
    }

    /// Makes what was written durable. Does nothing in a dry run.
    pub(crate) fn flush(&self) -> Result<(), DiskError> {
        if self.dry {
            return Ok(());
        }
        Ok(self.engine.run(Request::flush(self.deadline))?)
    }
}
