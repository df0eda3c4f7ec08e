use gcos_cuda::{DeviceSlice, Gpu};
use smallvec::SmallVec;

use crate::{Extent, Geometry, IoError, IoErrorKind, Op, RequestError};

/// One unit of work between a drive and GPU memory: extents and segments are each taken in order, as two
/// byte strings of the same length. The rules are those of [`crate::Request`].
#[derive(Debug, Clone)]
pub struct DeviceTransfer {
    /// [`Op::Read`] or [`Op::Write`].
    pub op: Op,
    /// Where on the drive.
    pub extents: SmallVec<[Extent; 1]>,
    /// Where in the GPU's memory: addresses and lengths are multiples of 4. Those that begin and end at
    /// pages move without a copy.
    pub segments: SmallVec<[DeviceSlice; 2]>,
}

impl DeviceTransfer {
    /// A read of one extent into one segment of the same length.
    #[must_use]
    pub fn read(offset: u64, into: DeviceSlice) -> Self {
        Self::one(Op::Read, offset, into)
    }

    /// A write of one segment to one extent of the same length.
    #[must_use]
    pub fn write(offset: u64, from: DeviceSlice, fua: bool) -> Self {
        Self::one(Op::Write { fua }, offset, from)
    }

    fn one(op: Op, offset: u64, segment: DeviceSlice) -> Self {
        let extent = Extent { offset, len: segment.len() as u64 };
        let segments = std::iter::once(segment).collect();
        Self { op, extents: SmallVec::from_buf([extent]), segments }
    }

    /// Bytes of the extents.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.len).sum()
    }

    /// Checks it against a drive and a GPU.
    ///
    /// # Errors
    /// [`IoErrorKind::Invalid`] with the first rule that is broken.
    pub fn check(&self, drive: &Geometry, gpu: &Gpu) -> Result<(), IoError> {
        let invalid = |detail: String| Err(self.error(drive, IoErrorKind::Invalid, detail));
        if !matches!(self.op, Op::Read | Op::Write { .. }) {
            return invalid("a GPU's stream takes reads and writes only".into());
        }
        if let Err(error) = self.check_extents(drive) {
            return invalid(error.to_string());
        }
        let mut bytes = 0;
        for segment in &self.segments {
            if !segment.gpu().same(gpu) {
                let (ours, theirs) = (gpu.ordinal(), segment.gpu().ordinal());
                return invalid(format!(
                    "a segment lies in the memory of GPU {theirs}, expected GPU {ours}, which this \
                     engine serves"
                ));
            }
            let (iova, len) = (segment.dma().iova(), segment.len());
            if iova % 4 != 0 || len % 4 != 0 {
                return invalid(RequestError::Segment { iova, len }.to_string());
            }
            bytes += len as u64;
        }
        let extents = self.bytes();
        if extents != bytes || extents == 0 {
            let error = RequestError::Lengths {
                op: self.op.name(),
                extents,
                segments: bytes,
                expected: "the same number of bytes, at least one block",
            };
            return invalid(error.to_string());
        }
        Ok(())
    }

    fn check_extents(&self, drive: &Geometry) -> Result<(), RequestError> {
        let lba = u64::from(drive.lba_bytes);
        for &Extent { offset, len } in &self.extents {
            let fits = offset.checked_add(len).is_some_and(|end| end <= drive.capacity);
            if len == 0 || !fits || offset % lba != 0 || len % lba != 0 {
                let (lba_bytes, capacity) = (drive.lba_bytes, drive.capacity);
                return Err(RequestError::Extent { offset, len, lba_bytes, capacity });
            }
        }
        Ok(())
    }

    /// An error about this transfer.
    #[must_use]
    pub fn error(&self, drive: &Geometry, kind: IoErrorKind, detail: impl Into<String>) -> IoError {
        IoError {
            kind,
            drive: drive.name.clone(),
            op: self.op.name(),
            offset: self.extents.first().map_or(0, |extent| extent.offset),
            len: self.bytes(),
            detail: detail.into(),
            source: None,
        }
    }
}
