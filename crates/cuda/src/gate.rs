use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Condvar, Mutex};

use crate::{Gpu, GpuError, Pinned, PinnedSlice};

/// Holds a stream until it is opened or dropped. See [`crate::Stream::gate`].
#[derive(Debug)]
#[must_use = "a gate opens when it is dropped"]
pub struct Gate {
    gates: Arc<Gates>,
    number: u32,
}

impl Gate {
    /// Lets the stream go on.
    pub fn open(self) {}
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.gates.open(self.number);
    }
}

/// The gates of one stream: a word that the stream watches, which counts how many in a row are open.
#[derive(Debug)]
pub(crate) struct Gates {
    word: PinnedSlice,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Number of the last gate made; the first is 1.
    last: u32,
    /// All up to this one are open. Numbers wrap around.
    open: u32,
    /// Open ones behind a closed one.
    early: BTreeSet<u32>,
}

impl Gates {
    pub(crate) fn new(gpu: &Arc<Gpu>) -> Result<Arc<Self>, GpuError> {
        let word = Pinned::new(gpu, 4)?.slice(0, 4)?;
        Ok(Arc::new(Self { word, state: Mutex::new(State::default()), changed: Condvar::new() }))
    }

    /// A new gate, with the word to watch and the value from which on it is open.
    pub(crate) fn add(this: &Arc<Self>) -> (Gate, PinnedSlice, u32) {
        let mut state = this.state.lock();
        state.last = state.last.wrapping_add(1);
        let number = state.last;
        (Gate { gates: Arc::clone(this), number }, this.word.clone(), number)
    }

    fn open(&self, number: u32) {
        let mut state = self.state.lock();
        state.early.insert(number);
        loop {
            let next = state.open.wrapping_add(1);
            if !state.early.remove(&next) {
                break;
            }
            state.open = next;
        }
        // Under the lock, so that the word never goes back. The word is there and aligned: no error.
        let _ = self.word.store_ordered(state.open, Ordering::Release);
        self.changed.notify_all();
    }

    /// For the threads of a played GPU. It ends, since every gate opens at its end.
    #[cfg(feature = "played")]
    pub(crate) fn wait(&self, value: u32) {
        let mut state = self.state.lock();
        while (state.open.wrapping_sub(value) as i32) < 0 {
            self.changed.wait(&mut state);
        }
    }
}
