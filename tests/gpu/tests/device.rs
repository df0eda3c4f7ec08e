//! The suite on a real GPU. Needs an NVIDIA GPU: feature `gpu`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails fails its test")]
#![expect(clippy::print_stdout, reason = "a process says that it may be killed")]

mod suite;

use std::sync::{Arc, OnceLock};

use gcos_cuda::Gpu;

fn gpu() -> Arc<Gpu> {
    static GPU: OnceLock<Arc<Gpu>> = OnceLock::new();
    Arc::clone(GPU.get_or_init(|| Gpu::open(0).unwrap()))
}

suite::whole_suite!(crate::gpu);
