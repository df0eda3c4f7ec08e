//! An engine that leaves a way that is not well, over the driver and the software controller.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

mod controllers;
mod durability;
mod faulty;

use std::sync::Arc;
use std::time::Duration;

use gcos_emulator::{Config, Emulator, Medium, WriteCacheConfig};
use gcos_engine::{
    CountedEngine, DemotingEngine, DemotionReason, DemotionRules, Engine, Extent, HostQueueEngine,
    HostQueueOptions, IoErrorKind, Op, Request, UnderWay,
};
use gcos_hw::{DmaBuffer, DmaSlice};

use crate::faulty::{At, Faulty, reason};

const SECOND: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;

/// A drive, and two ways to it of which either can be made to fail.
struct Rig {
    engine: Arc<DemotingEngine>,
    first: Arc<Faulty>,
    second: Arc<Faulty>,
    drive: Arc<dyn Engine>,
    emulator: Arc<Emulator>,
}

fn rig(rules: &DemotionRules) -> Rig {
    let write_cache = Some(WriteCacheConfig { capacity_bytes: MIB, seed: 1 });
    let medium = Medium::ram(16 * MIB).unwrap();
    let emulator = Emulator::new(Config { write_cache, ..Config::new(medium) }).unwrap();
    let drive = HostQueueEngine::open(emulator.function(), HostQueueOptions::default()).unwrap();
    let drive: Arc<dyn Engine> = Arc::new(drive);
    let (first, second) = (Faulty::new(&drive, "first"), Faulty::new(&drive, "second"));
    let ways: Vec<Arc<dyn Engine>> = vec![Arc::clone(&first) as _, Arc::clone(&second) as _];
    let engine = DemotingEngine::new(ways, rules).unwrap();
    Rig { engine, first, second, drive, emulator }
}

/// The same with the first way alone.
fn alone(rules: &DemotionRules) -> Rig {
    let rig = rig(rules);
    let engine = DemotingEngine::new(vec![Arc::clone(&rig.first) as _], rules).unwrap();
    Rig { engine, ..rig }
}

fn errors(most: u32) -> DemotionRules {
    DemotionRules { max_errors: most, ..DemotionRules::default() }
}

impl Rig {
    fn buffer(&self, len: usize) -> DmaBuffer {
        self.drive.dma().alloc(len).unwrap()
    }

    fn random(&self, len: usize, seed: u64) -> (DmaSlice, Vec<u8>) {
        let slice = self.buffer(len).slice(0, len).unwrap();
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        slice.write(0, &bytes).unwrap();
        (slice, bytes)
    }

    /// What the drive has, read past all ways.
    fn content(&self, offset: u64, len: usize) -> Vec<u8> {
        let slice = self.buffer(len).slice(0, len).unwrap();
        self.drive.run(Request::read(offset, slice.clone(), SECOND)).unwrap();
        let mut bytes = vec![0; len];
        slice.read(0, &mut bytes).unwrap();
        bytes
    }

    fn write(&self, offset: u64, seed: u64) {
        let (slice, _) = self.random(4096, seed);
        self.engine.run(Request::write(offset, slice, false, SECOND)).unwrap();
    }

    fn read(&self) -> Result<(), IoErrorKind> {
        let slice = self.buffer(4096).slice(0, 4096).unwrap();
        self.engine.run(Request::read(0, slice, SECOND)).map_err(|error| error.kind)
    }
}

#[test]
fn errors_within_the_budget_are_the_callers_and_the_next_one_leads_to_the_next_way() {
    let rig = rig(&errors(3));
    rig.first.fail("read", At::Before, IoErrorKind::Device, 5);
    for _ in 0..3 {
        assert_eq!(rig.read(), Err(IoErrorKind::Device));
        assert_eq!(rig.engine.way().name, "first");
    }
    // The fourth one is carried out once more, on the way that is taken then.
    assert_eq!(rig.read(), Ok(()));
    let stats = rig.engine.demotions();
    assert_eq!((stats.errors, stats.total(), stats.retried, stats.out), (1, 1, 1, false));
    let before = rig.first.requests();
    assert_eq!(rig.read(), Ok(()));
    assert_eq!(rig.first.requests(), before, "the first way is left alone");
    let way = rig.engine.way();
    assert_eq!(way.name, "second");
    assert!(way.reason.contains("4 requests failed"), "{}", way.reason);
}

