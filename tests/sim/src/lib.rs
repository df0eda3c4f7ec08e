//! A simulator of the whole stack above the registers.
//!
//! Store, engine and driver run on software controllers in steps, on simulated time, with faults and power
//! cuts, all drawn from a seed; a reference model judges every answer, and a checker that shares no code
//! with the store judges the media. `docs/testing.md` says how to use it.

pub mod baton;
pub mod campaign;
pub mod client;
pub mod crash;
pub mod decay;
pub mod formats;
pub mod generate;
pub mod history;
pub mod keys;
pub mod memory;
pub mod minimise;
pub mod model;
pub mod plan;
pub mod recycle;
pub mod verdict;
pub mod world;
