//! Crashes at every write and flush of small workloads, and of some long ones.

#![expect(clippy::panic, reason = "a crash that was not survived fails its test")]

use gcos_sim::crash::{Bed, MORTAL, Searched, Step, all_of, all_over, drawn, search_all};
use gcos_sim::formats;

/// Searches workloads with two threads; the first crash that was not survived fails the test.
fn search(bed: &Bed, workloads: &[Vec<Step>], last_only: bool) -> Searched {
    match search_all(bed, workloads, last_only, 2) {
        Ok(searched) => searched,
        Err(lost) => panic!("{lost}"),
    }
}

#[test]
fn every_crash_of_every_workload_of_up_to_three_operations_is_survived() {
    let bed = Bed::new(1, None).expect("a pool");
    let mut all = Searched::default();
    for steps in 1..=3 {
        all += search(&bed, &all_of(steps), true);
    }
    assert_eq!(all.workloads, 9 + 81 + 729);
    assert!(all.places > 3_000 && all.recoveries > 3_000, "{all:?}");
}

#[test]
fn every_crash_of_every_workload_of_up_to_two_operations_on_two_drives_is_survived() {
    let bed = Bed::new(2, None).expect("a pool");
    let mut all = Searched::default();
    for steps in 1..=2 {
        all += search(&bed, &all_of(steps), true);
    }
    assert!(all.recoveries > 500, "{all:?}");
}

#[test]
fn every_crash_of_workloads_in_which_objects_expire_is_survived_and_none_comes_back() {
    let expires = |steps: &Vec<Step>| {
        let put = steps.iter().position(|step| matches!(step, Step::Mortal(..)));
        put.is_some_and(|at| steps[at..].iter().any(|step| matches!(step, Step::Later(_))))
    };
    for (drives, most) in [(1, 4), (2, 3)] {
        let bed = Bed::new(drives, None).expect("a pool");
        let workloads: Vec<_> = (2..=most)
            .flat_map(|steps| all_over(&MORTAL, steps).into_iter().filter(expires))
            .collect();
        let found = search(&bed, &workloads, true);
        let (least, enough) = if drives == 1 { (200, 1_000) } else { (15, 50) };
        assert!(found.workloads > least && found.recoveries > enough, "{found:?}");
    }
}

#[test]
fn a_format_that_loses_power_anywhere_leaves_no_pool_an_empty_one_or_the_old_one() {
    for (drives, old) in [(1, None), (1, Some(true)), (1, Some(false)), (2, None), (2, Some(true))]
    {
        let found = formats::search(drives, old).unwrap_or_else(|lost| panic!("{old:?}: {lost}"));
        assert!(found.places > 10 && found.recoveries > 50, "{found:?}");
    }
}

#[test]
fn crashes_of_long_workloads_are_survived() {
    for drives in 1..=2 {
        let bed = Bed::new(drives, None).expect("a pool");
        let workloads: Vec<_> = (0..12).map(|seed| drawn(seed, 12)).collect();
        let found = search(&bed, &workloads, false);
        assert!(found.recoveries > 1_000, "{found:?}");
    }
}

#[test]
fn the_search_finds_a_flush_that_is_missing_and_a_frame_without_fua() {
    use gcos_store::Canary;
    for canary in [Canary::MissingFlush, Canary::NoFua, Canary::RelaxedAsSync] {
        let bed = Bed::new(1, Some(canary)).expect("a pool");
        let found = all_of(1).iter().any(|steps| bed.search(steps, true, 1).is_err());
        assert!(found, "{canary:?} was not found");
    }
}
