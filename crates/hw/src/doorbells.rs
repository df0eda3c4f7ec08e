//! Doorbell registers that somebody else than the driver's threads rings, by plain stores: a GPU.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::SharedMemory;

/// How long a function that must be given back waits for the holders of its doorbells in all.
pub(crate) const LET_GO: Duration = Duration::from_millis(500);

/// What kind of memory doorbells are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoorbellMemory {
    /// Registers of a device: a BAR.
    Registers,
    /// Memory of this process, which a software controller looks at.
    Memory,
}

/// Doorbells as memory: a mapping of this process that holds them.
#[derive(Debug, Clone)]
pub struct Doorbells {
    /// What is mapped.
    pub memory: Arc<SharedMemory>,
    /// Offset among the registers of the memory's first byte: the doorbell at register offset `o` is at
    /// `o - first` of the memory.
    pub first: usize,
    /// What it is.
    pub kind: DoorbellMemory,
}

/// Somebody who rings doorbells by plain stores, through a mapping that the processor's page tables do
/// not govern.
///
/// The stores of this process go nowhere once a function has been given back: other memory takes the
/// place of its registers. A GPU has page tables of its own, which keep leading to the device, and the
/// device may belong to another driver or another process by then. So the holder is asked first.
pub trait DoorbellHolder: Send + Sync + fmt::Debug {
    /// The function is about to be given back. When this returns `true` the holder stores to the
    /// doorbells no more, and its mapping of them has ended or is never used again. The device can start
    /// no transfer any more, so nothing that is in flight completes: do not wait for that.
    ///
    /// `false`: it did not come to an end within `patience`, and may store once more.
    fn let_go(&self, patience: Duration) -> bool;
}

/// The holders of a function's doorbells.
#[derive(Debug, Default)]
pub(crate) struct Holders(Mutex<Vec<Weak<dyn DoorbellHolder>>>);

impl Holders {
    pub(crate) fn add(&self, holder: Weak<dyn DoorbellHolder>) {
        let mut holders = self.0.lock();
        holders.retain(|holder| holder.strong_count() > 0);
        holders.push(holder);
    }

    /// Asks all of them to let go: whether they have.
    pub(crate) fn let_go(&self) -> bool {
        let holders = std::mem::take(&mut *self.0.lock());
        let end = std::time::Instant::now() + LET_GO;
        let mut all = true;
        for holder in holders.iter().filter_map(Weak::upgrade) {
            all &= holder.let_go(end.saturating_duration_since(std::time::Instant::now()));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Debug)]
    struct Holder(AtomicUsize, bool);

    impl DoorbellHolder for Holder {
        fn let_go(&self, patience: Duration) -> bool {
            assert!(patience <= LET_GO);
            self.0.fetch_add(1, Ordering::SeqCst);
            self.1
        }
    }

    #[test]
    fn holders_are_asked_once_each_and_those_that_are_gone_not_at_all() {
        let holders = Holders::default();
        let (kept, stubborn) =
            (Arc::new(Holder(0.into(), true)), Arc::new(Holder(0.into(), false)));
        let dropped = Arc::new(Holder(0.into(), false));
        for holder in [&kept, &dropped] {
            let weak: Weak<Holder> = Arc::downgrade(holder);
            holders.add(weak);
        }
        drop(dropped);
        assert!(holders.let_go());
        assert!(holders.let_go(), "nobody is left");
        assert_eq!(kept.0.load(Ordering::SeqCst), 1);
        let weak: Weak<Holder> = Arc::downgrade(&stubborn);
        holders.add(weak);
        assert!(!holders.let_go());
    }
}
