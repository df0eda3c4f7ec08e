//! KV objects on drives.
//!
//! [`format()`] lays a pool out over drives, [`Store::open`] opens it, and the store then puts, gets,
//! looks up, pins, evicts and recovers objects. `docs/format.md` describes what is written,
//! `docs/design.md` why.
//!
//! The promise: a get returns exactly the bytes of an acknowledged put of that key, or a miss with a
//! reason. A put with [`Durability::Sync`] that was acknowledged survives power loss.

mod alloc;
mod canary;
mod checkpoint;
mod device;
mod drive;
mod error;
mod format;
mod get;
mod index;
mod info;
mod journal;
mod maintain;
mod memory;
mod object;
mod options;
mod payload;
mod pool;
mod promote;
mod put;
mod recover;
mod retry;
mod ring;
mod scrub;
mod staging;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod trailing;
mod turns;

/// Whether bugs can be planted in this build and its waits be simulated (feature `canary`).
pub const CANARIES: bool = cfg!(feature = "canary");

pub use canary::Canary;
#[cfg(feature = "canary")]
pub use canary::plant;
pub use device::{
    DeviceGets, DevicePut, DeviceRun, DeviceSegment, DeviceSink, DeviceSource, Layer, LayerPart,
    LayerSink, Layers,
};
pub use error::StoreError;
pub use format::{Contents, format, probe};
pub use info::{
    DriveHealth, DriveInfo, Lookup, MissReason, ObjectInfo, PoolInfo, PutOutcome, RecoveryReport,
    Stats,
};
pub use memory::{Sink, Source};
pub use options::{Durability, FormatOptions, IfExists, OpenOptions, PutOptions};
pub use scrub::{ScrubCursor, ScrubDamage, ScrubOptions, ScrubReport};
pub use store::Store;
#[cfg(feature = "canary")]
pub use turns::{World, enter};
