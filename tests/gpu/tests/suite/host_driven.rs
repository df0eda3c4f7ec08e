//! The rung where the host drives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_cuda::Gpu;
use gcos_emulator::{Action, Rule};
use gcos_engine::IoErrorKind;
use gcos_engine::device::{DeviceEngine, DeviceTransfer, Driver};

use super::rig::{Choice, LONG, Rig, all_good, content, poll, random, run};

pub(crate) fn the_host_moves_data_in_the_order_of_the_stream(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice::default());
    let engine = rig.host_driven();
    assert_eq!((engine.path().driver, engine.path().doorbell), (Driver::Host, None));
    let stream = rig.stream();
    let len = 200 << 10;
    let (memory, target) = (rig.alloc(len), rig.alloc(len));
    let mut tickets = Vec::new();
    for round in 0..10_u8 {
        stream.fill(&memory, round).unwrap();
        let write = vec![DeviceTransfer::write(512, memory.clone(), false)];
        tickets.push(engine.start(&stream, write, LONG).unwrap());
        stream.fill(&memory, 0xEE).unwrap();
        let read = vec![DeviceTransfer::read(512, target.clone())];
        tickets.push(engine.start(&stream, read, LONG).unwrap());
    }
    for ticket in tickets {
        all_good(&poll(ticket));
    }
    assert!(content(&target).iter().all(|&byte| byte == 9));
    // Results come once, however they are asked for.
    let read = vec![DeviceTransfer::read(0, target.clone())];
    let mut ticket = engine.start(&stream, read, LONG).unwrap();
    while ticket.poll().is_none() {
        std::thread::yield_now();
    }
    let end = Instant::now() + Duration::from_millis(50);
    while Instant::now() < end {
        assert!(ticket.poll().is_none());
    }
    // Odd pieces, by the engine's own bounce buffers.
    let (source, bytes) = rig.random(4096, 2);
    let pieces = [source.slice(4, 1000).unwrap(), source.slice(2000, 1048).unwrap()];
    let mut write = DeviceTransfer::write(0, source.slice(0, 2048).unwrap(), false);
    write.segments = pieces.into_iter().collect();
    all_good(&run(&engine, &stream, vec![write], LONG));
    assert!(rig.medium(0, 2048) == [&bytes[4..1004], &bytes[2000..3048]].concat());
}

pub(crate) fn errors_come_with_their_transfer(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice::default());
    let engine = rig.host_driven();
    rig.set_medium(0, &random(64 << 10, 3));
    let media = Action::Status { sct: 2, sc: 0x81, dnr: false };
    rig.emulator.faults().add(Rule::io(media).opcode(2).blocks(16..24));
    rig.emulator.faults().add(Rule::io(Action::Hold).opcode(2).blocks(32..40).times(1));
    let reads = (0..8).map(|n| DeviceTransfer::read(n * 4096, rig.alloc(4096))).collect();
    let results = run(&engine, &rig.stream(), reads, Duration::from_millis(300));
    let kind = |n: usize| results[n].as_ref().err().map(|error| error.kind);
    assert_eq!(kind(2), Some(IoErrorKind::Media));
    assert_eq!(kind(4), Some(IoErrorKind::Timeout));
    assert!([0, 1, 3].iter().all(|&n| kind(n).is_none()), "{results:?}");
    let past = DeviceTransfer::read(super::rig::MEDIUM, rig.alloc(4096));
    let error = engine.start(&rig.stream(), vec![past], LONG).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Invalid);
    assert!(run(&engine, &rig.stream(), Vec::new(), LONG).is_empty());
    engine.shutdown(LONG).unwrap();
    let read = vec![DeviceTransfer::read(0, rig.alloc(4096))];
    assert_eq!(engine.start(&rig.stream(), read, LONG).unwrap_err().kind, IoErrorKind::Gone);
}

pub(crate) fn work_before_that_does_not_end_ends_the_transfers(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice::default());
    let engine = rig.host_driven();
    let stream = rig.stream();
    let gate = stream.gate().unwrap();
    let reads = (0..3).map(|n| DeviceTransfer::read(n * 4096, rig.alloc(4096))).collect();
    let start = Instant::now();
    let results = run(&engine, &stream, reads, Duration::from_millis(100));
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert!(
        results.iter().all(|result| {
            result.as_ref().is_err_and(|error| error.kind == IoErrorKind::Timeout)
        })
    );
    assert_eq!(rig.emulator.counts().reads, 0, "nothing was started");
    gate.open();
    stream.synchronize(LONG).unwrap();
    all_good(&run(&engine, &stream, vec![DeviceTransfer::read(0, rig.alloc(4096))], LONG));
}
