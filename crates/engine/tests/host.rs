//! The host queue engine on the software controller.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::sync::Arc;
use std::time::Duration;

use gcos_emulator::{Action, Config, Emulator, Medium, Namespace, Rule, Run, WriteCacheConfig};
use gcos_engine::{
    Engine, Extent, HostQueueEngine, HostQueueOptions, IoErrorKind, Op, Request, Ticket,
};
use gcos_hw::{DmaBuffer, DmaSlice};

const SECOND: Duration = Duration::from_secs(1);
const MEDIUM: u64 = 16 << 20;

fn config(lba_bytes: u32) -> Config {
    Config {
        namespaces: vec![Namespace { lba_bytes, bytes: MEDIUM }],
        run: Run::Stepped { seed: 3 },
        mdts: 64 << 10,
        serial: "SERIAL-3".to_owned(),
        ..Config::new(Medium::ram(MEDIUM).unwrap())
    }
}

fn open(config: Config) -> (Arc<Emulator>, HostQueueEngine) {
    let emulator = Emulator::new(config).unwrap();
    let engine = HostQueueEngine::open(emulator.function(), HostQueueOptions::default()).unwrap();
    (emulator, engine)
}

fn alloc(engine: &HostQueueEngine, len: usize) -> DmaBuffer {
    engine.dma().alloc(len).unwrap()
}

fn bytes(slice: &DmaSlice) -> Vec<u8> {
    let mut out = vec![0; slice.len()];
    slice.read(0, &mut out).unwrap();
    out
}

fn fill(slice: &DmaSlice, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let data: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(slice.len()).collect();
    slice.write(0, &data).unwrap();
    data
}

#[test]
fn the_geometry_is_the_namespace() {
    let (_emulator, engine) = open(config(512));
    let geometry = engine.geometry();
    assert_eq!((geometry.capacity, geometry.lba_bytes), (MEDIUM, 512));
    assert_eq!((geometry.max_transfer, geometry.volatile_cache), (64 << 10, false));
    assert!(geometry.deallocate);
    assert_eq!((geometry.name.as_str(), geometry.serial.as_str()), ("emulated:ram", "SERIAL-3"));
}

#[test]
fn extents_and_segments_are_cut_independently_of_each_other() {
    for lba_bytes in [512, 4096] {
        let (_emulator, engine) = open(config(lba_bytes));
        let buffer = alloc(&engine, 1 << 20);
        let total = 300 << 10;
        let data = fill(&buffer.slice(0, total).unwrap(), 5);
        let extents = [(8192, 100 << 10), (4 << 20, 4096), (1 << 20, 196 << 10)];
        let extents: Vec<_> = extents.iter().map(|&(offset, len)| Extent { offset, len }).collect();
        // Lengths that are no multiples of a block.
        let mut cuts = Vec::new();
        let mut at = 0;
        for len in (100..).step_by(1724) {
            let len = len.min(total - at);
            cuts.push(buffer.slice(at, len).unwrap());
            at += len;
            if at == total {
                break;
            }
        }
        let write = Request {
            op: Op::Write { fua: true },
            extents: extents.clone().into(),
            segments: cuts.into(),
            deadline: SECOND,
        };
        engine.run(write).unwrap();
        let mut at = 0;
        for extent in &extents {
            let back = alloc(&engine, extent.len as usize);
            engine.run(Request::read(extent.offset, back.as_dma(), SECOND)).unwrap();
            assert!(bytes(&back.as_dma()) == data[at..at + extent.len as usize]);
            at += extent.len as usize;
        }
        let back = alloc(&engine, total + 4096);
        let pieces = [(0, 60), (4096, 40_000), (44_096, total - 40_060)];
        let segments: Vec<_> =
            pieces.iter().map(|&(at, len)| back.slice(at, len).unwrap()).collect();
        let read = Request {
            op: Op::Read,
            extents: extents.into(),
            segments: segments.clone().into(),
            deadline: SECOND,
        };
        engine.run(read).unwrap();
        let got: Vec<u8> = segments.iter().flat_map(bytes).collect();
        assert!(got == data);
    }
}

