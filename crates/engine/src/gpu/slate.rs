//! Where a batch's records lie for the kernels: host memory that the GPU reaches, reused.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gcos_cuda::{Gpu, GpuError, Pinned};
use gcos_hw::OutOfBounds;
use gcos_layout::gpu::{Batch, Command, Segment, Share, outcome};

use super::plan::Plan;

/// Offsets of what every slate has. The abort flag, which the host writes, and the words of the shares, which
/// the GPU writes, share no line.
const ABORT: usize = 0;
const DONE: usize = 128;

/// Smallest slate: a few hundred commands.
const LEAST_BYTES: usize = 32 << 10;
/// Slates larger than this are not kept.
const MOST_KEPT_BYTES: usize = 4 << 20;
/// Slates that are kept.
const MOST_KEPT: usize = 64;

/// Records of one batch.
#[derive(Debug)]
pub(super) struct Slate {
    memory: Pinned,
    layout: Layout,
    bytes: Vec<u8>,
}

/// Where things are in a slate.
#[derive(Debug, Clone, Copy, Default)]
struct Layout {
    shares: u32,
    commands: u32,
    segments: u32,
    shares_at: usize,
    statuses_at: usize,
    commands_at: usize,
    segments_at: usize,
    end: usize,
}

impl Layout {
    fn new(shares: usize, plan: &Plan) -> Self {
        let (commands, segments) = (plan.commands.len(), plan.segments.len());
        let shares_at = (DONE + shares * 4).next_multiple_of(128);
        let commands_at = (shares_at + shares * Share::BYTES).next_multiple_of(128);
        let segments_at = (commands_at + commands * Command::BYTES).next_multiple_of(128);
        // The GPU writes statuses: behind all that the host writes.
        let statuses_at = (segments_at + segments * Segment::BYTES).next_multiple_of(128);
        Self {
            shares: shares as u32,
            commands: commands as u32,
            segments: segments as u32,
            shares_at,
            statuses_at,
            commands_at,
            segments_at,
            end: statuses_at + commands * 4,
        }
    }
}

/// Slates that nobody uses.
#[derive(Debug, Default)]
pub(super) struct Slates(Vec<Slate>);

impl Slates {
    /// A slate with room for the plan in so many shares, if there is one.
    pub(super) fn find(&mut self, shares: usize, plan: &Plan) -> Option<Slate> {
        let layout = Layout::new(shares, plan);
        // The smallest that fits.
        let fits = |slate: &(usize, &Slate)| slate.1.memory.len() >= layout.end;
        let (index, _) =
            self.0.iter().enumerate().filter(fits).min_by_key(|(_, slate)| slate.memory.len())?;
        Some(Slate { layout, ..self.0.swap_remove(index) })
    }

    /// Keeps a slate. One that is not kept comes back, to be dropped where nobody waits for that.
    #[must_use]
    pub(super) fn give(&mut self, slate: Slate) -> Option<Slate> {
        if self.0.len() >= MOST_KEPT || slate.memory.len() > MOST_KEPT_BYTES {
            return Some(slate);
        }
        self.0.push(slate);
        None
    }
}

impl Slate {
    /// A new slate with room for the plan in so many shares. The driver may wait for kernels meanwhile.
    pub(super) fn new(gpu: &Arc<Gpu>, shares: usize, plan: &Plan) -> Result<Self, GpuError> {
        let layout = Layout::new(shares, plan);
        let len = layout.end.max(LEAST_BYTES).next_power_of_two();
        Ok(Self { memory: Pinned::new(gpu, len)?, layout, bytes: Vec::new() })
    }

    /// Writes the records, and forgets what an earlier batch has left.
    pub(super) fn fill(&mut self, shares: &[Share], plan: &Plan) -> Result<(), OutOfBounds> {
        let memory = self.memory.memory();
        memory.store_u32(ABORT, 0, Ordering::Relaxed)?;
        memory.fill(DONE, shares.len() * 4, 0)?;
        let bytes = &mut self.bytes;
        bytes.clear();
        shares.iter().for_each(|share| share.put(bytes));
        memory.write(self.layout.shares_at, bytes)?;
        bytes.clear();
        plan.commands.iter().for_each(|command| command.put(bytes));
        memory.write(self.layout.commands_at, bytes)?;
        bytes.clear();
        plan.segments.iter().for_each(|segment| segment.put(bytes));
        memory.write(self.layout.segments_at, bytes)?;
        memory.fill(self.layout.statuses_at, plan.commands.len() * 4, 0)
    }

