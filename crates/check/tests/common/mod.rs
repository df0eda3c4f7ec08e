//! A drive in memory and a pool written by hand from the codecs.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod build;
mod drive;

pub use build::{Builder, Object, chunks};
pub use drive::{Memory, images, restore};

use std::sync::Arc;

use gcos_check::{CheckError, CheckOptions, FindingCode, Report};
use gcos_engine::Engine;

pub fn run(drives: &[Arc<Memory>], data: bool, repair: bool) -> Result<Report, CheckError> {
    check(drives, &CheckOptions { data, repair, ..CheckOptions::default() })
}

pub fn check(drives: &[Arc<Memory>], options: &CheckOptions) -> Result<Report, CheckError> {
    let engines: Vec<Arc<dyn Engine>> =
        drives.iter().map(|d| Arc::clone(d) as Arc<dyn Engine>).collect();
    gcos_check::check(&engines, options, &mut |_| ())
}

/// A check with data, which must not write.
pub fn look(drives: &[Arc<Memory>]) -> Report {
    let before: u64 = drives.iter().map(|d| d.writes()).sum();
    let report = run(drives, true, false).unwrap();
    assert_eq!(drives.iter().map(|d| d.writes()).sum::<u64>(), before, "a check wrote");
    report
}

pub fn repair(drives: &[Arc<Memory>]) -> Report {
    run(drives, true, true).unwrap()
}

#[track_caller]
pub fn assert_clean(report: &Report) {
    assert!(report.is_clean(), "{:#?}", report.findings);
}

#[track_caller]
pub fn assert_finds(report: &Report, code: FindingCode) {
    assert!(report.count(code) > 0, "expected {code:?}, found {:#?}", report.findings);
}

/// Finds the code, repairs, and finds nothing any more.
#[track_caller]
pub fn assert_repairs(drives: &[Arc<Memory>], code: FindingCode) -> Report {
    assert_finds(&look(drives), code);
    let repaired = repair(drives);
    assert_finds(&repaired, code);
    assert!(repaired.is_repaired(), "{:#?}", repaired.findings);
    let again = look(drives);
    assert_clean(&again);
    assert_eq!(
        (again.objects, again.payload_bytes, again.used_bytes),
        (repaired.objects, repaired.payload_bytes, repaired.used_bytes)
    );
    again
}
