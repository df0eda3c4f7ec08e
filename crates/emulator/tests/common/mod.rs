//! A tiny driver at register level: one queue pair after the other, one command at a time or many.

#![expect(dead_code, reason = "each test file uses its own part of the driver")]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gcos_emulator::{Config, Emulator, Medium};
use gcos_hw::{DmaBuffer, DmaSlice, Function};
use gcos_layout::nvme::{
    AdminCommand, Aqa, CQE_BYTES, Cc, Cqe, Csts, DataPointer, IoCommand, Register, SQE_BYTES, Sqe,
    Status, cq_head_doorbell, sq_tail_doorbell,
};

/// Longest wait for anything, on the function's clock.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Queue {
    pub(crate) qid: u16,
    pub(crate) entries: u32,
    pub(crate) sq: DmaSlice,
    pub(crate) cq: DmaSlice,
    pub(crate) tail: u32,
    pub(crate) head: u32,
    pub(crate) phase: bool,
}

pub(crate) struct Host {
    pub(crate) emulator: Arc<Emulator>,
    pub(crate) function: Arc<dyn Function>,
    pub(crate) admin: Queue,
    next_cid: u16,
}

pub(crate) fn ram(bytes: u64) -> Config {
    Config::new(Medium::ram(bytes).unwrap())
}

pub(crate) fn buffer(function: &dyn Function, len: usize) -> DmaBuffer {
    function.dma().alloc(len).unwrap()
}

pub(crate) fn prp(slice: &DmaSlice) -> DataPointer {
    // Good for up to two pages.
    let first = slice.iova();
    DataPointer::Prp { prp1: first, prp2: (first / 4096 + 1) * 4096 }
}

impl Queue {
    pub(crate) fn new(function: &dyn Function, qid: u16, entries: u32) -> Self {
        let sq = buffer(function, entries as usize * SQE_BYTES).as_dma();
        let cq = buffer(function, entries as usize * CQE_BYTES).as_dma();
        Self { qid, entries, sq, cq, tail: 0, head: 0, phase: true }
    }
}

impl Host {
    /// A controller that is enabled.
    pub(crate) fn new(config: Config) -> Self {
        let host = Self::disabled(config);
        host.enable(cc());
        host
    }

    /// A controller that was not touched yet.
    pub(crate) fn disabled(config: Config) -> Self {
        Self::over(Emulator::new(config).unwrap())
    }

    pub(crate) fn over(emulator: Arc<Emulator>) -> Self {
        let function = emulator.function();
        let admin = Queue::new(&*function, 0, 32);
        Self { emulator, function, admin, next_cid: 1 }
    }

    pub(crate) fn csts(&self) -> Csts {
        Csts(self.function.read32(Register::Csts.offset()))
    }

    pub(crate) fn write(&self, register: Register, value: u32) {
        self.function.write32(register.offset(), value);
    }

    /// Waits until the condition holds.
    pub(crate) fn wait(&self, what: &str, mut done: impl FnMut() -> bool) {
        let start = self.function.now();
        let mut spins = 0;
        while !done() {
            assert!(self.function.now() - start < PATIENCE, "{what}: waited too long");
            self.function.relax(spins);
            spins += 1;
        }
    }

    /// Lets the controller work for a while.
    pub(crate) fn idle(&self, time: Duration) {
        let start = self.function.now();
        let mut spins = 0;
        while self.function.now() - start < time {
            self.function.relax(spins);
            spins += 1;
        }
    }

    pub(crate) fn set_admin_queues(&self) {
        let entries = self.admin.entries;
        self.write(Register::Aqa, Aqa::new(entries, entries).0);
        self.function.write64(Register::Asq.offset(), self.admin.sq.iova());
        self.function.write64(Register::Acq.offset(), self.admin.cq.iova());
    }

    pub(crate) fn enable(&self, cc: Cc) {
        self.set_admin_queues();
        self.write(Register::Cc, cc.0);
        self.wait("enable", || self.csts().rdy());
    }

