//! Faults: lost, late, repeated and wrong completions; stuck, failed and removed controllers.

use std::sync::Arc;
use std::time::Duration;

use crate::common::{
    SECOND, alloc, config, open, options, pattern, read, request, threaded, write,
};
use gcos_emulator::{Action, Config, Rule, Run};
use gcos_layout::nvme::{AdminCommand, CriticalWarning, NSID_ALL};
use gcos_nvme::{Controller, ErrorKind, IoOp, NvmeError, Options};

fn works(controller: &Arc<Controller>) {
    write(controller, 77, &pattern(77, 5, 4096)).unwrap();
    assert_eq!(read(controller, 77, 4096).unwrap(), pattern(77, 5, 4096));
}

#[test]
fn a_held_command_is_aborted_at_its_deadline_without_a_reset() {
    let (emulator, controller) = open(config(4096), options());
    emulator.faults().add(Rule::io(Action::Hold).opcode(0x02).times(1));
    let began = controller.function().now();
    let error = read(&controller, 0, 4096).unwrap_err();
    let took = controller.function().now() - began;
    assert!(matches!(error, NvmeError::Timeout { ended: "it was aborted", .. }), "{error}");
    assert!(took >= SECOND && took < 2 * SECOND, "{took:?}");
    assert_eq!((controller.counters().aborts, controller.counters().resets), (1, 0));
    works(&controller);
}

#[test]
fn a_lost_completion_leads_to_abort_then_reset_then_one_error() {
    let (emulator, controller) = open(config(4096), options());
    write(&controller, 9, &pattern(9, 1, 4096)).unwrap();
    emulator.faults().add(Rule::io(Action::LoseCompletion).opcode(0x02).times(1));
    let mut buffer = alloc(&controller, 4096);
    let segments = vec![buffer.as_dma()];
    let error = controller.run(request(IoOp::Read, 0, 1, segments)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(buffer.bytes_mut().is_ok(), "the memory came back with the error");
    let counters = controller.counters();
    assert_eq!((counters.aborts, counters.resets), (1, 1));
    assert_eq!(read(&controller, 9, 4096).unwrap(), pattern(9, 1, 4096));
    works(&controller);
}

#[test]
fn a_reset_ends_every_command_in_flight_once() {
    let (emulator, controller) = open(config(4096), options());
    emulator.faults().add(Rule::io(Action::Stick).times(1));
    let buffers: Vec<_> = (0..32).map(|_| alloc(&controller, 4096)).collect();
    let pending: Vec<_> = buffers
        .iter()
        .enumerate()
        .map(|(i, b)| {
            controller.submit(request(IoOp::Read, i as u64, 1, vec![b.as_dma()])).unwrap()
        })
        .collect();
    for pending in pending {
        assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Timeout);
    }
    for mut buffer in buffers {
        assert!(buffer.bytes_mut().is_ok());
    }
    assert_eq!(controller.counters().resets, 1);
    emulator.faults().clear();
    works(&controller);
}

#[test]
fn a_repeated_completion_is_dropped_and_ends_nothing_else() {
    let (emulator, controller) = open(config(4096), options());
    emulator.faults().add(Rule::io(Action::DuplicateCompletion).percent(50));
    for lba in 0..200 {
        write(&controller, lba, &pattern(lba, 1, 4096)).unwrap();
        assert_eq!(read(&controller, lba, 4096).unwrap(), pattern(lba, 1, 4096));
    }
    assert!(controller.counters().spurious_completions > 50);
    assert_eq!(controller.counters().errors, 0);
}

