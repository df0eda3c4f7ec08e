//! Many seeds: faults of all kinds come and go under puts and gets, drives are left and promoted, and the
//! power goes now and then.

use std::time::Duration;

use gcos_engine::{DemotionRules, IoErrorKind};
use gcos_store::{Durability, PutOptions};

use crate::faulty::At;
use crate::rig::{MIB, PATIENCE, Plan, Rig, bytes};

const KINDS: [IoErrorKind; 4] =
    [IoErrorKind::Media, IoErrorKind::Device, IoErrorKind::Timeout, IoErrorKind::Gone];
const OPS: [&str; 4] = ["", "write", "flush", "read"];
const PLACES: [At; 4] = [At::Start, At::Before, At::Half, At::After];

fn pick<T: Copy, const N: usize>(rng: &mut fastrand::Rng, of: [T; N]) -> T {
    of[rng.usize(0..N)]
}

fn history(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let count = rng.usize(1..4);
    let mut rig = Rig::new(Plan {
        drives: vec![16 * MIB; count],
        ways: rng.usize(1..3),
        spill: count > 1 && rng.bool(),
        patience: PATIENCE,
        rules: DemotionRules {
            max_errors: pick(&mut rng, [0, 2, 5]),
            error_window: Duration::from_secs(3),
            ..DemotionRules::default()
        },
    });
    let mut key = 0;
    for _ in 0..rng.u32(40..120) {
        let drive = &rig.drives[rng.usize(0..count)];
        match rng.u32(0..100) {
            // An error in a read of media takes the object away: that is no loss of ours.
            0..8 => {
                let (op, at) = (pick(&mut rng, OPS), pick(&mut rng, PLACES));
                let kind = pick(&mut rng, KINDS);
                let damages = kind == IoErrorKind::Media && matches!(op, "" | "read");
                let kind = if damages { IoErrorKind::Device } else { kind };
                drive.first.fail(op, at, kind, rng.u32(1..12));
            }
            8..16 => drive.first.heal(),
            16..24 => drop(rig.store().promote(rng.u8(0..count as u8))),
            24..28 => drop(rig.store().checkpoint()),
            28..32 => drop(rig.store().maintain()),
            32..36 => rig.reopen(),
            36..60 => {
                if key > 0 {
                    let wanted = rng.u64(0..key);
                    let found = rig.store().get_vec(&wanted.to_le_bytes()).unwrap();
                    if let Ok(got) = found {
                        assert!(got == bytes(wanted * 1000 + 1), "seed {seed}: key {wanted}");
                    }
                }
            }
            60..66 if key > 0 => {
                let gone = rng.u64(0..key);
                // With an error it may be back, or not.
                if let Ok(true) = rig.store().remove(&gone.to_le_bytes(), Durability::Sync) {
                    rig.removed.lock().unwrap().insert(gone);
                }
                rig.acknowledged.lock().unwrap().remove(&gone);
            }
            66..72 => {
                let (keys, sources): (Vec<_>, Vec<_>) =
                    (key..key + 6).map(|key| (key.to_le_bytes(), bytes(key * 1000 + 1))).unzip();
                let items: Vec<(&[u8], _)> = (keys.iter().zip(&sources))
                    .map(|(key, bytes)| (key.as_slice(), bytes.as_slice().into()))
                    .collect();
                let results = rig.store().put_many(&items, &PutOptions::default());
                for (key, result) in (key..).zip(results) {
                    if result.is_ok() {
                        rig.acknowledged.lock().unwrap().insert(key, key * 1000 + 1);
                    }
                }
                key += 6;
            }
            _ => {
                let _ = rig.put(key);
                key += 1;
            }
        }
    }
    rig.end();
}

#[test]
fn no_history_of_drives_that_fail_loses_what_was_acknowledged() {
    let seeds = std::env::var("GCOS_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    for seed in 0..seeds {
        let run = std::panic::catch_unwind(|| history(seed));
        assert!(run.is_ok(), "seed {seed}: see above");
    }
}
