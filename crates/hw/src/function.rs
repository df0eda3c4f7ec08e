use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::{DmaSpace, DoorbellHolder, Doorbells, EventFd, HwError, SharedMemory};

/// One PCI function that is an NVMe controller, as its driver sees it.
///
/// Register offsets are those of the NVMe controller properties in BAR0 (NVMe base specification
/// 2.0, section 3.1.3), doorbells included. A controller that has been removed reads as all ones
/// (PCI Express: completion of a read to a missing function), and writes to it go nowhere.
pub trait Function: Send + Sync + fmt::Debug {
    /// What to call it in messages: a PCI address, or where the software controller keeps its medium.
    fn name(&self) -> &str;

    /// Reads a 32-bit register. `offset` is a multiple of 4 within [`Function::registers_len`];
    /// anything else reads as all ones.
    fn read32(&self, offset: usize) -> u32;

    /// Reads a 64-bit register; `offset` is a multiple of 8.
    fn read64(&self, offset: usize) -> u64;

    /// Writes a 32-bit register. Stores by the calling thread before it are visible to the device
    /// before it acts on the write.
    fn write32(&self, offset: usize, value: u32);

    /// Writes a 64-bit register with one store: some registers (CMBMSC) take nothing less.
    fn write64(&self, offset: usize, value: u64);

    /// Length of the register space in bytes: where the last doorbell must end.
    fn registers_len(&self) -> usize;

    /// The address space in which this function reaches memory.
    fn dma(&self) -> &Arc<DmaSpace>;

    /// How many interrupt vectors the function has (MSI-X table size); at least 1.
    fn interrupt_vectors(&self) -> u16;

    /// Routes the given vector to an event. A vector that was never routed signals nobody.
    ///
    /// # Errors
    /// [`HwError`] when the vector does not exist or the system refuses.
    fn interrupt(&self, vector: u16) -> Result<Arc<EventFd>, HwError>;

    /// The memory behind another base address register than BAR0, mapped whole: where a controller
    /// memory buffer lies. Not every function has one, or can map it.
    ///
    /// # Errors
    /// [`HwError::Invalid`] when there is no memory behind that register, or none that the platform
    /// maps; another [`HwError`] when the system refuses.
    fn bar(&self, index: u8) -> Result<Arc<SharedMemory>, HwError> {
        Err(HwError::Invalid {
            what: "base address register",
            expected: "one with memory behind it that this platform maps",
            got: index.into(),
        })
    }

    /// The doorbell registers as memory, for somebody who rings them by plain stores (a GPU). Such stores
    /// pass by [`Function::write32`]: each must be preceded by a fence that makes the queue entry visible
    /// to the device. `holder` is asked to let go before the function is given back.
    ///
    /// # Errors
    /// [`HwError::Invalid`] when this platform hands them out to nobody; another [`HwError`] when the
    /// function is being given back.
    fn lend_doorbells(&self, holder: Weak<dyn DoorbellHolder>) -> Result<Doorbells, HwError> {
        let _ = holder;
        Err(HwError::Invalid {
            what: "doorbells as memory",
            expected: "a function that hands its registers out",
            got: 0,
        })
    }

    /// Monotonic time since some fixed start. Deadlines use this clock and no other, so that a
    /// stepped controller can run on simulated time.
    fn now(&self) -> Duration;

    /// Called by whoever waits for the device in a loop: spins, yields or sleeps a little, longer as
    /// `spins` (the number of calls in this wait so far) grows. A stepped controller does its next
    /// step here.
    fn relax(&self, spins: u32);
}

/// The [`Function::relax`] of functions that run on real time: spin for some microseconds, then give
/// the processor to others.
pub fn relax_spinning(spins: u32) {
    match spins {
        0..200 => std::hint::spin_loop(),
        200..20_000 => std::thread::yield_now(),
        _ => std::thread::sleep(Duration::from_micros(50)),
    }
}

/// A function that stands before another one and changes some of what passes: what it does not override
/// goes on unchanged. For faults that no controller shows at will, and for counting.
pub trait Intercept: Send + Sync + fmt::Debug {
    /// The function behind.
    fn behind(&self) -> &Arc<dyn Function>;

    /// As [`Function::read32`].
    fn read32(&self, offset: usize) -> u32 {
        self.behind().read32(offset)
    }

    /// As [`Function::read64`].
    fn read64(&self, offset: usize) -> u64 {
        self.behind().read64(offset)
    }

    /// As [`Function::write32`].
    fn write32(&self, offset: usize, value: u32) {
        self.behind().write32(offset, value);
    }

    /// As [`Function::write64`].
    fn write64(&self, offset: usize, value: u64) {
        self.behind().write64(offset, value);
    }

    /// As [`Function::interrupt`].
    ///
    /// # Errors
    /// Those of the function behind.
    fn interrupt(&self, vector: u16) -> Result<Arc<EventFd>, HwError> {
        self.behind().interrupt(vector)
    }

    /// As [`Function::lend_doorbells`]: stores to them pass by [`Intercept::write32`].
    ///
    /// # Errors
    /// Those of the function behind.
    fn lend_doorbells(&self, holder: Weak<dyn DoorbellHolder>) -> Result<Doorbells, HwError> {
        self.behind().lend_doorbells(holder)
    }

    /// As [`Function::relax`].
    fn relax(&self, spins: u32) {
        self.behind().relax(spins);
    }
}

impl<I: Intercept> Function for I {
    fn name(&self) -> &str {
        self.behind().name()
    }
    fn read32(&self, offset: usize) -> u32 {
        Intercept::read32(self, offset)
    }
    fn read64(&self, offset: usize) -> u64 {
        Intercept::read64(self, offset)
    }
    fn write32(&self, offset: usize, value: u32) {
        Intercept::write32(self, offset, value);
    }
    fn write64(&self, offset: usize, value: u64) {
        Intercept::write64(self, offset, value);
    }
    fn registers_len(&self) -> usize {
        self.behind().registers_len()
    }
    fn dma(&self) -> &Arc<DmaSpace> {
        self.behind().dma()
    }
    fn interrupt_vectors(&self) -> u16 {
        self.behind().interrupt_vectors()
    }
    fn interrupt(&self, vector: u16) -> Result<Arc<EventFd>, HwError> {
        Intercept::interrupt(self, vector)
    }
    fn bar(&self, index: u8) -> Result<Arc<SharedMemory>, HwError> {
        self.behind().bar(index)
    }
    fn lend_doorbells(&self, holder: Weak<dyn DoorbellHolder>) -> Result<Doorbells, HwError> {
        Intercept::lend_doorbells(self, holder)
    }
    fn now(&self) -> Duration {
        self.behind().now()
    }
    fn relax(&self, spins: u32) {
        Intercept::relax(self, spins);
    }
}
