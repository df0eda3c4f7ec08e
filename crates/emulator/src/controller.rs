//! The controller's state, and the life of a command: fetched, started, carried out, completed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use gcos_hw::SharedMemory;
use gcos_layout::nvme::{AsyncEvent, ErrorLogEntry, SQE_BYTES, Sqe, Status};
use parking_lot::{Mutex, RwLock};

use crate::clock::Clock;
use crate::config::IdentifyHook;
use crate::fault::{Action, Effects, Faults, Target};
use crate::health::Health;
use crate::interrupts::Interrupts;
use crate::medium::Scratch;
use crate::namespace::NamespaceState;
use crate::queue::{Command, Cq, InvalidDoorbell, Sq};
use crate::registers::Registers;
use crate::shadow::Shadow;
use crate::storage::Storage;
use crate::table::IovaTable;
use crate::wake::Waker;

/// Submission queue entries fetched at a time.
pub(crate) const BATCH: usize = 16;
/// Information of error events (Base, Figure 147).
pub(crate) const INVALID_DOORBELL_REGISTER: u8 = 0;
const INVALID_DOORBELL_VALUE: u8 = 1;

/// Limits and names that never change.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) mdts: u64,
    pub(crate) max_queue_pairs: u16,
    pub(crate) mqes: u32,
    pub(crate) optional_commands: bool,
    pub(crate) sgl: bool,
    pub(crate) doorbell_stride: usize,
    pub(crate) shadow_doorbells: bool,
    pub(crate) ready_delay: Duration,
    pub(crate) serial: String,
    pub(crate) model: String,
}

/// How a command ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) status: Status,
    pub(crate) dw0: u32,
}

impl Outcome {
    pub(crate) const SUCCESS: Self = Self { status: Status::SUCCESS, dw0: 0 };
}

impl From<Status> for Outcome {
    fn from(status: Status) -> Self {
        Self { status, dw0: 0 }
    }
}

/// A command that waits for its time, or for being aborted.
#[derive(Debug)]
pub(crate) struct Held {
    /// When it starts; `None` for never.
    pub(crate) due: Option<Duration>,
    pub(crate) command: Command,
}

/// Commands between two steps of their life.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    pub(crate) held: Vec<Held>,
    /// Stepped runs only: started, not carried out.
    pub(crate) ready: Vec<Command>,
    /// Stepped runs only: carried out, not completed.
    pub(crate) done: Vec<(Command, Outcome)>,
}

/// Queues by identifier.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    pub(crate) sqs: Vec<Option<Arc<Sq>>>,
    pub(crate) cqs: Vec<Option<Arc<Cq>>>,
}

/// One controller, without the threads that drive it.
#[derive(Debug)]
pub(crate) struct Controller {
    pub(crate) limits: Limits,
    pub(crate) table: Arc<IovaTable>,
    pub(crate) storage: Storage,
    pub(crate) namespaces: Vec<NamespaceState>,
    pub(crate) identify_hook: Option<IdentifyHook>,
    pub(crate) faults: Faults,
    pub(crate) registers: Mutex<Registers>,
    pub(crate) interrupts: Interrupts,
    pub(crate) doorbells: Arc<SharedMemory>,
    pub(crate) shadow: Shadow,
    pub(crate) queues: RwLock<Queues>,
    /// Changes whenever `queues` does.
    pub(crate) queues_version: AtomicUsize,
    pub(crate) health: Mutex<Health>,
    /// Whether an event waits for room in the admin completion queue.
    pub(crate) report_due: AtomicBool,
    pub(crate) parked: Mutex<Parked>,
    pub(crate) any_held: AtomicBool,
    /// Register writes that have not been acted on.
    pub(crate) registers_changed: AtomicBool,
    /// Whether CSTS.RDY waits for its time.
    pub(crate) ready_pending: AtomicBool,
    /// Threads that are inside a command.
    pub(crate) executing: AtomicUsize,
    pub(crate) removed: AtomicBool,
    pub(crate) stuck: AtomicBool,
    /// CSTS.CFS.
    pub(crate) fatal: AtomicBool,
    /// Memory page size in bytes, as CC.MPS was at enabling.
    pub(crate) page_bytes: AtomicUsize,
    pub(crate) clock: Clock,
    pub(crate) waker: Waker,
}

/// Held while a thread works on a command; whoever stops the controller waits for these.
pub(crate) struct Working<'a>(&'a AtomicUsize);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Controller {
    /// Whether the function answers at all.
    pub(crate) fn is_present(&self) -> bool {
        !self.removed.load(Ordering::SeqCst) && !self.storage.is_off()
    }

