//! LLM KV cache on raw NVMe drives.
//!
//! This crate is the front door: [`Config`] reads `gcos.json`, [`open_drives`] turns it into engines,
//! and [`Store`] keeps objects on them. The layers below are re-exported as modules.
//!
//! ```
//! use gcos::{Config, PutOptions, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::parse(
//!     r#"{"disk": {"number": 1, "paths": ["emulated:ram:64MiB"], "capacity_bytes": 67108864}}"#,
//!     "example",
//! )?;
//! let drives = gcos::open_drives(&config, false)?.engines;
//! gcos::store::format(&drives, &config.format_options(false))?;
//! let store = Store::open(drives, config.open_options())?;
//! store.put(b"layer 0", &[7u8; 4096][..], &PutOptions::default())?;
//! let mut back = vec![0; 4096];
//! assert!(store.get(b"layer 0", &mut back[..])?.is_hit());
//! store.close()?;
//! # Ok(())
//! # }
//! ```

mod access;
pub mod config;
pub mod copy;
mod drives;
pub mod log;
pub mod metrics;
pub mod status;
pub mod units;
mod version;

pub use access::{Access, AccessError, CloseError, Registration};
pub use config::{Config, ConfigError, PathKind};
pub use drives::{DriveChoice, Drives, OpenError, SkippedDrive, open_drives};
pub use gcos_store::{
    Durability, FormatOptions, IfExists, Lookup, MissReason, ObjectInfo, OpenOptions, PoolInfo,
    PutOptions, PutOutcome, RecoveryReport, Sink, Source, Stats, Store, StoreError,
};
pub use status::Status;
pub use version::version;

// A release of the command is never built from a store in which bugs can be planted.
const _: () = assert!(
    !gcos_store::CANARIES || cfg!(debug_assertions),
    "the feature `canary` of gcos-store is on: build gcos-sim by itself (-p gcos-sim)"
);

pub use gcos_check as check;
pub use gcos_cuda as cuda;
pub use gcos_emulator as emulator;
pub use gcos_engine as engine;
pub use gcos_engine::fileio;
pub use gcos_hw as hw;
pub use gcos_layout as layout;
pub use gcos_nvme as nvme;
pub use gcos_store as store;
