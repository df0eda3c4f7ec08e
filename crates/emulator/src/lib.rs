//! An NVMe controller in software, at register level, with a fault plan.

mod cache;
mod error;
mod fault;
mod medium;
mod storage;
mod table;
mod transfer;

pub use error::EmulatorError;
pub use fault::{Action, FaultPlan, Faults, Rule, RuleId};
pub use medium::Medium;
pub use storage::{MediumCounts, MediumEvent, Observer};
pub use table::{IovaTable, Unmapped};
