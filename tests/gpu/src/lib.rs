//! What the programs and tests for a real GPU share.

pub mod samples;
pub mod smaps;
