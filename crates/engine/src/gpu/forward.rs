//! Doorbells that a thread of the host forwards: the GPU stores to memory of the host, the thread writes
//! the drive's registers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use gcos_cuda::{Gpu, GpuError, Pinned};
use gcos_hw::{Function, relax_spinning};
use parking_lot::Mutex;

/// Distance of a pair's words: no two share a line.
const STRIDE: usize = 128;
/// Offset of a pair's word for the completion queue head.
const HEAD: usize = 64;
/// How long the thread sleeps at most while nothing is in flight.
const IDLE: Duration = Duration::from_millis(500);

/// The thread, and the memory that it looks at. Nothing is looked at while nothing is in flight.
#[derive(Debug)]
pub(super) struct Forwarder {
    memory: Pinned,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    memory: Pinned,
    function: Arc<dyn Function>,
    /// By lane.
    pairs: Mutex<Vec<Option<Forwarded>>>,
    /// Batches in flight.
    active: AtomicUsize,
    stop: AtomicBool,
    forwarded: AtomicU64,
}

/// A pair whose doorbells are looked at.
#[derive(Debug, Clone, Copy)]
struct Forwarded {
    /// Offsets of the registers: tail, head.
    registers: (usize, usize),
    /// What they hold.
    written: (u32, u32),
}

impl Forwarder {
    pub(super) fn new(
        gpu: &Arc<Gpu>,
        function: &Arc<dyn Function>,
        lanes: usize,
    ) -> Result<Self, GpuError> {
        let memory = Pinned::new(gpu, (lanes * STRIDE).max(1))?;
        let shared = Arc::new(Shared {
            memory: memory.clone(),
            function: Arc::clone(function),
            pairs: Mutex::new(vec![None; lanes]),
            active: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            forwarded: AtomicU64::new(0),
        });
        let body = Arc::clone(&shared);
        let spawned =
            std::thread::Builder::new().name("gpu-doorbells".to_owned()).spawn(move || body.run());
        let thread = spawned.map_err(|error| GpuError::Stream {
            ordinal: gpu.ordinal(),
            reason: format!("the thread that forwards doorbells cannot be started: {error}"),
        })?;
        Ok(Self { memory, shared, thread: Some(thread) })
    }

    /// Forwards the doorbells of a lane's pair to these registers from now on: where the GPU is to store
    /// tail and head. Both are 0, as those of a new pair.
    pub(super) fn attach(&self, lane: usize, registers: (usize, usize)) -> (u64, u64) {
        let mut pairs = self.shared.pairs.lock();
        for at in [lane * STRIDE, lane * STRIDE + HEAD] {
            // Within the memory: it has room for every lane.
            let _ = self.memory.memory().store_u32(at, 0, Ordering::Relaxed);
        }
        if let Some(pair) = pairs.get_mut(lane) {
            *pair = Some(Forwarded { registers, written: (0, 0) });
        }
        let base = self.memory.device_address() + (lane * STRIDE) as u64;
        (base, base + HEAD as u64)
    }

    /// Forwards nothing of a lane any more: when this returns no register is written for it.
    pub(super) fn detach(&self, lane: usize) {
        if let Some(pair) = self.shared.pairs.lock().get_mut(lane) {
            *pair = None;
        }
    }

    /// A batch is about to be given to the GPU.
    pub(super) fn begin(&self) {
        if self.shared.active.fetch_add(1, Ordering::SeqCst) == 0
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
    }

    /// A batch has ended.
    pub(super) fn end(&self) {
        self.shared.active.fetch_sub(1, Ordering::SeqCst);
    }

    /// Register writes so far.
    pub(super) fn forwarded(&self) -> u64 {
        self.shared.forwarded.load(Ordering::Relaxed)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("the thread that forwards doorbells panicked");
            }
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut spins = 0;
        while !self.stop.load(Ordering::SeqCst) {
            if self.active.load(Ordering::SeqCst) == 0 {
                std::thread::park_timeout(IDLE);
                continue;
            }
            match self.look() {
                0 => spins += 1,
                rung => {
                    self.forwarded.fetch_add(rung, Ordering::Relaxed);
                    spins = 0;
                }
            }
            relax_spinning(spins);
        }
    }

    /// One look at every pair: how many registers were written.
    fn look(&self) -> u64 {
        let mut rung = 0;
        for (lane, pair) in self.pairs.lock().iter_mut().enumerate() {
            let Some(pair) = pair else { continue };
            let word = |at| {
                // Acquire: queue entries that the GPU wrote before are visible before the register is
                // written.
                self.memory.memory().load_u32(lane * STRIDE + at, Ordering::Acquire)
            };
            let (Ok(tail), Ok(head)) = (word(0), word(HEAD)) else { continue };
            // The head first: the controller needs room for completions before it takes commands.
            if head != pair.written.1 {
                self.function.write32(pair.registers.1, head);
                rung += 1;
            }
            if tail != pair.written.0 {
                self.function.write32(pair.registers.0, tail);
                rung += 1;
            }
            pair.written = (tail, head);
        }
        rung
    }
}
