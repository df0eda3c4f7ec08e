//! Events, fatal errors, removal and ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gcos_hw::{Function, Intercept};
use gcos_layout::nvme::{AsyncEventType, Cc, Csts, Register, ShutdownStatus};
use gcos_nvme::{Controller, ErrorKind, IoOp, Pending};
use gcos_qemu_tests::machine::Machine;
use serde_json::json;

use crate::rig::{MIB, PATIENCE, Shape, open, options, read, request, works, write};

/// Waits until something holds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn smart_warnings_arrive_as_events_time_after_time_and_after_a_reset() {
    let machine = Shape::simple("").start();
    let controller = open(&machine, options());
    let warn = |value: u8| {
        let path = "/machine/peripheral/nvme0";
        let property = "smart_critical_warning";
        let arguments = json!({ "path": path, "property": property, "value": value });
        machine.qmp().execute("qom-set", arguments).unwrap();
    };
    assert_eq!(controller.health().events, 0);
    for (count, value) in [(1, 0x02), (2, 0x04), (3, 0x01)] {
        if count == 3 {
            controller.reset().unwrap();
        }
        // Only a bit that was clear before is reported.
        warn(0);
        warn(value);
        eventually("no event", || controller.health().events == count);
        let health = controller.health();
        assert_eq!(health.last_event.unwrap().kind(), AsyncEventType::Smart);
        assert_eq!(health.smart.unwrap().critical_warning.0, value);
    }
    works(&controller);
}

/// Restarts the controller behind the driver's back with a register that it cannot start with.
fn sabotage(machine: &Machine, spoil: impl FnOnce(&dyn Function, Cc) -> Cc) {
    let function = machine.function(0).unwrap();
    let cc = Cc(function.read32(Register::Cc.offset()));
    function.write32(Register::Cc.offset(), cc.with_en(false).0);
    let cc = spoil(&*function, cc);
    function.write32(Register::Cc.offset(), cc.0);
    let csts = Csts(function.read32(Register::Csts.offset()));
    assert!(csts.cfs(), "{csts:?}");
}

#[test]
fn a_fatal_status_leads_to_one_reset_and_the_controller_works_again() {
    let machine = Shape::simple("").start();
    let controller = open(&machine, options());
    write(&controller, 1, 0x77).unwrap();
    // Admin queues of no entries, then a page size that the controller does not have.
    for round in 1..=2 {
        sabotage(&machine, |function, cc| match round {
            1 => {
                function.write32(Register::Aqa.offset(), 0);
                cc
            }
            _ => cc.with_mps(15),
        });
        let error = read(&controller, 1).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Gone), "{error}");
        works(&controller);
        assert_eq!(read(&controller, 1).unwrap(), Some(0x77));
        assert_eq!(controller.counters().resets, round);
    }
}

/// Reads that take long, in flight.
fn long_reads(controller: &Arc<Controller>) -> Vec<Pending> {
    let read = |page: u64| {
        let buffer = controller.dma().alloc(4096).unwrap();
        controller.submit(request(IoOp::Read, page * 8, 8, vec![buffer.as_dma()])).unwrap()
    };
    (0..32).map(read).collect()
}

/// All end, soon, and the controller knows that it has gone.
fn all_end(controller: &Arc<Controller>, pending: Vec<Pending>) {
    let began = Instant::now();
    let mut gone = 0;
    for pending in pending {
        match pending.wait() {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
                gone += 1;
            }
        }
    }
    assert!(gone > 0, "nothing was in flight");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(read(controller, 0).unwrap_err().kind(), ErrorKind::Gone);
    assert!(!controller.is_usable());
    assert_eq!(controller.counters().leaked_commands, 0);
}

#[test]
fn a_controller_that_is_unplugged_with_commands_in_flight_ends_them_all() {
    let machine = Shape::new()
        .drive("one", 64 * MIB, ",throttling.iops-total=10")
        .device("pcie-root-port,id=rp0,chassis=1,slot=1")
        .device("nvme,id=nvme0,serial=QTEST,drive=one,bus=rp0")
        .start();
    let controller = open(&machine, options());
    let pending = long_reads(&controller);
    machine.qmp().execute("device_del", json!({ "id": "nvme0" })).unwrap();
    machine.functions()[0].power_off_slot().unwrap();
    // QEMU keeps the device's memory until its disk has answered: its event would come late.
    let function = machine.function(0).unwrap();
    eventually("it is still there", || function.read32(Register::Csts.offset()) == u32::MAX);
    all_end(&controller, pending);
}

#[test]
fn a_machine_that_dies_with_commands_in_flight_ends_them_all() {
    let machine = Shape::new()
        .drive("one", 64 * MIB, ",throttling.iops-total=10")
        .device("nvme,id=nvme0,serial=QTEST,drive=one")
        .start();
    let controller = open(&machine, options());
    let pending = long_reads(&controller);
    machine.kill();
    all_end(&controller, pending);
    assert!(machine.link().is_dead());
}

#[test]
fn a_machine_that_stops_and_goes_on_loses_nothing() {
    let machine = Shape::simple("").start();
    let controller = open(&machine, options());
    machine.qmp().execute("stop", json!({})).unwrap();
    let buffer = controller.dma().alloc(4096).unwrap();
    let mut pending = controller.submit(request(IoOp::Read, 0, 8, vec![buffer.as_dma()])).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let early = pending.poll();
    machine.qmp().execute("cont", json!({})).unwrap();
    match early {
        Some(result) => result.unwrap(),
        None => pending.wait().unwrap(),
    }
    works(&controller);
    assert_eq!(controller.counters().resets, 0);
}

/// A function that notes whether the controller has said that its shutdown is complete.
#[derive(Debug)]
struct Watched {
    inner: Arc<dyn Function>,
    complete: AtomicBool,
}

impl Intercept for Watched {
    fn behind(&self) -> &Arc<dyn Function> {
        &self.inner
    }
    fn read32(&self, offset: usize) -> u32 {
        let value = self.inner.read32(offset);
        if offset == Register::Csts.offset() && Csts(value).shutdown() == ShutdownStatus::Complete {
            self.complete.store(true, Ordering::Relaxed);
        }
        value
    }
}

#[test]
fn an_orderly_shutdown_waits_until_the_controller_says_complete() {
    let machine = Shape::simple("").start();
    let inner = machine.function(0).unwrap();
    let watched = Arc::new(Watched { inner, complete: AtomicBool::new(false) });
    let function: Arc<dyn Function> = Arc::<Watched>::clone(&watched);
    let controller = Controller::open(function, options()).unwrap();
    write(&controller, 3, 0x33).unwrap();
    assert!(!watched.complete.load(Ordering::Relaxed));
    controller.shutdown(Some(PATIENCE)).unwrap();
    assert!(watched.complete.load(Ordering::Relaxed), "CSTS.SHST was never 10b");
    drop(controller);
    assert_eq!(read(&open(&machine, options()), 3).unwrap(), Some(0x33));
}
