use gcos_cuda::{DeviceSlice, GpuError};
use smallvec::SmallVec;

use super::DeviceTransfer;

/// Part of a transfer that is one piece on the drive.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    /// Offset on the drive, in bytes.
    pub(super) offset: u64,
    /// Length in bytes.
    pub(super) len: usize,
    /// Where it lies in the GPU's memory, in order.
    pub(super) parts: SmallVec<[DeviceSlice; 2]>,
}

/// Cuts a transfer into pieces of at most `most` bytes, a multiple of the drive's blocks.
pub(super) fn chunks(transfer: &DeviceTransfer, most: usize) -> Result<Vec<Chunk>, GpuError> {
    let mut chunks = Vec::new();
    let mut segments = transfer.segments.iter();
    let mut segment = segments.next();
    // Bytes of `segment` that are given out.
    let mut used = 0;
    for extent in &transfer.extents {
        let mut done = 0;
        while done < extent.len {
            let left = extent.len - done;
            let len = usize::try_from(left).map_or(most, |left| left.min(most));
            let mut parts = SmallVec::new();
            let mut filled = 0;
            while filled < len {
                let Some(slice) = segment else { break };
                let take = (slice.len() - used).min(len - filled);
                if take > 0 {
                    parts.push(slice.slice(used, take)?);
                }
                (filled, used) = (filled + take, used + take);
                if used == slice.len() {
                    (segment, used) = (segments.next(), 0);
                }
            }
            chunks.push(Chunk { offset: extent.offset + done, len, parts });
            done += len as u64;
        }
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Extent, Op};
    use gcos_cuda::{DeviceMemory, Gpu, MemoryOptions};
    use gcos_hw::kernel::host_space;

    #[test]
    fn chunks_are_whole_on_the_drive_and_name_every_byte_of_memory_once_in_order() {
        let (gpu, space) = (Gpu::played(), host_space().unwrap());
        let memory = DeviceMemory::new(&gpu, &space, MemoryOptions::default()).unwrap();
        let buffer = memory.alloc(20 << 10, 4096).unwrap();
        let slice = |offset, len| buffer.slice(offset, len).unwrap();
        let transfer = DeviceTransfer {
            op: Op::Read,
            extents: [Extent { offset: 1 << 20, len: 12 << 10 }, Extent { offset: 0, len: 4096 }]
                .into_iter()
                .collect(),
            segments: [slice(0, 4), slice(4096, 0), slice(8192, 8188), slice(100, 8192)]
                .into_iter()
                .collect(),
        };
        let chunks = chunks(&transfer, 8192).unwrap();
        let places: Vec<_> = chunks.iter().map(|chunk| (chunk.offset, chunk.len)).collect();
        assert_eq!(places, [(1 << 20, 8192), ((1 << 20) + 8192, 4096), (0, 4096)]);
        let base = buffer.device_address();
        let part = |slice: &DeviceSlice| (slice.device_address() - base, slice.len());
        let parts: Vec<Vec<_>> =
            chunks.iter().map(|chunk| chunk.parts.iter().map(part).collect()).collect();
        assert_eq!(parts, [vec![(0, 4), (8192, 8188)], vec![(100, 4096)], vec![(4196, 4096)]]);
    }
}
