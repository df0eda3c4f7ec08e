use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

#[cfg(feature = "played")]
use crate::played::Stall;
use crate::{Gpu, GpuError, GpuRange, Pinned, PinnedSlice};

/// Holds up a stream until it is opened, which also happens when it is dropped.
///
/// What leads to its opening must neither need the GPU nor call CUDA. Streams share a few queues of the hardware, so
/// that work of another stream may stand behind the one that is held up. And a call that frees or unregisters
/// memory, or loads a kernel, waits for all streams and keeps other threads from calling meanwhile. For the same
/// reason the words of gates are registered once and never unregistered.
#[derive(Debug)]
#[must_use = "a gate opens when it is dropped"]
pub struct Gate {
    kind: GateKind,
}

#[derive(Debug)]
pub(crate) enum GateKind {
    Cuda(Option<Words>),
    #[cfg(feature = "played")]
    Played(Arc<PlayedGate>),
}

impl Gate {
    pub(crate) fn new(kind: GateKind) -> Self {
        Self { kind }
    }

    /// Whether the stream has come to it: all work before it has ended. Calls nothing of CUDA. Where the work before
    /// it fails, the stream never comes.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        match &self.kind {
            GateKind::Cuda(words) => words.as_ref().is_some_and(Words::are_reached),
            #[cfg(feature = "played")]
            GateKind::Played(gate) => gate.state.lock().0,
        }
    }

    /// Lets the stream go on.
    pub fn open(self) {}
}

impl Drop for Gate {
    fn drop(&mut self) {
        match &mut self.kind {
            GateKind::Cuda(words) => words.take().into_iter().for_each(Words::open),
            #[cfg(feature = "played")]
            GateKind::Played(gate) => gate.open(),
        }
    }
}

/// Words of gates that are open, by the number of their GPU. What is in this table keeps its GPU, and so could not
/// be the GPU's.
static IDLE: Mutex<BTreeMap<usize, Vec<Words>>> = Mutex::new(BTreeMap::new());

/// Bytes of memory that is registered at a time, and of the words of one gate.
const PAGE: usize = 4096;
const PAIR: usize = 8;

/// The words of a gate, used again and again with higher values.
#[derive(Debug)]
pub(crate) struct Words {
    /// The stream writes the value here when it has come to the gate.
    pub(crate) reached: PinnedSlice,
    /// The stream goes on when it finds the value here, or a higher one.
    pub(crate) open: PinnedSlice,
    pub(crate) value: u32,
}

impl Words {
    /// Words for a gate that no stream knows of yet.
    pub(crate) fn take(gpu: &Arc<Gpu>) -> Result<Self, GpuError> {
        loop {
            if let Some(words) = Self::take_idle(gpu.ordinal()) {
                return Ok(words);
            }
            // Not under the lock, which whoever opens a gate takes, too.
            let page = Pinned::new(gpu, PAGE)?;
            let made = (0..PAGE).step_by(PAIR).map(|at| {
                let (reached, open) = (page.slice(at, 4)?, page.slice(at + 4, 4)?);
                Ok(Self { reached, open, value: 0 })
            });
            let made = made.collect::<Result<Vec<_>, GpuError>>()?;
            IDLE.lock().entry(gpu.ordinal()).or_default().extend(made);
        }
    }

    fn take_idle(ordinal: usize) -> Option<Self> {
        let mut idle = IDLE.lock();
        let idle = idle.get_mut(&ordinal)?;
        // A stream that may go on and has not come to its gate yet will still write the old value.
        let at = idle.iter().rposition(Self::are_reached)?;
        let mut words = idle.swap_remove(at);
        words.value = words.value.wrapping_add(1);
        Some(words)
    }

    fn are_reached(&self) -> bool {
        self.reached.load() == self.value
    }

    fn open(self) {
        // The word is there and aligned: no error.
        let _ = self.open.store_ordered(self.value, Ordering::Release);
        let ordinal = self.open.gpu().ordinal();
        IDLE.lock().entry(ordinal).or_default().push(self);
    }
}

/// A gate of a stream that a thread of the host plays.
#[cfg(feature = "played")]
#[derive(Debug, Default)]
pub(crate) struct PlayedGate {
    /// Whether the stream has come, and whether it may go on.
    state: Mutex<(bool, bool)>,
    changed: parking_lot::Condvar,
}

#[cfg(feature = "played")]
impl PlayedGate {
    /// For the stream's thread. It ends, since every gate opens at its end.
    pub(crate) fn pass(&self, queue: Option<Arc<Stall>>) {
        let _held = queue.as_ref().map(Stall::hold);
        let mut state = self.state.lock();
        state.0 = true;
        while !state.1 {
            self.changed.wait(&mut state);
        }
    }

    fn open(&self) {
        self.state.lock().1 = true;
        self.changed.notify_all();
    }
}