    /// Resets and enables with fresh admin queues.
    pub(crate) fn reset(&mut self) {
        self.disable();
        self.admin = Queue::new(&*self.function, 0, self.admin.entries);
        self.enable(cc());
    }

    pub(crate) fn disable(&self) {
        self.write(Register::Cc, cc().with_en(false).0);
        self.wait("disable", || !self.csts().rdy());
    }

    pub(crate) fn cid(&mut self) -> u16 {
        self.next_cid = self.next_cid.wrapping_add(1);
        self.next_cid
    }

    pub(crate) fn stride(&self) -> usize {
        gcos_layout::nvme::Cap(self.function.read64(0)).doorbell_stride()
    }

    /// Puts an entry into the queue and rings.
    pub(crate) fn submit(&self, queue: &mut Queue, sqe: Sqe) {
        self.put(queue, sqe);
        self.ring(queue);
    }

    pub(crate) fn put(&self, queue: &mut Queue, sqe: Sqe) {
        queue.sq.write(queue.tail as usize * SQE_BYTES, &sqe.to_bytes()).unwrap();
        queue.tail = (queue.tail + 1) % queue.entries;
    }

    pub(crate) fn ring(&self, queue: &Queue) {
        self.function.write32(sq_tail_doorbell(queue.qid, self.stride()), queue.tail);
    }

    /// Takes a completion if there is one, without ringing the head doorbell.
    pub(crate) fn peek(&self, queue: &mut Queue) -> Option<Cqe> {
        let at = queue.head as usize * CQE_BYTES;
        let last = queue.cq.load_u32(at + 12, Ordering::Acquire).unwrap();
        if (last >> 16 & 1 == 1) != queue.phase {
            return None;
        }
        let mut bytes = [0; CQE_BYTES];
        queue.cq.read(at, &mut bytes).unwrap();
        queue.head += 1;
        if queue.head == queue.entries {
            queue.head = 0;
            queue.phase = !queue.phase;
        }
        Some(Cqe::from_bytes(&bytes))
    }

    pub(crate) fn ring_head(&self, queue: &Queue) {
        self.function.write32(cq_head_doorbell(queue.qid, self.stride()), queue.head);
    }

    /// Waits for the next completion and frees its entry.
    pub(crate) fn reap(&self, queue: &mut Queue) -> Cqe {
        let mut found = None;
        self.wait("completion", || {
            found = self.peek(queue);
            found.is_some()
        });
        self.ring_head(queue);
        found.unwrap()
    }

    pub(crate) fn run(&mut self, queue: &mut Queue, sqe: Sqe) -> Cqe {
        self.submit(queue, sqe);
        let cqe = self.reap(queue);
        assert_eq!((cqe.cid(), cqe.sqid()), (sqe.cid(), queue.qid));
        cqe
    }

    pub(crate) fn run_admin(&mut self, sqe: Sqe) -> Cqe {
        let mut admin = std::mem::replace(&mut self.admin, Queue::new(&*self.function, 0, 2));
        let cqe = self.run(&mut admin, sqe);
        self.admin = admin;
        cqe
    }

    pub(crate) fn admin(&mut self, command: AdminCommand, nsid: u32, data: DataPointer) -> Cqe {
        let cid = self.cid();
        self.run_admin(command.encode(cid, nsid, data))
    }

    /// The status of an admin command without data.
    pub(crate) fn admin_status(&mut self, command: AdminCommand) -> Status {
        self.admin(command, 0, DataPointer::NONE).status().code()
    }

    /// Submits an admin command without waiting.
    pub(crate) fn admin_submit(&mut self, sqe: Sqe) {
        let mut admin = std::mem::replace(&mut self.admin, Queue::new(&*self.function, 0, 2));
        self.submit(&mut admin, sqe);
        self.admin = admin;
    }

