//! The store on top, within the window.

use std::sync::Arc;

use gcos_check::{CheckOptions, check};
use gcos_engine::{Engine, HostQueueEngine};
use gcos_layout::media::ZoneChunks;
use gcos_store::{Durability, FormatOptions, IfExists, OpenOptions, PutOptions, Store, format};

use crate::outcome::ensure;
use crate::rig::Rig;
use crate::{Stop, Target, WindowEngine};

const OBJECTS: u64 = 24;

fn engine(target: &Target) -> Result<Arc<dyn Engine>, Stop> {
    let rig = Rig::open(target)?;
    let window = rig.window(24 << 20)?;
    let engine = HostQueueEngine::new(Arc::clone(&rig.controller), rig.nsid)?;
    Ok(Arc::new(WindowEngine::new(Arc::new(engine), window)))
}

fn payload(seed: u64, key: u64, version: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed ^ (key << 8) ^ version);
    let mut out = vec![0; rng.usize(1..400_000)];
    rng.fill(&mut out);
    out
}

/// What the object of a key must be after all that the case has done.
fn expected(seed: u64, key: u64) -> Option<Vec<u8>> {
    match key % 4 {
        0 => None,
        1 => Some(payload(seed, key, 2)),
        _ => Some(payload(seed, key, 1)),
    }
}

fn compare(store: &Store, seed: u64, when: &str) -> Result<(), Stop> {
    for key in 0..OBJECTS {
        let got = store.get_vec(&key.to_le_bytes())?;
        match (got, expected(seed, key)) {
            (Ok(got), Some(expected)) => {
                ensure!(got == expected, "object {key} {when}: other bytes than were put");
            }
            (Err(_), None) => {}
            (Ok(_), None) => return Err(Stop::failed(format!("object {key} is back {when}"))),
            (Err(reason), Some(_)) => {
                return Err(Stop::failed(format!("object {key} is missing {when}: {reason}")));
            }
        }
    }
    Ok(())
}

fn fsck(drive: &Arc<dyn Engine>, target: &Target) -> Result<(), Stop> {
    let options =
        CheckOptions { data: true, io_deadline: target.timeout, ..CheckOptions::default() };
    let report = check(&[Arc::clone(drive)], &options, &mut |_| {})?;
    ensure!(report.is_clean(), "fsck found {:?}", report.findings);
    Ok(())
}

pub(super) fn a_store_keeps_its_objects_over_reopening_and_passes_fsck(
    target: &Target,
) -> Result<(), Stop> {
    let seed = target.seed;
    let drive = engine(target)?;
    let chunks = ZoneChunks { superblock: 4096, meta: 65_536, data: 512 << 10 };
    let options = FormatOptions {
        chunks,
        force: true,
        io_deadline: target.timeout,
        ..FormatOptions::default()
    };
    format(std::slice::from_ref(&drive), &options)?;
    let open = OpenOptions { io_deadline: target.timeout, ..OpenOptions::default() };
    let store = Store::open(vec![drive], open.clone())?;
    let put = PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() };
    for key in 0..OBJECTS {
        store.put(&key.to_le_bytes(), payload(seed, key, 1).as_slice(), &put)?;
    }
    for key in 0..OBJECTS {
        let name = key.to_le_bytes();
        match key % 4 {
            0 => drop(store.remove(&name, Durability::Sync)?),
            1 => drop(store.put(&name, payload(seed, key, 2).as_slice(), &put)?),
            _ => {}
        }
    }
    compare(&store, seed, "before closing")?;
    store.close()?;

    // Closed in order; then opened once more and left without closing.
    let drive = engine(target)?;
    fsck(&drive, target)?;
    let store = Store::open(vec![drive], open.clone())?;
    ensure!(store.recovery().clean, "the pool was closed in order but does not say so");
    compare(&store, seed, "after closing")?;
    drop(store);
    let drive = engine(target)?;
    fsck(&drive, target)?;
    let store = Store::open(vec![drive], open)?;
    compare(&store, seed, "after an end without closing")?;
    Ok(store.close()?)
}
