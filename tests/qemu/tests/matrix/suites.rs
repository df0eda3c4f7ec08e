//! The whole suite on controllers of different shapes.

use crate::rig::{Shape, suite, target};

#[test]
fn the_suite_passes_on_blocks_of_512_bytes() {
    let machine = Shape::simple("").start();
    let began = std::time::Instant::now();
    let summary = gcos_hardware_tests::run(&target(&machine, 0, 512), |case, outcome, took| {
        eprintln!("{took:?} {} {outcome}", case.name);
    });
    eprintln!("{:?}", began.elapsed());
    assert!(summary.is_good());
    suite(&target(&machine, 0, 512), &[]);
}
