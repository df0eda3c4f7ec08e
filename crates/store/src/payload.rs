//! The caller's memory and staging memory as one: what to hand to the engine, and its checksums.

use std::sync::Arc;

use gcos_hw::DmaSlice;
use gcos_layout::checksum::{Crc32c, crc32c};
use gcos_layout::media::{BLOCK_BYTES, GRAIN_BYTES};
use smallvec::SmallVec;

use crate::StoreError;
use crate::memory::{Sink, Source};
use crate::staging::{Lease, Staging};

/// Most payload bytes moved by one request.
pub(crate) const UNIT_BYTES: u32 = 1 << 20;

/// Least payload bytes of a request that others of the same object follow.
const LEAST_UNIT: u32 = 256 << 10;

/// Payload bytes moved by one request of an object of `len` bytes, in whole grains: large enough for the drive, small
/// enough that the checksums of one are computed while the drive works on the next, also where the object is small.
pub(crate) fn unit_bytes(len: u32) -> u32 {
    (len / 4).clamp(LEAST_UNIT, UNIT_BYTES).next_multiple_of(GRAIN_BYTES)
}

/// Segments for one request.
pub(crate) type Segments = SmallVec<[DmaSlice; 2]>;

/// Device-visible memory in several segments, seen as one run of bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gather {
    segments: Segments,
    /// Whether devices can reach any 4-KiB-aligned cut without a copy: all boundaries are multiples of
    /// 4 bytes.
    direct: bool,
}

impl Gather {
    pub(crate) fn new(segments: &[DmaSlice]) -> Self {
        let segments: Segments = segments.iter().filter(|s| !s.is_empty()).cloned().collect();
        let last = segments.len().saturating_sub(1);
        let aligned = |(i, s): (usize, &DmaSlice)| {
            s.iova().is_multiple_of(4) && (i == last || s.len().is_multiple_of(4))
        };
        let direct = segments.iter().enumerate().all(aligned);
        Self { segments, direct }
    }

    /// `len` bytes from `offset` on.
    pub(crate) fn cut(&self, offset: usize, len: usize) -> Result<Segments, StoreError> {
        let (mut skip, mut left) = (offset, len);
        let mut out = Segments::new();
        for segment in &self.segments {
            if left == 0 {
                break;
            }
            if skip >= segment.len() {
                skip -= segment.len();
                continue;
            }
            let take = left.min(segment.len() - skip);
            out.push(segment.slice(skip, take)?);
            left -= take;
            skip = 0;
        }
        Ok(out)
    }
}

/// CRC-32C of each grain of `len` bytes in `segments`, which start at a grain.
pub(crate) fn grains_of(
    segments: &[DmaSlice],
    len: usize,
    out: &mut Vec<u32>,
) -> Result<(), StoreError> {
    let grain = GRAIN_BYTES as usize;
    let (mut left, mut in_grain) = (len, 0);
    let mut digest = Crc32c::default();
    for segment in segments {
        let mut at = 0;
        while at < segment.len() && left > 0 {
            let take = (segment.len() - at).min(grain - in_grain).min(left);
            segment.for_each_chunk(at, take, |bytes| digest.update(bytes))?;
            (at, in_grain, left) = (at + take, in_grain + take, left - take);
            if in_grain == grain || left == 0 {
                out.push(std::mem::take(&mut digest).finish());
                in_grain = 0;
            }
        }
    }
    Ok(())
}

/// Memory that the host does not see, read piece by piece.
pub(crate) trait Fetch: std::fmt::Debug {
    /// Copies the bytes from `offset` on.
    fn fetch(&self, offset: usize, out: &mut [u8]) -> Result<(), StoreError>;
}