#[test]
fn many_tickets_are_polled_to_their_end() {
    let (_emulator, engine) = open(config(4096));
    let buffers: Vec<_> = (0..64).map(|_| alloc(&engine, 4096)).collect();
    let data: Vec<_> =
        buffers.iter().enumerate().map(|(i, b)| fill(&b.as_dma(), i as u64)).collect();
    let submit = |make: &dyn Fn(u64, DmaSlice) -> Request| {
        let mut tickets: Vec<_> = buffers
            .iter()
            .enumerate()
            .map(|(i, b)| engine.submit(make(i as u64 * 4096, b.as_dma())).unwrap())
            .collect();
        for spins in 0..100_000 {
            tickets.retain_mut(|ticket| ticket.poll().transpose().unwrap().is_none());
            if tickets.is_empty() {
                return;
            }
            engine.controller().function().relax(spins);
        }
        panic!("{} tickets never ended", tickets.len());
    };
    submit(&|offset, slice| Request::write(offset, slice, false, SECOND));
    for buffer in &buffers {
        buffer.as_dma().fill(0, 4096, 0).unwrap();
    }
    submit(&|offset, slice| Request::read(offset, slice, SECOND));
    for (buffer, data) in buffers.iter().zip(&data) {
        assert!(bytes(&buffer.as_dma()) == *data);
    }
}

#[test]
fn a_flush_costs_a_command_only_with_a_volatile_cache() {
    let (_emulator, engine) = open(config(4096));
    engine.run(Request::flush(SECOND)).unwrap();
    assert_eq!(engine.controller().counters().commands, 0);
    let cache = Some(WriteCacheConfig::default());
    let (emulator, engine) = open(Config { write_cache: cache, ..config(4096) });
    assert!(engine.geometry().volatile_cache);
    let buffer = alloc(&engine, 4096);
    engine.run(Request::write(0, buffer.as_dma(), false, SECOND)).unwrap();
    assert!(emulator.dirty_bytes() > 0);
    engine.run(Request::flush(SECOND)).unwrap();
    assert_eq!(emulator.dirty_bytes(), 0);
    engine.run(Request::write(4096, buffer.as_dma(), false, SECOND)).unwrap();
    engine.shutdown(SECOND).unwrap();
    assert_eq!(emulator.dirty_bytes(), 0, "shutdown makes cached writes durable");
}

#[test]
fn deallocated_extents_read_as_zeros_in_batches() {
    let (_emulator, engine) = open(config(4096));
    let buffer = alloc(&engine, 1 << 20);
    fill(&buffer.as_dma(), 1);
    engine.run(Request::write(0, buffer.as_dma(), false, SECOND)).unwrap();
    let before = engine.controller().counters().commands;
    let extents = (0..300).map(|i| Extent { offset: i * 8192, len: 4096 });
    engine.run(Request::deallocate(extents, SECOND)).unwrap();
    assert_eq!(engine.controller().counters().commands - before, 2);
    let page = alloc(&engine, 4096);
    engine.run(Request::read(16_384, page.as_dma(), SECOND)).unwrap();
    assert!(bytes(&page.as_dma()).iter().all(|&b| b == 0));
    engine.run(Request::read(4096, page.as_dma(), SECOND)).unwrap();
    assert!(bytes(&page.as_dma()).iter().any(|&b| b != 0));
}

#[test]
fn errors_say_what_kind_and_where() {
    let (emulator, engine) = open(config(4096));
    let page = alloc(&engine, 4096);
    let read = || engine.run(Request::read(8192, page.as_dma(), SECOND)).unwrap_err();
    let cases = [
        (Action::Status { sct: 2, sc: 0x81, dnr: true }, IoErrorKind::Media),
        (Action::Status { sct: 0, sc: 6, dnr: false }, IoErrorKind::Device),
        (Action::Hold, IoErrorKind::Timeout),
        (Action::LoseCompletion, IoErrorKind::Timeout),
        (Action::Remove, IoErrorKind::Gone),
    ];
    for (action, kind) in cases {
        let rule = emulator.faults().add(Rule::io(action).times(1));
        let error = read();
        assert_eq!(error.kind, kind, "{error}");
        assert_eq!((error.op, error.offset, error.len), ("read", 8192, 4096));
        emulator.faults().remove(rule);
    }
    assert_eq!(read().kind, IoErrorKind::Gone);
}

/// Submits requests that the drive takes and does not end, before it is reset.
fn through_a_reset(
    (emulator, engine): &(Arc<Emulator>, HostQueueEngine),
    requests: Vec<Request>,
) -> Vec<Box<dyn Ticket>> {
    emulator.faults().add(Rule::io(Action::Hold).times(requests.len() as u64));
    let submit = |request| engine.submit(request).unwrap();
    let mut tickets: Vec<_> = requests.into_iter().map(submit).collect();
    for ticket in &mut tickets {
        for spins in 0..100 {
            assert!(ticket.poll().is_none(), "it was not held");
            engine.controller().function().relax(spins);
        }
    }
    engine.controller().reset().unwrap();
    tickets
}

