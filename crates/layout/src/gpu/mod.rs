//! Records that the host and the kernels share.
//!
//! This is their one definition: [`header`] writes the C++ header `kernels/gcos/abi.h` from it, a test
//! compares the file in the tree with what is written, and [`layout_hash`] is compiled into the kernels
//! and compared when they are loaded. Fields are little endian, in order, without padding.
//!
//! To change a record, edit it here and run `cargo run -p gcos-layout --example kernel_header`.

#[macro_use]
mod record;
mod constants;
mod header;
mod latency;
mod ops;
mod queue;
mod word;

pub use constants::{CONSTANTS, Constant, MAX_QUEUE_ENTRIES, flag, outcome};
pub use header::{header, layout_hash};
pub use latency::RoundTrip;
pub use ops::{ChecksumBatch, CopyBatch, CopyRun, Grain, GrainRun, PagedBatch};
pub use queue::{Batch, Command, QueuePair, Segment, Share, ticket_bytes};
pub use record::{Field, Record};
pub use word::Word;

/// All records, in the order in which the header defines them.
pub const RECORDS: &[Record] = &[
    QueuePair::RECORD,
    Command::RECORD,
    Segment::RECORD,
    Share::RECORD,
    Batch::RECORD,
    RoundTrip::RECORD,
    GrainRun::RECORD,
    Grain::RECORD,
    ChecksumBatch::RECORD,
    CopyRun::RECORD,
    CopyBatch::RECORD,
    PagedBatch::RECORD,
];
