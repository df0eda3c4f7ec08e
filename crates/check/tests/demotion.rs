//! Drives that fail while a pool is open: by each rule of demotion, with another way and without, with a
//! drive for spill and without. Each ends with the power going, all drives well again: then everything
//! that was acknowledged is there, and the checker finds nothing.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "demotion/rig.rs"]
mod rig;
#[path = "demotion/rules.rs"]
mod rules;
#[path = "demotion/seeds.rs"]
mod seeds;
#[path = "demotion/spill.rs"]
mod spill;

#[path = "../../engine/tests/demote/faulty.rs"]
mod faulty;
