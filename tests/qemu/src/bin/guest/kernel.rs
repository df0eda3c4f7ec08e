//! The kernel's log.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::report::{Trouble, failed};

/// How long the kernel may take to log a fault that has happened.
const SETTLE: Duration = Duration::from_millis(100);

/// The whole log.
pub(crate) fn log() -> Result<String, Trouble> {
    let output = Command::new("dmesg").output()?;
    if !output.status.success() {
        return failed(format!("dmesg: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Faults of the IOMMU so far.
pub(crate) fn faults() -> Result<usize, Trouble> {
    thread::sleep(SETTLE);
    let log = log()?;
    Ok(log.lines().filter(|line| line.contains("DMAR:") && line.contains("fault")).count())
}

/// Runs `action` in a stretch of the log in which faults are expected; they fail the run elsewhere.
pub(crate) fn expecting_faults<T>(
    action: impl FnOnce() -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    mark("faults are expected")?;
    let result = action();
    thread::sleep(SETTLE);
    mark("faults are over")?;
    result
}

fn mark(text: &str) -> Result<(), Trouble> {
    Ok(fs::write("/dev/kmsg", format!("<5>gcos-guest: {text}\n"))?)
}
