//! What the driver costs: time inside submitting and inside the poll that reaps, command by command.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos::engine::{Engine, Geometry, NoopEngine, Request, Ticket};
use gcos::open_drives;
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::json;

use super::plan::Plan;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, table};

const SIZE: usize = 4096;
const DEPTH: usize = 32;
const DEADLINE: Duration = Duration::from_secs(30);

/// Nanoseconds per command, the clock's own cost taken off.
#[derive(Debug, Serialize)]
struct Cost {
    path: &'static str,
    commands: u64,
    submit_ns_p50: f64,
    reap_ns_p50: f64,
    submit_ns_mean: f64,
    reap_ns_mean: f64,
    /// Submitting and reaping, medians.
    ns_per_command: f64,
}

/// `gcos bench --driver-cost`.
pub(super) fn run(plan: &Plan, out: &Output) -> Result<Outcome, Failure> {
    let time = Duration::from_secs_f64(plan.seconds.max(0.5));
    let clock = clock_ns();
    let mut costs = Vec::new();
    let config = match plan.targets.as_slice() {
        [target] => plan.config(target)?,
        _ => None,
    };
    let Some(config) = config else {
        return Err(Failure::usage("--driver-cost: --path must be emulated:ram:SIZE"));
    };
    let drives = open_drives(&config, false)?;
    if let Some(engine) = drives.engines.first() {
        let noop: Arc<dyn Engine> = Arc::new(NoopEngine::new(
            Geometry { name: "noop".to_owned(), ..engine.geometry().clone() },
            Arc::clone(&drives.dma),
        ));
        costs.push(measure("no-op engine", noop.as_ref(), time, clock)?);
        costs.push(measure(
            "NVMe host queues, controller in memory",
            engine.as_ref(),
            time,
            clock,
        )?);
    }
    crate::pool::release(&config, drives)?;
    let document = json!({ "size": SIZE, "depth": DEPTH, "clock_ns": clock, "costs": costs });
    let row = |cost: &Cost| {
        let ns = |value: f64| format!("{value:.0} ns");
        vec![
            cost.path.to_owned(),
            cost.commands.to_string(),
            ns(cost.ns_per_command),
            ns(cost.submit_ns_p50),
            ns(cost.reap_ns_p50),
            ns(cost.submit_ns_mean),
            ns(cost.reap_ns_mean),
        ]
    };
    let header = [
        "4 KiB reads, 32 in flight",
        "commands",
        "per command",
        "submit p50",
        "reap p50",
        "submit mean",
        "reap mean",
    ];
    let text = format!(
        "{}\nTime inside the calls only, less the clock's own {clock:.0} ns; per command: both medians together.\n\
         The software controller works in a thread of its own.",
        table(&header, costs.iter().map(row).collect(), &[1, 2, 3, 4, 5, 6])
    );
    out.result(&document, text);
    Ok(Outcome::Good)
}

/// What reading the clock adds to each measurement.
fn clock_ns() -> f64 {
    let rounds = 100_000u32;
    let start = Instant::now();
    for _ in 0..rounds {
        std::hint::black_box(Instant::now());
    }
    start.elapsed().as_nanos() as f64 / f64::from(rounds)
}

fn measure(
    path: &'static str,
    engine: &dyn Engine,
    time: Duration,
    clock: f64,
) -> Result<Cost, Failure> {
    let buffer = engine.dma().alloc(SIZE * DEPTH)?;
    let new = || Histogram::<u64>::new(3).map_err(|e| Failure::new("internal", e.to_string()));
    let (mut submit, mut reap) = (new()?, new()?);
    let mut random = fastrand::Rng::with_seed(1);
    let slots = engine.geometry().capacity.min(64 << 20) / SIZE as u64;
    let mut start = |slot: usize| -> Result<Box<dyn Ticket>, Failure> {
        let memory = buffer.slice(slot * SIZE, SIZE)?;
        let request = Request::read(random.u64(0..slots) * SIZE as u64, memory, DEADLINE);
        let before = Instant::now();
        let ticket = engine.submit(request)?;
        submit.saturating_record(before.elapsed().as_nanos() as u64);
        Ok(ticket)
    };
    let end = Instant::now() + time;
    let mut flights = (0..DEPTH).map(&mut start).collect::<Result<Vec<_>, _>>()?;
    while Instant::now() < end {
        for (slot, flight) in flights.iter_mut().enumerate() {
            let before = Instant::now();
            let polled = flight.poll();
            let took = before.elapsed();
            if let Some(result) = polled {
                result?;
                reap.saturating_record(took.as_nanos() as u64);
                *flight = start(slot)?;
            }
        }
    }
    for flight in flights {
        flight.wait()?;
    }
    let net = |value: f64| (value - clock).max(0.0);
    let submit_ns_p50 = net(submit.value_at_quantile(0.5) as f64);
    let reap_ns_p50 = net(reap.value_at_quantile(0.5) as f64);
    Ok(Cost {
        path,
        commands: reap.len(),
        submit_ns_p50,
        reap_ns_p50,
        ns_per_command: submit_ns_p50 + reap_ns_p50,
        submit_ns_mean: net(submit.mean()),
        reap_ns_mean: net(reap.mean()),
    })
}
