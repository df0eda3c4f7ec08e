//! Opening, refusing, shutting down.

use std::time::Duration;

use crate::common::{SECOND, config, open, options, pattern, read, refused, threaded, write};
use gcos_emulator::{Action, Config, Rule, WriteCacheConfig};
use gcos_layout::nvme::{AdminCommand, Feature, FeatureId};
use gcos_nvme::{ErrorKind, NvmeError, Options, PointerChoice, WriteCache};

#[test]
fn a_controller_comes_up_and_is_what_was_configured() {
    let (_emulator, controller) = open(config(512), options());
    assert_eq!(controller.identity().serial, "SERIAL-7");
    assert_eq!(controller.max_transfer(), 1 << 20);
    let namespace = controller.namespace(1).unwrap();
    assert_eq!((namespace.lba_bytes, namespace.bytes()), (512, crate::common::MEDIUM));
    assert!(!controller.volatile_cache());
    assert!(controller.smart_log().is_ok());
    assert!(controller.namespace(2).is_none());
}

#[test]
fn options_lower_the_largest_transfer_and_never_raise_it() {
    let small = Options { max_transfer: 64 << 10, ..options() };
    assert_eq!(open(config(512), small).1.max_transfer(), 64 << 10);
    let limited = Config { mdts: 128 << 10, ..config(512) };
    assert_eq!(open(limited, options()).1.max_transfer(), 128 << 10);
}

#[test]
fn too_small_a_queue_grant_names_both_numbers() {
    let config = Config { max_queue_pairs: 2, ..config(4096) };
    let error = refused(config, Options { io_queue_pairs: 3, ..options() });
    assert!(matches!(error, NvmeError::QueueGrant { asked: 3, sq: 2, cq: 2, .. }), "{error}");
    assert!(error.to_string().contains("asked for 3"), "{error}");
}

#[test]
fn queues_deeper_than_the_controller_allows_are_refused() {
    let config = Config { mqes: 16, ..config(4096) };
    let error = refused(config, Options { queue_depth: 17, ..options() });
    assert!(error.to_string().contains("2 to 16 entries"), "{error}");
}

#[test]
fn senseless_options_are_refused() {
    let bad = [
        Options { io_queue_pairs: 0, ..options() },
        Options { queue_depth: 1, ..options() },
        Options { max_transfer: 1000, ..options() },
        Options { lent_queue_pairs: u16::MAX, ..options() },
    ];
    for options in bad {
        assert_eq!(refused(config(512), options).kind(), ErrorKind::Invalid);
    }
}

#[test]
fn sgls_are_refused_where_the_controller_has_none() {
    let config = Config { sgl: false, ..config(4096) };
    let error = refused(config, Options { data_pointer: PointerChoice::Sgl, ..options() });
    assert!(matches!(error, NvmeError::Unsupported { what: "SGLS", .. }), "{error}");
}

#[test]
fn a_removed_controller_is_gone_at_once() {
    let emulator = gcos_emulator::Emulator::new(config(4096)).unwrap();
    emulator.remove();
    let error = gcos_nvme::Controller::open(emulator.function(), options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone);
}

#[test]
fn a_controller_that_does_not_get_ready_is_given_up_in_time() {
    let config = Config { ready_delay: Duration::from_secs(3600), ..config(4096) };
    let error = refused(config, options());
    assert!(matches!(error, NvmeError::NotReady { .. }), "{error}");
}

#[test]
fn an_admin_error_at_opening_is_reported_with_its_command() {
    for opcode in [0x06, 0x09, 0x05, 0x01] {
        let mut config = config(4096);
        config.faults.rules =
            vec![Rule::admin(Action::Status { sct: 0, sc: 6, dnr: true }).opcode(opcode)];
        let error = refused(config, options());
        assert!(error.to_string().contains("Internal Error"), "{error}");
    }
}

#[test]
fn an_admin_command_without_answer_at_opening_times_out() {
    let mut config = config(4096);
    config.faults.rules = vec![Rule::admin(Action::Hold).opcode(0x06)];
    assert_eq!(refused(config, options()).kind(), ErrorKind::Timeout);
}

