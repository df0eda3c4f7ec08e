//! The pool format, version 1.0: see `docs/format.md`, whose section numbers the modules name.

mod bytes;
mod checkpoint;
mod error;
mod header;
mod journal;
mod location;
mod record;
mod shape;
mod superblock;
mod zones;

pub use checkpoint::{
    CHECKPOINT_PAGE_BYTES, CheckpointHeader, CheckpointPage, PackedPage, PageBuilder,
};
pub use error::FormatError;
pub use header::ObjectHeader;
pub use journal::{FrameBuilder, JournalFrame, MAX_FRAME_BLOCKS};
pub use location::Location;
pub use record::{PutRecord, PutView, Record, RemoveRecord};
pub use shape::{PayloadPart, Shape, SlotClass};
pub use superblock::{DriveState, Superblock, VERSION_MAJOR, VERSION_MINOR};
pub use zones::{MAX_CHUNKS, ZoneChunks, ZoneMap};

/// The format's unit: structures and slots are whole blocks, in bytes.
pub const BLOCK_BYTES: usize = 4096;

/// Payload bytes that one data checksum covers.
pub const GRAIN_BYTES: u32 = 65_536;

/// Longest key in bytes.
pub const MAX_KEY_BYTES: usize = 1024;

/// Longest payload in bytes.
pub const MAX_PAYLOAD_BYTES: u32 = 1 << 30;

/// Most pieces that one object is cut into.
pub const MAX_PIECES: usize = 256;

/// Most drives in one pool.
pub const MAX_DRIVES: usize = 64;

/// Highest epoch: with it, generations (epoch × 2^40 + counter) stay below 2^63.
pub const MAX_EPOCH: u64 = (1 << 23) - 2;

/// Highest sequence of superblocks and journal frames, and checkpoint number: what counts up from one
/// of them does not overflow.
pub const MAX_SEQUENCE: u64 = 1 << 56;

/// A 128-bit identity of a pool or drive, in RFC 9562 byte order.
pub type Uuid = [u8; 16];

// A record, with the longest key and the most pieces, fits the space behind a frame's header block
// and behind a page's header, so records never need to cross one.
const _: () = assert!(
    36 + 6 * MAX_PIECES + MAX_KEY_BYTES <= BLOCK_BYTES - 48,
    "a record fits the smallest frame"
);
const _: () =
    assert!((GRAIN_BYTES as usize).is_multiple_of(BLOCK_BYTES), "grains are whole blocks");
