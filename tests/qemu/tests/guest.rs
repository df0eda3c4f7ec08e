//! The driver in a Linux guest: VFIO, an IOMMU, QEMU's controllers. Run by `tests/qemu/run guest`.
#![cfg(feature = "qemu")]

use gcos_qemu_tests::guest::{Boot, Drive};

const MIB: u64 = 1 << 20;

#[test]
fn the_rig_has_what_the_scenarios_count_on() {
    let report = Boot::of("rig").drive(Drive::file(64 * MIB)).peer().run().unwrap();
    assert_eq!(report.cases.len(), 4, "{report}");
}
