//! Limits, sharing and the end.

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use gcos_cuda::Gpu;
use gcos_emulator::{Action, Rule};
use gcos_engine::device::{DeviceEngine, DeviceTransfer, Driver};
use gcos_engine::{
    Engine, Extent, GpuEngineError, GpuQueueEngine, GpuQueueOptions, IoErrorKind, Op,
};
use gcos_hw::{DoorbellHolder, Doorbells, Function, HwError, Intercept};

use super::rig::{Choice, LONG, Rig, all_good, content, random};

fn refused(rig: &Rig, transfer: DeviceTransfer) -> String {
    let error = rig.engine.start(&rig.stream(), vec![transfer], LONG).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Invalid, "{error}");
    error.to_string()
}

pub(crate) fn what_does_not_fit_is_refused_before_anything_starts(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice::default());
    let memory = rig.alloc(8192);
    let good = DeviceTransfer::read(0, memory.clone());
    let past = DeviceTransfer::read(super::rig::MEDIUM - 4096, memory.clone());
    assert!(refused(&rig, past).contains("within"));
    assert!(refused(&rig, DeviceTransfer::read(100, memory.clone())).contains("multiple"));
    let off = DeviceTransfer::read(0, memory.slice(2, 512).unwrap());
    assert!(refused(&rig, off).contains("multiples of 4"));
    let extents = [Extent { offset: 0, len: 4096 }].into_iter().collect();
    let short = DeviceTransfer { extents, ..good.clone() };
    assert!(refused(&rig, short).contains("the same number of bytes"));
    assert!(
        refused(&rig, DeviceTransfer { op: Op::Flush, ..good.clone() })
            .contains("reads and writes")
    );
    // Another GPU's memory and stream: those of another played one.
    let other = Rig::new(&Gpu::played(), Choice::default());
    let theirs = DeviceTransfer::read(0, other.alloc(4096));
    assert!(refused(&rig, theirs).contains("GPU"));
    let error = rig.engine.start(&other.stream(), vec![good], LONG).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Invalid);
    assert_eq!(rig.engine.stats().batches, 0);
    assert_eq!(rig.emulator.counts().reads, 0);
    // No transfers are no batch, and come back at once.
    assert!(rig.run(Vec::new(), LONG).is_empty());
    let new = |options| GpuQueueEngine::new(&rig.controller, 1, &rig.memory, options).unwrap_err();
    let options = GpuQueueOptions::default();
    let many = new(GpuQueueOptions { queue_pairs: 9, ..options });
    assert!(matches!(many, GpuEngineError::Invalid { .. }), "{many}");
    let deep = new(GpuQueueOptions { queue_pairs: 1, queue_depth: 5000, ..options });
    assert!(deep.to_string().contains("4096"), "{deep}");
    let taken = new(GpuQueueOptions { queue_pairs: 1, queue_depth: 8, ..options });
    assert!(matches!(taken, GpuEngineError::NoPair { .. }), "all are lent: {taken}");
}

pub(crate) fn pairs_that_others_hold_are_waited_for_no_longer_than_the_deadline(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice { pairs: 2, ..Choice::default() });
    let late = Action::Delay(Duration::from_millis(600));
    rig.emulator.faults().add(Rule::io(late).opcode(2).times(2));
    let read = || vec![DeviceTransfer::read(0, rig.alloc(4096))];
    let streams = [rig.stream(), rig.stream(), rig.stream()];
    let held: Vec<_> =
        streams[..2].iter().map(|stream| rig.engine.start(stream, read(), LONG).unwrap()).collect();
    let start = Instant::now();
    let short = Duration::from_millis(100);
    let error = rig.engine.start(&streams[2], read(), short).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Timeout, "{error}");
    assert!(start.elapsed() >= short && error.to_string().contains("namespace.gpu.qps"), "{error}");
    // With more patience it gets one, although nobody else looks after the others.
    all_good(&rig.engine.start(&streams[2], read(), LONG).unwrap().wait());
    held.into_iter().for_each(|ticket| all_good(&ticket.wait()));
}

pub(crate) fn batches_of_one_stream_share_a_pair(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice { pairs: 1, ..Choice::default() });
    let late = Action::Delay(Duration::from_millis(200));
    rig.emulator.faults().add(Rule::io(late).opcode(2).times(1));
    let stream = rig.stream();
    let start = Instant::now();
    let tickets: Vec<_> = (0..20)
        .map(|n| {
            let read = vec![DeviceTransfer::read(n * 4096, rig.alloc(4096))];
            rig.engine.start(&stream, read, LONG).unwrap()
        })
        .collect();
    assert!(start.elapsed() < Duration::from_millis(150), "nobody waited: {:?}", start.elapsed());
    tickets.into_iter().for_each(|ticket| all_good(&ticket.wait()));
}

