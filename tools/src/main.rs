//! The gcos command line.
fn main() {}
