//! The scenarios by name, and the roles of processes that they start.

mod bench;
mod hazards;
mod peer;
mod rig;
mod store;
mod suite;
mod unplug;
mod user;

use crate::report::{Report, Trouble};

/// Runs the scenario that a word names.
pub(crate) fn run(word: &str, report: &mut Report) -> Result<(), String> {
    match word {
        "bench" => bench::run(report),
        "hazards" => hazards::run(report),
        "peer" => peer::run(report),
        "rig" => rig::run(report),
        "store" => store::run(report),
        "suite" => suite::run(report),
        "unplug" => unplug::run(report),
        "user" => user::run(report),
        _ => return Err(format!("{word:?} is no scenario")),
    }
    Ok(())
}

/// Plays the role that a word names; `None` if there is no such role.
pub(crate) fn play(word: &str) -> Option<Result<(), Trouble>> {
    match word {
        "hold" => Some(store::hold()),
        "own" => Some(hazards::own()),
        "work" => Some(user::work()),
        _ => None,
    }
}