    fn may_fetch(&self) -> bool {
        !self.stuck.load(Ordering::Relaxed)
            && !self.fatal.load(Ordering::Relaxed)
            && self.is_present()
    }

    /// CSTS.CFS: nothing more is fetched or completed until the next reset.
    pub(crate) fn fail(&self, why: &str) {
        tracing::warn!(why, "software controller reports a fatal status");
        self.fatal.store(true, Ordering::SeqCst);
    }

    /// Fetches up to `limit` entries (at most [`BATCH`]) of a queue and hands those that can start
    /// to `run`: how many were fetched.
    pub(crate) fn fetch(&self, sq: &Arc<Sq>, limit: usize, mut run: impl FnMut(Command)) -> usize {
        let Some(granted) = self.grant(sq, limit) else { return 0 };
        let mut entries = [0; BATCH * SQE_BYTES];
        let fetched = match sq.fetch(granted, &self.table, &mut entries) {
            Ok(fetched) => fetched,
            Err(error) => {
                sq.cq.release(granted);
                self.fail(&format!("submission queue {}: {error}", sq.place.id));
                return 0;
            }
        };
        if (fetched as u32) < granted {
            sq.cq.release(granted - fetched as u32);
        }
        for entry in entries.as_chunks::<SQE_BYTES>().0.iter().take(fetched) {
            let sqe = Sqe::from_bytes(entry);
            let effects = self.faults.any().then(|| self.effects(sq, &sqe)).flatten();
            let command = self.start(Command::new(sq, sqe, effects, true));
            if !self.may_fetch() {
                break; // A fault stopped the controller: what follows was never fetched.
            }
            if let Some(command) = command {
                run(command);
            }
        }
        fetched
    }

    /// How many entries may be fetched now: those that wait, as far as completions have room.
    fn grant(&self, sq: &Sq, limit: usize) -> Option<u32> {
        if sq.is_dead() || !self.may_fetch() {
            return None;
        }
        self.take_shadow_tail(sq);
        self.take_shadow_head(&sq.cq);
        let waiting = match sq.waiting(&self.doorbells) {
            Ok(0) => return None,
            Ok(waiting) => waiting.min(limit.min(BATCH) as u32),
            Err(InvalidDoorbell) => return self.invalid_doorbell(),
        };
        match sq.cq.reserve(waiting, &self.doorbells) {
            Ok(0) => None,
            Ok(granted) => Some(granted),
            Err(InvalidDoorbell) => self.invalid_doorbell(),
        }
    }

    fn invalid_doorbell(&self) -> Option<u32> {
        self.raise(AsyncEvent::default().with_info(INVALID_DOORBELL_VALUE).with_log_page(1));
        None
    }

    /// Whether an entry of the queue could be fetched.
    pub(crate) fn can_fetch(&self, sq: &Sq) -> bool {
        if sq.is_dead() || !self.may_fetch() {
            return false;
        }
        self.take_shadow_tail(sq);
        self.take_shadow_head(&sq.cq);
        sq.has_news(&self.doorbells) && sq.cq.has_room(&self.doorbells)
    }

    fn effects(&self, sq: &Sq, sqe: &Sqe) -> Option<Box<Effects>> {
        let admin = sq.place.id == 0;
        let slba = sqe.cdw10_11();
        let blocks = match sqe.opcode() {
            0x01 | 0x02 | 0x05 | 0x08 if !admin => {
                slba..slba.saturating_add(u64::from(sqe.cdw(12) & 0xFFFF) + 1)
            }
            _ => 0..0,
        };
        let (opcode, queue, namespace) = (sqe.opcode(), sq.place.id, sqe.nsid());
        self.faults.apply(&Target { admin, opcode, queue, namespace, blocks })
    }

    /// Applies the faults that keep a command from starting; gives back a command that starts now.
    fn start(&self, command: Command) -> Option<Command> {
        let Some(effects) = &command.effects else { return Some(command) };
        if effects.has(Action::Stick) {
            self.stuck.store(true, Ordering::SeqCst);
            return None;
        }
        if effects.has(Action::Fatal) {
            self.fail("fault plan");
            return None;
        }
        if effects.has(Action::Remove) {
            self.removed.store(true, Ordering::SeqCst);
            return None;
        }
        let delay = effects.find(|action| match action {
            Action::Delay(delay) => Some(*delay),
            _ => None,
        });
        let due = match (effects.has(Action::Hold), delay) {
            (true, _) => None,
            (false, Some(delay)) => Some(self.clock.now() + delay),
            (false, None) => return Some(command),
        };
        self.parked.lock().held.push(Held { due, command });
        self.any_held.store(true, Ordering::SeqCst);
        None
    }

