//! Repairs. Nothing is invented: what agrees or survived is written again. Each step leaves a pool
//! that opens, or that the next repair continues with.

mod checkpoint;
mod copies;
mod order;

use std::collections::{BTreeMap, BTreeSet};

use gcos_layout::media::MAX_EPOCH;

use crate::drive::Drive;
use crate::findings::{Findings, Fix};
use crate::metadata::Metadata;
use crate::objects::Objects;
use crate::pool::Pool;
use crate::{CheckError, DiskError, FindingCode, Phase, Progress};

fn failed(drive: &Drive<'_>, what: &'static str, source: DiskError) -> CheckError {
    CheckError::Disk { drive: drive.name().to_owned(), what, source: Box::new(source) }
}

fn skipped(drive: &Drive<'_>, what: &str, why: &str, findings: &mut Findings) {
    let detail = format!("not touched: {why}");
    findings.add(FindingCode::RepairSkipped, Fix::None, Some(drive.name()), what, detail);
}

/// Rewrites superblock copies that disagree, on every drive that may be written.
pub(crate) fn superblocks(pool: &mut Pool<'_>, findings: &mut Findings) -> Result<(), CheckError> {
    for drive in pool.drives.values_mut() {
        let fix = Fix::Copies(drive.position);
        if !findings.awaits(fix) {
            continue;
        }
        if let Some(why) = drive.frozen.clone() {
            skipped(drive, "superblock copies", &why, findings);
            continue;
        }
        copies::rewrite(drive, findings)?;
        findings.settle(fix);
    }
    Ok(())
}

/// Writes superblocks that follow the present ones where the state or the epoch was wrong.
pub(crate) fn successors(
    pool: &mut Pool<'_>,
    epoch: u64,
    findings: &mut Findings,
) -> Result<(), CheckError> {
    let known = pool.epoch();
    for drive in pool.drives.values_mut() {
        let fix = Fix::Successor(drive.position);
        if !findings.awaits(fix) {
            continue;
        }
        match drive.frozen.clone() {
            Some(why) => skipped(drive, "superblock", &why, findings),
            None if epoch.max(known) >= MAX_EPOCH => {
                skipped(drive, "superblock", "the epoch found cannot be true", findings);
            }
            None => {
                copies::succeed(drive, epoch, known, findings)?;
                findings.settle(fix);
            }
        }
    }
    Ok(())
}

/// Why no object and no checkpoint may be touched, if so.
fn obstacle(pool: &Pool<'_>) -> Option<String> {
    if !pool.missing.is_empty() {
        let missing = &pool.missing;
        return Some(format!("drives {missing:?} of the pool are missing; give all of them"));
    }
    let frozen = pool.drives.values().find_map(|d| Some((d.name(), d.frozen.as_ref()?)));
    frozen.map(|(name, why)| format!("drive {name} cannot be repaired: {why}"))
}

/// Writes fresh checkpoints of what survived to every drive that needs them.
pub(crate) fn checkpoints(
    pool: &Pool<'_>,
    metadata: &BTreeMap<u8, Metadata>,
    objects: &Objects,
    findings: &mut Findings,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), CheckError> {
    let wanted: BTreeSet<u8> = pool
        .drives
        .iter()
        .filter(|(_, drive)| findings.awaits(Fix::Checkpoint(drive.position)))
        .map(|(&index, _)| index)
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    if let Some(why) = obstacle(pool) {
        for drive in wanted.iter().filter_map(|&index| pool.drive(index)) {
            skipped(drive, "checkpoints, journal and objects", &why, findings);
        }
        return Ok(());
    }
    let order = order::order(&wanted, &objects.order());
    let Some(plans) = checkpoint::plan(&order, pool, metadata, objects, findings)? else {
        return Ok(());
    };
    let total = plans.len() as u64;
    for (done, plan) in (0..).zip(&plans) {
        progress(Progress { phase: Phase::Repair, done, total });
        plan.write_next(findings)?;
    }
    // The other area only after every drive has its first, so that an interrupted repair has not
    // forgotten anything on one drive that another still needs.
    for plan in &plans {
        plan.write_after(findings)?;
        findings.settle(Fix::Checkpoint(plan.position()));
    }
    progress(Progress { phase: Phase::Repair, done: total, total });
    Ok(())
}
