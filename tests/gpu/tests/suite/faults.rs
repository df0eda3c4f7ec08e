//! Drives that misbehave.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_cuda::Gpu;
use gcos_emulator::{Action, Rule};
use gcos_engine::IoErrorKind;
use gcos_engine::device::{DeviceEngine, DeviceTransfer, Driver};

use super::rig::{Choice, LONG, Results, Rig, all_good, content, poll};

/// Time in which a command that never ends is given up.
const SHORT: Duration = Duration::from_millis(300);

fn kinds(results: &Results) -> Vec<Option<IoErrorKind>> {
    results.iter().map(|result| result.as_ref().err().map(|error| error.kind)).collect()
}

/// Reads of 4 KiB each, of neighbouring places.
fn reads(rig: &Rig, count: u64) -> Vec<DeviceTransfer> {
    (0..count).map(|n| DeviceTransfer::read(n * 4096, rig.alloc(4096))).collect()
}

/// That the engine works, by itself.
fn still_works(rig: &Rig, seed: u64) {
    let before = rig.engine.stats().by_host;
    let (source, bytes) = rig.random(100 << 10, seed);
    all_good(&rig.run(vec![DeviceTransfer::write(8 << 20, source, false)], LONG));
    let target = rig.alloc(100 << 10);
    all_good(&rig.run(vec![DeviceTransfer::read(8 << 20, target.clone())], LONG));
    assert!(content(&target) == bytes);
    assert_eq!(rig.engine.stats().by_host, before, "by the GPU");
}

pub(crate) fn an_error_status_fails_the_transfers_concerned_alone(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice::default());
    let media = Action::Status { sct: 2, sc: 0x81, dnr: false };
    rig.emulator.faults().add(Rule::io(media).blocks(3 * 8..4 * 8));
    let device = Action::Status { sct: 0, sc: 6, dnr: false };
    rig.emulator.faults().add(Rule::io(device).blocks(9 * 8..10 * 8));
    let results = rig.run(reads(&rig, 40), LONG);
    for (n, kind) in kinds(&results).into_iter().enumerate() {
        let expected = match n {
            3 => Some(IoErrorKind::Media),
            9 => Some(IoErrorKind::Device),
            _ => None,
        };
        assert_eq!(kind, expected, "transfer {n}");
    }
    let error = results[3].as_ref().unwrap_err().to_string();
    assert!(error.contains("Unrecovered Read Error") && error.contains("12288"), "{error}");
    still_works(&rig, 1);
    assert_eq!((rig.engine.stats().failed, rig.engine.stats().pairs_deleted), (2, 0));
}

pub(crate) fn a_lost_completion_is_a_timeout_once_and_the_pair_is_made_anew(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice { pairs: 1, ..Choice::default() });
    rig.emulator.faults().add(Rule::io(Action::LoseCompletion).opcode(2).blocks(16..24).times(1));
    rig.emulator.faults().add(Rule::io(Action::Hold).opcode(2).blocks(32..40).times(1));
    let start = Instant::now();
    let ticket = rig.engine.start(&rig.stream(), reads(&rig, 10), SHORT).unwrap();
    let results = poll(ticket);
    assert!(start.elapsed() >= SHORT, "{:?}", start.elapsed());
    for (n, kind) in kinds(&results).into_iter().enumerate() {
        let expected = matches!(n, 2 | 4).then_some(IoErrorKind::Timeout);
        assert_eq!(kind, expected, "transfer {n}: {:?}", results[n]);
    }
    let stats = rig.engine.stats();
    assert_eq!((stats.timeouts, stats.pairs_deleted), (2, 1));
    assert_eq!(rig.controller.counters().resets, 0, "deleting the pair sufficed");
    still_works(&rig, 2);
    assert_eq!(rig.engine.stats().pairs_made, 2);
}

pub(crate) fn a_completion_that_is_repeated_or_of_nobody_does_no_harm(gpu: &Arc<Gpu>) {
    for action in [Action::DuplicateCompletion, Action::WrongCommandId(0x40)] {
        let rig = Rig::new(gpu, Choice { pairs: 1, ..Choice::default() });
        rig.emulator.faults().add(Rule::io(action).opcode(2).after(5).times(1));
        let results = rig.run(reads(&rig, 12), SHORT);
        assert_eq!(results.len(), 12);
        for result in &results {
            // Those before it are good, the others are not taken for what they may not be.
            let kind = result.as_ref().err().map(|error| error.kind);
            assert!(
                matches!(kind, None | Some(IoErrorKind::Device | IoErrorKind::Timeout)),
                "{action:?}: {result:?}"
            );
        }
        still_works(&rig, 3);
        assert!(rig.engine.stats().pairs_made >= 2, "{action:?}: {:?}", rig.engine.stats());
    }
}