    /// The parameter of the kernel.
    pub(super) fn batch(&self, budget_ns: u64) -> Batch {
        let at = |offset: usize| self.memory.device_address() + offset as u64;
        Batch {
            shares: at(self.layout.shares_at),
            commands: at(self.layout.commands_at),
            segments: at(self.layout.segments_at),
            statuses: at(self.layout.statuses_at),
            abort: at(ABORT),
            done: at(DONE),
            budget_ns,
            share_count: self.layout.shares,
            command_count: self.layout.commands,
            segment_count: self.layout.segments,
            reserved: 0,
        }
    }

    /// Tells the kernel to give up.
    pub(super) fn abort(&self) {
        // The word is there and aligned: no error.
        let _ = self.memory.memory().store_u32(ABORT, 1, Ordering::Release);
    }

    /// Whether all shares have ended: their status words are final.
    pub(super) fn is_done(&self) -> bool {
        // Acquire: pairs with the kernel's releases; status words are read after it.
        let word = |share| self.memory.memory().load_u32(DONE + 4 * share, Ordering::Acquire);
        let ended: u32 =
            (0..self.layout.shares as usize).map(|share| word(share).unwrap_or(0)).sum();
        ended == self.layout.shares
    }

    /// How a command ended: kind and status field; `None` when the kernel has not said.
    pub(super) fn outcome(&self, command: usize) -> Option<(u32, u16)> {
        let at = self.layout.statuses_at + command * 4;
        let word = self.memory.memory().load_u32(at, Ordering::Acquire).ok()?;
        let kind = (word & !outcome::DONE) >> outcome::KIND_SHIFT;
        (word & outcome::DONE != 0).then_some((kind, (word & 0x7FFF) as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(slates: &mut Slates, gpu: &Arc<Gpu>, plan: &Plan) -> Slate {
        slates.find(1, plan).unwrap_or_else(|| Slate::new(gpu, 1, plan).unwrap())
    }

    #[test]
    fn a_slate_is_found_again_and_has_forgotten_the_batch_before() {
        let gpu = Gpu::played();
        let mut slates = Slates::default();
        let mut plan = Plan {
            commands: vec![Command { lba: 7, ..Command::default() }; 300],
            segments: vec![Segment { iova: 9, bytes: 1 }; 5],
            ..Plan::default()
        };
        let shares = [Share { queue_pair: 1, first: 0, count: 300 }];
        let mut slate = take(&mut slates, &gpu, &plan);
        slate.fill(&shares, &plan).unwrap();
        let batch = slate.batch(5);
        assert_eq!((batch.share_count, batch.command_count, batch.segment_count), (1, 300, 5));
        assert!(batch.commands.is_multiple_of(16) && !slate.is_done());
        let memory = Arc::clone(slate.memory.memory());
        let base = slate.memory.device_address();
        let status_at = (batch.statuses - base) as usize + 4 * 299;
        let word = outcome::DONE | outcome::TIMED_OUT << outcome::KIND_SHIFT | 0x281;
        memory.store_u32(status_at, word, Ordering::Release).unwrap();
        memory.store_u32((batch.done - base) as usize, 1, Ordering::Release).unwrap();
        slate.abort();
        assert!(slate.is_done());
        assert_eq!(slate.outcome(299), Some((outcome::TIMED_OUT, 0x281)));
        assert_eq!((slate.outcome(298), slate.outcome(300_000)), (None, None));
        assert!(slates.give(slate).is_none());
        let mut again = take(&mut slates, &gpu, &plan);
        assert_eq!(again.memory.device_address(), base, "reused");
        again.fill(&shares, &plan).unwrap();
        assert!(!again.is_done() && again.outcome(299).is_none());
        assert_eq!(memory.load_u32((batch.abort - base) as usize, Ordering::Acquire), Ok(0));
        plan.commands.resize(10_000, Command::default());
        assert_ne!(take(&mut slates, &gpu, &plan).memory.device_address(), base, "too small");
    }
}
