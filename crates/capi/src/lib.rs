//! The C interface of GCOS: `include/gcos.h`, which is made from this source, and `docs/c-api.md`.
//!
//! Thin over [`gcos::Access`]. A handle is a number, not an address, so that one that was closed is found out.
//! No call unwinds into C: a panic is [`gcos::Status::Internal`]. What C cannot be asked about, such as whether
//! a pointer is valid for its length, is its part of the contract, said in the header.
#![expect(non_camel_case_types, reason = "names as C programs write them")]
#![expect(
    clippy::missing_safety_doc,
    reason = "the contract of all is in the header's first comment"
)]

mod args;
mod batch;
mod call;
mod device;
mod file;
mod handle;
mod log;
mod lookup;
mod memory;
mod object;
mod open;
#[cfg(feature = "play")]
pub mod play;
mod stats;
mod types;

pub use batch::*;
pub use call::{gcos_last_error, gcos_status_name, gcos_version};
pub use device::*;
pub use file::*;
pub use handle::hand_over;
pub use log::*;
pub use lookup::*;
pub use memory::*;
pub use object::*;
pub use open::*;
pub use stats::*;
pub use types::*;
