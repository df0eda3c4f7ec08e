//! Makes a failing plan smaller while it still fails.

use std::time::{Duration, Instant};

use crate::history::{Options, run};
use crate::plan::{Decay, Plan};

/// A smaller plan that fails, and how.
#[derive(Debug, Clone)]
pub struct Minimal {
    /// The plan.
    pub plan: Plan,
    /// What is wrong with it.
    pub failure: String,
    /// Plans that were tried.
    pub tried: u32,
}

/// Drops rounds, clients, operations, faults and drives as long as what is left still fails, within a time.
#[must_use]
pub fn minimise(plan: &Plan, failure: &str, options: Options, within: Duration) -> Minimal {
    let end = Instant::now() + within;
    let mut best = Minimal { plan: plan.clone(), failure: failure.to_owned(), tried: 0 };
    let options = Options { verbose: false, ..options };
    loop {
        let before = size(&best.plan);
        let mut chunk = best.plan.ops().next_power_of_two();
        while chunk > 0 {
            for candidate in smaller(&best.plan, chunk) {
                if Instant::now() >= end {
                    return best;
                }
                // An earlier candidate may have been taken meanwhile; this one is then not smaller.
                if size(&candidate) >= size(&best.plan) {
                    continue;
                }
                best.tried += 1;
                if let Some(failure) = run(&candidate, options).failure {
                    (best.plan, best.failure) = (candidate, failure);
                    break;
                }
            }
            chunk /= 2;
        }
        if size(&best.plan) >= before {
            return best;
        }
    }
}

fn size(plan: &Plan) -> usize {
    let clients: usize = plan.rounds.iter().map(|round| round.clients.len()).sum();
    let extra = |round: &crate::plan::Round| {
        usize::from(round.cut_open.is_some()) + usize::from(round.missing != 0)
    };
    let opens: usize = plan.rounds.iter().map(extra).sum();
    usize::from(plan.cut_format.is_some())
        + 4 * plan.ops()
        + 4 * plan.faults()
        + 2 * clients
        + 3 * plan.rounds.len()
        + opens
        + plan.drives.len()
}

/// Plans with something less; of operations `chunk` at a time.
fn smaller(plan: &Plan, chunk: usize) -> Vec<Plan> {
    let mut out = Vec::new();
    let mut with = |change: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        change(&mut plan);
        out.push(plan);
    };
    for at in 0..plan.rounds.len() {
        with(&|plan| {
            plan.rounds.remove(at);
        });
        for client in 0..plan.rounds[at].clients.len() {
            with(&|plan| {
                plan.rounds[at].clients.remove(client);
            });
            let ops = plan.rounds[at].clients[client].len();
            for from in (0..ops).step_by(chunk) {
                with(&|plan| {
                    plan.rounds[at].clients[client].drain(from..(from + chunk).min(ops));
                });
            }
        }
        for fault in 0..plan.rounds[at].faults.len() {
            with(&|plan| {
                plan.rounds[at].faults.remove(fault);
            });
        }
        for decay in 0..plan.rounds[at].decay.len() {
            with(&|plan| {
                plan.rounds[at].decay.remove(decay);
            });
        }
        with(&|plan| plan.rounds[at].cut_open = None);
        with(&|plan| plan.rounds[at].missing = 0);
    }
    with(&|plan| plan.cut_format = None);
    if plan.drives.len() > 1 {
        with(&|plan| {
            plan.drives.pop();
            let left = plan.drives.len() as u8;
            for round in &mut plan.rounds {
                round.faults.retain(|fault| fault.drive < left);
                round.decay.retain(|&(drive, _): &(u8, Decay)| drive < left);
                round.missing &= (1 << left) - 1;
                if round.missing.count_ones() == u32::from(left) {
                    round.missing = 0;
                }
            }
        });
    }
    out
}
