//! The software controller under a host that does as its input says: registers, doorbells, commands,
//! lists in memory, power.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gcos_emulator::{Config, Emulator, Medium, Namespace, Run, WriteCacheConfig};
use gcos_hw::{DmaBuffer, Function};
use gcos_layout::nvme::{
    AdminCommand, Aqa, CQE_BYTES, Cc, Cns, Cqe, Csts, DataPointer, Register, SQE_BYTES, Sqe,
    cq_head_doorbell, sq_tail_doorbell,
};

use crate::input::Input;

const PAGE: usize = 4096;
/// Pages that the host has: two queues for each of four pairs, and data.
const PAGES: usize = 24;
const ENTRIES: u32 = 16;
const PAIRS: u16 = 3;
/// Most things that one input does.
const MOST: usize = 200;

struct Host {
    emulator: Arc<Emulator>,
    function: Arc<dyn Function>,
    memory: DmaBuffer,
    tails: [u32; PAIRS as usize + 1],
    next_cid: u16,
}

/// Lets the host do as the input says; afterwards a reset gives a controller that works.
pub(crate) fn host(data: &[u8]) {
    let mut input = Input::new(data);
    let mut host = Host::new(&mut input);
    if input.u8() & 1 == 0 {
        host.enable();
        for qid in 1..=PAIRS {
            host.create_pair(qid);
        }
    }
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        host.act(&mut input);
    }
    host.emulator.power_on();
    host.write(Register::Cc, 0);
    host.work(2000);
    host.enable();
    let csts = Csts(host.function.read32(Register::Csts.offset()));
    assert!(csts.rdy() && !csts.cfs(), "it does not come back from a reset: {csts:?}");
    let cqe = host.admin(AdminCommand::Identify { cns: Cns::Controller }, 0, host.page(20));
    assert!(cqe.is_some_and(|cqe| cqe.status().is_success()), "Identify after a reset: {cqe:?}");
}

impl Host {
    fn new(input: &mut Input<'_>) -> Self {
        let shape = input.u8();
        let lba_bytes = if shape & 1 == 0 { 4096 } else { 512 };
        let bytes = 512 << 10;
        let config = Config {
            namespaces: vec![Namespace { lba_bytes, bytes }, Namespace { lba_bytes: 512, bytes }],
            mdts: if shape & 2 == 0 { 32 << 10 } else { 0 },
            max_queue_pairs: PAIRS,
            mqes: 64,
            write_cache: (shape & 4 != 0).then(WriteCacheConfig::default),
            cmb_bytes: if shape & 8 != 0 { 64 << 10 } else { 0 },
            shadow_doorbells: true,
            doorbell_stride: if shape & 16 != 0 { 8 } else { 4 },
            interrupt_vectors: 3,
            ready_delay: Duration::from_micros(u64::from(shape >> 6)),
            run: Run::Stepped { seed: shape.into() },
            ..Config::new(Medium::ram(2 * bytes).unwrap())
        };
        let emulator = Emulator::new(config).unwrap();
        let function = emulator.function();
        let memory = function.dma().alloc(PAGES * PAGE).unwrap();
        Self { emulator, function, memory, tails: [0; PAIRS as usize + 1], next_cid: 0 }
    }

    fn page(&self, index: usize) -> u64 {
        self.memory.as_dma().iova() + (index % PAGES * PAGE) as u64
    }

    fn write(&self, register: Register, value: u32) {
        self.function.write32(register.offset(), value);
    }

    fn work(&self, steps: u32) {
        for step in 0..steps {
            self.function.relax(step);
        }
    }

    fn stride(&self) -> usize {
        gcos_layout::nvme::Cap(self.function.read64(0)).doorbell_stride()
    }

    fn enable(&mut self) {
        self.tails = [0; PAIRS as usize + 1];
        self.memory.as_dma().fill(0, 2 * PAGE, 0).unwrap();
        self.write(Register::Aqa, Aqa::new(ENTRIES, ENTRIES).0);
        self.function.write64(Register::Asq.offset(), self.page(0));
        self.function.write64(Register::Acq.offset(), self.page(1));
        self.write(Register::Cc, Cc::default().with_en(true).with_iosqes(6).with_iocqes(4).0);
        self.work(200);
    }

    /// Puts a command into queue `qid`, if the host still knows a place for it, and rings.
    fn submit(&mut self, qid: u16, sqe: &Sqe) {
        let (qid, stride) = (qid.min(PAIRS), self.stride());
        let Some(tail) = self.tails.get_mut(usize::from(qid)) else { return };
        let at = usize::from(qid) * 2 * PAGE + *tail as usize * SQE_BYTES;
        self.memory.as_dma().write(at, &sqe.to_bytes()).unwrap();
        *tail = (*tail + 1) % ENTRIES;
        self.function.write32(sq_tail_doorbell(qid, stride), *tail);
    }

    fn cid(&mut self) -> u16 {
        self.next_cid = self.next_cid.wrapping_add(1);
        self.next_cid
    }

