use gcos_store::{ObjectInfo, StoreError};
use serde::Serialize;

/// What to copy, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOptions {
    /// Only keys that begin with this.
    pub prefix: Vec<u8>,
    /// Replace objects of the destination that have other bytes. Without it they stay, and are a problem.
    pub replace: bool,
    /// Compare and count only; write nothing to the destination.
    pub dry_run: bool,
    /// Payload bytes that are read, written and compared together; a larger object goes by itself.
    pub batch_bytes: u64,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self { prefix: Vec::new(), replace: false, dry_run: false, batch_bytes: 64 << 20 }
    }
}

/// An object that was not copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyProblem {
    /// Its key.
    #[serde(skip)]
    pub key: Vec<u8>,
    /// Why not.
    pub reason: String,
}

/// What became of the objects. Bytes are those of payloads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CopyReport {
    /// Objects of the source when the copy began.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were copied (or would be), durable in the destination and compared.
    pub copied: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// Objects that were in the destination already, with the same bytes.
    pub same: u64,
    /// Their bytes.
    pub same_bytes: u64,
    /// Objects that left the source meanwhile: removed, evicted or expired.
    pub gone: u64,
    /// Objects that the source could not deliver, or of which the destination has other bytes.
    pub failed: u64,
    /// The first of these, at most [`CopyReport::MOST_PROBLEMS`].
    pub problems: Vec<CopyProblem>,
    /// Drives of the source whose objects could not be read, when the copy began or ended. What lies there
    /// alone is in none of these numbers.
    pub drives_lost: u64,
    /// Whether all objects of the source were looked at: no drive of it was lost, and the copy was not ended
    /// before.
    pub complete: bool,
    /// Whether nothing was written.
    pub dry_run: bool,
}

impl CopyReport {
    /// Problems that are listed.
    pub const MOST_PROBLEMS: usize = 100;

    pub(super) fn new(list: &[(Vec<u8>, ObjectInfo)], dry_run: bool) -> Self {
        let bytes = list.iter().map(|(_, info)| u64::from(info.len)).sum();
        Self { objects: list.len() as u64, bytes, dry_run, ..Self::default() }
    }

    /// Objects that are done with, one way or the other.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.copied + self.same + self.gone + self.failed
    }

    pub(super) fn fail(&mut self, key: &[u8], reason: String) {
        self.failed += 1;
        if self.problems.len() < Self::MOST_PROBLEMS {
            self.problems.push(CopyProblem { key: key.to_vec(), reason });
        }
    }
}

/// Why a copy ended before its time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The source cannot be read.
    #[error("the source cannot be read")]
    Source(#[source] StoreError),
    /// The destination cannot be written or read.
    #[error("the destination cannot be used; it is a valid pool with what was copied so far")]
    Destination(#[source] StoreError),
    /// The destination has no room.
    #[error(
        "the destination has no room left after {copied} objects; nothing in it was evicted. Give it \
         more, or remove what is not needed, and run the copy again"
    )]
    Full {
        /// Objects that were copied before.
        copied: u64,
        /// What the store says.
        #[source]
        source: StoreError,
    },
    /// What was written does not come back.
    #[error(
        "the destination does not return what was written to it ({reason}); do not use it before \
         `gcos fsck --data` and a look at its drives"
    )]
    Unverified {
        /// What came back.
        reason: String,
    },
    /// Memory for a batch cannot be had.
    #[error("no memory for an object of {len} bytes")]
    Memory {
        /// Its length.
        len: usize,
    },
}
