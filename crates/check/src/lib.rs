//! fsck for pools: reads the format itself, shares no code path with the store.
//!
//! [`check`] reads every structure of `docs/format.md` on the drives of one pool, compares what can be
//! compared, and says what it found as a [`Report`]. It writes nothing unless
//! [`CheckOptions::repair`] is set, and never invents data: a repair rewrites a superblock copy from
//! copies that agree, or writes fresh checkpoints of the objects that survived.

mod area;
mod check;
mod code;
mod data;
mod disk;
mod drive;
mod error;
mod findings;
mod journal;
mod metadata;
mod objects;
mod options;
mod pool;
mod repair;
mod report;
mod space;
mod superblock;

pub use check::check;
pub use code::{FindingCode, Severity};
pub use error::{CheckError, DiskError};
pub use options::{CheckOptions, Phase, Progress};
pub use report::{DriveReport, Finding, Report};
