//! A controller that answers as its input says: like a good one where the input is 0 or has ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gcos_hw::{DmaMapper, DmaSpace, EventFd, Function, HwError};
use gcos_layout::nvme::{
    AdminOpcode, Aqa, Cap, Cc, Cns, Cqe, Csts, DOORBELLS, IdentifyController, IdentifyNamespace,
    LbaFormat, Register, SQE_BYTES, Sqe, Status, Vs, encode_active_namespaces,
};
use parking_lot::Mutex;

use super::memory::Mapped;
use crate::input::Input;

/// Most calls of [`Function::relax`] within one operation of the driver. Time doubles with each of
/// them in a wait, so this is hours.
const MOST_PAUSES: u32 = 200_000;

#[derive(Debug, Default, Clone, Copy)]
struct Queue {
    base: u64,
    entries: u32,
    /// Of a submission queue what was fetched, of a completion queue where the next entry goes.
    at: u32,
    phase: bool,
    /// Of a submission queue.
    cqid: u16,
}

#[derive(Debug)]
struct State {
    input: Vec<u8>,
    used: usize,
    now: Duration,
    pauses: u32,
    cap: Cap,
    cc: Cc,
    csts: Csts,
    /// What registers read as instead, once the function is gone.
    gone: Option<u32>,
    asq: u64,
    acq: u64,
    aqa: Aqa,
    sqs: BTreeMap<u16, Queue>,
    cqs: BTreeMap<u16, Queue>,
    /// Completions that come later.
    later: Vec<(u16, Cqe)>,
}

/// The function that the driver is given.
#[derive(Debug)]
pub struct Hostile {
    mapped: Arc<Mapped>,
    dma: Arc<DmaSpace>,
    state: Mutex<State>,
}

impl State {
    fn byte(&mut self) -> u8 {
        let byte = self.input.get(self.used).copied().unwrap_or(0);
        self.used += 1;
        byte
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes([(); 4].map(|()| self.byte()))
    }

    /// Up to 32 changed bytes.
    fn change(&mut self, data: &mut [u8]) {
        for _ in 0..self.byte() % 32 {
            let at = usize::from(self.byte()) | usize::from(self.byte()) << 8;
            let with = self.byte();
            let at = at % data.len();
            data[at] = with;
        }
    }
}

impl Hostile {
    /// A controller that misbehaves as `input` says.
    #[must_use]
    pub fn new(input: &mut Input<'_>) -> Arc<Self> {
        let mapped = Arc::new(Mapped::default());
        let mapper: Arc<dyn DmaMapper> = Arc::clone(&mapped) as _;
        let usable = 0x1_0000_0000..0x100_0000_0000;
        let dma = DmaSpace::new(mapper, std::slice::from_ref(&usable)).unwrap();
        let good = Cap::default().with_max_queue_entries(64).with_cqr(true).with_to(2).with_css(1);
        // A mask of zeros leaves it as it is.
        let cap = Cap(good.0 ^ input.u64());
        let state = State {
            input: input.take(usize::MAX).to_vec(),
            used: 0,
            now: Duration::from_secs(1),
            pauses: 0,
            cap,
            cc: Cc::default(),
            csts: Csts::default(),
            gone: None,
            asq: 0,
            acq: 0,
            aqa: Aqa::default(),
            sqs: BTreeMap::new(),
            cqs: BTreeMap::new(),
            later: Vec::new(),
        };
        Arc::new(Self { mapped, dma, state: Mutex::new(state) })
    }

    /// The mappings that the driver has made.
    #[must_use]
    pub fn mapped(&self) -> &Arc<Mapped> {
        &self.mapped
    }

    /// From here on the count of pauses begins anew.
    pub fn begin_operation(&self) {
        self.state.lock().pauses = 0;
    }

