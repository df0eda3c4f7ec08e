//! Interrupt vectors, signalled through events.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use gcos_hw::{EventFd, HwError};
use parking_lot::Mutex;

/// The vectors of the function, with the masks that INTMS and INTMC change.
///
/// The masks cover vectors 0 to 31, as for MSI; higher vectors cannot be masked.
#[derive(Debug)]
pub(crate) struct Interrupts {
    vectors: Vec<OnceLock<Arc<EventFd>>>,
    routing: Mutex<()>,
    masked: AtomicU32,
    pending: AtomicU32,
}

impl Interrupts {
    pub(crate) fn new(vectors: u16) -> Self {
        Self {
            vectors: (0..vectors).map(|_| OnceLock::new()).collect(),
            routing: Mutex::new(()),
            masked: AtomicU32::new(0),
            pending: AtomicU32::new(0),
        }
    }

    pub(crate) fn count(&self) -> u16 {
        u16::try_from(self.vectors.len()).unwrap_or(u16::MAX)
    }

    /// The event of a vector, made at the first call.
    pub(crate) fn route(&self, vector: u16) -> Result<Arc<EventFd>, HwError> {
        let Some(slot) = self.vectors.get(usize::from(vector)) else {
            return Err(HwError::Invalid {
                what: "interrupt vector",
                expected: "one below the function's number of vectors",
                got: vector.into(),
            });
        };
        let _one_maker = self.routing.lock();
        if let Some(event) = slot.get() {
            return Ok(Arc::clone(event));
        }
        let event = Arc::new(EventFd::new()?);
        Ok(Arc::clone(slot.get_or_init(|| event)))
    }

    pub(crate) fn signal(&self, vector: u16) {
        let bit = 1u32.checked_shl(vector.into()).unwrap_or(0);
        if self.masked.load(Ordering::SeqCst) & bit != 0 {
            self.pending.fetch_or(bit, Ordering::SeqCst);
            // The mask may have been cleared just before the bit was set.
            if self.masked.load(Ordering::SeqCst) & bit != 0 {
                return;
            }
            self.pending.fetch_and(!bit, Ordering::SeqCst);
        }
        if let Some(event) = self.vectors.get(usize::from(vector)).and_then(OnceLock::get) {
            event.signal();
        }
    }

    pub(crate) fn masked(&self) -> u32 {
        self.masked.load(Ordering::SeqCst)
    }

    pub(crate) fn mask(&self, bits: u32) {
        self.masked.fetch_or(bits, Ordering::SeqCst);
    }

    /// Clears masks and signals what was held back.
    pub(crate) fn unmask(&self, bits: u32) {
        self.masked.fetch_and(!bits, Ordering::SeqCst);
        let due = self.pending.fetch_and(!bits, Ordering::SeqCst) & bits;
        for vector in (0..32).filter(|vector| due & (1 << vector) != 0) {
            self.signal(vector);
        }
    }

    pub(crate) fn reset(&self) {
        self.masked.store(0, Ordering::SeqCst);
        self.pending.store(0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_interrupt_is_delivered_when_unmasked() {
        let interrupts = Interrupts::new(40);
        let event = interrupts.route(3).unwrap();
        interrupts.mask(1 << 3);
        interrupts.signal(3);
        assert!(!event.take());
        interrupts.unmask(1 << 2);
        assert!(!event.take());
        interrupts.unmask(1 << 3);
        assert!(event.take());
        assert!(interrupts.route(40).is_err());
        let high = interrupts.route(39).unwrap();
        interrupts.mask(u32::MAX);
        interrupts.signal(39);
        assert!(high.take());
    }
}
