//! Many threads of mixed operations on a pool that is always full.
//!
//! `GCOS_LOAD_SECONDS` says for how long, 20 if it is not set. `GCOS_LOAD_SANITIZED` says that a
//! sanitizer's memory and time come on top, so that only what is independent of both is asserted.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::time::Duration;

use gcos_load_tests::{Load, Rig};

const MIB: u64 = 1 << 20;

/// No operation takes longer: half of the time that the store gives one I/O.
const LONGEST: Duration = Duration::from_secs(5);

fn seconds() -> u64 {
    std::env::var("GCOS_LOAD_SECONDS").map_or(20, |text| text.parse().unwrap())
}

#[test]
fn many_threads_see_what_a_model_allows_in_bounded_memory_and_time_while_objects_are_evicted() {
    let sanitized = std::env::var_os("GCOS_LOAD_SANITIZED").is_some();
    let rig = Rig::new(2, 48 * MIB);
    let load = Load { threads: 8, keys: 1500, time: Duration::from_secs(seconds()), seed: 1 };
    let report = load.run(&rig);
    assert!(report.evicted > 0, "the pool was never full");
    assert!(report.hits > report.by_thread.len() as u64 * 10, "hardly anything was found");
    let (least, most) = (report.by_thread.iter().min(), report.by_thread.iter().max());
    let (least, most) = (*least.unwrap(), *most.unwrap());
    assert!(least * 10 >= most, "a thread starves: {:?}", report.by_thread);
    if sanitized {
        return;
    }
    let longest = report.latencies.longest();
    assert!(longest < LONGEST, "an operation took {longest:?}");
    // Media in memory, their write caches, staging of three sizes, and what threads hold.
    let (before, most) = report.resident;
    let bound = rig.media_bytes() + 2 * 4 * MIB + 3 * 32 * MIB + 8 * 16 * MIB;
    assert!(most - before < bound, "{} MiB more than before", (most - before) >> 20);
}
