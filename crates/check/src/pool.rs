//! The drives that make one pool.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use gcos_layout::media::{DriveState, Uuid};

use crate::FindingCode;
use crate::drive::{Drive, uuid_text};
use crate::findings::{Findings, Fix};

/// The members present, by index.
#[derive(Debug)]
pub(crate) struct Pool<'a> {
    pub(crate) uuid: Uuid,
    pub(crate) drives: BTreeMap<u8, Drive<'a>>,
    /// Number of drives that the pool has.
    pub(crate) members: usize,
    /// Indices of those that are not present.
    pub(crate) missing: Vec<u16>,
    /// Whether format ended on any drive.
    pub(crate) ready: bool,
}

impl<'a> Pool<'a> {
    /// Sorts the drives out; `None` when there are none. A drive that does not fit the others is
    /// noted and left alone.
    pub(crate) fn assemble(given: Vec<Drive<'a>>, findings: &mut Findings) -> Option<Self> {
        let uuid = main_pool(&given)?;
        let (ours, others): (Vec<_>, Vec<_>) =
            given.into_iter().partition(|drive| drive.superblock().pool_uuid == uuid);
        for drive in others {
            let (its, main) = (uuid_text(&drive.superblock().pool_uuid), uuid_text(&uuid));
            let detail = format!("the drive is of pool {its}, checked is pool {main}");
            add(findings, FindingCode::MixedPools, &drive, detail);
        }
        let members = ours.first()?.superblock().members.clone();
        let mut drives = BTreeMap::new();
        for drive in ours {
            if drive.superblock().members != members {
                let detail = "it lists other members than the first drive".to_owned();
                add(findings, FindingCode::MembersDiffer, &drive, detail);
            } else if let Entry::Vacant(free) = drives.entry(drive.index()) {
                free.insert(drive);
            } else {
                let detail = format!("drive {} of the pool was given before", drive.index());
                add(findings, FindingCode::DuplicateDrive, &drive, detail);
            }
        }
        let ready = drives.values().any(|d| d.superblock().state == DriveState::Ready);
        let present = |index: &u16| u8::try_from(*index).is_ok_and(|i| drives.contains_key(&i));
        let missing = (0..u16::try_from(members.len()).unwrap_or(u16::MAX))
            .filter(|index| !present(index))
            .collect();
        let pool = Self { uuid, drives, members: members.len(), missing, ready };
        pool.note_states(&members, findings);
        Some(pool)
    }

    fn note_states(&self, members: &[Uuid], findings: &mut Findings) {
        for &index in &self.missing {
            let uuid = members.get(usize::from(index)).map(uuid_text).unwrap_or_default();
            let detail = format!("drive {uuid} was not given or cannot be used");
            let what = format!("drive {index} of the pool");
            findings.add(FindingCode::DriveMissing, Fix::None, None, what, detail);
        }
        if !self.ready {
            let detail = "no drive is ready: format again; nothing was ever stored";
            findings.add(FindingCode::FormatInProgress, Fix::None, None, "pool", detail);
            return;
        }
        for drive in self.drives.values() {
            let (fix, name) = (Fix::Successor(drive.position), Some(drive.name()));
            if drive.superblock().state == DriveState::Formatting {
                let detail = "marked as being formatted, other drives of the pool are ready";
                findings.add(FindingCode::DriveFormatting, fix, name, "superblock", detail);
            }
            if !drive.superblock().clean {
                let detail = "in use, or a crash or power failure ended its use";
                findings.add(FindingCode::NotClosed, Fix::None, name, "superblock", detail);
            }
            if let (1, minor @ 1..) = drive.superblock().version {
                let detail = format!("minor version {minor}");
                findings.add(FindingCode::NewerMinorVersion, Fix::None, name, "superblock", detail);
            }
        }
    }

    /// The drive of an index, if it is present.
    pub(crate) fn drive(&self, index: u8) -> Option<&Drive<'a>> {
        self.drives.get(&index)
    }

    /// The latest epoch that any superblock knows.
    pub(crate) fn epoch(&self) -> u64 {
        self.drives.values().map(|drive| drive.superblock().epoch).max().unwrap_or(0)
    }
}

/// The pool that most drives belong to, of several the one given first.
fn main_pool(given: &[Drive<'_>]) -> Option<Uuid> {
    let count = |uuid: &Uuid| given.iter().filter(|d| d.superblock().pool_uuid == *uuid).count();
    let mut best: Option<(Uuid, usize)> = None;
    for drive in given {
        let uuid = drive.superblock().pool_uuid;
        let members = count(&uuid);
        if best.is_none_or(|(_, most)| members > most) {
            best = Some((uuid, members));
        }
    }
    best.map(|(uuid, _)| uuid)
}

fn add(findings: &mut Findings, code: FindingCode, drive: &Drive<'_>, detail: String) {
    findings.add(code, Fix::None, Some(drive.name()), "superblock", detail);
}
