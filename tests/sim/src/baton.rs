//! Threads of which only the one that has the baton runs. Who gets it next follows from a seed, so the
//! same threads do the same in the same order every time.

use fastrand::Rng;
use parking_lot::{Condvar, Mutex};

/// Hand-overs in a row without any step of a drive after which nobody will ever go on.
const STUCK: u64 = 400_000;

#[derive(Debug)]
struct State {
    rng: Rng,
    /// Runners that have not ended.
    waiting: Vec<usize>,
    current: Option<usize>,
    /// Pauses since the last step of a drive.
    idle: u64,
}

/// The baton of a group of threads.
#[derive(Debug)]
pub struct Baton {
    state: Mutex<State>,
    turns: Vec<Condvar>,
}

/// The turn of one thread; given up when dropped, in a panic too.
#[derive(Debug)]
pub struct Turn<'a> {
    baton: &'a Baton,
    runner: usize,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.baton.state.lock();
        state.waiting.retain(|&other| other != self.runner);
        state.current = None;
        self.baton.pass(&mut state);
    }
}

impl Baton {
    /// A baton for so many runners.
    #[must_use]
    pub fn new(runners: usize, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let current = (runners > 0).then(|| rng.usize(0..runners));
        let state = State { rng, waiting: (0..runners).collect(), current, idle: 0 };
        let turns = (0..runners).map(|_| Condvar::new()).collect();
        Self { state: Mutex::new(state), turns }
    }

    /// Waits for the first turn of a runner.
    #[must_use]
    pub fn begin(&self, runner: usize) -> Turn<'_> {
        self.wait(runner);
        Turn { baton: self, runner }
    }

    fn wait(&self, runner: usize) {
        let mut state = self.state.lock();
        while state.current != Some(runner) {
            self.turns[runner].wait(&mut state);
        }
    }

    /// Gives the baton to somebody who waits for it.
    fn pass(&self, state: &mut State) {
        if !state.waiting.is_empty() {
            let at = state.rng.usize(0..state.waiting.len());
            let next = state.waiting[at];
            state.current = Some(next);
            self.turns[next].notify_one();
        }
    }

    /// Called by the runner that has the baton after a step of a drive: one time in `patience` somebody
    /// gets it by chance.
    pub fn stepped(&self, patience: u8) {
        let mut state = self.state.lock();
        state.idle = 0;
        if state.waiting.len() > 1 && state.rng.u8(0..patience) == 0 {
            self.hand_over(state);
        }
    }

    /// Called by the runner that has the baton when it can do nothing until another one has. Returns how
    /// often that has happened since the last step of a drive.
    ///
    /// # Panics
    /// When nobody can ever go on.
    pub fn pause(&self) -> u64 {
        let mut state = self.state.lock();
        state.idle += 1;
        let idle = state.idle;
        assert!(idle < STUCK, "deadlock: everybody waits, and no drive has anything to do");
        if state.waiting.len() > 1 {
            self.hand_over(state);
        }
        idle
    }

    fn hand_over(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        let Some(own) = state.current else { return };
        self.pass(&mut state);
        if state.current == Some(own) {
            return;
        }
        while state.current != Some(own) {
            self.turns[own].wait(&mut state);
        }
    }
}
