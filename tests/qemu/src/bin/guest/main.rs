//! The program that runs in the guest: scenarios over real VFIO, an IOMMU and QEMU's controllers.
//!
//! Usage: `guest SCENARIO` or, for processes that a scenario starts, `guest ROLE ARGUMENTS`.
//! What it prints is described in `gcos_qemu_tests::guest`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its report is what it is for")]

mod kernel;
mod report;
mod scenarios;
mod sysfs;

use std::process::ExitCode;

use report::Report;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut report = Report::default();
    match scenarios::run(&words, &mut report) {
        Ok(()) => report.finish(),
        Err(why) => {
            eprintln!("guest {}: {why}", arguments.join(" "));
            ExitCode::from(2)
        }
    }
}
