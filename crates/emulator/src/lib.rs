//! An NVMe controller in software, at register level, with a fault plan.
//!
//! [`Emulator`] implements [`gcos_hw::Function`]: a driver that works with it works with a drive
//! that keeps to the NVMe 2.0 specifications. It serves three purposes: the embedded default where
//! no drive can be owned, the other side of protocol tests, and a drive that fails on request
//! ([`FaultPlan`]), loses power ([`Emulator::power_cut`]) and forgets what was not flushed
//! ([`WriteCacheConfig`]).
//!
//! ```
//! use gcos_emulator::{Config, Emulator, Medium};
//! let emulator = Emulator::new(Config::new(Medium::ram(64 << 20)?))?;
//! let function = emulator.function();
//! assert_eq!(function.name(), "emulated:ram");
//! # Ok::<(), gcos_emulator::EmulatorError>(())
//! ```
//!
//! The way of a command: `driven` (threads or steps) → `controller` (fetch, faults, completion) →
//! `admin` or `io` → `data` (PRP, SGL) → `storage` → `cache` → `medium`.

mod admin;
mod cache;
mod clock;
mod config;
mod controller;
mod data;
mod driven;
mod emulator;
mod error;
mod fault;
mod features;
mod health;
mod interrupts;
mod io;
mod lifecycle;
mod medium;
mod namespace;
mod queue;
mod registers;
mod shadow;
mod storage;
mod sync;
mod table;
mod transfer;
mod wake;

pub use config::{AddressSpace, Config, IdentifyHook, Namespace, Oddity, Run, WriteCacheConfig};
pub use emulator::Emulator;
pub use error::EmulatorError;
pub use fault::{Action, FaultPlan, Faults, Rule, RuleId};
pub use medium::Medium;
pub use storage::{MediumCounts, MediumEvent, Observer};
pub use table::{IovaTable, Unmapped};