    /// Carries an admin command out; only right after [`Host::enable`].
    fn admin(&mut self, command: AdminCommand, nsid: u32, at: u64) -> Option<Cqe> {
        let (cid, slot) = (self.cid(), self.tails[0] as usize);
        let data = DataPointer::Prp { prp1: at, prp2: 0 };
        self.submit(0, &command.encode(cid, nsid, data));
        for _ in 0..2000 {
            self.work(1);
            let at = PAGE + slot * CQE_BYTES;
            let last = self.memory.as_dma().load_u32(at + 12, Ordering::Acquire).unwrap();
            if last >> 16 & 1 == 1 {
                let mut bytes = [0; CQE_BYTES];
                self.memory.as_dma().read(at, &mut bytes).unwrap();
                let head = cq_head_doorbell(0, self.stride());
                self.function.write32(head, (slot as u32 + 1) % ENTRIES);
                return Some(Cqe::from_bytes(&bytes));
            }
        }
        None
    }

    fn create_pair(&mut self, qid: u16) {
        let (entries, contiguous) = (ENTRIES, true);
        let vector = Some(qid % 3);
        let create = AdminCommand::CreateCq { qid, entries, vector, contiguous };
        let at = self.page(usize::from(qid) * 2 + 1);
        let cq = self.admin(create, 0, at);
        let create = AdminCommand::CreateSq { qid, entries, cqid: qid, priority: 0, contiguous };
        let at = self.page(usize::from(qid) * 2);
        let sq = self.admin(create, 0, at);
        for cqe in [cq, sq] {
            assert!(cqe.is_some_and(|cqe| cqe.status().is_success()), "a queue: {cqe:?}");
        }
    }

    /// Mostly an address in the host's memory.
    fn address(&self, input: &mut Input<'_>) -> u64 {
        match input.u8() {
            0..=159 => self.page(8 + usize::from(input.u8() % 16)),
            160..=223 => self.page(0) + u64::from(input.u32()) % (PAGES * PAGE) as u64,
            224..=239 => self.page(PAGES - 1) + PAGE as u64 - u64::from(input.u8()),
            _ => input.u64(),
        }
    }

    fn command(&mut self, input: &mut Input<'_>, opcodes: &[u8]) -> Sqe {
        let opcode = match input.u8() {
            byte @ 0..=239 => opcodes[usize::from(byte) % opcodes.len()],
            _ => input.u8(),
        };
        let cid = if input.u8() < 240 { self.cid() } else { input.u16() };
        let nsid = match input.u8() {
            0..=199 => 1,
            200..=229 => 2,
            _ => input.u32(),
        };
        let mut sqe = Sqe::new(opcode, cid).with_nsid(nsid);
        let pointers = [self.address(input), self.address(input)];
        for (i, pointer) in pointers.into_iter().enumerate() {
            sqe.0[6 + 2 * i] = pointer as u32;
            sqe.0[7 + 2 * i] = (pointer >> 32) as u32;
        }
        match input.u8() {
            // PRPs.
            0..=159 => {}
            // SGLs.
            byte => {
                sqe = sqe.with_psdt(1 + byte % 2);
                sqe.0[8] = input.u32() & 0xffff;
                sqe.0[9] = u32::from(input.u8()) << 24;
            }
        }
        for word in 10..16 {
            sqe.0[word] = match input.u8() {
                0..=127 => 0,
                byte @ 128..=199 => u32::from(byte & 31),
                200..=219 => input.u16().into(),
                _ => input.u32(),
            };
        }
        sqe
    }

    fn act(&mut self, input: &mut Input<'_>) {
        match input.u8() {
            0..=79 => {
                let qid = 1 + u16::from(input.u8()) % PAIRS;
                let sqe = self.command(input, &[0, 1, 2, 5, 8, 9]);
                self.submit(qid, &sqe);
            }
            80..=129 => {
                let sqe = self.command(input, &[0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 0x80, 0x7c]);
                self.submit(0, &sqe);
            }
            130..=169 => self.work(input.u8().into()),
            170..=199 => {
                // A list: of addresses, or of descriptors.
                let at = 8 * PAGE + usize::from(input.u8() % 16) * PAGE;
                for i in 0..usize::from(input.u8() % 16) {
                    let word = match input.u8() {
                        0..=127 => self.address(input),
                        _ => input.u64(),
                    };
                    self.memory.as_dma().write(at + 8 * i, &word.to_le_bytes()).unwrap();
                }
            }
            200..=209 => {
                let (qid, value) = (u16::from(input.u8() % 6), input.u16());
                let stride = self.stride();
                let offset = match input.u8() & 1 {
                    0 => sq_tail_doorbell(qid, stride),
                    _ => cq_head_doorbell(qid, stride),
                };
                self.function.write32(offset, value.into());
            }
            210..=217 => {
                let register = Register::ALL[input.below(Register::ALL.len())];
                let value = input.u32();
                self.write(register, value);
            }
            218..=223 => self.function.write32(input.u16().into(), input.u32()),
            224..=229 => self.function.write64(input.u16().into(), input.u64()),
            230..=234 => {
                let at = usize::from(input.u16());
                let _ = (self.function.read32(at), self.function.read64(at));
            }
            235..=238 => self.enable(),
            239 => self.emulator.power_cut(input.u8().into()),
            240 => self.emulator.remove(),
            241..=243 => self.emulator.power_on(),
            244 => self.emulator.fail(),
            245 => self.emulator.set_temperature(input.u16()),
            246 => self.emulator.cut_power_at_write(input.u8().into(), 1),
            247 => {
                let _ = self.function.interrupt(input.u16());
                let _ = self.function.bar(input.u8());
            }
            _ => self.work(20),
        }
    }
}
