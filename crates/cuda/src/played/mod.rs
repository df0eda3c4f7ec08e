//! A GPU that host threads play: memory is host memory, a device address is a CPU address, each stream is a
//! thread, and kernels are the C++ build of their sources.

mod cufile;
mod known;
mod memory;
mod stall;
mod worker;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

pub use cufile::{CuFileCount, CuFileFault, PlayedCuFile};
pub(crate) use known::{Known, MemoryKind, look_up};
pub(crate) use memory::PlayedMemory;
pub use stall::PlayedStall;
pub(crate) use stall::Stall;
pub(crate) use worker::{Mark, Worker};

use crate::{GpuError, MemoryInfo};

/// What a played GPU is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlayedOptions {
    /// Its number.
    pub ordinal: usize,
    /// Bytes of memory that it claims to have.
    pub memory_bytes: u64,
    /// Whether there are windows into its memory. Without, `DeviceMemory` comes to lie in host memory, as
    /// on a machine whose GPU the CPU cannot map.
    pub windows: bool,
    /// Whether all streams share one queue of the hardware, as some do on a GPU: while a stream waits at a gate, no
    /// copy of any stream is done.
    pub shared_queue: bool,
}

impl Default for PlayedOptions {
    fn default() -> Self {
        Self { ordinal: 0, memory_bytes: 16 << 30, windows: true, shared_queue: false }
    }
}

/// What [`crate::Gpu`] keeps of a played GPU.
#[derive(Debug)]
pub(crate) struct Played {
    id: u64,
    options: PlayedOptions,
    used_bytes: Arc<AtomicU64>,
    default: Mutex<Option<Arc<Worker>>>,
    /// Held while a copy is given to a stream.
    copying: Mutex<()>,
    stall: Arc<Stall>,
    streams: Mutex<HashMap<u64, Weak<Worker>>>,
}

impl Played {
    pub(crate) fn new(options: PlayedOptions) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            options,
            used_bytes: Arc::default(),
            default: Mutex::new(None),
            copying: Mutex::new(()),
            stall: Arc::default(),
            streams: Mutex::default(),
        }
    }

    /// No two have the same.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn options(&self) -> &PlayedOptions {
        &self.options
    }

    pub(crate) fn memory_info(&self) -> MemoryInfo {
        let total_bytes = self.options.memory_bytes;
        let used = self.used_bytes.load(Ordering::Relaxed);
        MemoryInfo { free_bytes: total_bytes.saturating_sub(used), total_bytes }
    }

    pub(crate) fn stream(&self, ordinal: usize) -> Result<Arc<Worker>, GpuError> {
        let worker = Worker::start(ordinal)?;
        let mut streams = self.streams.lock();
        streams.retain(|_, worker| worker.strong_count() > 0);
        streams.insert(worker.id(), Arc::downgrade(&worker));
        Ok(worker)
    }

    pub(crate) fn default_stream(&self, ordinal: usize) -> Result<Arc<Worker>, GpuError> {
        let mut default = self.default.lock();
        match &*default {
            Some(worker) => Ok(Arc::clone(worker)),
            None => Ok(Arc::clone(default.insert(Worker::start_default(ordinal)?))),
        }
    }

    /// Gives a copy between two addresses to a stream. As CUDA does, it returns when that is done where both are
    /// in host memory, and nobody else copies meanwhile.
    pub(crate) fn copy_in_stream(
        &self,
        worker: &Worker,
        (from, to): (u64, u64),
        copy: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) {
        let is_host =
            |address| look_up(address).is_some_and(|found| found.kind == MemoryKind::Host);
        let _copying = self.copying.lock();
        let stall = Arc::clone(&self.stall);
        worker.submit(move || {
            stall.pass();
            copy()
        });
        if is_host(from) && is_host(to) {
            // How it ended is told by the stream.
            let _ = worker.mark().wait();
        }
    }

    /// Holds copies up.
    pub(crate) fn stall(&self) -> PlayedStall {
        self.stall.hold()
    }

    /// What gates hold up, if streams share a queue.
    pub(crate) fn shared_queue(&self) -> Option<Arc<Stall>> {
        self.options.shared_queue.then(|| Arc::clone(&self.stall))
    }

    pub(crate) fn find_stream(&self, id: u64) -> Option<Arc<Worker>> {
        self.streams.lock().get(&id).and_then(Weak::upgrade)
    }
}

/// Copies between two addresses that the played GPU reaches; they may overlap.
pub(crate) fn copy(from: u64, to: u64, len: usize) {
    // SAFETY: both are ranges of live memory: shared with devices, and then the caller holds it and no
    // Rust reference into it exists, or borrowed by the caller for this call; `copy` allows overlap.
    unsafe { std::ptr::copy(from as *const u8, to as *mut u8, len) };
}

/// Sets bytes that the played GPU reaches.
pub(crate) fn fill(to: u64, byte: u8, len: usize) {
    // SAFETY: as above.
    unsafe { std::ptr::write_bytes(to as *mut u8, byte, len) };
}

mod ffi {
    use std::ffi::{c_char, c_void};

    unsafe extern "C" {
        /// Runs a kernel to its end; its results are in `kernels/played/launch.h`.
        pub(super) fn gcos_played_launch(
            kernel: *const c_char,
            grid: u32,
            block: u32,
            params: *const c_void,
            params_len: u64,
        ) -> i32;
        /// The hash of the records that the kernels were compiled with.
        #[link_name = "gcos_layout_hash"]
        pub(super) fn layout_hash() -> u64;
    }
}

/// The hash of the records that the kernels were compiled with.
pub(crate) fn layout_hash() -> u64 {
    // SAFETY: a function without parameters that reads a constant.
    unsafe { ffi::layout_hash() }
}

/// Runs a kernel to its end.
pub(crate) fn launch(
    kernel: &std::ffi::CStr,
    grid: u32,
    block: u32,
    params: &[u64],
) -> Result<(), String> {
    let len = size_of_val(params) as u64;
    // SAFETY: the name ends in zero, the parameters are a live array of this length; the addresses in them
    // are the launcher's business, as on a real GPU.
    let rc = unsafe {
        ffi::gcos_played_launch(kernel.as_ptr(), grid, block, params.as_ptr().cast(), len)
    };
    match rc {
        0 => Ok(()),
        -1 => Err(format!("there is no kernel {}", kernel.to_string_lossy())),
        -2 => Err(format!("{} takes no parameters of {len} bytes", kernel.to_string_lossy())),
        -3 => Err(format!(
            "{grid} blocks of {block} threads is no shape for {}",
            kernel.to_string_lossy()
        )),
        -4 => Err(format!("no threads to play {}", kernel.to_string_lossy())),
        other => Err(format!("{} could not be run: {other}", kernel.to_string_lossy())),
    }
}