/// Where a payload comes from.
#[derive(Debug)]
pub(crate) enum From<'a> {
    Bytes(&'a [u8]),
    Dma(Gather),
    Device(&'a dyn Fetch),
}

impl<'a> From<'a> {
    pub(crate) fn new(source: &Source<'a>) -> Self {
        match source {
            Source::Bytes(bytes) => From::Bytes(bytes),
            Source::Segments(segments) => From::Dma(Gather::new(segments)),
            Source::Buffer(buffer) => From::Dma(Gather::new(&[buffer.as_dma()])),
        }
    }

    /// Checksums of the grains of `len` bytes at `offset`, a grain boundary.
    pub(crate) fn grains(
        &self,
        offset: usize,
        len: usize,
        out: &mut Vec<u32>,
    ) -> Result<(), StoreError> {
        match self {
            From::Bytes(bytes) => {
                let part = bytes.get(offset..offset + len).unwrap_or_default();
                out.extend(part.chunks(GRAIN_BYTES as usize).map(crc32c));
                Ok(())
            }
            From::Dma(gather) => grains_of(&gather.cut(offset, len)?, len, out),
            From::Device(memory) => {
                let mut bytes = vec![0; len];
                memory.fetch(offset, &mut bytes)?;
                out.extend(bytes.chunks(GRAIN_BYTES as usize).map(crc32c));
                Ok(())
            }
        }
    }

    /// Segments that hold `len` bytes from `offset` on, padded with zeros to whole blocks, behind
    /// `front` bytes of staging memory that the caller fills in. Tells how many bytes were copied.
    pub(crate) fn stage(
        &self,
        staging: &Arc<Staging>,
        front: usize,
        offset: usize,
        len: usize,
    ) -> Result<Staged, StoreError> {
        let padded = len.next_multiple_of(BLOCK_BYTES);
        match self {
            From::Dma(gather) if gather.direct => {
                let whole = len / BLOCK_BYTES * BLOCK_BYTES;
                let rest = gather.cut(offset + whole, len - whole)?;
                let lease = match front + padded - whole {
                    0 => None,
                    need => Some(staging.take(need)?),
                };
                let mut segments = Segments::new();
                if let Some(lease) = lease.as_ref().filter(|_| front > 0) {
                    segments.push(lease.slice(0, front)?);
                }
                segments.extend(gather.cut(offset, whole)?);
                if let Some(lease) = lease.as_ref().filter(|_| padded > whole) {
                    let tail = lease.slice(front, padded - whole)?;
                    copy_padded(&tail, &rest)?;
                    segments.push(tail);
                }
                Ok(Staged { segments, front: lease, copied: (len - whole) as u64 })
            }
            From::Dma(gather) => {
                let lease = staging.take(front + padded)?;
                copy_padded(&lease.slice(front, padded)?, &gather.cut(offset, len)?)?;
                let segments = std::iter::once(lease.slice(0, front + padded)?).collect();
                Ok(Staged { segments, front: Some(lease), copied: len as u64 })
            }
            From::Bytes(bytes) => {
                let bytes = bytes.get(offset..offset + len).unwrap_or_default();
                stage_bytes(staging, front, bytes)
            }
            From::Device(memory) => {
                let mut bytes = vec![0; len];
                memory.fetch(offset, &mut bytes)?;
                stage_bytes(staging, front, &bytes)
            }
        }
    }
}

/// A copy of some bytes in staging memory, padded with zeros to whole blocks, behind `front` bytes.
fn stage_bytes(staging: &Arc<Staging>, front: usize, bytes: &[u8]) -> Result<Staged, StoreError> {
    let (len, padded) = (bytes.len(), bytes.len().next_multiple_of(BLOCK_BYTES));
    let lease = staging.take(front + padded)?;
    let all = lease.slice(0, front + padded)?;
    all.write(front, bytes)?;
    all.fill(front + len, padded - len, 0)?;
    let segments = std::iter::once(all).collect();
    Ok(Staged { segments, front: Some(lease), copied: len as u64 })
}

/// Memory ready for a request. The lease must outlive it.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) segments: Segments,
    pub(crate) front: Option<Lease>,
    pub(crate) copied: u64,
}

/// Copies `from` to the start of `to` and fills the rest with zeros.
fn copy_padded(to: &DmaSlice, from: &[DmaSlice]) -> Result<(), StoreError> {
    let mut at = 0;
    for segment in from {
        to.copy_from(at, segment, 0, segment.len())?;
        at += segment.len();
    }
    to.fill(at, to.len() - at, 0)?;
    Ok(())
}

/// Where a payload goes.
#[derive(Debug)]
pub(crate) enum Into<'a> {
    Bytes(&'a mut [u8]),
    Dma(Gather),
}

impl<'a> Into<'a> {
    pub(crate) fn new(sink: Sink<'a>) -> Self {
        match sink {
            Sink::Bytes(bytes) => Into::Bytes(bytes),
            Sink::Segments(segments) => Into::Dma(Gather::new(segments)),
            Sink::Buffer(buffer) => Into::Dma(Gather::new(&[buffer.as_dma()])),
        }
    }

    /// The segments for `len` bytes at `offset`, if devices can write there themselves.
    pub(crate) fn direct(&self, offset: usize, len: usize) -> Option<Segments> {
        match self {
            Into::Dma(gather) if gather.direct && offset.is_multiple_of(4) => {
                gather.cut(offset, len).ok()
            }
            _ => None,
        }
    }

    /// `len` bytes at `offset`, if they are plain memory.
    pub(crate) fn bytes_mut(&mut self, offset: usize, len: usize) -> Option<&mut [u8]> {
        match self {
            Into::Bytes(bytes) => bytes.get_mut(offset..offset + len),
            Into::Dma(_) => None,
        }
    }

    /// Copies `len` bytes at `from` of `source` to `offset` here.
    pub(crate) fn copy_in(
        &mut self,
        offset: usize,
        source: &[DmaSlice],
        from: usize,
        len: usize,
    ) -> Result<(), StoreError> {
        let source = Gather { segments: source.iter().cloned().collect(), direct: false };
        let mut at = offset;
        for segment in source.cut(from, len)? {
            match self {
                Into::Bytes(bytes) => {
                    let target = bytes.get_mut(at..at + segment.len()).unwrap_or_default();
                    segment.read(0, target)?;
                }
                Into::Dma(gather) => {
                    let mut done = 0;
                    for target in gather.cut(at, segment.len())? {
                        target.copy_from(0, &segment, done, target.len())?;
                        done += target.len();
                    }
                }
            }
            at += segment.len();
        }
        Ok(())
    }
}
