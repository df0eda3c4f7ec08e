//! What another thread does in the middle of a wait: each test hooks into [`Function::relax`].

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use gcos_emulator::{Action, Emulator, Rule};
use gcos_hw::{Function, Intercept};
use gcos_layout::nvme::{CriticalWarning, Csts, Register};
use gcos_nvme::{Controller, ErrorKind, LentQueuePair, Options};

use crate::common::{alloc, config, options};

/// Long enough for a thread to get as far as it can.
const A_WHILE: Duration = Duration::from_millis(50);

type Hook = Box<dyn FnMut() + Send>;

/// Another function, with a hook that waiting calls first.
struct Hooked {
    inner: Arc<dyn Function>,
    hook: Mutex<Option<Hook>>,
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooked")
    }
}

impl Hooked {
    fn at_each_wait(&self, hook: impl FnMut() + Send + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    fn at_next_wait(&self, hook: impl FnOnce() + Send + 'static) {
        let mut hook = Some(hook);
        self.at_each_wait(move || hook.take().into_iter().for_each(|hook| hook()));
    }
}

impl Intercept for Hooked {
    fn behind(&self) -> &Arc<dyn Function> {
        &self.inner
    }
    fn relax(&self, spins: u32) {
        // Taken out meanwhile: the hook may lead to a wait of its own.
        let hook = self.hook.lock().unwrap().take();
        if let Some(mut hook) = hook {
            hook();
            self.hook.lock().unwrap().get_or_insert(hook);
        }
        self.inner.relax(spins);
    }
}

fn hooked() -> (Arc<Emulator>, Arc<Hooked>, Arc<Controller>) {
    let emulator = Emulator::new(config(4096)).unwrap();
    let hooked = Arc::new(Hooked { inner: emulator.function(), hook: Mutex::default() });
    let options = Options { lent_queue_pairs: 1, ..options() };
    let controller = Controller::open(hooked.clone(), options).unwrap();
    (emulator, hooked, controller)
}

/// A lent queue pair that alone keeps its memory.
fn lend(controller: &Arc<Controller>) -> Result<LentQueuePair, gcos_nvme::NvmeError> {
    let (sq, cq) = (alloc(controller, 16 * 64), alloc(controller, 16 * 16));
    controller.lend_queue_pair(sq.as_dma(), cq.as_dma(), 16)
}

fn drop_in_the_middle_of(end: impl FnOnce(&Controller)) {
    let (emulator, hooked, controller) = hooked();
    let lent = lend(&controller).unwrap();
    let mapped = emulator.space().table.len();
    let (send, seen) = mpsc::channel();
    let (table, registers) = (Arc::clone(&emulator.space().table), Arc::clone(&hooked));
    hooked.at_next_wait(move || {
        let dropper = thread::spawn(move || drop(lent));
        thread::sleep(A_WHILE);
        let running = Csts(registers.inner.read32(Register::Csts.offset())).rdy();
        send.send((dropper, table.len(), running)).unwrap();
    });
    end(&controller);
    let (dropper, mapped_meanwhile, running) = seen.recv().unwrap();
    dropper.join().unwrap();
    assert!(running && mapped_meanwhile == mapped, "freed while the controller reached it");
    assert_eq!(emulator.space().table.len(), mapped - 2, "freed afterwards");
}

#[test]
fn lent_queue_memory_is_not_freed_while_a_reset_has_not_stopped_the_controller() {
    drop_in_the_middle_of(|controller| controller.reset().unwrap());
}

#[test]
fn lent_queue_memory_is_not_freed_while_a_shutdown_has_not_stopped_the_controller() {
    drop_in_the_middle_of(|controller| controller.shutdown(None).unwrap());
}

#[test]
fn lent_queues_are_not_current_at_any_moment_of_a_reset() {
    let (_emulator, hooked, controller) = hooked();
    let lent = Arc::new(lend(&controller).unwrap());
    let current = Arc::new(AtomicUsize::new(0));
    let (watched, count) = (Arc::clone(&lent), Arc::clone(&current));
    hooked.at_each_wait(move || {
        count.fetch_add(watched.is_current().into(), Ordering::Relaxed);
    });
    controller.reset().unwrap();
    assert_eq!(current.load(Ordering::Relaxed), 0);
    hooked.at_each_wait(|| {});
}

#[test]
fn half_created_lent_queues_are_deleted() {
    let (emulator, _hooked, controller) = hooked();
    let refuse = Action::Status { sct: 0, sc: 6, dnr: true };
    emulator.faults().add(Rule::admin(refuse).opcode(0x01).times(1));
    assert_eq!(lend(&controller).unwrap_err().kind(), ErrorKind::Device);
    assert!(lend(&controller).unwrap().is_current(), "the completion queue was deleted");
    assert_eq!(controller.counters().resets, 0);
}

#[test]
fn lending_and_taking_back_without_an_answer_lead_to_a_reset_and_no_leak() {
    let (emulator, _hooked, controller) = hooked();
    let mapped = emulator.space().table.len();
    for (resets, opcode) in [(1, 0x05), (2, 0x01)] {
        emulator.faults().add(Rule::admin(Action::Hold).opcode(opcode).times(1));
        assert_eq!(lend(&controller).unwrap_err().kind(), ErrorKind::Timeout);
        assert_eq!(controller.counters().resets, resets);
        assert_eq!(emulator.space().table.len(), mapped);
    }
    let lent = lend(&controller).unwrap();
    emulator.faults().add(Rule::admin(Action::Hold).opcode(0x00).times(1));
    drop(lent);
    assert_eq!(controller.counters().resets, 3);
    assert_eq!(emulator.space().table.len(), mapped);
    let lent = lend(&controller).unwrap();
    let refuse = Action::Status { sct: 0, sc: 6, dnr: true };
    emulator.faults().add(Rule::admin(refuse).opcode(0x00).times(1));
    drop(lent);
    assert_eq!(controller.counters().resets, 4, "a queue that stays is reset away");
    assert!(lend(&controller).unwrap().is_current());
}

#[test]
fn events_are_not_lost_when_a_reset_comes_between_event_and_answer() {
    let (emulator, hooked, controller) = hooked();
    let spare = CriticalWarning::default().with_spare(true);
    emulator.set_critical_warning(spare);
    for spins in 0..100 {
        hooked.inner.relax(spins);
    }
    let (send, resetter) = mpsc::channel();
    let (owner, handled) = (Arc::clone(&controller), Arc::new(AtomicBool::new(false)));
    let began = Arc::clone(&handled);
    hooked.at_next_wait(move || {
        began.store(true, Ordering::Relaxed);
        send.send(thread::spawn(move || owner.reset().unwrap())).unwrap();
        thread::sleep(4 * A_WHILE);
    });
    controller.poll_events();
    assert!(handled.load(Ordering::Relaxed));
    resetter.recv().unwrap().join().unwrap();
    hooked.at_each_wait(|| {});
    for round in 2..8 {
        emulator.set_critical_warning(CriticalWarning::default());
        emulator.set_critical_warning(spare);
        for spins in 0..1000 {
            hooked.inner.relax(spins);
        }
        assert_eq!(controller.health().events, round);
    }
}