pub(crate) fn an_engine_that_is_dropped_waits_for_its_batches(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice::default());
    let bytes = random(64 << 10, 9);
    rig.set_medium(0, &bytes);
    let late = Action::Delay(Duration::from_millis(200));
    rig.emulator.faults().add(Rule::io(late).opcode(2).times(1));
    let target = rig.alloc(64 << 10);
    let read = vec![DeviceTransfer::read(0, target.clone())];
    let ticket = rig.engine.start(&rig.stream(), read, LONG).unwrap();
    let Rig { engine, host, controller, memory, emulator, gpu: _ } = rig;
    drop(host);
    drop(engine);
    assert!(content(&target) == bytes, "it was there when the engine had gone");
    all_good(&ticket.wait());
    controller.shutdown(None).unwrap();
    drop((memory, emulator));
}

pub(crate) fn an_engine_that_is_shut_down_takes_nothing_more(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice::default());
    let late = Action::Delay(Duration::from_millis(100));
    rig.emulator.faults().add(Rule::io(late).opcode(2).times(1));
    let read = || vec![DeviceTransfer::read(0, rig.alloc(4096))];
    let ticket = rig.engine.start(&rig.stream(), read(), LONG).unwrap();
    rig.host.shutdown(LONG).unwrap();
    all_good(&ticket.wait());
    let error = rig.engine.start(&rig.stream(), read(), LONG).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Gone, "{error}");
    rig.host.shutdown(LONG).unwrap();
}

/// A function that lends its doorbells and can ask for them back.
#[derive(Debug)]
struct Lender {
    behind: Arc<dyn Function>,
    holders: Mutex<Vec<Weak<dyn DoorbellHolder>>>,
}

impl Intercept for Lender {
    fn behind(&self) -> &Arc<dyn Function> {
        &self.behind
    }

    fn lend_doorbells(&self, holder: Weak<dyn DoorbellHolder>) -> Result<Doorbells, HwError> {
        self.holders.lock().unwrap().push(holder.clone());
        self.behind.lend_doorbells(holder)
    }
}

pub(crate) fn a_drive_that_is_given_back_has_its_doorbells_let_go(gpu: &Arc<Gpu>) {
    let mut lender = None;
    let rig = Rig::behind(gpu, Choice::default(), |behind| {
        let made = Arc::new(Lender { behind, holders: Mutex::default() });
        lender = Some(Arc::clone(&made));
        made
    });
    let holder = lender.unwrap().holders.lock().unwrap()[0].upgrade().unwrap();
    let hold = rig.emulator.faults().add(Rule::io(Action::Hold).opcode(2).times(1));
    let read = || vec![DeviceTransfer::read(0, rig.alloc(4096))];
    let stream = rig.stream();
    let ticket = rig.engine.start(&stream, read(), LONG).unwrap();
    let behind = rig.engine.start(&stream, read(), LONG).unwrap();
    let start = Instant::now();
    while rig.emulator.faults().applied(hold) != Some(1) {
        assert!(start.elapsed() < LONG / 4, "the read has not come");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(holder.let_go(Duration::from_secs(5)), "no kernel rings any more");
    for ticket in [ticket, behind] {
        let results = ticket.wait();
        assert_eq!(results[0].as_ref().unwrap_err().kind, IoErrorKind::Gone);
    }
    // This drive is still there, and the host reaches it.
    all_good(&rig.run(read(), LONG));
    assert_eq!(rig.engine.path().driver, Driver::Host);
    assert_eq!(rig.engine.stats().by_host, 1);
    assert!(holder.let_go(Duration::ZERO));
}

pub(crate) fn a_stream_that_never_comes_ends_the_batch_and_keeps_its_memory(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice::default());
    let stream = rig.stream();
    let gate = stream.gate().unwrap();
    let target = rig.alloc(4096);
    target.copy_in(0, &[7; 4096]).unwrap();
    let read = vec![DeviceTransfer::read(0, target.clone())];
    let used = rig.memory.stats().allocations;
    let ticket = rig.engine.start(&stream, read, Duration::from_millis(100)).unwrap();
    drop(target);
    let start = Instant::now();
    let results = ticket.wait();
    assert_eq!(results[0].as_ref().unwrap_err().kind, IoErrorKind::Timeout);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(rig.memory.stats().allocations, used, "the kernel may still come");
    assert_eq!(rig.engine.stats().overdue, 1);
    // It comes, finds that it is not wanted, and everything is free again.
    gate.open();
    stream.synchronize(LONG).unwrap();
    let end = Instant::now() + LONG;
    while rig.memory.stats().allocations == used {
        all_good(&rig.run(vec![DeviceTransfer::read(0, rig.alloc(4096))], LONG));
        assert!(Instant::now() < end, "{:?}", rig.memory.stats());
    }
    assert_eq!(rig.emulator.counts().reads, rig.engine.stats().batches - 1, "it never read");
}