    pub(crate) fn admin_reap(&mut self) -> Cqe {
        let mut admin = std::mem::replace(&mut self.admin, Queue::new(&*self.function, 0, 2));
        let cqe = self.reap(&mut admin);
        self.admin = admin;
        cqe
    }

    pub(crate) fn admin_peek(&mut self) -> Option<Cqe> {
        let mut admin = std::mem::replace(&mut self.admin, Queue::new(&*self.function, 0, 2));
        let cqe = self.peek(&mut admin);
        self.admin = admin;
        cqe
    }

    pub(crate) fn create_cq(&mut self, queue: &Queue, vector: Option<u16>) -> Status {
        let (qid, entries) = (queue.qid, queue.entries);
        let create = AdminCommand::CreateCq { qid, entries, vector, contiguous: true };
        let base = DataPointer::Prp { prp1: queue.cq.iova(), prp2: 0 };
        self.admin(create, 0, base).status().code()
    }

    pub(crate) fn create_sq(&mut self, queue: &Queue, cqid: u16) -> Status {
        let (qid, entries) = (queue.qid, queue.entries);
        let create = AdminCommand::CreateSq { qid, entries, cqid, priority: 0, contiguous: true };
        let base = DataPointer::Prp { prp1: queue.sq.iova(), prp2: 0 };
        self.admin(create, 0, base).status().code()
    }

    /// A working queue pair.
    pub(crate) fn queue(&mut self, qid: u16, entries: u32) -> Queue {
        let queue = Queue::new(&*self.function, qid, entries);
        assert_eq!(self.create_cq(&queue, None), Status::SUCCESS);
        assert_eq!(self.create_sq(&queue, qid), Status::SUCCESS);
        queue
    }

    pub(crate) fn io(
        &mut self,
        queue: &mut Queue,
        command: IoCommand,
        data: DataPointer,
    ) -> Status {
        let cid = self.cid();
        self.run(queue, command.encode(cid, 1, data)).status().code()
    }

    pub(crate) fn flush(&mut self, queue: &mut Queue) -> Status {
        self.io(queue, IoCommand::Flush, DataPointer::NONE)
    }

    /// Writes blocks of 4096 bytes filled with `byte`, at most two.
    pub(crate) fn fill(&mut self, queue: &mut Queue, slba: u64, nlb: u32, byte: u8) -> Status {
        self.fill_fua(queue, slba, nlb, byte, false)
    }

    pub(crate) fn fill_fua(
        &mut self,
        queue: &mut Queue,
        slba: u64,
        nlb: u32,
        byte: u8,
        fua: bool,
    ) -> Status {
        let data = buffer(&*self.function, nlb as usize * 4096).as_dma();
        data.fill(0, data.len(), byte).unwrap();
        let write = IoCommand::Write { slba, nlb, fua };
        self.io(queue, write, prp(&data))
    }

    /// Reads blocks of 4096 bytes, at most two.
    pub(crate) fn read(
        &mut self,
        queue: &mut Queue,
        slba: u64,
        nlb: u32,
    ) -> Result<Vec<u8>, Status> {
        let data = buffer(&*self.function, nlb as usize * 4096).as_dma();
        let status = self.io(queue, IoCommand::Read { slba, nlb, fua: false }, prp(&data));
        let mut out = vec![0; data.len()];
        data.read(0, &mut out).unwrap();
        if status.is_success() { Ok(out) } else { Err(status) }
    }

    /// The byte that fills a block; panics when the block is not filled with one value.
    pub(crate) fn block(&mut self, queue: &mut Queue, lba: u64) -> u8 {
        let block = self.read(queue, lba, 1).unwrap();
        assert!(block.iter().all(|byte| *byte == block[0]), "block {lba} is torn");
        block[0]
    }
}

pub(crate) fn cc() -> Cc {
    Cc::default().with_en(true).with_iosqes(6).with_iocqes(4)
}
