//! Shadow doorbells: registers are rung when the controller wants it, and when it has missed something.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{
    SECOND, alloc, config, open, options, pattern, read, refused, request, threaded, write,
};
use crate::io::churn;
use gcos_emulator::{Action, Config, Emulator, Rule, Run};
use gcos_hw::{Function, Intercept};
use gcos_nvme::{Completion, Controller, ErrorKind, IoOp, NvmeError, Options, ShadowDoorbells};

fn offering(config: Config) -> Config {
    Config { shadow_doorbells: true, ..config }
}

fn on() -> Options {
    Options { shadow_doorbells: ShadowDoorbells::On, ..options() }
}

/// Another function, which counts how often I/O doorbell registers are rung.
#[derive(Debug)]
struct Counting {
    inner: Arc<dyn Function>,
    rung: AtomicUsize,
}

impl Intercept for Counting {
    fn behind(&self) -> &Arc<dyn Function> {
        &self.inner
    }
    fn write32(&self, offset: usize, value: u32) {
        // Behind those of the admin queue.
        self.rung.fetch_add(usize::from(offset >= 0x1008), Ordering::Relaxed);
        self.inner.write32(offset, value);
    }
}

fn counting(config: Config, options: Options) -> (Arc<Emulator>, Arc<Counting>, Arc<Controller>) {
    let emulator = Emulator::new(config).unwrap();
    let function = Arc::new(Counting { inner: emulator.function(), rung: AtomicUsize::new(0) });
    let controller = Controller::open(function.clone(), options).unwrap();
    (emulator, function, controller)
}

/// Doorbell registers rung for 1,000 reads, 32 in flight.
fn rung(options: Options) -> usize {
    let (_emulator, function, controller) = counting(offering(config(4096)), options);
    let buffer = alloc(&controller, 4096);
    let before = function.rung.load(Ordering::Relaxed);
    for _ in 0..1000 / 32 {
        let submit =
            |lba| controller.submit(request(IoOp::Read, lba, 1, vec![buffer.as_dma()])).unwrap();
        let pending: Vec<_> = (0..32).map(submit).collect();
        pending.into_iter().for_each(|pending| pending.wait().unwrap());
    }
    assert_eq!(controller.counters().doorbells_repeated, 0, "nothing was missed");
    function.rung.load(Ordering::Relaxed) - before
}

#[test]
fn registers_are_rung_far_less_often() {
    let (with, without) = (rung(on()), rung(options()));
    assert!(with * 10 < without, "{with} and {without}");
    assert!(with >= 1000 / 32, "each burst begins with an idle controller");
}

#[test]
fn everything_works_with_shadow_doorbells_for_any_order_of_steps() {
    for seed in 0..10 {
        for (queue_depth, stride) in [(2, 4), (3, 4), (64, 16)] {
            let run = Run::Stepped { seed };
            let config = Config { run, doorbell_stride: stride, ..offering(config(4096)) };
            let (_emulator, controller) = open(config, Options { queue_depth, ..on() });
            churn(&controller, 8, 200, 0, 100);
            let counters = controller.counters();
            assert_eq!((counters.resets, counters.doorbells_repeated), (0, 0), "seed {seed}");
        }
    }
}

#[test]
fn threads_miss_nothing_with_shadow_doorbells_polled_and_with_interrupts() {
    for completion in [Completion::Polled, Completion::Interrupt] {
        for queue_depth in [3, 64] {
            let options = Options { io_queue_pairs: 2, completion, queue_depth, ..on() };
            let (_emulator, controller) = open(offering(threaded(4096)), options);
            std::thread::scope(|scope| {
                for thread in 0..4u64 {
                    let controller = &controller;
                    scope.spawn(move || churn(controller, 6, 500, thread * 1000, 100));
                }
            });
            let counters = controller.counters();
            assert_eq!((counters.errors, counters.aborts, counters.resets), (0, 0, 0));
        }
    }
}

