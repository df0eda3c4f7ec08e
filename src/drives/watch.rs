//! What is around the engine of every drive: it is counted, and leaves a way that is not well for the next one,
//! where section `fallback` asks for it.

use std::sync::Arc;

use gcos_engine::{CountedEngine, DemotingEngine, DemotionRules, Engine, KernelPath};

use super::{Drive, OpenError, kernel};
use crate::config::Config;

/// The engine of a drive, watched by the rules that there are. Without any it goes its one way: what a
/// failure means is then for the store to say.
pub(super) fn engine(
    config: &Config,
    drive: &Drive,
    spill: bool,
) -> Result<Arc<dyn Engine>, OpenError> {
    let rules = rules(config);
    // What spills has nowhere else to go: there is nothing to leave it for.
    let engine = match spill || rules.is_off() {
        true => drive.engine(),
        false => watched(config, drive, &rules)?,
    };
    Ok(CountedEngine::new(engine))
}

fn watched(
    config: &Config,
    drive: &Drive,
    rules: &DemotionRules,
) -> Result<Arc<dyn Engine>, OpenError> {
    let engine = drive.engine();
    let name = engine.geometry().name.clone();
    let mut ways = vec![engine];
    if let Drive::File(first, _) = drive
        && first.path() == KernelPath::IoUring
        && config.kernel_path.force.is_none()
    {
        ways.push(kernel::next_way(config, first)?);
    }
    let watched = DemotingEngine::new(ways, rules);
    Ok(watched.map_err(|source| OpenError::Watch { path: name, source: Box::new(source) })?)
}

fn rules(config: &Config) -> DemotionRules {
    let fallback = &config.fallback;
    if fallback.max_errors == 0 && fallback.latency_multiple == 0 {
        return DemotionRules::off();
    }
    DemotionRules {
        max_errors: fallback.max_errors,
        latency_multiple: fallback.latency_multiple,
        ..DemotionRules::default()
    }
}
