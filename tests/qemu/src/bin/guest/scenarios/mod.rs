//! The scenarios by name.

mod rig;

use crate::report::Report;

/// Runs what the words name.
pub(crate) fn run(words: &[&str], report: &mut Report) -> Result<(), String> {
    match words {
        ["rig"] => rig::run(report),
        _ => return Err(format!("{words:?} is no scenario")),
    }
    Ok(())
}