#[test]
fn a_completion_of_an_unknown_command_is_dropped_and_its_own_times_out() {
    let (emulator, controller) = open(config(4096), options());
    emulator.faults().add(Rule::io(Action::WrongCommandId(0x8000)).times(1));
    assert_eq!(read(&controller, 0, 4096).unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(controller.counters().spurious_completions, 1);
    works(&controller);
}

#[test]
fn a_fatal_status_is_noticed_before_the_deadline() {
    let (emulator, controller) = open(config(4096), options());
    emulator.faults().add(Rule::io(Action::Fatal).opcode(0x02).times(1));
    let began = controller.function().now();
    let error = read(&controller, 0, 4096).unwrap_err();
    assert!(matches!(error, NvmeError::Reset { .. }), "{error}");
    assert!(controller.function().now() - began < SECOND);
    assert_eq!(controller.counters().resets, 1);
    works(&controller);
}

#[test]
fn a_removed_controller_ends_everything_and_fails_later_requests_at_once() {
    let (emulator, controller) = open(config(4096), options());
    emulator.faults().add(Rule::io(Action::Hold));
    let mut buffer = alloc(&controller, 4096);
    let segments = vec![buffer.as_dma()];
    let pending = controller.submit(request(IoOp::Read, 0, 1, segments)).unwrap();
    emulator.remove();
    assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Gone);
    assert!(buffer.bytes_mut().is_ok());
    let began = controller.function().now();
    assert_eq!(read(&controller, 0, 4096).unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(controller.function().now(), began);
    assert!(controller.shutdown(None).is_err());
    assert!(!controller.is_usable());
}

#[test]
fn a_full_queue_is_waited_for_until_the_deadline_only() {
    let (emulator, controller) = open(config(4096), Options { queue_depth: 3, ..options() });
    let hold = emulator.faults().add(Rule::io(Action::Hold));
    let buffer = alloc(&controller, 4096);
    let mut long = request(IoOp::Read, 0, 1, vec![buffer.as_dma()]);
    long.timeout = Duration::from_secs(3600);
    let _held: Vec<_> = (0..2).map(|_| controller.submit(long.clone()).unwrap()).collect();
    let began = controller.function().now();
    let error = read(&controller, 1, 4096).unwrap_err();
    assert!(error.to_string().contains("no room"), "{error}");
    assert!(controller.function().now() - began < 2 * SECOND);
    emulator.faults().remove(hold);
    controller.reset().unwrap();
    works(&controller);
}

#[test]
fn a_dropped_claim_is_recovered_by_whoever_comes_next() {
    let (emulator, controller) = open(config(4096), options());
    emulator.faults().add(Rule::io(Action::LoseCompletion).opcode(0x02).times(1));
    let mut buffer = alloc(&controller, 4096);
    let segments = vec![buffer.as_dma()];
    drop(controller.submit(request(IoOp::Read, 0, 1, segments)).unwrap());
    assert!(buffer.bytes_mut().is_err(), "still lent");
    write(&controller, 6, &pattern(6, 1, 4096)).unwrap();
    emulator.faults().add(Rule::io(Action::Hold).times(1));
    let page = alloc(&controller, 4096);
    let mut slow = request(IoOp::Read, 5, 1, vec![page.as_dma()]);
    slow.timeout = 10 * SECOND;
    let _ = controller.run(slow);
    assert!(buffer.bytes_mut().is_ok());
    works(&controller);
}

#[test]
fn a_controller_that_does_not_come_back_is_gone() {
    let (emulator, controller) = open(config(4096), options());
    emulator.faults().add(Rule::admin(Action::Hold).opcode(0x09));
    assert_eq!(controller.reset().unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(read(&controller, 0, 4096).unwrap_err().kind(), ErrorKind::Gone);
}

#[test]
fn power_loss_and_return_is_survived_by_a_reset() {
    let (emulator, controller) = open(config(4096), options());
    write(&controller, 3, &pattern(3, 1, 4096)).unwrap();
    emulator.fail();
    let _ = read(&controller, 3, 4096);
    assert_eq!(read(&controller, 3, 4096).unwrap(), pattern(3, 1, 4096));
    assert_eq!(controller.counters().resets, 1);
}

#[test]
fn events_are_recorded_and_asked_for_again() {
    let (emulator, controller) = open(config(4096), options());
    for round in 1..=6 {
        emulator.set_critical_warning(CriticalWarning::default().with_spare(true));
        for spins in 0..1000 {
            controller.function().relax(spins);
        }
        let health = controller.health();
        assert_eq!(health.events, round, "round {round}");
        assert!(health.smart.unwrap().critical_warning.spare());
        emulator.set_critical_warning(CriticalWarning::default());
        for spins in 0..1000 {
            controller.function().relax(spins);
        }
    }
    controller.reset().unwrap();
    works(&controller);
}

#[test]
fn many_threads_see_one_recovery() {
    let (emulator, controller) = open(threaded(4096), Options { io_queue_pairs: 2, ..options() });
    emulator.faults().add(Rule::io(Action::LoseCompletion).opcode(0x02).times(8));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let controller = &controller;
            scope.spawn(move || {
                for lba in 0..50 {
                    let lba = thread * 1000 + lba;
                    let buffer = alloc(controller, 4096);
                    let mut request = request(IoOp::Read, lba, 1, vec![buffer.as_dma()]);
                    request.timeout = Duration::from_millis(200);
                    if let Err(error) = controller.run(request) {
                        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
                    }
                }
            });
        }
    });
    assert!(controller.counters().resets >= 1);
    works(&controller);
}

