//! Namespaces that cannot be used beside those that can, many of them, and drives that changed during
//! a reset.

use std::sync::{Arc, OnceLock};

use crate::common::{SECOND, alloc, config, open, options, pattern, read, refused, request, write};
use gcos_emulator::{Action, AddressSpace, Config, Emulator, Medium, Namespace, Oddity, Rule, Run};
use gcos_hw::{Function, Intercept};
use gcos_layout::nvme::{AdminCommand, Cc, Register};
use gcos_nvme::{Controller, ErrorKind, IoOp, IoRequest, NvmeError, Options};

fn several(count: u64, bytes: u64) -> Config {
    Config {
        namespaces: vec![Namespace { lba_bytes: 4096, bytes }; count as usize],
        run: Run::Stepped { seed: 3 },
        ..Config::new(Medium::ram(count * bytes).unwrap())
    }
}

#[test]
fn namespaces_that_cannot_be_used_say_why_and_leave_the_others_alone() {
    let config = Config {
        oddities: vec![(2, Oddity::CommandSet(2)), (3, Oddity::Metadata(8))],
        ..several(5, 1 << 20)
    };
    let emulator = Emulator::new(config).unwrap();
    let refuse = Action::Status { sct: 1, sc: 0x29, dnr: true };
    emulator.faults().add(Rule::admin(refuse).opcode(0x06).namespace(4));
    let controller = Controller::open(emulator.function(), options()).unwrap();
    let nsids: Vec<_> = controller.namespaces().iter().map(|n| n.nsid).collect();
    assert_eq!(nsids, [1, 2, 3, 4, 5]);
    let why = |nsid| controller.namespace(nsid).unwrap().unusable.clone();
    assert_eq!((why(1), why(5)), (None, None));
    assert!(why(2).unwrap().contains("Zoned Namespace"));
    assert!(why(3).unwrap().contains("--lbaf=1"));
    assert!(why(4).unwrap().contains("I/O Command Set Not Supported"));
    let buffer = alloc(&controller, 4096);
    for nsid in 1..=5 {
        let one = IoRequest { nsid, ..request(IoOp::Read, 0, 1, vec![buffer.as_dma()]) };
        match controller.run(one) {
            Ok(()) => assert!([1, 5].contains(&nsid)),
            Err(error) => {
                assert!([2, 3, 4].contains(&nsid), "{error}");
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains(&format!("namespace {nsid} cannot be used")));
            }
        }
    }
    controller.reset().unwrap();
    assert!(controller.is_usable());
}

#[test]
fn an_identify_without_answer_is_no_unusable_namespace() {
    let mut config = several(2, 1 << 20);
    config.faults.rules = vec![Rule::admin(Action::Hold).opcode(0x06).namespace(2)];
    assert_eq!(refused(config, options()).kind(), ErrorKind::Timeout);
}

#[test]
fn namespaces_beyond_the_first_list_are_found() {
    for count in [1023, 1024, 1025, 2049] {
        let (_emulator, controller) = open(several(count, 4096), options());
        let nsids: Vec<_> = controller.namespaces().iter().map(|n| u64::from(n.nsid)).collect();
        assert_eq!(nsids, (1..=count).collect::<Vec<_>>());
    }
}

#[test]
fn blocks_larger_than_the_largest_transfer_are_not_usable() {
    let small = Options { max_transfer: 4096, ..options() };
    let (_emulator, controller) = open(config(4096), small.clone());
    write(&controller, 3, &pattern(3, 1, 4096)).unwrap();
    assert_eq!(read(&controller, 3, 4096).unwrap(), pattern(3, 1, 4096));
    let (_emulator, controller) = open(Config { mdts: 0, ..config(4096) }, small);
    assert_eq!(controller.max_transfer(), 4096);
}

#[test]
fn a_namespace_formatted_meanwhile_keeps_the_queues_closed_after_a_reset() {
    let (_emulator, controller) = open(config(4096), options());
    let format = AdminCommand::FormatNvm { lbaf: 0, secure_erase: 0 };
    controller.admin(format, 1, None, SECOND).unwrap();
    let error = controller.reset().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone);
    assert!(error.to_string().contains("namespace 1 changed"), "{error}");
    assert_eq!(read(&controller, 0, 4096).unwrap_err().kind(), ErrorKind::Gone);
}

/// A slot in which another controller may be put.
#[derive(Debug)]
struct Slot {
    first: Arc<dyn Function>,
    second: OnceLock<Arc<dyn Function>>,
}

impl Slot {
    fn new(first: &Arc<Emulator>) -> Arc<Self> {
        Arc::new(Self { first: first.function(), second: OnceLock::new() })
    }
}

impl Intercept for Slot {
    fn behind(&self) -> &Arc<dyn Function> {
        self.second.get().unwrap_or(&self.first)
    }
}

#[test]
fn another_drive_in_the_same_place_is_not_written_to_after_a_reset() {
    let space = AddressSpace::new().unwrap();
    let drive = |serial: &str| {
        let config =
            Config { serial: serial.to_owned(), space: Some(space.clone()), ..config(4096) };
        Emulator::new(config).unwrap()
    };
    let (first, second) = (drive("FIRST"), drive("SECOND"));
    let slot = Slot::new(&first);
    let controller = Controller::open(slot.clone(), options()).unwrap();
    write(&controller, 0, &pattern(0, 1, 4096)).unwrap();
    slot.second.set(second.function()).unwrap();
    let error = controller.reset().unwrap_err();
    assert!(matches!(error, NvmeError::Gone { .. }), "{error}");
    assert!(error.to_string().contains("serial FIRST"), "{error}");
    assert!(error.to_string().contains("serial SECOND"), "{error}");
    assert_eq!(write(&controller, 0, &pattern(0, 2, 4096)).unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(second.counts().writes, 0);
}

#[test]
fn a_controller_with_io_command_sets_only_is_enabled_with_all_of_them() {
    let emulator = Emulator::new(Config { command_sets: 1 << 6, ..config(4096) }).unwrap();
    let controller = Controller::open(emulator.function(), options()).unwrap();
    let cc = Cc(controller.function().read32(Register::Cc.offset()));
    assert_eq!(cc.css(), 6);
    write(&controller, 1, &pattern(1, 1, 4096)).unwrap();
    let both = Config { command_sets: 1 << 6 | 1, ..config(4096) };
    let (_emulator, controller) = open(both, options());
    assert_eq!(Cc(controller.function().read32(Register::Cc.offset())).css(), 0);
    let none = Config { command_sets: 1 << 7, ..config(4096) };
    assert!(refused(none, options()).to_string().contains("CAP.CSS"));
}