#[test]
fn the_volatile_write_cache_is_kept_enabled_or_disabled() {
    for (choice, expected) in
        [(WriteCache::Keep, true), (WriteCache::Disable, false), (WriteCache::Enable, true)]
    {
        let config = Config { write_cache: Some(WriteCacheConfig::default()), ..config(4096) };
        let (_emulator, controller) = open(config, Options { write_cache: choice, ..options() });
        assert_eq!(controller.volatile_cache(), expected, "{choice:?}");
        let id = FeatureId::VolatileWriteCache;
        let command = AdminCommand::GetFeatures { id, select: 0, cdw11: 0 };
        let dw0 = controller.admin(command, 0, None, SECOND).unwrap();
        assert_eq!(Feature::from_dword(id, dw0), Feature::VolatileWriteCache { enabled: expected });
        controller.reset().unwrap();
        assert_eq!(controller.volatile_cache(), expected, "{choice:?} after a reset");
    }
}

#[test]
fn shutdown_ends_use_and_a_controller_can_be_opened_again() {
    let emulator = gcos_emulator::Emulator::new(threaded(4096)).unwrap();
    let controller = gcos_nvme::Controller::open(emulator.function(), options()).unwrap();
    write(&controller, 3, &pattern(3, 1, 4096)).unwrap();
    controller.shutdown(None).unwrap();
    controller.shutdown(None).unwrap();
    assert!(!controller.is_usable());
    assert_eq!(read(&controller, 3, 4096).unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(controller.smart_log().unwrap_err().kind(), ErrorKind::Gone);
    let again = gcos_nvme::Controller::open(emulator.function(), options()).unwrap();
    drop(controller);
    assert_eq!(read(&again, 3, 4096).unwrap(), pattern(3, 1, 4096));
}

#[test]
fn shutdown_waits_for_commands_in_flight() {
    let (emulator, controller) = open(config(4096), options());
    emulator.faults().add(Rule::io(Action::Delay(Duration::from_millis(50))));
    let buffer = crate::common::alloc(&controller, 4096);
    let op = gcos_nvme::IoOp::Write { fua: false };
    let pending =
        controller.submit(crate::common::request(op, 0, 1, vec![buffer.as_dma()])).unwrap();
    controller.shutdown(Some(SECOND)).unwrap();
    pending.wait().unwrap();
}

#[test]
fn shutdown_with_a_stuck_command_reports_it_and_ends_it() {
    let (emulator, controller) = open(config(4096), options());
    emulator.faults().add(Rule::io(Action::Hold));
    let buffer = crate::common::alloc(&controller, 4096);
    let segments = vec![buffer.as_dma()];
    let pending =
        controller.submit(crate::common::request(gcos_nvme::IoOp::Read, 0, 1, segments)).unwrap();
    assert!(controller.shutdown(Some(SECOND)).is_err());
    assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Gone);
}

#[test]
fn dropping_a_controller_frees_all_its_memory() {
    let emulator = gcos_emulator::Emulator::new(config(4096)).unwrap();
    let controller = gcos_nvme::Controller::open(emulator.function(), options()).unwrap();
    let buffer = crate::common::alloc(&controller, 4096);
    emulator.faults().add(Rule::io(Action::Hold));
    let segments = vec![buffer.as_dma()];
    drop(controller.submit(crate::common::request(gcos_nvme::IoOp::Read, 0, 1, segments)).unwrap());
    drop(controller);
    let mut buffer = buffer;
    assert!(buffer.bytes_mut().is_ok(), "the command gave its memory back");
}

#[test]
fn queue_pairs_are_lent_and_taken_back() {
    let (_emulator, controller) = open(config(4096), Options { lent_queue_pairs: 1, ..options() });
    let (sq, cq) =
        (crate::common::alloc(&controller, 16 * 64), crate::common::alloc(&controller, 16 * 16));
    let lend = || controller.lend_queue_pair(sq.as_dma(), cq.as_dma(), 16);
    let lent = lend().unwrap();
    assert_eq!((lent.qid(), lent.doorbells()), (2, (0x1010, 0x1014)));
    assert_eq!(lend().unwrap_err().kind(), ErrorKind::Invalid);
    drop(lent);
    let lent = lend().unwrap();
    assert!(lent.is_current());
    controller.reset().unwrap();
    assert!(!lent.is_current());
    drop(lent);
    assert!(lend().unwrap().is_current());
    let lent = lend().unwrap();
    lent.end().unwrap();
    assert!(lend().unwrap().end().is_ok(), "its identifier is free again");
    let lent = lend().unwrap();
    controller.reset().unwrap();
    lent.end().unwrap();
    let short = sq.slice(0, 64).unwrap();
    assert!(controller.lend_queue_pair(short, cq.as_dma(), 16).is_err());
}
