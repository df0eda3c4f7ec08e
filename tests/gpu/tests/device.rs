//! The suite on a real GPU. Needs an NVIDIA GPU: feature `gpu`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails fails its test")]
#![expect(clippy::print_stdout, reason = "a process says that it may be killed")]

mod suite;

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use gcos_cuda::Gpu;

/// The GPU, for one test at a time: CUDA lets some calls wait for all kernels of the process, and streams
/// share a few hardware channels, so that a drive that hangs in one test would hold up the others.
struct Alone {
    gpu: Arc<Gpu>,
    _turn: MutexGuard<'static, ()>,
}

impl Deref for Alone {
    type Target = Arc<Gpu>;

    fn deref(&self) -> &Arc<Gpu> {
        &self.gpu
    }
}

fn gpu() -> Alone {
    static TURN: Mutex<()> = Mutex::new(());
    static GPU: OnceLock<Arc<Gpu>> = OnceLock::new();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Alone { gpu: Arc::clone(GPU.get_or_init(|| Gpu::open(0).unwrap())), _turn: turn }
}

suite::whole_suite!(crate::gpu);
