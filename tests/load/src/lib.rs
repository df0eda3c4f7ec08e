//! A store under load from many threads, and a model that says what each get may return.
//!
//! [`Load`] builds a pool on software controllers, lets threads loose on it, and gives a [`Report`]. What
//! a get returned is held against the [`History`] of its key the moment it returns.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a step that fails fails its test; what was measured is printed"
)]

mod history;
mod load;
mod payload;
mod report;
mod rig;
mod worker;

pub use history::{Clock, History, Write};
pub use load::Load;
pub use payload::Payload;
pub use report::{Kind, Latencies, Report, resident_bytes};
pub use rig::Rig;
