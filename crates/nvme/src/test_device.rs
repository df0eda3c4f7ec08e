//! For unit tests: registers that remember what was written, and an address space of their own.

use std::sync::Arc;
use std::time::Duration;

use gcos_hw::{DmaMapper, DmaSpace, EventFd, Function, HwError, SharedMemory};
use parking_lot::Mutex;

use crate::device::Device;

#[derive(Debug)]
struct AnyMapping;

impl DmaMapper for AnyMapping {
    fn map(&self, _iova: u64, _memory: &Arc<SharedMemory>) -> Result<(), HwError> {
        Ok(())
    }
    fn unmap(&self, _iova: u64, _len: usize) -> Result<(), HwError> {
        Ok(())
    }
}

/// An address space without a device.
pub(crate) fn space() -> Arc<DmaSpace> {
    let usable = 0x10_0000..0x1_0000_0000;
    DmaSpace::new(Arc::new(AnyMapping), std::slice::from_ref(&usable)).unwrap()
}

/// A controller that is never enabled.
pub(crate) fn device(dma: Arc<DmaSpace>) -> Device {
    Device::of_registers(Arc::new(Registers::new(dma)))
}

/// Registers that read as zeros, but for one.
#[derive(Debug)]
pub(crate) struct Registers {
    dma: Arc<DmaSpace>,
    /// Offset and value of that one.
    set: (usize, u32),
    written: Mutex<Vec<(usize, u32)>>,
}

impl Registers {
    pub(crate) fn new(dma: Arc<DmaSpace>) -> Self {
        Self::with(dma, usize::MAX, 0)
    }

    /// Of which the one at `offset` reads as `value`.
    pub(crate) fn with(dma: Arc<DmaSpace>, offset: usize, value: u32) -> Self {
        Self { dma, set: (offset, value), written: Mutex::default() }
    }

    /// Offsets and values written so far.
    pub(crate) fn written(&self) -> Vec<(usize, u32)> {
        self.written.lock().clone()
    }
}

impl Function for Registers {
    fn name(&self) -> &str {
        "registers"
    }
    fn read32(&self, offset: usize) -> u32 {
        if offset == self.set.0 { self.set.1 } else { 0 }
    }
    fn read64(&self, _offset: usize) -> u64 {
        0
    }
    fn write32(&self, offset: usize, value: u32) {
        self.written.lock().push((offset, value));
    }
    fn write64(&self, _offset: usize, _value: u64) {}
    fn registers_len(&self) -> usize {
        0x2000
    }
    fn dma(&self) -> &Arc<DmaSpace> {
        &self.dma
    }
    fn interrupt_vectors(&self) -> u16 {
        1
    }
    fn interrupt(&self, _vector: u16) -> Result<Arc<EventFd>, HwError> {
        EventFd::new().map(Arc::new)
    }
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn relax(&self, _spins: u32) {}
}
