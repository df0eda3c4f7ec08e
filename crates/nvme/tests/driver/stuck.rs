//! A controller whose registers lie: CSTS.RDY that never falls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gcos_emulator::{Action, Emulator, Rule};
use gcos_hw::{DmaSpace, EventFd, Function, HwError};
use gcos_layout::nvme::{Csts, Register};
use gcos_nvme::{Controller, ErrorKind, IoOp, NvmeError};

use crate::common::{alloc, config, options, request};

/// Another function, whose controller cannot be stopped while `stuck` is set.
#[derive(Debug)]
struct Unstoppable {
    inner: Arc<dyn Function>,
    stuck: AtomicBool,
}

impl Function for Unstoppable {
    fn name(&self) -> &str {
        "unstoppable"
    }
    fn read32(&self, offset: usize) -> u32 {
        let value = self.inner.read32(offset);
        if offset == Register::Csts.offset() && self.stuck.load(Ordering::Relaxed) {
            return Csts(value).with_rdy(true).0;
        }
        value
    }
    fn read64(&self, offset: usize) -> u64 {
        self.inner.read64(offset)
    }
    fn write32(&self, offset: usize, value: u32) {
        if offset == Register::Cc.offset() && self.stuck.load(Ordering::Relaxed) {
            return;
        }
        self.inner.write32(offset, value);
    }
    fn write64(&self, offset: usize, value: u64) {
        self.inner.write64(offset, value);
    }
    fn registers_len(&self) -> usize {
        self.inner.registers_len()
    }
    fn dma(&self) -> &Arc<DmaSpace> {
        self.inner.dma()
    }
    fn interrupt_vectors(&self) -> u16 {
        self.inner.interrupt_vectors()
    }
    fn interrupt(&self, vector: u16) -> Result<Arc<EventFd>, HwError> {
        self.inner.interrupt(vector)
    }
    fn now(&self) -> Duration {
        self.inner.now()
    }
    fn relax(&self, spins: u32) {
        self.inner.relax(spins);
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
