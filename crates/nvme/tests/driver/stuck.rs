//! A controller whose registers lie: CSTS.RDY that never falls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gcos_emulator::{Action, AddressSpace, Config, Emulator, Rule};
use gcos_hw::{Function, HwError, Intercept};
use gcos_layout::nvme::{Csts, Register};
use gcos_nvme::{
    Cmb, Controller, ErrorKind, IoOp, NvmeError, Options, QueueMemory, ShadowDoorbells,
};

use crate::common::{alloc, config, options, request, threaded};

/// Another function, whose controller cannot be stopped while `stuck` is set.
#[derive(Debug)]
struct Unstoppable {
    inner: Arc<dyn Function>,
    stuck: AtomicBool,
}

impl Intercept for Unstoppable {
    fn behind(&self) -> &Arc<dyn Function> {
        &self.inner
    }
    fn read32(&self, offset: usize) -> u32 {
        let value = self.inner.read32(offset);
        if offset == Register::Csts.offset() && self.stuck.load(Ordering::Relaxed) {
            return Csts(value).with_rdy(true).0;
        }
        value
    }
    fn write32(&self, offset: usize, value: u32) {
        if offset == Register::Cc.offset() && self.stuck.load(Ordering::Relaxed) {
            return;
        }
        self.inner.write32(offset, value);
    }
}

#[test]
fn memory_is_leaked_when_the_controller_cannot_be_stopped() {
    let emulator = Emulator::new(config(4096)).unwrap();
    let function =
        Arc::new(Unstoppable { inner: emulator.function(), stuck: AtomicBool::new(false) });
    let controller = Controller::open(function.clone(), options()).unwrap();
    emulator.faults().add(Rule::io(Action::LoseCompletion).opcode(0x02));
    function.stuck.store(true, Ordering::Relaxed);
    let mut buffer = alloc(&controller, 4096);
    let segments = vec![buffer.as_dma()];
    let error = controller.run(request(IoOp::Read, 0, 1, segments)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
    assert!(error.to_string().contains("could not be stopped"), "{error}");
    // The device may write there for ever: the buffer is never given back.
    assert!(matches!(buffer.bytes_mut(), Err(HwError::Busy { loans: 1 })));
    assert_eq!(controller.counters().leaked_commands, 1 + 4, "the read and the event requests");
    drop(controller);
}

#[test]
fn a_controller_that_cannot_be_stopped_is_not_opened() {
    let emulator = Emulator::new(config(4096)).unwrap();
    let function =
        Arc::new(Unstoppable { inner: emulator.function(), stuck: AtomicBool::new(true) });
    let error = Controller::open(function, options()).unwrap_err();
    assert!(matches!(error, NvmeError::NotReady { .. }), "{error}");
}

#[test]
fn everything_that_a_stuck_controller_was_told_of_stays_mapped_for_ever() {
    // Closed while stuck, or given up while in use.
    for in_use in [false, true] {
        let space = AddressSpace::new().unwrap();
        let config = Config {
            space: Some(space.clone()),
            cmb_bytes: 1 << 20,
            shadow_doorbells: true,
            ..config(4096)
        };
        let emulator = Emulator::new(config).unwrap();
        let function =
            Arc::new(Unstoppable { inner: emulator.function(), stuck: AtomicBool::new(false) });
        let given = space.dma.alloc(4 << 20).unwrap();
        let options = Options {
            queue_memory: QueueMemory::GivenForAll(given.as_dma()),
            cmb: Cmb::SubmissionQueues,
            shadow_doorbells: ShadowDoorbells::On,
            max_transfer: 64 << 10,
            ..options()
        };
        let controller = Controller::open(function.clone(), options).unwrap();
        let cmb = Arc::downgrade(emulator.cmb().unwrap());
        let owners = cmb.strong_count();
        let mapped = space.table.len();
        function.stuck.store(true, Ordering::Relaxed);
        if in_use {
            let error = controller.reset().unwrap_err();
            assert!(error.to_string().contains("could not be stopped"), "{error}");
            assert_eq!(controller.shutdown(None).unwrap_err().kind(), ErrorKind::Gone);
        }
        drop(controller);
        drop(given);
        assert_eq!(space.table.len(), mapped, "queues, lists and shadow doorbells");
        assert_eq!(cmb.strong_count(), owners, "the memory buffer");
    }
}

#[test]
fn a_controller_that_is_stuck_at_the_first_reset_gets_no_memory_and_leaks_none() {
    let space = AddressSpace::new().unwrap();
    let config = Config { space: Some(space.clone()), ..threaded(4096) };
    let emulator = Emulator::new(config).unwrap();
    let inner = emulator.function();
    let mapped = space.table.len();
    let function = Arc::new(Unstoppable { inner, stuck: AtomicBool::new(true) });
    assert!(Controller::open(function, options()).is_err());
    assert_eq!(space.table.len(), mapped);
}
