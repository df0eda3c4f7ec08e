//! Transfers made into commands: divided by the largest transfer, their memory described.

use gcos_cuda::{DeviceSlice, GpuError};
use gcos_layout::gpu::{Command, Segment, flag};
use gcos_layout::nvme::{IoCommand, MAX_BLOCKS};

use crate::Op;
use crate::device::DeviceTransfer;

const PAGE: u64 = 4096;

/// Most descriptors of an SGL: one page of list.
const MOST_DESCRIPTORS: usize = 256;

/// What limits one command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Base-2 logarithm of the bytes of a logical block.
    pub(super) lba_shift: u32,
    /// Most bytes, a multiple of the logical block.
    pub(super) max_transfer: u64,
    /// Whether the controller takes SGLs.
    pub(super) sgl: bool,
}

impl Limits {
    pub(super) fn new(lba_bytes: u32, max_transfer: u64, sgl: bool) -> Self {
        let lba = u64::from(lba_bytes);
        let most = max_transfer.min(lba * u64::from(MAX_BLOCKS));
        let max_transfer = (most / lba * lba).max(lba);
        Self { lba_shift: lba_bytes.trailing_zeros(), max_transfer, sgl }
    }
}

/// Memory of a command that the controller cannot address as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounced {
    /// Index of the command.
    pub(super) command: usize,
    /// Index of the transfer.
    pub(super) transfer: usize,
    /// Where it begins in the transfer's segments, in bytes.
    pub(super) start: u64,
    /// Where it gets a place in the bounce memory.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// Commands for transfers; kept and reused, to save allocations.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) commands: Vec<Command>,
    pub(super) segments: Vec<Segment>,
    /// Number of commands of each transfer.
    pub(super) counts: Vec<usize>,
    pub(super) bounced: Vec<Bounced>,
    /// Bytes of bounce memory that are needed.
    pub(super) bounce_bytes: u64,
}

/// A place in the segments of a transfer.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    segment: usize,
    offset: u64,
}

impl Cursor {
    /// Calls `f` with the contiguous runs of the next `bytes`, and goes past them. Neighbours are joined.
    fn runs(&mut self, segments: &[DeviceSlice], bytes: u64, mut f: impl FnMut(Segment)) {
        let mut left = bytes;
        let mut run: Option<Segment> = None;
        while left > 0
            && let Some(segment) = segments.get(self.segment)
        {
            let room = segment.len() as u64 - self.offset;
            let len = room.min(left);
            let iova = segment.dma().iova() + self.offset;
            self.offset += len;
            left -= len;
            if room == len {
                *self = Self { segment: self.segment + 1, offset: 0 };
            }
            if len == 0 {
                continue;
            }
            match &mut run {
                Some(run) if run.iova + run.bytes == iova => run.bytes += len,
                _ => run.replace(Segment { iova, bytes: len }).into_iter().for_each(&mut f),
            }
        }
        run.into_iter().for_each(f);
    }
}

/// Whether PRP entries can express the runs: all but the first begin at a page, all but the last end at
/// one.
fn prp_can_express(runs: &[Segment]) -> bool {
    let last = runs.len().saturating_sub(1);
    runs.iter().enumerate().all(|(index, run)| {
        let begins = index == 0 || run.iova.is_multiple_of(PAGE);
        let ends = index == last || (run.iova + run.bytes).is_multiple_of(PAGE);
        begins && ends
    })
}

impl Plan {
    pub(super) fn clear(&mut self) {
        self.commands.clear();
        self.segments.clear();
        self.counts.clear();
        self.bounced.clear();
        self.bounce_bytes = 0;
    }

    /// Adds the commands of a transfer that was checked.
    pub(super) fn add(&mut self, transfer: &DeviceTransfer, limits: &Limits) {
        let before = self.commands.len();
        let (opcode, flags) = match transfer.op {
            Op::Write { fua } => {
                let write = IoCommand::Write { slba: 0, nlb: 1, fua };
                (write.opcode() as u32, if fua { flag::COMMAND_FUA } else { 0 })
            }
            _ => (IoCommand::Read { slba: 0, nlb: 1, fua: false }.opcode() as u32, 0),
        };
        let (mut cursor, mut start) = (Cursor::default(), 0);
        for extent in &transfer.extents {
            let mut done = 0;
            while done < extent.len {
                let bytes = (extent.len - done).min(limits.max_transfer);
                let lba = (extent.offset + done) >> limits.lba_shift;
                // At most 2 MiB: see `Limits`.
                let command =
                    Command { lba, bytes: bytes as u32, opcode, flags, ..Command::default() };
                self.describe(command, &mut cursor, (transfer, start), limits);
                done += bytes;
                start += bytes;
            }
        }
        self.counts.push(self.commands.len() - before);
    }

    /// Adds a command, whose memory begins at the cursor.
    fn describe(
        &mut self,
        mut command: Command,
        cursor: &mut Cursor,
        (transfer, start): (&DeviceTransfer, u64),
        limits: &Limits,
    ) {
        let first = self.segments.len();
        let bytes = u64::from(command.bytes);
        cursor.runs(&transfer.segments, bytes, |run| self.segments.push(run));
        let runs = self.segments.get(first..).unwrap_or_default();
        match runs {
            [run] => {
                command.data = run.iova;
                self.segments.truncate(first);
            }
            runs if prp_can_express(runs) || (limits.sgl && runs.len() <= MOST_DESCRIPTORS) => {
                (command.data, command.segments) = (first as u64, runs.len() as u32);
            }
            _ => {
                self.segments.truncate(first);
                let offset = self.bounce_bytes;
                let (index, transfer) = (self.commands.len(), self.counts.len());
                self.bounced.push(Bounced { command: index, transfer, start, offset, bytes });
                self.bounce_bytes += bytes.next_multiple_of(PAGE);
            }
        }
        self.commands.push(command);
    }

