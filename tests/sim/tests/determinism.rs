//! The same seed does the same, whatever else the machine does meanwhile.

use gcos_sim::generate;
use gcos_sim::history::{Options, run};

/// Seeds whose histories have several clients or several drives, and some that have neither.
const SEEDS: std::ops::Range<u64> = 0..60;

#[test]
fn the_same_seed_gives_the_same_events_in_the_same_order() {
    let plans: Vec<_> = SEEDS.map(generate::plan).collect();
    let several = |plan: &&gcos_sim::plan::Plan| plan.rounds.iter().any(|r| r.clients.len() > 1);
    assert!(plans.iter().filter(several).count() > 10, "interleaved clients are what may differ");
    let first: Vec<_> = plans.iter().map(|plan| run(plan, Options::default())).collect();
    // Once more, with four at a time.
    let again = std::thread::scope(|scope| {
        let parts = plans.chunks(plans.len() / 4);
        let threads: Vec<_> = parts
            .map(|part| {
                let each = || part.iter().map(|plan| run(plan, Options::default()));
                scope.spawn(move || each().collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|t| t.join().unwrap_or_default()).collect::<Vec<_>>()
    });
    for ((seed, first), again) in SEEDS.zip(&first).zip(&again) {
        assert_eq!(first, again, "seed {seed}");
    }
    let digests: std::collections::HashSet<_> = first.iter().map(|one| one.digest).collect();
    assert_eq!(digests.len(), plans.len(), "the digest tells histories apart");
}
