//! What the driver itself costs per command, submitted and reaped: 4 KiB reads on a stand-in controller
//! without a medium, which completes each command while its doorbell is being written.
//!
//! `cargo run --release -p gcos-nvme --example overhead` prints nanoseconds and instructions per
//! command. The stand-in's own work, which is measured first, is in them. Instructions are counted
//! by valgrind, which runs this program again: twice per line, to take the start away.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring program")]

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gcos_hw::{DmaMapper, DmaSpace, EventFd, Function, HwError, SharedMemory};
use gcos_layout::nvme::{
    AdminCommand, Cap, Cns, Cqe, DOORBELLS, IdentifyController, IdentifyData, IdentifyNamespace,
    LbaFormat, Register, Sqe, encode_active_namespaces,
};
use gcos_nvme::{BlockRange, Controller, IoOp, IoRequest, Options};
use parking_lot::Mutex;
use smallvec::smallvec;

type Mappings = Arc<Mutex<BTreeMap<u64, Arc<SharedMemory>>>>;

#[derive(Debug)]
struct Mapper(Mappings);

impl DmaMapper for Mapper {
    fn map(&self, iova: u64, memory: &Arc<SharedMemory>) -> Result<(), HwError> {
        self.0.lock().insert(iova, Arc::clone(memory));
        Ok(())
    }
    fn unmap(&self, iova: u64, _len: usize) -> Result<(), HwError> {
        self.0.lock().remove(&iova);
        Ok(())
    }
}

/// A queue pair as the stand-in sees it.
#[derive(Debug)]
struct Queue {
    qid: u16,
    entries: u32,
    sq: Arc<SharedMemory>,
    cq: Arc<SharedMemory>,
    head: u32,
    tail: u32,
    phase: bool,
}

impl Queue {
    fn new(qid: u16, entries: u32, sq: Arc<SharedMemory>, cq: Arc<SharedMemory>) -> Self {
        Self { qid, entries, sq, cq, head: 0, tail: 0, phase: true }
    }

    fn complete(&mut self, cid: u16, dw0: u32) {
        let cqe = Cqe::default().with_cid(cid).with_sqid(self.qid).with_sqhd(self.head as u16);
        let cqe = cqe.with_phase(self.phase).with_dw0(dw0);
        let at = self.tail as usize * 16;
        self.cq.store_u32(at, cqe.0[0], Ordering::Relaxed).unwrap();
        self.cq.store_u32(at + 8, cqe.0[2], Ordering::Relaxed).unwrap();
        self.cq.store_u32(at + 12, cqe.0[3], Ordering::Release).unwrap();
        self.tail = (self.tail + 1) % self.entries;
        self.phase ^= self.tail == 0;
    }
}

#[derive(Debug, Default)]
struct Model {
    registers: BTreeMap<usize, u64>,
    admin: Option<Queue>,
    io: Option<Queue>,
    io_cq: u64,
}

#[derive(Debug)]
struct StandIn {
    dma: Arc<DmaSpace>,
    mappings: Mappings,
    model: Mutex<Model>,
    began: Instant,
}

impl StandIn {
    fn new() -> Arc<Self> {
        let mappings = Mappings::default();
        let usable = 0x10_0000..0x1_0000_0000;
        let mapper = Arc::new(Mapper(Arc::clone(&mappings)));
        let dma = DmaSpace::new(mapper, std::slice::from_ref(&usable)).unwrap();
        Arc::new(Self { dma, mappings, model: Mutex::default(), began: Instant::now() })
    }

    fn memory(&self, iova: u64) -> Arc<SharedMemory> {
        Arc::clone(&self.mappings.lock()[&iova])
    }

    fn admin(&self, model: &mut Model, tail: u32) {
        let mut queue = model.admin.take().unwrap();
        while queue.head != tail {
            let mut bytes = [0; 64];
            queue.sq.read(queue.head as usize * 64, &mut bytes).unwrap();
            queue.head = (queue.head + 1) % queue.entries;
            let sqe = Sqe::from_bytes(&bytes);
            if let Some(dw0) = self.answer(model, &sqe) {
                queue.complete(sqe.cid(), dw0);
            }
        }
        model.admin = Some(queue);
    }

    fn answer(&self, model: &mut Model, sqe: &Sqe) -> Option<u32> {
        match AdminCommand::parse(sqe).unwrap() {
            AdminCommand::Identify { cns } => {
                self.memory(sqe.prp1()).write(0, &identify(cns)).unwrap();
            }
            AdminCommand::CreateCq { .. } => model.io_cq = sqe.prp1(),
            AdminCommand::CreateSq { qid, entries, .. } => {
                let (sq, cq) = (self.memory(sqe.prp1()), self.memory(model.io_cq));
                model.io = Some(Queue::new(qid, entries, sq, cq));
            }
            AdminCommand::AsyncEventRequest => return None,
            _ => {}
        }
        Some(0)
    }
}

fn identify(cns: Cns) -> IdentifyData {
    match cns {
        Cns::Controller => IdentifyController::default().encode(),
        Cns::ActiveNamespaces => encode_active_namespaces(&[1]),
        Cns::Namespace => {
            let lba_formats = vec![LbaFormat::default().with_lbads(12)];
            IdentifyNamespace { nsze: 1 << 20, lba_formats, ..Default::default() }.encode()
        }
        Cns::NamespaceDescriptors => [0; 4096],
    }
}