pub(crate) fn a_batch_that_never_began_leaves_the_pair_to_those_behind_it(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice { pairs: 1, ..Choice::default() });
    let late = Action::Delay(Duration::from_millis(300));
    rig.emulator.faults().add(Rule::io(late).opcode(2).times(1));
    let stream = rig.stream();
    let gate = stream.gate().unwrap();
    let read = || vec![DeviceTransfer::read(0, rig.alloc(4096))];
    let mut short = rig.engine.start(&stream, read(), Duration::from_millis(50)).unwrap();
    let behind = rig.engine.start(&stream, read(), LONG).unwrap();
    // Long enough that the first is told to give up, not so long that nobody waits for it any more.
    let end = Instant::now() + Duration::from_millis(1000);
    while Instant::now() < end {
        assert!(short.poll().is_none());
        std::thread::yield_now();
    }
    gate.open();
    let results = short.wait();
    assert_eq!(results[0].as_ref().unwrap_err().kind, IoErrorKind::Timeout);
    all_good(&behind.wait());
    assert_eq!(rig.engine.stats().pairs_deleted, 0);
    assert_eq!(rig.emulator.counts().reads, 1);
}

pub(crate) fn a_batch_that_is_overdue_behind_another_does_not_stop_that(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice { pairs: 1, ..Choice::default() });
    let late = Action::Delay(Duration::from_secs(4));
    rig.emulator.faults().add(Rule::io(late).opcode(2).times(1));
    let stream = rig.stream();
    let read = || vec![DeviceTransfer::read(0, rig.alloc(4096))];
    let slow = rig.engine.start(&stream, read(), LONG).unwrap();
    let behind = rig.engine.start(&stream, read(), Duration::from_millis(50)).unwrap();
    assert_eq!(behind.wait()[0].as_ref().unwrap_err().kind, IoErrorKind::Timeout);
    assert_eq!(rig.engine.stats().overdue, 1);
    all_good(&slow.wait());
    assert_eq!(rig.emulator.counts().reads, 1);
}

pub(crate) fn an_overdue_batch_has_no_queue_pair_any_more(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice { pairs: 1, ..Choice::default() });
    let stream = rig.stream();
    let gate = stream.gate().unwrap();
    let read = || vec![DeviceTransfer::read(0, rig.alloc(4096))];
    let ticket = rig.engine.start(&stream, read(), Duration::from_millis(50)).unwrap();
    assert_eq!(ticket.wait()[0].as_ref().unwrap_err().kind, IoErrorKind::Timeout);
    assert_eq!((rig.engine.stats().overdue, rig.engine.stats().pairs_deleted), (1, 0));
    // Its doorbells are not lent to anybody as long as its kernel may come.
    let other = rig.stream();
    let taken = rig.engine.start(&other, read(), Duration::from_millis(100)).unwrap_err();
    assert_eq!(taken.kind, IoErrorKind::Timeout);
    gate.open();
    all_good(&rig.engine.start(&other, read(), LONG).unwrap().wait());
    assert_eq!((rig.engine.stats().pairs_made, rig.engine.stats().pairs_deleted), (2, 1));
}

pub(crate) fn a_deadline_that_no_clock_can_say_is_none(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice::default());
    let driven = rig.host_driven();
    for engine in [&*rig.engine as &dyn DeviceEngine, &driven] {
        let read = vec![DeviceTransfer::read(0, rig.alloc(4096))];
        all_good(&engine.start(&rig.stream(), read, Duration::MAX).unwrap().wait());
    }
    driven.shutdown(Duration::MAX).unwrap();
    rig.engine.shutdown(Duration::MAX).unwrap();
}

pub(crate) fn a_ticket_that_is_dropped_leaves_nothing_behind(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice { pairs: 1, ..Choice::default() });
    let used = rig.memory.stats().allocations;
    let stream = rig.stream();
    for n in 0..30 {
        let read = vec![DeviceTransfer::read(n * 4096, rig.alloc(4096))];
        drop(rig.engine.start(&stream, read, LONG).unwrap());
    }
    // Another stream gets the pair when those have ended, without a ticket that looks.
    all_good(&rig.run(vec![DeviceTransfer::read(0, rig.alloc(4096))], LONG));
    assert_eq!(rig.memory.stats().allocations, used);
    assert_eq!(rig.emulator.counts().reads, 31);
}
