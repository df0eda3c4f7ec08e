//! Objects in GPU memory.

mod plan;
mod spans;