    /// Whether it was told to stop, and has.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        let state = self.state.lock();
        state.gone.is_none() && !state.cc.en() && !state.csts.rdy()
    }

    fn set_cc(&self, state: &mut State, cc: Cc) {
        let (before, how) = (state.cc, state.byte());
        state.cc = cc;
        match how {
            0..=223 => {
                if cc.en() && !before.en() {
                    state.csts = Csts::default().with_rdy(true);
                    let (sq, cq) = (state.aqa.sq_entries(), state.aqa.cq_entries());
                    let phase = true;
                    state.sqs = BTreeMap::from([(
                        0,
                        Queue { base: state.asq, entries: sq, ..Queue::default() },
                    )]);
                    state.cqs = BTreeMap::from([(
                        0,
                        Queue { base: state.acq, entries: cq, phase, ..Queue::default() },
                    )]);
                    state.later.clear();
                } else if !cc.en() {
                    state.csts = Csts::default();
                }
                if cc.0 >> 14 & 3 != 0 {
                    state.csts = Csts(state.csts.0 | 2 << 2);
                }
            }
            224..=231 => {}
            232..=239 => state.csts = Csts(state.u32()),
            240..=243 => state.csts = Csts(state.csts.0 | 2),
            244..=247 => state.cc = before,
            248..=251 => state.gone = Some(u32::MAX),
            _ => state.gone = Some(0),
        }
    }

    fn ring(&self, state: &mut State, offset: usize, value: u32) {
        let index = (offset - DOORBELLS) / state.cap.doorbell_stride();
        if index % 2 == 1 {
            return;
        }
        let Ok(qid) = u16::try_from(index / 2) else { return };
        let Some(mut sq) = state.sqs.get(&qid).copied() else { return };
        for _ in 0..64 {
            if sq.at == value || sq.entries == 0 || !state.cc.en() {
                break;
            }
            let entry: [u8; SQE_BYTES] = self.mapped.read(sq.base + u64::from(sq.at) * 64);
            let mut words = entry.chunks_exact(4);
            let sqe = Sqe(std::array::from_fn(|_| {
                words.next().and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes)
            }));
            sq.at = (sq.at + 1) % sq.entries;
            if let Some(known) = state.sqs.get_mut(&qid) {
                known.at = sq.at;
            }
            self.carry_out(state, qid, sq, &sqe);
        }
    }

    fn carry_out(&self, state: &mut State, qid: u16, sq: Queue, sqe: &Sqe) {
        let (dw0, status, answered) = match qid {
            0 => self.admin(state, sqe),
            _ => (0, Status::SUCCESS, self.io(state, sqe)),
        };
        let cqe = Cqe::default()
            .with_cid(sqe.cid())
            .with_sqid(qid)
            .with_sqhd(sq.at as u16)
            .with_dw0(dw0)
            .with_status(status);
        if !answered {
            return;
        }
        match state.byte() {
            0..=191 => self.post(state, sq.cqid, cqe),
            192..=203 => {
                let status = Status(state.u32() as u16);
                self.post(state, sq.cqid, cqe.with_status(status));
            }
            204..=211 => {
                let dw0 = state.u32();
                self.post(state, sq.cqid, cqe.with_dw0(dw0));
            }
            212..=219 => {
                let cid = state.u32() as u16;
                self.post(state, sq.cqid, cqe.with_cid(cid));
                self.post(state, sq.cqid, cqe);
            }
            220..=227 => {
                self.post(state, sq.cqid, cqe);
                self.post(state, sq.cqid, cqe);
            }
            228..=235 => state.later.push((sq.cqid, cqe)),
            236..=239 => state.csts = Csts(state.csts.0 | 2),
            240..=243 => {
                // Something at the next entry that is no completion of anything.
                let raw = [(); 4].map(|()| state.u32());
                self.post_raw(state, sq.cqid, raw);
            }
            244..=247 => {
                let (sqid, sqhd) = (state.u32() as u16, state.u32() as u16);
                self.post(state, sq.cqid, cqe.with_sqid(sqid).with_sqhd(sqhd));
            }
            248..=249 => state.gone = Some(u32::MAX),
            250 => state.gone = Some(0),
            // Lost.
            _ => {}
        }
    }

    fn admin(&self, state: &mut State, sqe: &Sqe) -> (u32, Status, bool) {
        let opcode = sqe.opcode();
        let is = |op: AdminOpcode| opcode == op as u8;
        let mut dw0 = 0;
        if is(AdminOpcode::AsyncEventRequest) {
            return (0, Status::SUCCESS, state.byte() > 250);
        } else if is(AdminOpcode::Identify) {
            let mut data = identify(sqe);
            state.change(&mut data);
            self.mapped.write(sqe.prp1(), &data);
        } else if is(AdminOpcode::GetLogPage) {
            let mut data = [0; 512];
            state.change(&mut data);
            self.mapped.write(sqe.prp1(), &data);
        } else if is(AdminOpcode::SetFeatures) && sqe.cdw(10) & 0xff == 7 {
            dw0 = sqe.cdw(11);
        } else if is(AdminOpcode::CreateCq) || is(AdminOpcode::CreateSq) {
            let (qid, entries) = (sqe.cdw(10) as u16, (sqe.cdw(10) >> 16) + 1);
            let (base, cqid) = (sqe.prp1(), (sqe.cdw(11) >> 16) as u16);
            let queue = Queue { base, entries, phase: true, cqid, at: 0 };
            let queues = if is(AdminOpcode::CreateCq) { &mut state.cqs } else { &mut state.sqs };
            queues.insert(qid, queue);
        } else if is(AdminOpcode::Abort) {
            let aborted = (sqe.cdw(10) >> 16) as u16;
            let held = state.later.iter().position(|(_, cqe)| cqe.cid() == aborted);
            match held {
                Some(at) => {
                    let (cqid, cqe) = state.later.swap_remove(at);
                    self.post(state, cqid, cqe.with_status(Status::new(0, 7)));
                }
                None => dw0 = 1,
            }
        }
        (dw0, Status::SUCCESS, true)
    }

    fn io(&self, state: &mut State, sqe: &Sqe) -> bool {
        if sqe.opcode() == 2 {
            let mut data = [0x5a; 512];
            state.change(&mut data);
            self.mapped.write(sqe.prp1(), &data);
        }
        true
    }

    fn post(&self, state: &mut State, cqid: u16, cqe: Cqe) {
        let phase = state.cqs.get(&cqid).is_some_and(|cq| cq.phase);
        self.post_raw(state, cqid, cqe.with_phase(phase).0);
    }

    fn post_raw(&self, state: &mut State, cqid: u16, entry: [u32; 4]) {
        let Some(cq) = state.cqs.get_mut(&cqid).filter(|cq| cq.entries > 0) else { return };
        self.mapped.complete(cq.base + u64::from(cq.at) * 16, entry);
        cq.at += 1;
        if cq.at == cq.entries {
            (cq.at, cq.phase) = (0, !cq.phase);
        }
    }

    fn register(&self, state: &State, offset: usize) -> u32 {
        if let Some(value) = state.gone {
            return value;
        }
        match Register::at(offset) {
            Some(Register::Cap) => state.cap.0 as u32,
            Some(Register::Vs) => Vs::default().with_major(2).0,
            Some(Register::Cc) => state.cc.0,
            Some(Register::Csts) => state.csts.0,
            Some(Register::Aqa) => state.aqa.0,
            _ if offset == 4 => (state.cap.0 >> 32) as u32,
            _ => 0,
        }
    }
}

