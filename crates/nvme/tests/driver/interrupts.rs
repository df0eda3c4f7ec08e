//! Waiters that sleep for interrupts, more of them than queues and more queues than vectors.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{SECOND, alloc, options, request, threaded};
use gcos_emulator::{Action, Config, Emulator, Rule};
use gcos_hw::{EventFd, Function, HwError, Intercept};
use gcos_layout::nvme::CriticalWarning;
use gcos_nvme::{Completion, Controller, IoOp, IoRequest, NvmeError, Options, ShadowDoorbells};

/// Another function, whose interrupts may get lost and whose doorbells may be slow to ring.
#[derive(Debug)]
struct Odd {
    inner: Arc<dyn Function>,
    /// Interrupts signal nobody.
    deaf: bool,
    /// The next I/O doorbell takes so long.
    slow: Mutex<Option<Duration>>,
}

impl Intercept for Odd {
    fn behind(&self) -> &Arc<dyn Function> {
        &self.inner
    }
    fn write32(&self, offset: usize, value: u32) {
        let slow = if offset >= 0x1008 { self.slow.lock().unwrap().take() } else { None };
        if let Some(time) = slow {
            thread::sleep(time);
        }
        self.inner.write32(offset, value);
    }
    fn interrupt(&self, vector: u16) -> Result<Arc<EventFd>, HwError> {
        if self.deaf { EventFd::new().map(Arc::new) } else { self.inner.interrupt(vector) }
    }
}

fn bed(io_queue_pairs: u16, deaf: bool) -> (Arc<Emulator>, Arc<Odd>, Arc<Controller>) {
    let config = Config { interrupt_vectors: 1, ..threaded(4096) };
    let emulator = Emulator::new(config).unwrap();
    let function = Arc::new(Odd { inner: emulator.function(), deaf, slow: Mutex::default() });
    let options = Options { io_queue_pairs, completion: Completion::Interrupt, ..options() };
    let controller = Controller::open(function.clone(), options).unwrap();
    (emulator, function, controller)
}

fn read_many(controller: &Arc<Controller>, threads: u64, reads: u64) {
    thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let buffer = alloc(controller, 4096);
                for n in 0..reads {
                    let lba = (thread * 100 + n) % 4096;
                    controller.run(request(IoOp::Read, lba, 1, vec![buffer.as_dma()])).unwrap();
                }
            });
        }
    });
}

#[test]
fn every_waiter_on_a_shared_vector_is_woken_by_an_interrupt() {
    for (queue_pairs, threads) in [(1, 6), (4, 4), (4, 16)] {
        let (_emulator, _function, controller) = bed(queue_pairs, false);
        read_many(&controller, threads, 1000);
        let missed = controller.counters().interrupts_missed;
        // A machine that does not let the controller's thread run makes some; sleeping by the clock
        // would make it most of them.
        assert!(missed * 20 < threads * 1000, "{missed} of {}", threads * 1000);
    }
}

#[test]
fn interrupts_that_do_not_arrive_cost_time_and_are_counted() {
    let (_emulator, _function, controller) = bed(2, true);
    let began = Instant::now();
    read_many(&controller, 1, 40);
    assert!(began.elapsed() < 5 * SECOND);
    let missed = controller.counters().interrupts_missed;
    // Some reads end while their doorbell is being rung.
    assert!((5..=40).contains(&missed), "{missed}");
}

#[test]
fn a_waiter_woken_while_another_thread_posts_looks_at_the_queue_all_the_same() {
    const ROUNDS: u64 = 20;
    let (emulator, function, controller) = bed(1, false);
    let (early, late) = (Duration::from_millis(3), Duration::from_millis(30));
    emulator.faults().add(Rule::io(Action::Delay(early)).opcode(0x02));
    emulator.faults().add(Rule::io(Action::Delay(late)).opcode(0x00));
    let buffer = alloc(&controller, 4096);
    for _ in 0..ROUNDS {
        let read = controller.submit(request(IoOp::Read, 0, 1, vec![buffer.as_dma()])).unwrap();
        let reader = thread::spawn(move || read.wait().unwrap());
        // The read ends while the flush is being posted. No interrupt comes any more until the flush has
        // ended.
        *function.slow.lock().unwrap() = Some(2 * early);
        let flush = request(IoOp::Flush, 0, 0, vec![]);
        let flush = IoRequest { ranges: [].into_iter().collect(), ..flush };
        let flush = controller.submit(flush).unwrap();
        reader.join().unwrap();
        flush.wait().unwrap();
    }
    let missed = controller.counters().interrupts_missed;
    assert!(missed < ROUNDS / 2, "{missed} of {ROUNDS}");
}

#[test]
fn resets_admin_commands_and_events_in_the_middle_of_everything_lose_no_waiter() {
    for completion in [Completion::Polled, Completion::Interrupt] {
        let config = Config { interrupt_vectors: 1, shadow_doorbells: true, ..threaded(4096) };
        let emulator = Emulator::new(config).unwrap();
        let shadow_doorbells = ShadowDoorbells::On;
        let options = Options {
            io_queue_pairs: 3,
            queue_depth: 4,
            completion,
            shadow_doorbells,
            ..options()
        };
        let controller = Controller::open(emulator.function(), options).unwrap();
        let end = Instant::now() + SECOND;
        let (done, lost) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for thread in 0..8 {
                let (controller, done, lost) = (&controller, &done, &lost);
                scope.spawn(move || {
                    let mut buffer = alloc(controller, 4096);
                    while Instant::now() < end {
                        let mut read = request(IoOp::Read, thread, 1, vec![buffer.as_dma()]);
                        read.timeout = 10 * SECOND;
                        let began = Instant::now();
                        match controller.run(read) {
                            Ok(()) => done.fetch_add(1, Ordering::Relaxed),
                            // What was in flight at a reset.
                            Err(NvmeError::Reset { .. }) => lost.fetch_add(1, Ordering::Relaxed),
                            Err(error) => panic!("{error}"),
                        };
                        assert!(began.elapsed() < 5 * SECOND, "by a deadline, not by a completion");
                        buffer.bytes_mut().unwrap();
                    }
                });
            }
            for _ in 0..3 {
                scope.spawn(|| {
                    while Instant::now() < end {
                        match controller.smart_log() {
                            Ok(_) | Err(NvmeError::Reset { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            scope.spawn(|| {
                while Instant::now() < end {
                    emulator.set_critical_warning(CriticalWarning::default().with_spare(true));
                    controller.poll_events();
                    emulator.set_critical_warning(CriticalWarning::default());
                    thread::sleep(SECOND / 500);
                }
            });
            while Instant::now() < end {
                thread::sleep(SECOND / 100);
                controller.reset().unwrap();
            }
        });
        let (done, lost) = (done.into_inner(), lost.into_inner());
        let counters = controller.counters();
        assert!(counters.resets > 10 && done > counters.resets, "{counters:?} {done} {lost}");
        let wrong = (counters.aborts, counters.spurious_completions, counters.leaked_commands);
        assert_eq!(wrong, (0, 0, 0), "{completion:?}");
    }
}
