//! The suite of every controller, through VFIO: each drive polled and by interrupts, and with submission
//! queues in its own memory if it has some.

use std::sync::Arc;
use std::time::Instant;

use gcos_hardware_tests::{Outcome, Target, Window, cases};
use gcos_hw::Function;
use gcos_hw::vfio::VfioSpace;
use gcos_layout::nvme::{Cap, Register};
use gcos_nvme::{Cmb, Completion, Controller, Options};

use crate::drive::DEADLINE;
use crate::raw::NSID;
use crate::report::{Report, Trouble, ensure, failed};
use crate::sysfs;

/// Bytes at both ends of the drive that the suite must leave alone.
const SPARED: u64 = 4 << 20;

/// QEMU 7.2 crashes at it, given time: it fetches commands while it drains its backend for the reset,
/// and frees the queues under them. Without a guest nothing runs beside the test, and the case passes;
/// here `unplug` has one that gives QEMU no command at the moment of the reset.
const LEFT_OUT: &str = "a_reset_in_mid_flight_ends_everything_once_and_the_drive_works";

/// How each drive is driven.
const WAYS: [(&str, Completion, Cmb); 3] = [
    ("polled", Completion::Polled, Cmb::Off),
    ("by interrupts", Completion::Interrupt, Cmb::Off),
    ("with its own memory", Completion::Polled, Cmb::SubmissionQueues),
];

pub(crate) fn run(report: &mut Report) {
    let controllers = sysfs::controllers().unwrap_or_default();
    for (index, address) in controllers.into_iter().enumerate() {
        for (way, completion, cmb) in WAYS {
            let label = format!("drive {index} {way}");
            let space = VfioSpace::open().map_err(Trouble::from);
            let target = space.and_then(|space| {
                sysfs::bind(&address)?;
                let function = space.function(address)?;
                let cap = Cap(function.read64(Register::Cap.offset()));
                match cmb == Cmb::SubmissionQueues && !cap.cmbs() {
                    true => Ok(None),
                    false => target(function, completion, cmb).map(Some),
                }
            });
            let Some(target) = target.transpose() else { continue };
            match target {
                Ok(target) => all(report, &label, &target),
                Err(trouble) => report.tell(&format!("{label}: opens"), Err(trouble)),
            }
        }
    }
}

fn target(
    function: Arc<dyn Function>,
    completion: Completion,
    cmb: Cmb,
) -> Result<Target, Trouble> {
    let target = Target::read_only(function);
    let options = Options { completion, cmb, ..target.options.clone() };
    let controller = Controller::open(Arc::clone(&target.function), options.clone())?;
    let Some(namespace) = controller.namespace(NSID) else {
        return failed("the drive has no first namespace");
    };
    let lba = u64::from(namespace.lba_bytes);
    ensure(namespace.bytes() > 2 * SPARED, || format!("{} bytes", namespace.bytes()))?;
    let blocks = (namespace.bytes() - 2 * SPARED) / lba;
    let window = Some(Window { slba: SPARED / lba, blocks });
    Ok(Target { options, window, timeout: DEADLINE, ..target })
}

fn all(report: &mut Report, label: &str, target: &Target) {
    let start = Instant::now();
    for case in cases().iter().filter(|case| case.name != LEFT_OUT) {
        let outcome = match case.run(target) {
            Outcome::Passed => Ok(()),
            Outcome::NotOffered(why) => Err(Trouble::NotOffered(why)),
            Outcome::Failed(why) => Err(Trouble::Failed(why)),
        };
        report.tell(&format!("{label}: {}", case.name.replace('_', " ")), outcome);
    }
    report.note(format!("{label}: the suite took {:.1} s", start.elapsed().as_secs_f64()));
}
