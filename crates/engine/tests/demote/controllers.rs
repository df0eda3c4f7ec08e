//! Two controllers of one medium: what becomes of requests when the first one fails for good.

use super::*;
use gcos_emulator::{Action, AddressSpace, Rule};
use gcos_nvme::Options;

/// Two controllers, the first of which is to fail, without a cache that the other would not see.
fn two() -> (Arc<Emulator>, Arc<DemotingEngine>, Arc<dyn Engine>) {
    let (medium, space) = (Medium::ram(16 * MIB).unwrap(), AddressSpace::new().unwrap());
    let [(first, one), (_, two)] = [1, 2].map(|_| {
        let space = Some(space.clone());
        let emulator = Emulator::new(Config { space, ..Config::new(Arc::clone(&medium)) }).unwrap();
        let controller = Options {
            io_queue_pairs: 2,
            admin_timeout: Duration::from_millis(200),
            abort_timeout: Duration::from_millis(50),
            ..Options::default()
        };
        let options = HostQueueOptions { controller, nsid: 1 };
        let engine = HostQueueEngine::open(Arc::clone(&emulator).function(), options).unwrap();
        (emulator, Arc::new(engine) as Arc<dyn Engine>)
    });
    let engine = DemotingEngine::new(vec![one, Arc::clone(&two)], &DemotionRules::default());
    (first, engine.unwrap(), two)
}

/// Writes from many threads while the first controller fails: none fails but with what is excused, and
/// every one that ended well is there.
fn survive(excused: Option<IoErrorKind>, fail: impl FnOnce(&Emulator)) -> Arc<DemotingEngine> {
    let (emulator, engine, second) = two();
    let worker = |worker: u64| {
        let mut written = Vec::new();
        for n in 0..48 {
            let offset = (worker * 48 + n) * 16_384;
            let slice = engine.dma().alloc(16_384).unwrap().slice(0, 16_384).unwrap();
            let mut bytes = vec![0; 16_384];
            fastrand::Rng::with_seed(offset).fill(&mut bytes);
            slice.write(0, &bytes).unwrap();
            let write = Request::write(offset, slice, true, Duration::from_millis(300));
            match engine.run(write) {
                Ok(()) => written.push((offset, bytes)),
                // The reset ended it, and only then did it show that the controller does not come back.
                Err(error) => assert_eq!(error.kind, excused.unwrap()),
            }
        }
        written
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|n| scope.spawn(move || worker(n))).collect();
        std::thread::sleep(Duration::from_millis(3));
        fail(&emulator);
        for (offset, bytes) in workers.into_iter().flat_map(|worker| worker.join().unwrap()) {
            let slice = second.dma().alloc(bytes.len()).unwrap().slice(0, bytes.len()).unwrap();
            second.run(Request::read(offset, slice.clone(), SECOND)).unwrap();
            let mut got = vec![0; bytes.len()];
            slice.read(0, &mut got).unwrap();
            assert!(got == bytes, "{offset}");
        }
    });
    // Where the failure came too late, this finds it.
    let slice = engine.dma().alloc(4096).unwrap().slice(0, 4096).unwrap();
    engine.run(Request::read(0, slice, Duration::from_millis(300))).unwrap();
    engine
}

#[test]
fn a_controller_that_is_pulled_out_costs_no_request() {
    let engine = survive(None, |emulator| {
        emulator.faults().add(Rule::any(Action::Remove).times(1));
    });
    assert_eq!(reason(&*engine), Some(DemotionReason::Gone));
}

#[test]
fn a_controller_that_fails_its_reset_costs_no_more_than_the_requests_that_the_reset_ended() {
    let engine = survive(Some(IoErrorKind::Timeout), |emulator| {
        // Commands hang, Abort does, and so does everything that would bring it up again.
        emulator.faults().add(Rule::any(Action::Hold));
    });
    assert_eq!(reason(&*engine), Some(DemotionReason::Gone));
    assert!(engine.way().reason.contains("gone"), "{}", engine.way().reason);
}

#[test]
fn a_controller_that_comes_back_from_its_reset_is_not_left() {
    let (emulator, engine, _second) = two();
    emulator.faults().add(Rule::io(Action::Hold).times(1));
    let slice = engine.dma().alloc(4096).unwrap().slice(0, 4096).unwrap();
    let read = Request::read(0, slice.clone(), Duration::from_millis(100));
    assert_eq!(engine.run(read).unwrap_err().kind, IoErrorKind::Timeout);
    engine.run(Request::read(0, slice, SECOND)).unwrap();
    assert_eq!(reason(&*engine), None);
}