    /// Gives the bounced commands their memory.
    pub(super) fn place_bounces(&mut self, memory: &DeviceSlice) {
        for bounced in &self.bounced {
            if let Some(command) = self.commands.get_mut(bounced.command) {
                command.data = memory.dma().iova() + bounced.offset;
            }
        }
    }
}

/// Pairs of a piece of bounce memory and the piece of a transfer's segments that it stands for.
pub(super) fn bounce_pieces(
    bounced: &Bounced,
    memory: &DeviceSlice,
    segments: &[DeviceSlice],
) -> Result<Vec<(DeviceSlice, DeviceSlice)>, GpuError> {
    let (mut skip, mut done) = (bounced.start as usize, 0);
    let bytes = bounced.bytes as usize;
    let mut pieces = Vec::new();
    for segment in segments {
        if skip >= segment.len() {
            skip -= segment.len();
            continue;
        }
        let len = (segment.len() - skip).min(bytes - done);
        if len == 0 {
            break;
        }
        let place = memory.slice(bounced.offset as usize + done, len)?;
        pieces.push((place, segment.slice(skip, len)?));
        (skip, done) = (0, done + len);
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Extent;
    use gcos_cuda::{DeviceMemory, Gpu, MemoryOptions};
    use gcos_emulator::AddressSpace;

    fn memory() -> Arc<DeviceMemory> {
        let space = AddressSpace::new().unwrap();
        let options = MemoryOptions { window_bytes: 8 << 20, ..MemoryOptions::default() };
        DeviceMemory::new(&Gpu::played(), &space.dma, options).unwrap()
    }

    fn transfer(extents: &[(u64, u64)], segments: &[DeviceSlice]) -> DeviceTransfer {
        let extents = extents.iter().map(|&(offset, len)| Extent { offset, len }).collect();
        DeviceTransfer { op: Op::Read, extents, segments: segments.iter().cloned().collect() }
    }

    fn plan(transfer: &DeviceTransfer, sgl: bool) -> Plan {
        let mut plan = Plan::default();
        plan.add(transfer, &Limits::new(512, 64 << 10, sgl));
        plan
    }

    #[test]
    fn a_run_needs_no_segments_and_is_cut_at_the_largest_transfer() {
        let memory = memory();
        let data = memory.alloc(200 << 10, 4096).unwrap();
        let plan =
            plan(&transfer(&[(4096, 150 << 10), (1 << 20, 50 << 10)], &[data.as_slice()]), false);
        let iova = data.dma().iova();
        let got: Vec<_> =
            plan.commands.iter().map(|c| (c.lba, c.data - iova, c.bytes, c.segments)).collect();
        let k = |n: u64| n << 10;
        let expected = [
            (8, 0, k(64) as u32, 0),
            (136, k(64), k(64) as u32, 0),
            (264, k(128), k(22) as u32, 0),
            (2048, k(150), k(50) as u32, 0),
        ];
        assert_eq!(got, expected);
        assert_eq!((plan.counts, plan.segments.len()), (vec![4], 0));
    }

    #[test]
    fn pages_are_listed_and_neighbours_joined() {
        let memory = memory();
        let data = memory.alloc(64 << 10, 4096).unwrap();
        let piece = |at, len| data.slice(at, len).unwrap();
        let segments =
            [piece(512, 3584), piece(8192, 4096), piece(12_288, 4096), piece(32_768, 512)];
        let plan = plan(&transfer(&[(0, 12_288)], &segments), false);
        let [command] = plan.commands.as_slice() else { panic!("{plan:?}") };
        assert_eq!((command.data, command.segments), (0, 3));
        let iova = data.dma().iova();
        let got: Vec<_> = plan.segments.iter().map(|s| (s.iova - iova, s.bytes)).collect();
        assert_eq!(got, [(512, 3584), (8192, 8192), (32_768, 512)]);
    }

    #[test]
    fn what_prp_cannot_say_goes_by_sgl_or_is_bounced() {
        let memory = memory();
        let data = memory.alloc(64 << 10, 4096).unwrap();
        let segments = [data.slice(4, 100).unwrap(), data.slice(8192, 924).unwrap()];
        let transfer = transfer(&[(0, 1024)], &segments);
        let listed = plan(&transfer, true);
        assert_eq!((listed.commands[0].segments, listed.bounced.len()), (2, 0));
        let mut bounced = plan(&transfer, false);
        assert_eq!((bounced.segments.len(), bounced.bounce_bytes), (0, 4096));
        let place = memory.alloc(4096, 4096).unwrap();
        bounced.place_bounces(&place);
        assert_eq!(
            (bounced.commands[0].data, bounced.commands[0].segments),
            (place.dma().iova(), 0)
        );
        let pieces = bounce_pieces(&bounced.bounced[0], &place, &segments).unwrap();
        let got: Vec<_> = pieces
            .iter()
            .map(|(p, s)| {
                let (base, data) = (place.device_address(), data.device_address());
                (p.device_address() - base, s.device_address() - data, p.len(), s.len())
            })
            .collect();
        assert_eq!(got, [(0, 4, 100, 100), (100, 8192, 924, 924)]);
    }
}
