//! GPU memory that objects come from and go to.

use gcos_engine::device::{
    DeviceBuffer, DeviceSlice, ForeignMemory, Gpu, GpuRange, PinnedSlice, Stream,
};
use smallvec::SmallVec;

use super::plan::SEGMENTS;
use super::spans::{Span, Spans};
use crate::StoreError;

/// One stretch of GPU memory.
#[derive(Debug, Clone)]
pub enum DeviceSegment {
    /// Memory that the pool's drives reach: whole blocks of the payload move between it and the drives
    /// without a copy, where address and length are multiples of 4.
    Reached(DeviceSlice),
    /// Any other memory of the GPU: what is in it goes through memory that drives reach. Whoever owns it
    /// keeps it until the operation has ended.
    Foreign(ForeignMemory),
}

impl DeviceSegment {
    fn len(&self) -> usize {
        match self {
            Self::Reached(slice) => GpuRange::len(slice),
            Self::Foreign(memory) => memory.len(),
        }
    }

    fn gpu(&self) -> &Gpu {
        match self {
            Self::Reached(slice) => GpuRange::gpu(slice),
            Self::Foreign(memory) => memory.gpu(),
        }
    }

    fn span(&self, memory: usize) -> Span {
        let iova = match self {
            Self::Reached(slice) => Some(slice.dma().iova()),
            Self::Foreign(_) => None,
        };
        Span { memory, len: self.len() as u64, iova }
    }

    fn slice(&self, offset: usize, len: usize) -> Result<Self, StoreError> {
        Ok(match self {
            Self::Reached(slice) => Self::Reached(slice.slice(offset, len)?),
            Self::Foreign(memory) => Self::Foreign(memory.slice(offset, len)?),
        })
    }
}

/// Bytes in the memory of one GPU: segments in order, such as the pages of a KV cache, each anywhere.
///
/// Neither the store nor the caller may count on what is in it while an operation has it.
#[derive(Debug, Clone, Default)]
pub struct DeviceRun {
    segments: SmallVec<[DeviceSegment; 1]>,
}

/// Where a get on a GPU's stream puts the payload.
pub type DeviceSink = DeviceRun;

/// Where a put on a GPU's stream takes its payload from.
pub type DeviceSource = DeviceRun;

impl DeviceRun {
    /// Total length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len() as u64).sum()
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The segments.
    #[must_use]
    pub fn segments(&self) -> &[DeviceSegment] {
        &self.segments
    }

    /// Checks that all of it is memory of this GPU.
    pub(super) fn check(&self, gpu: &Gpu) -> Result<(), StoreError> {
        match self.segments.iter().find(|segment| !segment.gpu().same(gpu)) {
            None => Ok(()),
            Some(other) => Err(StoreError::invalid(
                "memory",
                format!("memory of GPU {}, which the stream belongs to", gpu.ordinal()),
                format!("memory of GPU {}", other.gpu().ordinal()),
            )),
        }
    }

    /// Its segments as the memories of a plan, from memory `first` on.
    pub(super) fn spans(&self, first: usize) -> Spans {
        let numbered = self.segments.iter().enumerate();
        Spans::new(numbered.map(|(index, segment)| segment.span(SEGMENTS + first + index)))
    }

    /// Copies `host` to its bytes from `offset` on, or those to `host`, in the order of a stream.
    pub(super) fn copy(
        &self,
        stream: &Stream,
        offset: u64,
        host: &PinnedSlice,
        direction: Direction,
    ) -> Result<(), StoreError> {
        let mut at = 0;
        for cut in self.spans(0).cut(offset, host.len() as u64) {
            let to_usize = |value| usize::try_from(value).unwrap_or(usize::MAX);
            let (from, len) = (to_usize(cut.offset), to_usize(cut.len));
            let Some(segment) = self.segments.get(cut.memory - SEGMENTS) else { continue };
            let host = host.slice(at, len)?;
            match (segment.slice(from, len)?, direction) {
                (DeviceSegment::Reached(memory), Direction::In) => stream.copy(&host, &memory)?,
                (DeviceSegment::Reached(memory), Direction::Out) => stream.copy(&memory, &host)?,
                (DeviceSegment::Foreign(memory), Direction::In) => stream.copy(&host, &memory)?,
                (DeviceSegment::Foreign(memory), Direction::Out) => stream.copy(&memory, &host)?,
            }
            at += len;
        }
        Ok(())
    }
}

/// Which way bytes are copied between host and GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// To the GPU.
    In,
    /// From the GPU.
    Out,
}

impl From<DeviceSlice> for DeviceRun {
    fn from(slice: DeviceSlice) -> Self {
        Self::from_iter([slice])
    }
}

impl From<&DeviceBuffer> for DeviceRun {
    fn from(buffer: &DeviceBuffer) -> Self {
        Self::from(buffer.as_slice())
    }
}

impl From<ForeignMemory> for DeviceRun {
    fn from(memory: ForeignMemory) -> Self {
        Self::from_iter([DeviceSegment::Foreign(memory)])
    }
}

impl FromIterator<DeviceSlice> for DeviceRun {
    fn from_iter<I: IntoIterator<Item = DeviceSlice>>(slices: I) -> Self {
        slices.into_iter().map(DeviceSegment::Reached).collect()
    }
}

impl FromIterator<DeviceSegment> for DeviceRun {
    fn from_iter<I: IntoIterator<Item = DeviceSegment>>(segments: I) -> Self {
        Self { segments: segments.into_iter().collect() }
    }
}
