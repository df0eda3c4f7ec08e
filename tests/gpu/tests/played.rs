//! The suite on a GPU that host threads play.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails fails its test")]
#![expect(clippy::print_stdout, reason = "a process says that it may be killed")]

mod suite;

use std::sync::Arc;

use gcos_cuda::Gpu;

fn gpu() -> Arc<Gpu> {
    Gpu::played()
}

suite::whole_suite!(crate::gpu);