pub(crate) fn a_controller_that_fails_is_reset_and_used_again(gpu: &Arc<Gpu>) {
    for action in [Action::Fatal, Action::Stick] {
        let rig = Rig::new(gpu, Choice::default());
        rig.emulator.faults().add(Rule::io(action).opcode(2).after(3).times(1));
        let results = rig.run(reads(&rig, 10), SHORT);
        let failed = results.iter().filter(|result| result.is_err()).count();
        assert!(failed > 0, "{action:?}");
        for result in results.iter().filter_map(|result| result.as_ref().err()) {
            assert_eq!(result.kind, IoErrorKind::Timeout, "{action:?}: {result}");
        }
        assert!(rig.controller.counters().resets >= 1, "{action:?}");
        still_works(&rig, 4);
    }
}

pub(crate) fn a_reset_ends_what_is_in_flight_and_the_pairs_are_made_anew(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice::default());
    still_works(&rig, 5);
    rig.controller.reset().unwrap();
    still_works(&rig, 6);
    assert_eq!(rig.engine.stats().timeouts, 0, "nothing was in flight");
    assert!(rig.engine.stats().pairs_made > 2);
    let hold = rig.emulator.faults().add(Rule::io(Action::Hold).opcode(2).times(1));
    let start = Instant::now();
    let ticket = rig.engine.start(&rig.stream(), reads(&rig, 1), LONG).unwrap();
    while rig.emulator.faults().applied(hold) != Some(1) {
        assert!(start.elapsed() < LONG / 4, "the read has not come");
        std::thread::sleep(Duration::from_millis(1));
    }
    rig.controller.reset().unwrap();
    let results = ticket.wait();
    assert_eq!(kinds(&results), [Some(IoErrorKind::Timeout)]);
    assert!(start.elapsed() < LONG / 2, "it need not wait for its deadline: {:?}", start.elapsed());
    still_works(&rig, 7);
}

pub(crate) fn a_drive_that_is_removed_is_gone_and_the_host_takes_over_in_words(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice::default());
    rig.emulator.faults().add(Rule::io(Action::Remove).opcode(2).after(2).times(1));
    let results = rig.run(reads(&rig, 6), SHORT);
    let failed: Vec<_> = kinds(&results).into_iter().flatten().collect();
    assert!(
        !failed.is_empty() && failed.iter().all(|kind| *kind == IoErrorKind::Gone),
        "{results:?}"
    );
    let again = rig.engine.start(&rig.stream(), reads(&rig, 1), SHORT);
    let kind = again.map(|ticket| ticket.wait()[0].as_ref().unwrap_err().kind);
    assert_eq!(kind.unwrap_or_else(|error| error.kind), IoErrorKind::Gone);
    let path = rig.engine.path();
    assert_eq!(path.driver, Driver::Host, "{path}");
    assert!(path.to_string().contains("no queue pair can be made"), "{path}");
    assert_eq!(rig.engine.stats().leaked, 0, "a drive that is not there touches nothing");
}

pub(crate) fn batches_behind_one_that_broke_the_pair_end_too(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice { pairs: 1, ..Choice::default() });
    rig.emulator.faults().add(Rule::io(Action::LoseCompletion).opcode(2).times(1));
    let stream = rig.stream();
    let start = |count| rig.engine.start(&stream, reads(&rig, count), SHORT).unwrap();
    let tickets: Vec<_> = [1, 3, 2].into_iter().map(start).collect();
    let results: Vec<_> = tickets.into_iter().map(|ticket| kinds(&ticket.wait())).collect();
    assert_eq!(results.iter().map(Vec::len).collect::<Vec<_>>(), [1, 3, 2]);
    assert!(
        results.iter().flatten().all(|kind| *kind == Some(IoErrorKind::Timeout)),
        "{results:?}"
    );
    still_works(&rig, 8);
    assert_eq!(rig.engine.stats().pairs_made, 2);
}

pub(crate) fn random_faults_leave_no_batch_without_an_end(gpu: &Arc<Gpu>) {
    for seed in 0..3 {
        let rig = Rig::new(gpu, Choice { pairs: 2, depth: 16, ..Choice::default() });
        let mut rng = fastrand::Rng::with_seed(seed);
        for round in 0..6 {
            let action = match rng.u8(0..7) {
                0 => Action::LoseCompletion,
                1 => Action::DuplicateCompletion,
                2 => Action::WrongCommandId(1 << rng.u16(0..16)),
                3 => Action::Hold,
                4 => Action::Status { sct: 2, sc: 0x81, dnr: true },
                5 => Action::Fatal,
                _ => Action::Delay(Duration::from_millis(rng.u64(1..30))),
            };
            rig.emulator.faults().add(Rule::io(action).after(rng.u64(0..20)).times(1));
            let count = rng.u64(1..40);
            let stream = rig.stream();
            let tickets: Vec<_> = (0..2)
                .map(|_| rig.engine.start(&stream, reads(&rig, count), SHORT).unwrap())
                .collect();
            for ticket in tickets {
                assert_eq!(ticket.wait().len() as u64, count, "seed {seed}, {round}: {action:?}");
            }
            rig.emulator.faults().clear();
        }
        still_works(&rig, seed);
        assert_eq!(rig.engine.stats().leaked, 0);
    }
}
