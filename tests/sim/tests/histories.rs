//! Histories in which nothing may be wrong.

use std::time::Duration;

use gcos_sim::campaign::{Campaign, campaign, describe};
use gcos_sim::history::Options;

/// Histories that every change must pass.
const HISTORIES: u64 = 2_000;

#[test]
fn no_history_of_two_thousand_breaks_the_promise() {
    let count = std::env::var("GCOS_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(HISTORIES);
    let options = Options::default();
    let work = Campaign {
        seeds: 0..count,
        jobs: 2,
        within: None,
        most_failures: 3,
        minimise: Duration::from_secs(20),
        options,
    };
    let summary = campaign(&work, &|_| {});
    let failed: Vec<_> = summary.failed.iter().map(|one| describe(one, options)).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(summary.histories, count);
    assert!(summary.faults > count && summary.operations > 20 * count, "{summary:?}");
}
