//! Bringing a drive back that its engine took out of use.

use crate::drive::read_superblock;
use crate::pool::Pool;
use crate::{DriveHealth, DriveInfo, StoreError, drive::DriveStatus, turns};
use gcos_layout::media::BLOCK_BYTES;

impl Pool {
    /// Takes a drive into use again.
    pub(crate) fn promote(&self, drive: u8) -> Result<(), StoreError> {
        let Some(member) = self.member(drive) else {
            return Err(StoreError::invalid("drive", "the index of one that is there", drive));
        };
        let drive = &member.drive;
        if drive.in_doubt() {
            return Err(drive.failed(
                "its journal or its cache could not be written, so what it holds is known only after \
                 the pool was closed and opened again",
            ));
        }
        drive.io.engine.promote(self.options.io_deadline)?;
        if drive.online() {
            return Ok(());
        }
        let found = {
            let expected = turns::lock(&drive.superblock);
            read_superblock(&drive.io, self.options.capacity)?.superblock == *expected
        };
        if !found {
            return Err(drive.failed(
                "its superblock is not what was written to it: it was used by somebody else, or is \
                 another drive; close the pool and open it again",
            ));
        }
        drive.promote();
        let mut state = self.state.lock();
        let removals = state.untold(drive.index);
        self.enqueue(removals);
        drop(state);
        self.write_journals(1 << drive.index)
    }

    /// What is known of each drive of the pool.
    pub(crate) fn drives(&self) -> Vec<DriveInfo> {
        let state = self.state.lock();
        let bytes = |blocks: u64| blocks * BLOCK_BYTES as u64;
        let info = |(index, member): (u8, &Option<crate::pool::Member>)| {
            let (used, all) = state.blocks(1 << index);
            let missing = DriveInfo {
                index,
                name: String::new(),
                health: DriveHealth::Missing,
                spill: self.spill & (1 << index) != 0,
                way: String::new(),
                reason: String::new(),
                demotions: 0,
                requests_under_way: 0,
                bytes_under_way: 0,
                used_bytes: bytes(used),
                capacity_bytes: bytes(all),
            };
            let Some(member) = member else { return missing };
            let (engine, way) = (&member.drive.io.engine, member.drive.io.engine.way());
            let under_way = engine.under_way();
            DriveInfo {
                name: member.drive.io.name().to_owned(),
                health: match member.drive.status() {
                    DriveStatus::Online => DriveHealth::Online,
                    DriveStatus::ReadOnly => DriveHealth::ReadOnly,
                    DriveStatus::Demoted => DriveHealth::Demoted,
                    DriveStatus::Gone => DriveHealth::Gone,
                },
                way: way.name.to_owned(),
                reason: way.reason,
                demotions: engine.demotions().total(),
                requests_under_way: under_way.requests,
                bytes_under_way: under_way.bytes,
                ..missing
            }
        };
        (0..).zip(&self.members).map(info).collect()
    }
}
