//! Superblock copies: one at a time, never one of those that agree while fewer than two others do.

use crate::CheckError;
use crate::drive::Drive;
use crate::findings::Findings;

use super::failed;

const WHAT: &str = "writing a superblock copy";

/// Writes what the quorum says over the copies that say something else.
pub(super) fn rewrite(drive: &mut Drive<'_>, findings: &mut Findings) -> Result<(), CheckError> {
    if !drive.quorum.rewrite.is_empty() {
        let (copies, sequence) = (&drive.quorum.rewrite, drive.superblock().sequence);
        let what = format!("superblock {sequence} over copies {copies:?}");
        findings.act(drive.name(), what);
    }
    for &copy in &drive.quorum.rewrite {
        put(drive, copy, &drive.quorum.raw)?;
    }
    drive.quorum.rewrite.clear();
    Ok(())
}

/// Writes the superblock that follows: ready, and in an epoch not below `epoch`. At any time two copies
/// agree, on the one before or on this one.
///
/// Where one copy alone was left, nothing tells how many updates it missed: the new one goes to the
/// others first, and in an epoch above all that are `known` of the pool. No two copies agree before
/// that epoch is in both, so nothing is opened in an epoch that was used before.
pub(super) fn succeed(
    drive: &mut Drive<'_>,
    epoch: u64,
    known: u64,
    findings: &mut Findings,
) -> Result<(), CheckError> {
    let mut next = drive.superblock().successor();
    next.state = gcos_layout::media::DriveState::Ready;
    next.epoch = next.epoch.max(epoch);
    let mut order: Vec<usize> = Vec::new();
    if drive.quorum.lone {
        next.epoch = next.epoch.max(known) + 1;
        next.clean = false;
        order.clone_from(&drive.quorum.rewrite);
    } else {
        rewrite(drive, findings)?;
    }
    order.extend(
        (0..drive.quorum.offsets.len()).filter(|copy| !drive.quorum.rewrite.contains(copy)),
    );
    let raw = next.encode().to_vec();
    let what = format!("superblock {} in epoch {} to all copies", next.sequence, next.epoch);
    findings.act(drive.name(), what);
    for copy in order {
        put(drive, copy, &raw)?;
    }
    drive.quorum.superblock = next;
    drive.quorum.raw = raw;
    drive.quorum.rewrite.clear();
    drive.quorum.lone = false;
    Ok(())
}

fn put(drive: &Drive<'_>, copy: usize, raw: &[u8]) -> Result<(), CheckError> {
    let Some(&offset) = drive.quorum.offsets.get(copy) else { return Ok(()) };
    let written = drive.disk.write(offset, raw, true);
    written.map_err(|source| failed(drive, WHAT, source))
}