#[test]
fn requests_that_do_not_fit_the_drive_are_no_errors_of_the_drive() {
    let rig = rig(&errors(1));
    for _ in 0..10 {
        let slice = rig.buffer(4096).slice(0, 4096).unwrap();
        let past = Request::read(16 * MIB, slice, SECOND);
        assert_eq!(rig.engine.run(past).unwrap_err().kind, IoErrorKind::Invalid);
    }
    assert_eq!(reason(&*rig.engine), None);
}

#[test]
fn without_rules_every_error_is_the_callers() {
    let rig = rig(&DemotionRules::off());
    rig.first.fail("", At::Before, IoErrorKind::Gone, 50);
    for _ in 0..50 {
        assert_eq!(rig.read(), Err(IoErrorKind::Gone));
    }
    assert_eq!(reason(&*rig.engine), None);
    assert_eq!(rig.read(), Ok(()));
}

#[test]
fn a_device_that_is_gone_is_left_at_once() {
    for at in [At::Start, At::Before, At::Half, At::After] {
        let rig = rig(&DemotionRules::default());
        rig.first.fail("read", at, IoErrorKind::Gone, 1);
        assert_eq!(rig.read(), Ok(()), "{at:?}");
        assert_eq!(reason(&*rig.engine), Some(DemotionReason::Gone), "{at:?}");
    }
}

#[test]
fn requests_under_way_when_a_way_is_left_end_well_on_the_next_one() {
    for at in [At::Start, At::Before, At::Half, At::After] {
        for fua in [false, true] {
            let rig = rig(&DemotionRules::default());
            rig.first.slow(Duration::from_millis(20));
            rig.first.fail("write", at, IoErrorKind::Gone, 32);
            let counted = CountedEngine::new(Arc::clone(&rig.engine) as _);
            let writes: Vec<_> = (0..32)
                .map(|n| {
                    let (slice, bytes) = rig.random(16_384, n);
                    let write = Request::write(n * 16_384, slice, fua, SECOND);
                    (n * 16_384, bytes, counted.submit(write).unwrap())
                })
                .collect();
            let under_way = counted.under_way();
            assert_eq!(under_way, UnderWay { requests: 32, bytes: 32 * 16_384 }, "{at:?}");
            for (n, (offset, bytes, mut ticket)) in writes.into_iter().enumerate() {
                // Waiting and polling come to the same end.
                let result = match n % 2 {
                    0 => ticket.wait(),
                    _ => std::iter::repeat_with(|| ticket.poll()).flatten().next().unwrap(),
                };
                result.unwrap();
                assert!(rig.content(offset, bytes.len()) == bytes, "{at:?} {fua} {offset}");
            }
            assert_eq!(reason(&*rig.engine), Some(DemotionReason::Gone), "{at:?}");
            assert_eq!(counted.under_way(), UnderWay::default(), "{at:?}");
            let expected = if at == At::Start { 0 } else { 32 };
            assert_eq!(rig.engine.demotions().retried, expected, "{at:?}: once each");
        }
    }
}

#[test]
fn a_request_that_fails_on_the_next_way_too_fails_with_the_first_error_or_that_ones() {
    let rig = rig(&DemotionRules::default());
    rig.first.fail("read", At::Before, IoErrorKind::Gone, 1);
    rig.second.fail("read", At::Before, IoErrorKind::Media, 1);
    assert_eq!(rig.read(), Err(IoErrorKind::Media));
    assert_eq!(rig.engine.way().name, "second", "one bad block is no reason");
    let rig = alone(&DemotionRules::default());
    rig.first.fail("read", At::Before, IoErrorKind::Gone, 1);
    assert_eq!(rig.read(), Err(IoErrorKind::Gone), "its error, not that it is out of use");
}

#[test]
fn a_read_that_did_not_end_in_time_is_not_repeated_into_memory_that_it_may_still_write() {
    for (kind, then) in
        [(IoErrorKind::Timeout, Err(IoErrorKind::Timeout)), (IoErrorKind::Media, Ok(()))]
    {
        let rig = rig(&errors(1));
        rig.first.fail("read", At::Before, kind, 2);
        assert_eq!(rig.read(), Err(kind), "within the budget");
        assert_eq!(rig.read(), then, "{kind:?}: past it, so the way is left");
        assert_eq!(rig.engine.way().name, "second");
        assert_eq!(rig.read(), Ok(()));
    }
}

