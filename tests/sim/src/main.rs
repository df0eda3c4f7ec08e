//! The simulator's command line.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports")]

use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use gcos_sim::campaign::{Campaign, Summary, campaign, commit, describe};
use gcos_sim::crash::{Bed, all_of, search_all};
use gcos_sim::generate;
use gcos_sim::history::{Options, run};
use gcos_store::Canary;

/// Simulates histories of a pool: workloads, faults and power cuts, drawn from seeds. Ends with 0 if no
/// history failed, 1 if one did, 2 if the command line is wrong.
#[derive(Debug, Parser)]
#[command(name = "gcos-sim")]
struct Args {
    /// Seeds of the histories, A..B.
    #[arg(long, value_parser = seeds, default_value = "0..1000")]
    seeds: Range<u64>,
    /// One history.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Cuts the power everywhere in all workloads of up to so many operations, instead.
    #[arg(long, conflicts_with_all = ["seeds", "seed"])]
    crashes: Option<usize>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Begins no history after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Plants a bug; `list` names them all.
    #[arg(long)]
    canary: Option<String>,
    /// Failures after which no more are looked for.
    #[arg(long, default_value_t = 1)]
    failures: usize,
    /// Seconds to spend on making a failing history smaller.
    #[arg(long, default_value_t = 20)]
    minimise: u64,
    /// One JSON object at the end.
    #[arg(long)]
    json: bool,
    /// With --seed: tells of every operation, and prints the plan.
    #[arg(long)]
    verbose: bool,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let parts = text.split_once("..").ok_or("expected A..B")?;
    let number = |part: &str| part.parse::<u64>().map_err(|error| format!("{part}: {error}"));
    Ok(number(parts.0)?..number(parts.1)?)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let canary = match args.canary.as_deref() {
        None => None,
        Some(name) => match Canary::ALL.iter().find(|canary| canary.name() == name) {
            Some(canary) => Some(*canary),
            None => {
                for canary in Canary::ALL {
                    println!("{:26} {}", canary.name(), canary.about());
                }
                return if name == "list" { ExitCode::SUCCESS } else { ExitCode::from(2) };
            }
        },
    };
    // A panic is a failure of a history, and reported as one.
    std::panic::set_hook(Box::new(|_| {}));
    let options = Options { canary, verbose: args.verbose && args.seed.is_some() };
    if let Some(steps) = args.crashes {
        return crashes(steps, canary, args.jobs);
    }
    let seeds = args.seed.map_or(args.seeds, |seed| seed..seed + 1);
    if options.verbose {
        let plan = generate::plan(seeds.start);
        println!("{plan}");
        let outcome = run(&plan, options);
        println!("digest {:016x}, {} steps, {:?}", outcome.digest, outcome.steps, outcome.failure);
        return if outcome.failure.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let begun = Instant::now();
    let all = seeds.end.saturating_sub(seeds.start);
    let work = Campaign {
        seeds,
        jobs: args.jobs,
        within: args.seconds.map(Duration::from_secs),
        most_failures: args.failures,
        minimise: Duration::from_secs(args.minimise),
        options,
    };
    let summary = campaign(&work, &|done| {
        if done.is_multiple_of(500) {
            eprintln!("{done} of {all} histories, {} s", begun.elapsed().as_secs());
        }
    });
    report(&summary, options, args.json, begun.elapsed());
    if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn crashes(most: usize, canary: Option<Canary>, jobs: usize) -> ExitCode {
    for drives in 1..=2 {
        for steps in 1..=most {
            let found =
                Bed::new(drives, canary).map_err(|error| error.to_string()).and_then(|bed| {
                    search_all(&bed, &all_of(steps), true, jobs).map_err(|lost| lost.to_string())
                });
            match found {
                Ok(found) => println!("{drives} drives, {steps} operations: {found:?}"),
                Err(lost) => {
                    println!("commit {}: {drives} drives: {lost}", commit());
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    ExitCode::SUCCESS
}

fn report(summary: &Summary, options: Options, json: bool, took: Duration) {
    let Summary { histories, operations, faults, steps, digest, failed } = summary;
    if json {
        let failed: Vec<_> = failed
            .iter()
            .map(|failed| {
                serde_json::json!({
                    "seed": failed.seed,
                    "failure": failed.failure,
                    "minimal": failed.minimal.plan.to_string(),
                })
            })
            .collect();
        let out = serde_json::json!({
            "commit": commit(), "histories": histories, "operations": operations,
            "faults": faults, "steps": steps, "digest": format!("{digest:016x}"), "seconds": took.as_secs_f64(), "failed": failed,
        });
        println!("{out}");
        return;
    }
    for one in failed {
        println!("{}", describe(one, options));
    }
    println!(
        "{histories} histories, {operations} operations, {faults} faults, {steps} steps, digest \
         {digest:016x}, in {:.1} s: {} failed",
        took.as_secs_f64(),
        failed.len()
    );
}