impl Function for StandIn {
    fn name(&self) -> &str {
        "stand-in"
    }
    fn read32(&self, offset: usize) -> u32 {
        let registers = &self.model.lock().registers;
        let get = |offset: usize| registers.get(&offset).copied().unwrap_or(0) as u32;
        // CSTS.RDY follows CC.EN at once.
        if offset == Register::Csts.offset() { get(Register::Cc.offset()) & 1 } else { get(offset) }
    }
    fn read64(&self, _offset: usize) -> u64 {
        Cap::default().with_max_queue_entries(4096).with_css(1).with_to(1).0
    }
    fn write32(&self, offset: usize, value: u32) {
        let mut model = self.model.lock();
        if offset == DOORBELLS + 8 {
            let queue = model.io.as_mut().unwrap();
            while queue.head != value {
                let dw0 = queue.sq.load_u32(queue.head as usize * 64, Ordering::Acquire).unwrap();
                queue.head = (queue.head + 1) % queue.entries;
                queue.complete((dw0 >> 16) as u16, 0);
            }
        } else if offset == DOORBELLS {
            self.admin(&mut model, value);
        } else if offset < DOORBELLS {
            model.registers.insert(offset, value.into());
            if offset == Register::Cc.offset() && value & 1 == 1 {
                let at = |r: Register| self.memory(model.registers[&r.offset()]);
                let (sq, cq) = (at(Register::Asq), at(Register::Acq));
                model.admin = Some(Queue::new(0, 32, sq, cq));
            }
        }
    }
    fn write64(&self, offset: usize, value: u64) {
        self.model.lock().registers.insert(offset, value);
    }
    fn registers_len(&self) -> usize {
        0x2000
    }
    fn dma(&self) -> &Arc<DmaSpace> {
        &self.dma
    }
    fn interrupt_vectors(&self) -> u16 {
        1
    }
    fn interrupt(&self, _vector: u16) -> Result<Arc<EventFd>, HwError> {
        EventFd::new().map(Arc::new)
    }
    fn now(&self) -> Duration {
        self.began.elapsed()
    }
    fn relax(&self, _spins: u32) {
        std::hint::spin_loop();
    }
}

/// Commands that are timed, and fewer that are counted, which takes far longer.
const TIMED: u32 = 1_000_000;
const COUNTED: u32 = 64 * 1024;
/// The least time of so many runs counts: the others were disturbed.
const RUNS: u32 = 5;

/// Runs `commands` reads, `depth` at a time; depth 0 is the stand-in alone.
fn run(depth: usize, commands: u32) -> Duration {
    if depth == 0 {
        return run_stand_in(commands);
    }
    let controller = Controller::open(StandIn::new(), Options::default()).unwrap();
    let buffer = controller.dma().alloc(depth * 4096).unwrap();
    let slices: Vec<_> = (0..depth).map(|i| buffer.slice(i * 4096, 4096).unwrap()).collect();
    let mut pending = Vec::with_capacity(depth);
    let began = Instant::now();
    for round in 0..commands / depth as u32 {
        for slice in &slices {
            let request = IoRequest {
                nsid: 1,
                op: IoOp::Read,
                ranges: smallvec![BlockRange { slba: round.into(), blocks: 1 }],
                segments: smallvec![slice.clone()],
                timeout: Duration::from_secs(5),
            };
            pending.push(controller.submit(request).unwrap());
        }
        pending.drain(..).for_each(|pending| pending.wait().unwrap());
    }
    began.elapsed()
}

/// The stand-in alone: the lock, the entry's first dword, the completion.
fn run_stand_in(commands: u32) -> Duration {
    let stand_in = StandIn::new();
    let memory = || Arc::new(SharedMemory::anonymous(65_536).unwrap());
    stand_in.model.lock().io = Some(Queue::new(1, 256, memory(), memory()));
    let began = Instant::now();
    for n in 1..=commands {
        stand_in.write32(DOORBELLS + 8, n % 256);
        stand_in.write32(DOORBELLS + 12, n % 256);
    }
    began.elapsed()
}

fn nanoseconds(depth: usize) -> f64 {
    let least = (0..RUNS).map(|_| run(depth, TIMED)).min().unwrap();
    least.as_nanos() as f64 / f64::from(TIMED)
}

/// Instructions per command; `None` without valgrind.
fn instructions(depth: usize) -> Option<u64> {
    let with = instructions_of(depth, COUNTED)?;
    Some((with - instructions_of(depth, 0)?) / u64::from(COUNTED))
}

/// Instructions of this whole program when it does nothing but [`run`].
fn instructions_of(depth: usize, commands: u32) -> Option<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args([depth.to_string(), commands.to_string()])
        .output()
        .ok()?;
    let report = String::from_utf8(output.stderr).unwrap();
    let (_, count) = report.split_once("Collected : ")?;
    count.split_whitespace().next()?.parse().ok()
}

fn main() {
    let arguments: Vec<u32> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    if let &[depth, commands] = &*arguments {
        run(depth as usize, commands);
        return;
    }
    for depth in [0, 1, 8, 32, 128] {
        let what = if depth == 0 { "stand-in".to_owned() } else { format!("depth {depth}") };
        let counted =
            instructions(depth).map_or("valgrind is not installed: no".into(), |n| n.to_string());
        println!("{what:>9}: {:5.1} ns, {counted} instructions per command", nanoseconds(depth));
    }
}