/// What a good controller answers.
fn identify(sqe: &Sqe) -> [u8; 4096] {
    let is = |cns: Cns| sqe.cdw(10) & 0xff == cns as u32;
    if is(Cns::Controller) {
        let zeros = IdentifyController::decode(&[0; 4096]);
        return IdentifyController {
            mdts: 5,
            sqes: 0x66,
            cqes: 0x44,
            namespaces: 2,
            vwc: 1,
            ..zeros
        }
        .encode();
    }
    if is(Cns::Namespace) {
        let zeros = IdentifyNamespace::decode(&[0; 4096]);
        let format = LbaFormat::default().with_lbads(if sqe.nsid() == 1 { 12 } else { 9 });
        return IdentifyNamespace { nsze: 256, ncap: 256, lba_formats: vec![format], ..zeros }
            .encode();
    }
    if is(Cns::ActiveNamespaces) {
        let left: Vec<u32> = [1, 2].into_iter().filter(|nsid| *nsid > sqe.nsid()).collect();
        return encode_active_namespaces(&left);
    }
    [0; 4096]
}

impl Function for Hostile {
    fn name(&self) -> &str {
        "hostile"
    }

    fn read32(&self, offset: usize) -> u32 {
        self.register(&self.state.lock(), offset)
    }

    fn read64(&self, offset: usize) -> u64 {
        let state = self.state.lock();
        let high = self.register(&state, offset + 4);
        u64::from(self.register(&state, offset)) | u64::from(high) << 32
    }

    fn write32(&self, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4), "a register at {offset:#x}");
        assert!(offset + 4 <= self.registers_len(), "a register at {offset:#x}, past the end");
        let state = &mut *self.state.lock();
        if state.gone.is_some() {
            return;
        }
        match Register::at(offset) {
            Some(Register::Cc) => self.set_cc(state, Cc(value)),
            Some(Register::Aqa) => state.aqa = Aqa(value),
            _ if offset >= DOORBELLS => self.ring(state, offset, value),
            _ => {}
        }
    }

    fn write64(&self, offset: usize, value: u64) {
        let mut state = self.state.lock();
        match Register::at(offset) {
            Some(Register::Asq) => state.asq = value,
            Some(Register::Acq) => state.acq = value,
            _ => {}
        }
    }

    fn registers_len(&self) -> usize {
        0x4000
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
        let mut state = self.state.lock();
        state.now += Duration::from_nanos(100);
        state.now
    }

    fn relax(&self, spins: u32) {
        let state = &mut *self.state.lock();
        state.now += Duration::from_micros(20) * (1 << spins.min(12));
        state.pauses += 1;
        assert!(state.pauses < MOST_PAUSES, "the driver waits without end");
        if spins % 8 == 7
            && let Some((cqid, cqe)) = state.later.pop()
        {
            self.post(state, cqid, cqe);
        }
    }
}
