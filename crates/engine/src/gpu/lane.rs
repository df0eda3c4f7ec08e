//! One queue pair that the GPU drives: its memory, and its life on the controller.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gcos_cuda::{DeviceBuffer, DeviceMemory, GpuError};
use gcos_hw::{OutOfBounds, order_stores};
use gcos_layout::gpu::{QueuePair, flag, outcome};
use gcos_layout::nvme::{CQE_BYTES, SQE_BYTES};
use gcos_nvme::{Controller, LentQueuePair, NvmeError};
use parking_lot::Mutex;

use super::bell::Bell;
use super::plan::Limits;

const PAGE: usize = 4096;

/// Why a queue pair cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum LaneError {
    #[error(transparent)]
    Nvme(#[from] NvmeError),
    #[error(transparent)]
    Memory(#[from] OutOfBounds),
    #[error("the doorbells of queue pair {qid} lie outside the registers that the GPU reaches")]
    Doorbells { qid: u16 },
    #[error("the controller could not be stopped: it may still reach the queue pair's memory")]
    Stuck,
    #[error("a batch that is in flight uses the queue pair")]
    InUse,
}

/// Where things are in a lane's memory.
#[derive(Debug, Clone, Copy)]
struct Layout {
    cq: usize,
    lists: usize,
    record: usize,
    bytes: usize,
}

impl Layout {
    fn new(entries: u32) -> Self {
        let entries = entries as usize;
        let cq = (entries * SQE_BYTES).next_multiple_of(PAGE);
        let lists = cq + (entries * CQE_BYTES).next_multiple_of(PAGE);
        let record = lists + entries * PAGE;
        Self { cq, lists, record, bytes: record + QueuePair::BYTES.next_multiple_of(256) }
    }
}

/// A queue pair's place. The pair in it comes and goes with resets and faults.
#[derive(Debug)]
pub(super) struct Lane {
    index: usize,
    entries: u32,
    nsid: u32,
    limits: Limits,
    layout: Layout,
    pair: Mutex<Pair>,
    // After the pair, which lies in it.
    memory: DeviceBuffer,
}

#[derive(Debug, Default)]
struct Pair {
    lent: Option<LentQueuePair>,
    /// The GPU's record says that it must not be used any more.
    broken: bool,
    /// The controller may reach its memory for ever.
    stuck: bool,
}

impl Pair {
    fn is_current(&self) -> bool {
        self.lent.as_ref().is_some_and(LentQueuePair::is_current)
    }

    fn is_usable(&self) -> bool {
        !self.broken && !self.stuck && self.is_current()
    }
}

impl Lane {
    /// Takes memory for a pair; the pair itself is made when it is first needed.
    pub(super) fn new(
        index: usize,
        memory: &Arc<DeviceMemory>,
        entries: u32,
        nsid: u32,
        limits: Limits,
    ) -> Result<Self, GpuError> {
        let layout = Layout::new(entries);
        let memory = memory.alloc(layout.bytes, PAGE)?;
        Ok(Self { index, entries, nsid, limits, layout, pair: Mutex::default(), memory })
    }

    /// Device address of the record of its pair.
    pub(super) fn record_address(&self) -> u64 {
        self.memory.device_address() + self.layout.record as u64
    }

    /// Device address of the submission queue.
    pub(super) fn queue_address(&self) -> u64 {
        self.memory.device_address()
    }

    /// Address of the submission queue in this process.
    pub(super) fn queue_cpu_address(&self) -> usize {
        let (memory, offset) = self.memory.dma().memory();
        memory.address() + offset
    }

    /// Whether the pair can be used as it is. Not while somebody makes or deletes it.
    pub(super) fn is_ready(&self) -> bool {
        self.pair.try_lock().is_some_and(|pair| pair.is_usable())
    }

    /// Whether there is no pair for the kernels that are in flight: it was deleted, or a controller reset
    /// has ended it.
    pub(super) fn is_lost(&self) -> bool {
        self.pair.try_lock().is_some_and(|pair| !pair.is_current())
    }

    /// Makes the pair of a lane that no kernel uses or is about to, unless it can be used: whether it was made.
    pub(super) fn make(
        &self,
        controller: &Arc<Controller>,
        bell: &Bell,
    ) -> Result<bool, LaneError> {
        self.make_if(controller, bell, || true)
    }

    /// The same for a lane that kernels use: `alone` says that none does now, nor will by [`Lane::is_ready`],
    /// which says no meanwhile.
    pub(super) fn make_if(
        &self,
        controller: &Arc<Controller>,
        bell: &Bell,
        alone: impl FnOnce() -> bool,
    ) -> Result<bool, LaneError> {
        let mut pair = self.pair.lock();
        if pair.stuck {
            return Err(LaneError::Stuck);
        }
        if pair.is_usable() {
            return Ok(false);
        }
        if !alone() {
            return Err(LaneError::InUse);
        }
        self.end(&mut pair, bell)?;
        let memory = self.memory.dma();
        let sq = memory.slice(0, self.layout.cq)?;
        let cq = memory.slice(self.layout.cq, self.layout.lists - self.layout.cq)?;
        for entry in 0..self.entries as usize {
            cq.write(entry * CQE_BYTES, &[0; CQE_BYTES])?;
        }
        order_stores();
        let lent = controller.lend_queue_pair(sq, cq, self.entries)?;
        let qid = lent.qid();
        let doorbells = bell.attach(self.index, lent.doorbells());
        let (sq_doorbell, cq_doorbell) = doorbells.ok_or(LaneError::Doorbells { qid })?;
        let base = self.memory.device_address();
        let record = QueuePair {
            sq: base,
            cq: base + self.layout.cq as u64,
            sq_doorbell,
            cq_doorbell,
            lists: base + self.layout.lists as u64,
            lists_iova: memory.iova() + self.layout.lists as u64,
            tickets: 0,
            entries: self.entries,
            list_pages: 1,
            nsid: self.nsid,
            lba_shift: self.limits.lba_shift,
            flags: if self.limits.sgl { flag::QUEUE_SGL } else { 0 },
            max_transfer: u32::try_from(self.limits.max_transfer).unwrap_or(u32::MAX),
            sq_tail: 0,
            cq_head: 0,
            phase: 1,
            broken: 0,
        };
        memory.write(self.layout.record, &record.to_bytes())?;
        // The record is in the GPU's memory before a kernel is told of it.
        order_stores();
        *pair = Pair { lent: Some(lent), broken: false, stuck: false };
        Ok(true)
    }

    fn broken_at(&self) -> usize {
        self.layout.record + std::mem::offset_of!(QueuePair, broken)
    }

    /// Whether the kernel has left the pair broken, by the GPU's own record. All shares on it have ended.
    pub(super) fn is_broken_on_gpu(&self) -> bool {
        self.memory.dma().load_u32(self.broken_at(), Ordering::Acquire) != Ok(0)
    }

    /// Deletes the pair: when this returns `Ok` the controller reaches no memory through it any more. No
    /// kernel is running on it. Those that are still to come find it broken in the GPU's record, or are told
    /// to give up.
    pub(super) fn delete(&self, bell: &Bell) -> Result<(), LaneError> {
        let mut pair = self.pair.lock();
        self.mark_broken(&mut pair)?;
        self.end(&mut pair, bell)
    }

    /// As [`Lane::delete`], but a kernel may be running on it that does not heed anything: its doorbells are
    /// given to no other pair before it has ended.
    pub(super) fn stop(&self, bell: &Bell) -> Result<(), LaneError> {
        let mut pair = self.pair.lock();
        self.mark_broken(&mut pair)?;
        bell.detach(self.index);
        if let Some(lent) = &mut pair.lent {
            lent.stop()?;
        }
        Ok(())
    }

    fn mark_broken(&self, pair: &mut Pair) -> Result<(), LaneError> {
        if pair.stuck {
            return Err(LaneError::Stuck);
        }
        pair.broken = true;
        // The kernel has said so itself where one has; kernels that are still to come must not ring.
        self.memory.dma().store_u32(self.broken_at(), outcome::ABORTED, Ordering::Release)?;
        order_stores();
        Ok(())
    }

    fn end(&self, pair: &mut Pair, bell: &Bell) -> Result<(), LaneError> {
        bell.detach(self.index);
        if let Some(lent) = pair.lent.take() {
            pair.stuck = true;
            lent.end()?;
            pair.stuck = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use gcos_cuda::{Gpu, MemoryOptions};
    use gcos_emulator::{AddressSpace, Config, Emulator, Medium, Namespace};
    use gcos_nvme::Options;

    use super::*;
    use crate::DoorbellChoice;
    use crate::gpu::shared::Holder;

    struct Rig {
        lane: Lane,
        bell: Bell,
        memory: Arc<DeviceMemory>,
        controller: Arc<Controller>,
        _emulator: Arc<Emulator>,
    }

    fn rig() -> Rig {
        let space = AddressSpace::new().unwrap();
        let config = Config {
            namespaces: vec![Namespace { lba_bytes: 512, bytes: 1 << 20 }],
            space: Some(space.clone()),
            ..Config::new(Medium::ram(1 << 20).unwrap())
        };
        let emulator = Emulator::new(config).unwrap();
        let options = Options { lent_queue_pairs: 1, ..Options::default() };
        let controller = Controller::open(emulator.function(), options).unwrap();
        let gpu = Gpu::played();
        let options = MemoryOptions { window_bytes: 2 << 20, ..MemoryOptions::default() };
        let memory = DeviceMemory::new(&gpu, &space.dma, options).unwrap();
        let lane = Lane::new(0, &memory, 8, 1, Limits::new(512, 4096, false)).unwrap();
        let holder: Weak<Holder> = Weak::new();
        let bell =
            Bell::open(&gpu, controller.function(), holder, 1, DoorbellChoice::Forwarded).unwrap();
        Rig { lane, bell: bell.0, memory, controller, _emulator: emulator }
    }

    #[test]
    fn a_pair_that_a_batch_in_flight_uses_is_not_made_anew_under_it() {
        let Rig { lane, bell, controller, _emulator, .. } = rig();
        assert!(lane.make(&controller, &bell).unwrap());
        let record = || {
            let mut bytes = vec![0; QueuePair::BYTES];
            lane.memory.dma().read(lane.layout.record, &mut bytes).unwrap();
            bytes
        };
        assert!(!lane.make_if(&controller, &bell, || panic!("it need not be made")).unwrap());
        // As the kernel of the batch leaves it.
        let tail = lane.layout.record + std::mem::offset_of!(QueuePair, sq_tail);
        lane.memory.dma().store_u32(tail, 5, Ordering::Release).unwrap();
        let before = record();
        controller.reset().unwrap();
        assert!(lane.is_lost() && !lane.is_ready());
        // While the question is asked nobody takes the lane for ready.
        let refused = lane.make_if(&controller, &bell, || {
            assert!(!lane.is_ready());
            false
        });
        assert!(matches!(refused, Err(LaneError::InUse)), "{refused:?}");
        assert!(record() == before, "not a byte of its record has changed");
        assert!(lane.make(&controller, &bell).unwrap());
        assert!(record() != before && lane.is_ready());
    }

    #[test]
    fn a_pair_that_was_stopped_is_gone_and_keeps_its_doorbells_to_the_end() {
        let Rig { lane, bell, memory, controller, _emulator } = rig();
        assert!(lane.make(&controller, &bell).unwrap());
        lane.stop(&bell).unwrap();
        lane.stop(&bell).unwrap();
        assert!(lane.is_lost() && lane.is_broken_on_gpu());
        let queues = memory.alloc(2 * PAGE, PAGE).unwrap();
        let lend = || {
            let (sq, cq) = (queues.dma().slice(0, PAGE), queues.dma().slice(PAGE, PAGE));
            controller.lend_queue_pair(sq.unwrap(), cq.unwrap(), 8)
        };
        assert!(lend().is_err(), "the identifier is not lent again while a kernel may ring it");
        lane.delete(&bell).unwrap();
        // The controller takes the identifier as one that is free.
        lend().unwrap().end().unwrap();
        assert!(lane.make(&controller, &bell).unwrap());
    }
}
