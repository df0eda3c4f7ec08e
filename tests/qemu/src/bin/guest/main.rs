//! The program that runs in the guest: scenarios over real VFIO, an IOMMU and QEMU's controllers.
//!
//! Usage: `guest SCENARIO` or, for processes that a scenario starts, `guest ROLE`.
//! What it prints is described in `gcos_qemu_tests::guest`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its report is what it is for")]

mod child;
mod command;
mod drive;
mod kernel;
mod load;
mod raw;
mod report;
mod scenarios;
mod sysfs;

use std::process::ExitCode;

use report::Report;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // To the console: what the driver has to say of itself.
    let filter = EnvFilter::try_from_env("GCOS_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let word = std::env::args().nth(1).unwrap_or_default();
    if let Some(played) = scenarios::play(&word) {
        return match played {
            Ok(()) => ExitCode::SUCCESS,
            Err(trouble) => {
                println!("{trouble:?}");
                ExitCode::FAILURE
            }
        };
    }
    let mut report = Report::default();
    match scenarios::run(&word, &mut report) {
        Ok(()) => report.finish(),
        Err(why) => {
            eprintln!("guest: {why}");
            ExitCode::from(2)
        }
    }
}
