use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// While this lives, copies that a played GPU was given do not begin.
#[derive(Debug)]
pub struct PlayedStall(Arc<Stall>);

/// Who holds copies up.
#[derive(Debug, Default)]
pub(crate) struct Stall {
    holders: Mutex<usize>,
    changed: Condvar,
}

impl Stall {
    pub(crate) fn hold(self: &Arc<Self>) -> PlayedStall {
        *self.holders.lock() += 1;
        PlayedStall(Arc::clone(self))
    }

    /// Waits until nobody holds copies up.
    pub(crate) fn pass(&self) {
        let mut holders = self.holders.lock();
        while *holders > 0 {
            self.changed.wait(&mut holders);
        }
    }
}

impl Drop for PlayedStall {
    fn drop(&mut self) {
        *self.0.holders.lock() -= 1;
        self.0.changed.notify_all();
    }
}
