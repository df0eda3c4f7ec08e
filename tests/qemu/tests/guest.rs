//! The driver in a Linux guest: VFIO, an IOMMU, QEMU's controllers. Run by `tests/qemu/run guest`.
#![cfg(feature = "qemu")]

use gcos_qemu_tests::guest::{Boot, Drive, Report};

const MIB: u64 = 1 << 20;

/// The report of a run that passed, printed.
fn passed(run: Result<Report, String>) -> Report {
    let report = run.unwrap_or_else(|why| panic!("{why}"));
    print!("{report}");
    report
}

#[test]
fn the_rig_has_what_the_scenarios_count_on() {
    let report = passed(Boot::of("rig").drive(Drive::file(64 * MIB)).peer().run());
    assert_eq!(report.cases.len(), 4);
}
