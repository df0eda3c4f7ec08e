use std::collections::BTreeMap;

use serde::Serialize;

use crate::{FindingCode, Severity};

/// One thing that a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub code: FindingCode,
    /// Name of the drive that it is on, if it is on one.
    pub drive: Option<String>,
    /// The structure concerned.
    pub what: String,
    /// What was found and what was expected.
    pub detail: String,
    /// Whether this run repaired it.
    pub repaired: bool,
    /// Whether this dry run found that a repair would.
    pub would_repair: bool,
}

/// One thing that a repair did, or that a dry run would have done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Action {
    /// Name of the drive.
    pub drive: String,
    /// What was written, and where.
    pub what: String,
}

/// A drive that was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DriveReport {
    /// Drive name.
    pub name: String,
    /// Index in the pool, `None` when the drive could not be used.
    pub index: Option<u16>,
    /// Drive UUID, hyphenated.
    pub uuid: Option<String>,
    /// Number of the checkpoint that counts, 0 for none.
    pub checkpoint: u64,
    /// Sequence that the next journal frame will have.
    pub journal_end: u64,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Pool UUID, hyphenated; `None` when no drive could be used.
    pub pool_uuid: Option<String>,
    /// Drives, as given.
    pub drives: Vec<DriveReport>,
    /// Indices of the pool's drives that were not given or cannot be used.
    pub missing: Vec<u16>,
    /// Objects that the metadata holds, less those that cannot exist or were found damaged.
    pub objects: u64,
    /// Payload bytes of them.
    pub payload_bytes: u64,
    /// Bytes of slots of them on the drives that are present.
    pub used_bytes: u64,
    /// Objects that the repair dropped, or that a repair would drop.
    pub dropped: u64,
    /// Objects of which only the headers are left, found on drives that have lost their metadata: left
    /// out, unless [`crate::CheckOptions::salvage`] brought them back.
    pub unproven: u64,
    /// Bytes of object data read.
    pub data_bytes_read: u64,
    /// Number of findings of each kind, also of those not listed.
    pub counts: BTreeMap<FindingCode, u64>,
    /// What a repair wrote, or a dry run would have, in order.
    pub actions: Vec<Action>,
    /// The findings: of each kind the first thousand.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing worse than [`Severity::Info`] was found, repaired or not.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity == Severity::Info)
    }

    /// Whether everything worse than [`Severity::Info`] that was found has been repaired.
    #[must_use]
    pub fn is_repaired(&self) -> bool {
        self.findings.iter().all(|f| f.repaired || f.severity == Severity::Info)
    }

    /// Whether a repair would leave nothing worse than [`Severity::Info`], as far as a dry run tells.
    #[must_use]
    pub fn would_be_repaired(&self) -> bool {
        let settled = |f: &Finding| f.repaired || f.would_repair || f.severity == Severity::Info;
        self.findings.iter().all(settled)
    }

    /// Number of findings of a kind.
    #[must_use]
    pub fn count(&self, code: FindingCode) -> u64 {
        self.counts.get(&code).copied().unwrap_or(0)
    }
}
