//! Drives that leave a way that is not well for the next one, where section `fallback` asks for it.

use std::sync::Arc;

use gcos_engine::{CountedEngine, DemotingEngine, DemotionRules, Engine, KernelPath};

use super::{Drive, OpenError, kernel};
use crate::config::Config;

/// The engine of a drive, watched by the rules that there are. Without any it goes its one way: what a
/// failure means is then for the store to say.
pub(super) fn engine(config: &Config, drive: &Drive) -> Result<Arc<dyn Engine>, OpenError> {
    let engine = drive.engine();
    let rules = rules(config);
    if rules.is_off() {
        return Ok(CountedEngine::new(engine));
    }
    let name = engine.geometry().name.clone();
    let mut ways = vec![engine];
    if let Drive::File(first, _) = drive
        && first.path() == KernelPath::IoUring
        && config.kernel_path.force.is_none()
    {
        ways.push(kernel::next_way(config, first)?);
    }
    let watched = DemotingEngine::new(ways, &rules);
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