#[test]
fn an_admin_command_that_hangs_leads_to_a_reset() {
    let (emulator, controller) = open(config(4096), options());
    emulator.faults().add(Rule::admin(Action::Hold).opcode(0x02).times(1));
    assert_eq!(controller.smart_log().unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(controller.counters().resets, 1);
    assert!(controller.smart_log().is_ok());
    works(&controller);
}

#[test]
fn recovery_repeats_alike_for_any_seed_of_steps() {
    for seed in 0..20 {
        let config = Config { run: gcos_emulator::Run::Stepped { seed }, ..config(4096) };
        let (emulator, controller) = open(config, options());
        emulator.faults().add(Rule::io(Action::LoseCompletion).percent(5).times(3));
        for lba in 0..60 {
            let _ = write(&controller, lba, &pattern(lba, seed, 4096));
        }
        emulator.faults().clear();
        works(&controller);
    }
}

#[test]
fn more_admin_commands_than_the_queue_holds_wait_for_room() {
    for run in [Run::Threads, Run::Stepped { seed: 11 }] {
        let (emulator, controller) = open(Config { run, ..config(4096) }, options());
        emulator.faults().add(Rule::admin(Action::Delay(Duration::from_millis(5))).opcode(0x02));
        std::thread::scope(|scope| {
            for _ in 0..100 {
                scope.spawn(|| controller.smart_log().unwrap());
            }
        });
        assert_eq!(controller.counters().resets, 0, "{run:?}");
        assert_eq!(controller.counters().errors, 0, "{run:?}");
    }
}

#[test]
fn an_admin_command_that_finds_no_room_in_time_says_so_and_resets_nothing() {
    let (emulator, controller) = open(threaded(4096), options());
    emulator.faults().add(Rule::admin(Action::Delay(SECOND / 2)).opcode(0x02));
    std::thread::scope(|scope| {
        // The queue holds 31 commands, 4 of them event requests.
        let readers: Vec<_> =
            (0..27).map(|_| scope.spawn(|| controller.smart_log().unwrap())).collect();
        std::thread::sleep(SECOND / 10);
        let command =
            AdminCommand::GetLogPage { lid: 2, bytes: 512, offset: 0, retain_event: false };
        let data = alloc(&controller, 512).as_dma();
        let error = controller.admin(command, NSID_ALL, Some(data), SECOND / 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.to_string().contains("no room"), "{error}");
        for reader in readers {
            reader.join().unwrap();
        }
    });
    assert_eq!(controller.counters().resets, 0);
}

#[test]
fn events_are_asked_for_again_after_the_admin_queue_was_full() {
    let (emulator, controller) = open(threaded(4096), options());
    let spare = CriticalWarning::default().with_spare(true);
    emulator.faults().add(Rule::admin(Action::Delay(SECOND / 50)).opcode(0x02));
    // More than there are event requests: each must have been posted again.
    for round in 1..=6 {
        std::thread::scope(|scope| {
            for _ in 0..120 {
                scope.spawn(|| controller.smart_log().unwrap());
            }
            std::thread::sleep(SECOND / 100);
            emulator.set_critical_warning(spare);
            let began = std::time::Instant::now();
            while controller.health().events < round {
                assert!(began.elapsed() < 10 * SECOND, "nobody asks for events any more");
            }
        });
        emulator.set_critical_warning(CriticalWarning::default());
        // What is owed is posted by whoever looks next.
        controller.poll_events();
    }
    assert_eq!((controller.counters().errors, controller.counters().resets), (0, 0));
}

#[test]
fn admin_commands_wait_for_the_end_of_a_reset() {
    let slow = Config { ready_delay: SECOND / 5, ..threaded(4096) };
    let (_emulator, controller) = open(slow, options());
    std::thread::scope(|scope| {
        let reset = scope.spawn(|| controller.reset().unwrap());
        std::thread::sleep(SECOND / 20);
        controller.smart_log().unwrap();
        assert_eq!(controller.counters().resets, 1);
        reset.join().unwrap();
    });
    // Not longer than they may take.
    std::thread::scope(|scope| {
        let reset = scope.spawn(|| controller.reset().unwrap());
        std::thread::sleep(SECOND / 20);
        let command =
            AdminCommand::GetLogPage { lid: 2, bytes: 512, offset: 0, retain_event: false };
        let data = alloc(&controller, 512).as_dma();
        let error = controller.admin(command, NSID_ALL, Some(data), SECOND / 50).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert!(error.to_string().contains("a reset was under way"), "{error}");
        reset.join().unwrap();
    });
    controller.smart_log().unwrap();
}
