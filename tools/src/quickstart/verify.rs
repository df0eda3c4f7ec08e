//! After the kill: reopen, compare every byte, check the pool.

use std::time::{Duration, Instant};

use gcos::check::{CheckOptions, check};
use gcos::{Config, Lookup, Store};
use serde::Serialize;

use super::shape;
use crate::failure::Failure;
use crate::meter::Meter;
use crate::pool;

/// What was found after the kill.
#[derive(Debug, Default, Serialize)]
pub(super) struct Found {
    /// Objects recovered from the journal.
    pub(super) recovered: u64,
    /// Time that recovery took, in microseconds.
    pub(super) recovery_micros: u64,
    /// Acknowledged objects of which every byte is right.
    pub(super) right: u64,
    /// Acknowledged objects that are missing or wrong. Anything but 0 is a broken promise.
    pub(super) wrong: u64,
    /// Single layers fetched and right.
    pub(super) layers_right: u64,
    /// Single layers missing or wrong.
    pub(super) layers_wrong: u64,
    /// What became of the put that was cut short: "a miss" or "whole" (or "wrong").
    pub(super) interrupted: &'static str,
    /// Findings of the check that are worse than information.
    pub(super) check_findings: usize,
    #[serde(skip)]
    pub(super) get_time: Duration,
    #[serde(skip)]
    pub(super) layer_time: Duration,
}

impl Found {
    pub(super) fn all_right(&self) -> bool {
        self.wrong == 0
            && self.layers_wrong == 0
            && self.check_findings == 0
            && self.interrupted != "wrong"
    }
}

pub(super) fn verify(
    config: &Config,
    acknowledged: u64,
    interrupted: Option<u64>,
    meter: &Meter,
) -> Result<Found, Failure> {
    let store = pool::open_with(config)?;
    let mut found = Found {
        recovered: store.recovery().objects,
        recovery_micros: store.recovery().micros,
        ..Found::default()
    };
    whole_objects(&store, acknowledged, &mut found, meter)?;
    single_layers(&store, acknowledged, &mut found)?;
    found.interrupted = match interrupted {
        Some(object) => unacknowledged(&store, object)?,
        None => "a miss",
    };
    store.close()?;
    found.check_findings = check_pool(config)?;
    Ok(found)
}

fn whole_objects(
    store: &Store,
    objects: u64,
    found: &mut Found,
    meter: &Meter,
) -> Result<(), Failure> {
    let mut buffer = store.buffer(shape::OBJECT_BYTES)?;
    for object in 0..objects {
        buffer.bytes_mut()?.fill(0);
        let start = Instant::now();
        let lookup = store.get(shape::key(object).as_bytes(), &mut buffer)?;
        found.get_time += start.elapsed();
        let right = lookup.is_hit() && shape::pattern(object).matches(0, buffer.bytes_mut()?);
        if right {
            found.right += 1
        } else {
            found.wrong += 1
        }
        if let Lookup::Miss(reason) = lookup {
            tracing::error!(object, %reason, "acknowledged object missing");
        }
        meter.add(shape::OBJECT_BYTES as u64);
    }
    Ok(())
}

/// A few layers of each object, each fetched and verified by itself.
fn single_layers(store: &Store, objects: u64, found: &mut Found) -> Result<(), Failure> {
    let mut buffer = store.buffer(shape::LAYER_BYTES)?;
    for object in 0..objects {
        for step in 0..4 {
            let layer = (object * 7 + step * 9) % shape::LAYERS;
            let offset = layer * shape::LAYER_BYTES as u64;
            let start = Instant::now();
            let lookup =
                store.get_range(shape::key(object).as_bytes(), offset as u32, &mut buffer)?;
            found.layer_time += start.elapsed();
            let right =
                lookup.is_hit() && shape::pattern(object).matches(offset, buffer.bytes_mut()?);
            if right { found.layers_right += 1 } else { found.layers_wrong += 1 }
        }
    }
    Ok(())
}

/// The put that was cut short may have happened or not; never in part.
fn unacknowledged(store: &Store, object: u64) -> Result<&'static str, Failure> {
    match store.get_vec(shape::key(object).as_bytes())? {
        Err(_miss) => Ok("a miss"),
        Ok(bytes) if bytes.len() == shape::OBJECT_BYTES => {
            let right = shape::pattern(object).matches(0, &bytes);
            Ok(if right { "whole" } else { "wrong" })
        }
        Ok(_) => Ok("wrong"),
    }
}

fn check_pool(config: &Config) -> Result<usize, Failure> {
    let drives = pool::drives(config)?;
    let options =
        CheckOptions { data: true, io_deadline: config.io_deadline(), ..CheckOptions::default() };
    let report = check(&drives.engines, &options, &mut |_progress| {})?;
    pool::release(config, drives)?;
    let bad = report.findings.iter().filter(|f| f.severity != gcos::check::Severity::Info);
    bad.clone().for_each(|f| tracing::error!(what = f.what, detail = f.detail, "check finding"));
    Ok(bad.count())
}