#[test]
fn shadow_doorbells_are_set_up_anew_after_a_reset() {
    let (emulator, function, controller) = counting(offering(config(4096)), on());
    for round in 0..3 {
        churn(&controller, 16, 200, 0, 100);
        let counters = controller.counters();
        assert_eq!((counters.resets, counters.spurious_completions), (round, 0));
        match round {
            0 => controller.reset().unwrap(),
            _ => {
                emulator.fail();
                let _ = read(&controller, 0, 4096);
            }
        }
    }
    let before = function.rung.load(Ordering::Relaxed);
    let buffer = alloc(&controller, 4096);
    let submit =
        |lba| controller.submit(request(IoOp::Read, lba, 1, vec![buffer.as_dma()])).unwrap();
    let pending: Vec<_> = (0..32).map(submit).collect();
    pending.into_iter().for_each(|pending| pending.wait().unwrap());
    assert!(function.rung.load(Ordering::Relaxed) - before < 10, "in use again");
}

#[test]
fn a_missed_doorbell_is_rung_before_a_command_is_given_up() {
    // By whoever waits, long before the deadline; and at the deadline, by whoever polls that late.
    for late in [false, true] {
        let (emulator, controller) = open(offering(config(4096)), on());
        write(&controller, 5, &pattern(5, 1, 4096)).unwrap();
        for spins in 0..100 {
            controller.function().relax(spins);
        }
        emulator.freeze_event_indexes(true);
        // The event index stays where it is, and this one passes it.
        write(&controller, 6, &pattern(6, 1, 4096)).unwrap();
        for spins in 0..100 {
            controller.function().relax(spins);
        }
        let buffer = alloc(&controller, 4096);
        let began = controller.function().now();
        let submitted = controller.submit(request(IoOp::Read, 5, 1, vec![buffer.as_dma()]));
        let mut pending = submitted.unwrap();
        if late {
            let mut spins = 0;
            while controller.function().now() < began + 2 * SECOND {
                controller.function().relax(spins);
                spins += 1;
            }
            pending.poll().unwrap().unwrap();
        } else {
            pending.wait().unwrap();
            assert!(controller.function().now() - began < SECOND / 2);
        }
        assert_eq!(crate::common::bytes(&buffer.as_dma()), pattern(5, 1, 4096));
        let counters = controller.counters();
        assert!(counters.doorbells_repeated > 0, "it was missed");
        assert_eq!((counters.aborts, counters.resets, counters.errors), (0, 0, 0));
    }
}

#[test]
fn a_command_that_hangs_is_still_aborted_with_shadow_doorbells() {
    let (emulator, controller) = open(offering(config(4096)), on());
    emulator.faults().add(Rule::io(Action::Hold).opcode(0x02).times(1));
    assert_eq!(read(&controller, 0, 4096).unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!((controller.counters().aborts, controller.counters().resets), (1, 0));
    churn(&controller, 8, 100, 0, 50);
}

#[test]
fn shadow_doorbells_are_refused_or_left_alone_where_they_cannot_be() {
    let error = refused(config(4096), on());
    assert!(matches!(error, NvmeError::Unsupported { what: "OACS", .. }), "{error}");
    let lending = Options { lent_queue_pairs: 1, ..on() };
    let error = refused(offering(config(4096)), lending.clone());
    assert!(matches!(error, NvmeError::Invalid { what: "lent queue pairs", .. }), "{error}");
    let wide = || Config { doorbell_stride: 1024, ..offering(config(4096)) };
    let error = refused(wide(), Options { io_queue_pairs: 2, ..on() });
    assert!(error.to_string().contains("at most 1 with shadow doorbells"), "{error}");
    let auto = |options| Options { shadow_doorbells: ShadowDoorbells::Auto, ..options };
    for (config, options) in [
        (config(4096), on()),
        (offering(config(4096)), lending),
        (wide(), Options { io_queue_pairs: 2, ..on() }),
    ] {
        churn(&open(config, auto(options)).1, 8, 100, 0, 50);
    }
}

#[test]
fn doorbells_too_wide_for_a_page_are_refused_and_left_alone() {
    for doorbell_stride in [2048, 4096] {
        let wide = || Config { doorbell_stride, ..offering(config(4096)) };
        let error = refused(wide(), on());
        assert!(error.to_string().contains("at most 0 with shadow doorbells"), "{error}");
        let auto = Options { shadow_doorbells: ShadowDoorbells::Auto, ..options() };
        churn(&open(wide(), auto).1, 8, 100, 0, 50);
    }
}