#[test]
fn what_a_reset_has_ended_is_carried_out_once_more() {
    let drive = open(config(4096));
    let engine = &drive.1;
    let (source, target) = (alloc(engine, 16 << 10), alloc(engine, 16 << 10));
    let data = fill(&source.as_dma(), 1);
    engine.run(Request::write(1 << 20, source.as_dma(), true, SECOND)).unwrap();
    let mut requests = vec![
        Request::read(1 << 20, target.as_dma(), 1000 * SECOND),
        Request::write(0, source.as_dma(), true, 1000 * SECOND),
        Request::write(2 << 20, source.as_dma(), false, 1000 * SECOND),
    ];
    for (n, mut ticket) in through_a_reset(&drive, requests.clone()).into_iter().enumerate() {
        // Waiting and polling come to the same end.
        let result = match n % 2 {
            0 => ticket.wait(),
            _ => loop {
                match ticket.poll() {
                    None => engine.controller().function().relax(0),
                    Some(result) => break result,
                }
            },
        };
        result.unwrap();
    }
    assert_eq!(bytes(&target.as_dma()), data);
    for offset in [0, 2 << 20] {
        engine.run(Request::read(offset, target.as_dma(), SECOND)).unwrap();
        assert_eq!(bytes(&target.as_dma()), data, "{offset}");
    }
    assert_eq!(engine.controller().counters().resets, 1);

    // Once is all.
    requests.truncate(1);
    let mut ticket = through_a_reset(&drive, requests).remove(0);
    drive.0.faults().add(Rule::io(Action::Hold).times(1));
    for spins in 0..100 {
        assert!(ticket.poll().is_none());
        engine.controller().function().relax(spins);
    }
    engine.controller().reset().unwrap();
    assert_eq!(ticket.wait().unwrap_err().kind, IoErrorKind::Timeout);
}

#[test]
fn what_a_cache_may_have_lost_before_a_reset_is_not_covered_up() {
    let write_cache = Some(WriteCacheConfig::default());
    let drive = open(Config { write_cache, ..config(4096) });
    let source = alloc(&drive.1, 4096);
    let requests = vec![
        Request::write(0, source.as_dma(), false, 1000 * SECOND),
        Request::flush(1000 * SECOND),
        Request::write(4096, source.as_dma(), true, 1000 * SECOND),
    ];
    let results = through_a_reset(&drive, requests).into_iter().map(|ticket| ticket.wait());
    let kinds: Vec<_> = results.map(|result| result.map_err(|error| error.kind)).collect();
    assert_eq!(kinds, [Err(IoErrorKind::Timeout), Err(IoErrorKind::Timeout), Ok(())]);
}

#[test]
fn requests_that_do_not_fit_are_refused() {
    let (_emulator, engine) = open(config(4096));
    let page = alloc(&engine, 4096);
    let error = engine.run(Request::read(512, page.as_dma(), SECOND)).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Invalid);
    let error = engine.run(Request::read(MEDIUM, page.as_dma(), SECOND)).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Invalid);
}

#[test]
fn an_inactive_namespace_is_refused_by_name() {
    let emulator = Emulator::new(config(4096)).unwrap();
    let options = HostQueueOptions { nsid: 2, ..HostQueueOptions::default() };
    let error = HostQueueEngine::open(emulator.function(), options).unwrap_err();
    assert!(error.to_string().contains("active namespaces [1], got 2"), "{error}");
}

#[test]
fn a_namespace_that_cannot_be_used_is_refused_with_the_reason() {
    let oddities = vec![(1, gcos_emulator::Oddity::Metadata(8))];
    let emulator = Emulator::new(Config { oddities, ..config(4096) }).unwrap();
    let error = HostQueueEngine::open(emulator.function(), HostQueueOptions::default());
    let text = error.unwrap_err().to_string();
    assert!(text.contains("namespace 1 cannot be used") && text.contains("--lbaf=1"), "{text}");
}

#[test]
fn deallocation_does_nothing_on_a_drive_that_does_not_offer_it() {
    let emulator = Emulator::new(Config { optional_commands: false, ..config(4096) }).unwrap();
    let engine = HostQueueEngine::open(emulator.function(), HostQueueOptions::default()).unwrap();
    assert!(!engine.geometry().deallocate);
    let extent = Extent { offset: 0, len: 4096 };
    engine.run(Request::deallocate([extent], Duration::from_secs(1))).unwrap();
    assert_eq!(engine.controller().counters().commands, 0);
}

#[test]
fn after_shutdown_requests_fail_and_shutdown_is_idempotent() {
    let (_emulator, engine) = open(config(4096));
    engine.shutdown(SECOND).unwrap();
    engine.shutdown(SECOND).unwrap();
    let page = alloc(&engine, 4096);
    let error = engine.run(Request::read(0, page.as_dma(), SECOND)).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Gone);
    assert_eq!(engine.run(Request::flush(SECOND)).unwrap_err().kind, IoErrorKind::Gone);
}
