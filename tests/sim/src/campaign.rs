//! Many histories: seeds, threads, progress, and what is printed of a failure.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::generate;
use crate::history::{Options, run};
use crate::minimise::{Minimal, minimise};
use crate::plan::Plan;

/// Which histories to run.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// Their seeds.
    pub seeds: Range<u64>,
    /// Threads that run them.
    pub jobs: usize,
    /// No new history is begun after this time.
    pub within: Option<Duration>,
    /// Failures after which no more are looked for.
    pub most_failures: usize,
    /// How long to make a failing history smaller.
    pub minimise: Duration,
    /// How to run each.
    pub options: Options,
}

/// A history that failed.
#[derive(Debug, Clone)]
pub struct Failed {
    /// Its seed.
    pub seed: u64,
    /// What was wrong.
    pub failure: String,
    /// The smallest history found that fails.
    pub minimal: Minimal,
}

/// What came out.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Histories that were run.
    pub histories: u64,
    /// Operations in them.
    pub operations: u64,
    /// Faults in them.
    pub faults: u64,
    /// Steps of drives.
    pub steps: u64,
    /// The digests of all of them as one number, whatever the order in which they were run.
    pub digest: u64,
    /// Those that failed, by seed.
    pub failed: Vec<Failed>,
}

/// Runs a campaign; `progress` is told how many histories are done.
pub fn campaign(campaign: &Campaign, progress: &(dyn Fn(u64) + Sync)) -> Summary {
    let next = AtomicU64::new(campaign.seeds.start);
    let (stop, summary) = (AtomicBool::new(false), Mutex::new(Summary::default()));
    let begun = Instant::now();
    let late = || campaign.within.is_some_and(|within| begun.elapsed() >= within);
    let work = || {
        while !stop.load(Ordering::Relaxed) && !late() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= campaign.seeds.end {
                return;
            }
            let plan = generate::plan(seed);
            let outcome = run(&plan, campaign.options);
            let done = {
                let mut summary = summary.lock();
                summary.histories += 1;
                summary.operations += plan.ops() as u64;
                summary.faults += plan.faults() as u64;
                summary.steps += outcome.steps;
                summary.digest =
                    summary.digest.wrapping_add(outcome.digest.rotate_left((seed % 64) as u32));
                summary.histories
            };
            progress(done);
            if let Some(failure) = outcome.failure {
                let minimal = minimise(&plan, &failure, campaign.options, campaign.minimise);
                let mut summary = summary.lock();
                summary.failed.push(Failed { seed, failure, minimal });
                let enough = summary.failed.len() >= campaign.most_failures;
                stop.fetch_or(enough, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..campaign.jobs.max(1) {
            scope.spawn(work);
        }
    });
    let mut summary = summary.into_inner();
    summary.failed.sort_by_key(|failed| failed.seed);
    summary
}

/// The commit that this was built from, as far as git says.
#[must_use]
pub fn commit() -> String {
    let mut git = std::process::Command::new("git");
    git.args(["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--short", "HEAD"]);
    let output = git.output().ok().filter(|output| output.status.success());
    output.map_or("unknown".to_owned(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}

/// A failure in words: what is needed to see it again.
#[must_use]
pub fn describe(failed: &Failed, options: Options) -> String {
    let Failed { seed, failure, minimal } = failed;
    let canary = options.canary.map_or(String::new(), |c| format!(" --canary {}", c.name()));
    let Plan { .. } = &minimal.plan;
    format!(
        "seed {seed}, commit {}: {failure}\nagain: gcos-sim --seed {seed}{canary} --verbose\n\
         smallest of {} tried: {}\n{}",
        commit(),
        minimal.tried,
        minimal.failure,
        minimal.plan
    )
}
