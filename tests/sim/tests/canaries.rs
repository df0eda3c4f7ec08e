//! Each planted bug is found within a bounded number of histories, or of crashes.

use gcos_sim::crash::{Bed, Step};
use gcos_sim::generate;
use gcos_sim::history::{Options, run};
use gcos_store::Canary;
use parking_lot::Mutex;

/// Histories within which each bug must be found.
const BOUND: u64 = 1000;

/// Bugs that show only where the power goes between the checkpoints of two drives: the search of crashes
/// finds them, in this workload.
const AT_ONE_PLACE: &[(Canary, &[Step])] = &[(
    Canary::FollowForgotten,
    &[
        Step::Put(1, 5_000),
        Step::Put(0, 700),
        Step::Put(0, 9_000),
        Step::Remove(0),
        Step::Checkpoint,
    ],
)];

#[test]
fn bugs_that_show_at_one_place_are_found_by_the_search_of_crashes() {
    for (canary, steps) in AT_ONE_PLACE {
        let planted = Bed::new(2, Some(*canary)).map(|bed| bed.search(steps, true, 1));
        let found = planted.expect("a pool").expect_err("a crash that is not survived");
        let none = Bed::new(2, None).expect("a pool").search(steps, true, 1);
        assert!(none.is_ok(), "{none:?}, and with {canary:?} {found}");
    }
}

/// How many histories it takes to find a bug.
fn seeds_needed(canary: Canary) -> Option<u64> {
    let options = Options { canary: Some(canary), verbose: false };
    (0..BOUND).find(|&seed| run(&generate::plan(seed), options).failure.is_some())
}

#[test]
fn every_planted_bug_is_found_within_a_thousand_histories() {
    let at_one_place = |canary: &&Canary| AT_ONE_PLACE.iter().any(|(other, _)| other == *canary);
    let all: Vec<_> = Canary::ALL.iter().filter(|canary| !at_one_place(canary)).collect();
    // A panic is one of the ways in which a bug is found.
    std::panic::set_hook(Box::new(|_| {}));
    let (next, found) = (Mutex::new(all.iter()), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let canary = next.lock().next();
            let Some(&&canary) = canary else { return };
            let needed = seeds_needed(canary);
            found.lock().push((canary, needed));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
    let _ = std::panic::take_hook();
    let mut found = found.into_inner();
    found.sort_unstable();
    for (canary, needed) in &found {
        println!("{:26} {needed:?}", canary.name());
    }
    let missed: Vec<_> = found.iter().filter(|(_, needed)| needed.is_none()).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
    assert!(found.len() >= 12);
}