#[test]
fn a_drive_without_another_way_takes_nothing_until_it_is_promoted() {
    let rig = alone(&errors(2));
    rig.first.fail("", At::Before, IoErrorKind::Timeout, 4);
    for _ in 0..3 {
        assert_eq!(rig.read(), Err(IoErrorKind::Timeout));
    }
    let before = rig.first.requests();
    let (slice, _) = rig.random(4096, 1);
    for request in [
        Request::read(0, slice.clone(), SECOND),
        Request::write(0, slice, true, SECOND),
        Request::flush(SECOND),
        Request::deallocate([Extent { offset: 0, len: 4096 }], SECOND),
    ] {
        let op = request.op;
        let error = rig.engine.submit(request).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::Demoted, "{op:?}");
        assert!(error.to_string().contains("promote"), "{error}");
    }
    assert_eq!(rig.first.requests(), before);
    assert!(rig.engine.demotions().out);
    assert_eq!(rig.engine.way().name, "none");
    // Not while it fails.
    assert_eq!(rig.engine.promote(SECOND).unwrap_err().kind, IoErrorKind::Timeout);
    assert!(rig.engine.demotions().out);
    rig.engine.promote(SECOND).unwrap();
    assert_eq!(rig.read(), Ok(()));
    let stats = rig.engine.demotions();
    assert_eq!((stats.errors, stats.promotions, stats.demoted), (1, 1, None));
    // What failed before does not count again.
    rig.first.fail("", At::Before, IoErrorKind::Timeout, 2);
    assert!(rig.read().is_err() && rig.read().is_err() && rig.read().is_ok());
}

#[test]
fn a_drive_that_becomes_slow_is_left_and_one_that_stumbles_is_not() {
    let rules = DemotionRules {
        latency_multiple: 4,
        // Far above what a busy machine adds, far below what is planted.
        latency_floor: Duration::from_millis(60),
        latency_samples: 8,
        latency_lasting: Duration::from_millis(100),
        ..DemotionRules::default()
    };
    let rig = rig(&rules);
    let pace = |requests: u32, slow: u64| {
        rig.first.slow(Duration::from_millis(slow));
        let before = rig.engine.demotions().latency;
        for _ in 0..requests {
            assert_eq!(rig.read(), Ok(()));
            if rig.engine.demotions().latency > before {
                break;
            }
        }
    };
    pace(80, 1);
    // One window that is slow, and then it is well again.
    pace(8, 200);
    pace(24, 1);
    assert_eq!(reason(&*rig.engine), None);
    pace(64, 200);
    assert_eq!(reason(&*rig.engine), Some(DemotionReason::Latency));
    assert_eq!(rig.engine.way().name, "second");
    // Back there, it is measured by what it was.
    rig.engine.promote(SECOND).unwrap();
    pace(64, 200);
    assert_eq!(rig.engine.demotions().latency, 2);
}

#[test]
fn ways_that_cannot_be_the_same_drive_are_refused() {
    let one = rig(&DemotionRules::default());
    let refused = |ways: Vec<Arc<dyn Engine>>| {
        let error = DemotingEngine::new(ways, &DemotionRules::default()).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::Invalid);
        error.to_string()
    };
    assert!(refused(vec![]).contains("at least one"));
    let other = rig(&DemotionRules::default());
    let text = refused(vec![Arc::clone(&one.drive), Arc::clone(&other.drive)]);
    assert!(text.contains("memory"), "{text}");
    let small = Emulator::new(Config { space: None, ..Config::new(Medium::ram(8 * MIB).unwrap()) });
    let small = HostQueueEngine::open(small.unwrap().function(), HostQueueOptions::default());
    let text = refused(vec![Arc::clone(&one.drive), Arc::new(small.unwrap())]);
    assert!(text.contains("expected another way to its 16777216 bytes"), "{text}");
}

#[test]
fn an_operator_may_ask_and_a_shutdown_is_no_failure() {
    let rig = rig(&DemotionRules::default());
    rig.engine.demote("the slot is wanted");
    assert_eq!(reason(&*rig.engine), Some(DemotionReason::Asked));
    assert!(rig.engine.way().reason.contains("the slot is wanted"));
    assert_eq!(rig.read(), Ok(()));
    rig.engine.promote(SECOND).unwrap();
    rig.engine.shutdown(SECOND).unwrap();
    rig.first.fail("", At::Start, IoErrorKind::Gone, 9);
    assert_eq!(rig.read(), Err(IoErrorKind::Gone));
    assert_eq!(rig.engine.demotions().total(), 1, "after the end nothing is news");
    assert_eq!(Op::Flush.name(), "flush");
}
