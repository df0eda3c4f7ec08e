//! fsck for pools: reads the format itself, shares no code path with the store.
//!
//! [`check`] reads every structure of `docs/format.md` on the drives of one pool, compares what can be
//! compared, and says what it found as a [`Report`]. It writes nothing unless
//! [`CheckOptions::repair`] is set, and never invents data: a repair rewrites superblock copies from
//! those that are valid, and writes fresh checkpoints of the objects that survived. Of a drive that
//! has lost its metadata it keeps what the rest of the journal and of the checkpoints proves and what
//! verifies, byte for byte.

mod area;
mod check;
mod code;
mod data;
mod disk;
mod drive;
mod error;
mod findings;
mod headers;
mod journal;
mod metadata;
mod objects;
mod options;
mod pool;
mod repair;
mod report;
mod salvage;
mod space;
mod superblock;

pub use check::check;
pub use code::{FindingCode, Severity};
pub use error::{CheckError, DiskError};
pub use options::{CheckOptions, Phase, Progress};
pub use report::{Action, DriveReport, Finding, Report};
