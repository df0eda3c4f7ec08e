//! What must hold on any NVMe controller, as cases over a [`gcos_hw::Function`].
//!
//! The same suite runs over the software controller, over QEMU's controller and over real drives. A
//! [`Target`] says what is tested and which blocks may be overwritten; [`run`] carries out every case,
//! each on a controller that it brings up for itself, and tells how each [`Outcome`] came about.
//! Without a [`Window`] nothing is ever written.

mod cases;
mod consent;
mod outcome;
mod rig;
mod target;
mod window;

pub use cases::{Case, cases};
pub use consent::consent;
pub use outcome::{Outcome, Stop, Summary};
pub use target::{Target, Window};
pub use window::WindowEngine;

use std::time::{Duration, Instant};

/// Runs all cases in order. `told` hears of each as it ends, with the time that it took.
pub fn run(target: &Target, mut told: impl FnMut(&Case, &Outcome, Duration)) -> Summary {
    let mut summary = Summary::default();
    for case in cases() {
        let began = Instant::now();
        let outcome = case.run(target);
        told(case, &outcome, began.elapsed());
        summary.add(case.name, outcome);
    }
    summary
}