    /// Takes a held command whose time has come.
    pub(crate) fn take_due(&self) -> Option<Command> {
        if !self.any_held.load(Ordering::Relaxed) {
            return None;
        }
        let now = self.clock.now();
        let mut parked = self.parked.lock();
        let at = parked.held.iter().position(|held| held.due.is_some_and(|due| due <= now))?;
        let command = parked.held.swap_remove(at).command;
        self.any_held.store(!parked.held.is_empty(), Ordering::SeqCst);
        Some(command)
    }

    /// When the next timer of any kind is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        let held = || {
            let parked = self.parked.lock();
            parked.held.iter().filter_map(|held| held.due).min()
        };
        let held = self.any_held.load(Ordering::Relaxed).then(held).flatten();
        let ready = self.registers.lock().ready_at;
        [held, ready].into_iter().flatten().min()
    }

    /// Says that this thread works on a command; `None` when the command must not touch anything
    /// any more.
    fn enter(&self, sq: &Sq) -> Option<Working<'_>> {
        self.executing.fetch_add(1, Ordering::SeqCst);
        let working = Working(&self.executing);
        (!sq.is_dead() && self.is_present()).then_some(working)
    }

    /// Carries out a command and completes it.
    pub(crate) fn run(&self, command: Command, scratch: &mut Scratch) {
        if let Some((command, outcome)) = self.execute(command, scratch) {
            self.complete(command, outcome);
        }
    }

    /// Carries out a command. `None` when it has no completion, or none yet.
    pub(crate) fn execute(
        &self,
        command: Command,
        scratch: &mut Scratch,
    ) -> Option<(Command, Outcome)> {
        let sq = Arc::clone(&command.sq);
        let _working = self.enter(&sq)?;
        let ended = if command.is_admin() {
            self.execute_admin(command, scratch)
        } else {
            self.execute_io(&command, scratch).map(|outcome| (command, outcome))
        };
        // Memory is let go before the host learns that the command ended.
        scratch.transfer.clear();
        let (command, outcome) = ended?;
        if let Some(effects) = &command.effects {
            let seed = effects.find(|action| match action {
                Action::PowerCut { seed } => Some(*seed),
                _ => None,
            });
            if let Some(seed) = seed {
                self.storage.power_off(seed);
                return None;
            }
        }
        Some((command, outcome))
    }

    /// Posts the completion, or what the fault plan makes of it.
    pub(crate) fn complete(&self, mut command: Command, outcome: Outcome) {
        let sq = Arc::clone(&command.sq);
        let Some(_working) = self.enter(&sq) else { return };
        if !outcome.status.is_success() {
            self.log_error(&command, outcome.status);
        }
        let mut cid = command.sqe.cid();
        let mut copies = 1;
        if let Some(effects) = &command.effects {
            let wrong = effects.find(|action| match action {
                Action::WrongCommandId(bits) => Some(*bits),
                _ => None,
            });
            cid ^= wrong.unwrap_or(0);
            if effects.has(Action::LoseCompletion) {
                return;
            }
            copies += usize::from(effects.has(Action::DuplicateCompletion));
        }
        for _ in 0..copies {
            if !command.claim(&self.doorbells) || self.fatal.load(Ordering::SeqCst) {
                break;
            }
            if let Err(error) = command.post(cid, outcome.status, outcome.dw0, &self.table) {
                self.fail(&format!("completion queue {}: {error}", sq.cq.place.id));
                return;
            }
        }
        if let Some(vector) = sq.cq.vector {
            self.interrupts.signal(vector);
        }
    }

    fn log_error(&self, command: &Command, status: Status) {
        let sqe = &command.sqe;
        let entry = ErrorLogEntry {
            sqid: command.sq.place.id,
            cid: sqe.cid(),
            status,
            parameter: 0xFFFF,
            lba: if command.is_admin() { 0 } else { sqe.cdw10_11() },
            nsid: sqe.nsid(),
            ..ErrorLogEntry::default()
        };
        self.health.lock().log_error(entry);
    }

    /// Reports an event to the host, now or when it asks.
    pub(crate) fn raise(&self, event: AsyncEvent) {
        self.health.lock().raise(event);
        self.report();
    }

    /// Ends Asynchronous Event Requests for which there is an event.
    pub(crate) fn report(&self) {
        loop {
            let next = {
                let mut health = self.health.lock();
                let next = health.next_report(&self.doorbells);
                let due = next.is_none() && health.is_report_due();
                self.report_due.store(due, Ordering::SeqCst);
                next
            };
            let Some((command, event)) = next else { return };
            self.complete(command, Outcome { status: Status::SUCCESS, dw0: event.0 });
        }
    }
}
