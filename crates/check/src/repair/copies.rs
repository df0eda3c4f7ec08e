//! Superblock copies: one at a time, never one of those that agree while fewer than two others do.

use crate::CheckError;
use crate::drive::Drive;

use super::failed;

const WHAT: &str = "writing a superblock copy";

/// Writes what the quorum says over the copies that say something else.
pub(super) fn rewrite(drive: &mut Drive<'_>) -> Result<(), CheckError> {
    for &copy in &drive.quorum.rewrite {
        let Some(&offset) = drive.quorum.offsets.get(copy) else { continue };
        let written = drive.disk.write(offset, &drive.quorum.raw, true);
        written.map_err(|source| failed(drive, WHAT, source))?;
    }
    drive.quorum.rewrite.clear();
    Ok(())
}

/// Writes the superblock that follows: ready, and in an epoch not below `epoch`. All copies agree
/// before, so that at any time two agree, on the one or on the other.
pub(super) fn succeed(drive: &mut Drive<'_>, epoch: u64) -> Result<(), CheckError> {
    rewrite(drive)?;
    let mut next = drive.superblock().successor();
    next.state = gcos_layout::media::DriveState::Ready;
    next.epoch = next.epoch.max(epoch);
    let raw = next.encode().to_vec();
    for &offset in &drive.quorum.offsets {
        let written = drive.disk.write(offset, &raw, true);
        written.map_err(|source| failed(drive, WHAT, source))?;
    }
    drive.quorum.superblock = next;
    drive.quorum.raw = raw;
    Ok(())
}
