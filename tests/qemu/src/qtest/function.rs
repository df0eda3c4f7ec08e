use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gcos_hw::{DmaSpace, EventFd, Function, HwError, SharedMemory, relax_spinning};

use super::link::{Link, locked};
use super::pci::{Found, power_off_slot};
use super::{Interrupts, Ram};

/// One of the machine's NVMe controllers.
#[derive(Debug)]
pub struct QtestFunction {
    name: String,
    link: Arc<Link>,
    found: Found,
    space: Arc<DmaSpace>,
    interrupts: Arc<Interrupts>,
    words: Arc<SharedMemory>,
    words_address: u64,
    /// Events of the vectors routed so far.
    routed: Mutex<Vec<(u16, Arc<EventFd>)>>,
    started: Instant,
    doorbells: AtomicU64,
}

impl QtestFunction {
    pub(crate) fn new(
        index: usize,
        found: Found,
        link: &Arc<Link>,
        ram: &Ram,
        space: &Arc<DmaSpace>,
        interrupts: &Arc<Interrupts>,
    ) -> Result<Arc<Self>, HwError> {
        let (words, words_address) = ram.words(index)?;
        Ok(Arc::new(Self {
            name: format!("qtest:{index}"),
            link: Arc::clone(link),
            found,
            space: Arc::clone(space),
            interrupts: Arc::clone(interrupts),
            words: Arc::new(words),
            words_address,
            routed: Mutex::default(),
            started: Instant::now(),
            doorbells: AtomicU64::new(0),
        }))
    }

    /// Answers QEMU's request to unplug this function as an operating system does.
    ///
    /// # Errors
    /// A message when it is not in a slot.
    pub fn power_off_slot(&self) -> Result<(), String> {
        let port = self.found.port.ok_or("the controller is not behind a root port")?;
        power_off_slot(&self.link, port)
    }

    /// How many doorbells have been rung through registers.
    #[must_use]
    pub fn doorbells(&self) -> u64 {
        self.doorbells.load(Ordering::Relaxed)
    }

    fn read(&self, access: &str, offset: usize, width: usize) -> u64 {
        let inside = offset.is_multiple_of(width) && offset + width <= self.registers_len();
        if !inside {
            return u64::MAX;
        }
        let value = self.link.ask(access, self.found.registers + offset as u64);
        // Where no function answers QEMU reads zeros, a real bus all ones.
        match value == 0 && !self.found.place.is_present(&self.link) {
            true => u64::MAX,
            false => value,
        }
    }

    fn write(&self, access: &str, offset: usize, width: usize, value: u64) {
        if offset.is_multiple_of(width) && offset + width <= self.registers_len() {
            // Doorbells begin at 1000h (PCIe transport, section 3.1.2).
            self.doorbells.fetch_add(u64::from(offset >= 0x1000), Ordering::Relaxed);
            self.link.tell(access, self.found.registers + offset as u64, value);
        }
    }
}

impl Function for QtestFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn read32(&self, offset: usize) -> u32 {
        self.read("readl", offset, 4) as u32
    }

    fn read64(&self, offset: usize) -> u64 {
        self.read("readq", offset, 8)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write("writel", offset, 4, value.into());
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write("writeq", offset, 8, value);
    }

    fn registers_len(&self) -> usize {
        self.found.registers_len as usize
    }

    fn dma(&self) -> &Arc<DmaSpace> {
        &self.space
    }

    fn interrupt_vectors(&self) -> u16 {
        self.found.vectors
    }

    fn interrupt(&self, vector: u16) -> Result<Arc<EventFd>, HwError> {
        let words = (self.words.len() / 4) as u16;
        if vector >= self.found.vectors.min(words) {
            return Err(HwError::Invalid {
                what: "interrupt vector",
                expected: "one of the MSI-X table",
                got: vector.into(),
            });
        }
        let mut routed = locked(&self.routed);
        if let Some((_, event)) = routed.iter().find(|(routed, _)| *routed == vector) {
            return Ok(Arc::clone(event));
        }
        let event = Arc::new(EventFd::new()?);
        let word = 4 * usize::from(vector);
        let route = self.interrupts.route(Arc::clone(&self.words), word, Arc::clone(&event));
        let what = "starting the thread that watches interrupts".to_owned();
        route.map_err(|source| HwError::Os { what, source })?;
        // The message stores a 1 to the word; not masked.
        let entry = self.found.table + 16 * u64::from(vector);
        self.link.tell("writeq", entry, self.words_address + word as u64);
        self.link.tell("writel", entry + 8, 1);
        self.link.tell("writel", entry + 12, 0);
        routed.push((vector, Arc::clone(&event)));
        Ok(event)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn relax(&self, spins: u32) {
        relax_spinning(spins);
    }
}
