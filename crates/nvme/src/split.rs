//! Dividing a request into commands: by the largest transfer, by the NLB field, by ranges of Dataset
//! Management.

use gcos_hw::DmaSlice;
use gcos_layout::nvme::{DsmRange, IoCommand, MAX_BLOCKS, MAX_DSM_RANGES};
use smallvec::SmallVec;

use crate::pointer::Position;
use crate::request::{BlockRange, IoOp};

/// What limits one command of a namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) lba_bytes: u32,
    /// Blocks that a command with data moves.
    pub(crate) blocks: u32,
}

/// One command to post.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) command: IoCommand,
    pub(crate) slba: u64,
    /// Data bytes.
    pub(crate) bytes: usize,
    /// Where the data is in the request's segments.
    pub(crate) at: Position,
}

/// The commands that a request still needs.
#[derive(Debug)]
pub(crate) struct Plan {
    op: IoOp,
    limits: Limits,
    ranges: SmallVec<[BlockRange; 1]>,
    /// Range that is next, and blocks of it that are done.
    range: usize,
    done: u64,
    at: Position,
    flush_left: bool,
}

impl Plan {
    pub(crate) fn new(op: IoOp, ranges: SmallVec<[BlockRange; 1]>, limits: Limits) -> Self {
        let flush_left = op == IoOp::Flush;
        Self { op, limits, ranges, range: 0, done: 0, at: Position::default(), flush_left }
    }

    /// The next command, without going past it; `None` when all are posted.
    #[inline]
    pub(crate) fn next(&self) -> Option<Part> {
        let none = |command| Part { command, slba: 0, bytes: 0, at: self.at };
        if self.flush_left {
            return Some(none(IoCommand::Flush));
        }
        let range = self.ranges.get(self.range)?;
        if self.op == IoOp::Deallocate {
            let ranges = self.dsm_ranges().count() as u32;
            let command = IoCommand::DatasetManagement { ranges, deallocate: true };
            return Some(Part { slba: range.slba + self.done, ..none(command) });
        }
        let slba = range.slba + self.done;
        let nlb = (range.blocks - self.done).min(self.most_blocks().into()) as u32;
        let command = match self.op {
            IoOp::Write { fua } => IoCommand::Write { slba, nlb, fua },
            IoOp::Compare => IoCommand::Compare { slba, nlb, fua: false },
            IoOp::WriteZeroes { deallocate } => {
                IoCommand::WriteZeroes { slba, nlb, fua: false, deallocate }
            }
            _ => IoCommand::Read { slba, nlb, fua: false },
        };
        let data = if self.op.has_data() { nlb } else { 0 };
        let bytes = data as usize * self.limits.lba_bytes as usize;
        Some(Part { command, slba, bytes, at: self.at })
    }

    /// Goes past the command that [`Plan::next`] returned.
    #[inline]
    pub(crate) fn advance(&mut self, part: &Part, segments: &[DmaSlice]) {
        match part.command {
            IoCommand::Flush => self.flush_left = false,
            IoCommand::DatasetManagement { .. } => {
                let taken: SmallVec<[DsmRange; 8]> = self.dsm_ranges().collect();
                for range in taken {
                    self.skip(range.nlb.into());
                }
            }
            IoCommand::Write { nlb, .. }
            | IoCommand::Read { nlb, .. }
            | IoCommand::Compare { nlb, .. }
            | IoCommand::WriteZeroes { nlb, .. } => self.skip(nlb.into()),
        }
        self.at = self.at.advance(segments, part.bytes);
    }

    fn most_blocks(&self) -> u32 {
        if self.op.has_data() { self.limits.blocks } else { MAX_BLOCKS }
    }

    #[inline]
    fn skip(&mut self, blocks: u64) {
        self.done += blocks;
        if self.ranges.get(self.range).is_some_and(|range| self.done >= range.blocks) {
            self.range += 1;
            self.done = 0;
        }
    }

    /// Ranges of the next Dataset Management command: as many as it carries, each of a length that
    /// its 32-bit field holds.
    pub(crate) fn dsm_ranges(&self) -> impl Iterator<Item = DsmRange> {
        let mut done = self.done;
        self.ranges
            .iter()
            .skip(self.range)
            .flat_map(move |range| {
                let start = std::mem::take(&mut done);
                let pieces = (range.blocks - start).div_ceil(u32::MAX.into());
                (0..pieces).map(move |n| {
                    let slba = range.slba + start + n * u64::from(u32::MAX);
                    let left = range.slba + range.blocks - slba;
                    DsmRange { cattr: 0, nlb: left.min(u32::MAX.into()) as u32, slba }
                })
            })
            .take(MAX_DSM_RANGES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(op: IoOp, ranges: &[(u64, u64)], blocks: u32) -> Vec<Part> {
        let ranges = ranges.iter().map(|&(slba, blocks)| BlockRange { slba, blocks }).collect();
        let mut plan = Plan::new(op, ranges, Limits { lba_bytes: 512, blocks });
        let mut parts = Vec::new();
        while let Some(part) = plan.next() {
            plan.advance(&part, &[]);
            parts.push(part);
        }
        parts
    }

    #[test]
    fn transfers_are_split_by_the_largest_and_never_across_ranges() {
        let parts = plan(IoOp::Read, &[(10, 20), (100, 3)], 8);
        let got: Vec<_> = parts.iter().map(|p| (p.slba, p.bytes / 512)).collect();
        assert_eq!(got, [(10, 8), (18, 8), (26, 4), (100, 3)]);
    }

    #[test]
    fn commands_without_data_are_split_by_their_block_count_field() {
        let parts = plan(IoOp::WriteZeroes { deallocate: false }, &[(0, 65_537)], 8);
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[1].slba, 65_536);
        assert_eq!(plan(IoOp::Flush, &[], 8).len(), 1);
    }

    #[test]
    fn deallocation_goes_in_batches_of_256_ranges() {
        let ranges: Vec<_> = (0..600u64).map(|i| (i * 2, 1)).collect();
        let parts = plan(IoOp::Deallocate, &ranges, 8);
        let counts: Vec<_> = parts
            .iter()
            .map(|p| match p.command {
                IoCommand::DatasetManagement { ranges, .. } => ranges,
                _ => 0,
            })
            .collect();
        assert_eq!(counts, [256, 256, 88]);
    }

    #[test]
    fn a_range_beyond_32_bits_becomes_several() {
        let blocks = 2 * u64::from(u32::MAX) + 5;
        let ranges = [BlockRange { slba: 7, blocks }].into_iter().collect();
        let plan = Plan::new(IoOp::Deallocate, ranges, Limits { lba_bytes: 512, blocks: 8 });
        let got: Vec<_> = plan.dsm_ranges().collect();
        assert_eq!(got.len(), 3);
        assert_eq!(got.iter().map(|r| u64::from(r.nlb)).sum::<u64>(), blocks);
        assert_eq!((got[2].nlb, got[2].slba), (5, 7 + 2 * u64::from(u32::MAX)));
    }
}
