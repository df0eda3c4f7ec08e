use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use vfio_bindings::bindings::vfio as sys;

use super::device::{Device, LOCKED};
use super::interrupts::Interrupts;
use super::removed::Removed;
use super::space::Claim;
use super::{VfioError, ioctl};
use crate::doorbells::Holders;
use crate::pci::PciAddress;
use crate::{
    DmaSpace, DoorbellHolder, DoorbellMemory, Doorbells, EventFd, Function, HwError, PAGE_BYTES,
    SharedMemory, order_stores, relax_spinning,
};

/// How long the watching thread sleeps at most before it looks whether it is still wanted.
const WATCH: Duration = Duration::from_secs(60);

/// An NVMe controller behind VFIO.
///
/// The kernel may ask for it back at any time (`gcos unbind`, hot unplug, a driver that is unloaded).
/// It is then *surrendered* at once: it can start no transfer any more and is closed, its registers
/// read as all ones from then on, and every interrupt event is signalled, so that its driver finds it
/// gone and ends what is in flight. Dropping it does the same. Holders of its doorbells are asked to let
/// go first: a GPU's mapping of a BAR leads to the device whoever owns it.
#[derive(Debug)]
pub struct VfioFunction {
    name: String,
    address: PciAddress,
    registers: Arc<SharedMemory>,
    /// Who rings doorbells by other ways than this process's stores.
    holders: Holders,
    /// Other BARs that were handed out.
    bars: Mutex<Vec<(u8, Weak<SharedMemory>)>>,
    removed: Removed,
    vectors: u16,
    live: Mutex<Option<Live>>,
    surrendered: AtomicBool,
    dma: Arc<DmaSpace>,
    start: Instant,
    /// Tells the watching thread to end.
    stop: Arc<EventFd>,
}

/// What there is while the device is ours.
#[derive(Debug)]
struct Live {
    device: Device,
    interrupts: Interrupts,
    /// After the device: it can be opened again once it has been closed.
    claim: Claim,
}

impl VfioFunction {
    pub(super) fn start(
        claim: Claim,
        device: Device,
        dma: Arc<DmaSpace>,
    ) -> Result<Arc<Self>, VfioError> {
        let address = claim.address;
        let resource = |source| VfioError::Resource { device: address, source };
        let registers = device.map_bar(sys::VFIO_PCI_BAR0_REGION_INDEX)?;
        let removed = Removed::new(registers.len()).map_err(resource)?;
        let interrupts = Interrupts::new(device.vectors()?);
        let (request, stop) =
            (EventFd::new().map_err(resource)?, EventFd::new().map_err(resource)?);
        device.on_request(&request)?;
        device.command(true)?;
        let stop = Arc::new(stop);
        let function = Arc::new(Self {
            name: address.to_string(),
            address,
            registers: Arc::new(registers),
            holders: Holders::default(),
            bars: Mutex::default(),
            removed,
            vectors: interrupts.total(),
            live: Mutex::new(Some(Live { device, interrupts, claim })),
            surrendered: AtomicBool::new(false),
            dma,
            start: Instant::now(),
            stop: Arc::clone(&stop),
        });
        let watched = Arc::downgrade(&function);
        thread::Builder::new()
            .name(format!("vfio-{address}"))
            .spawn(move || watch(&watched, &request, &stop))
            .map_err(|source| {
                resource(HwError::Os {
                    what: "starting the thread for device requests".into(),
                    source,
                })
            })?;
        Ok(function)
    }

    /// Its PCI address.
    #[must_use]
    pub fn address(&self) -> PciAddress {
        self.address
    }

    /// Whether it has been given back to the kernel.
    #[must_use]
    pub fn is_surrendered(&self) -> bool {
        self.surrendered.load(Ordering::Acquire)
    }

    /// Resets the whole function, where the platform can: whether it could. The controller comes back
    /// disabled; whoever drives it must bring it up anew.
    ///
    /// # Errors
    /// [`VfioError::Call`] when the kernel refuses. A surrendered function is not reset.
    pub fn reset(&self) -> Result<bool, VfioError> {
        let live = self.live.lock();
        let Some(Live { device, .. }) = live.as_ref() else { return Ok(false) };
        let done = device.reset(LOCKED)?;
        // A reset clears the command register, and the kernel restores it; make sure.
        device.command(true)?;
        Ok(done)
    }

    /// Gives the function back to the kernel: no transfer starts after this, and none that had started
    /// goes on. Does nothing the second time.
    pub fn surrender(&self) {
        let mut slot = self.live.lock();
        let Some(Live { device, interrupts, claim }) = slot.take() else { return };
        let warn = |what: &str, error: &dyn std::fmt::Display| {
            tracing::warn!(device = self.name, %error, "{what} while giving the drive back");
        };
        // Transfers first: whatever else fails, memory is safe.
        if let Err(error) = device.command(false) {
            warn("bus mastering could not be switched off", &error);
        }
        // Not before: whoever drives it takes this for the end of all transfers, and uses memory anew.
        self.surrendered.store(true, Ordering::Release);
        // Whoever gets the device next must not have its doorbells rung by a GPU of ours.
        if !self.holders.let_go() {
            let error = "a GPU may ring its doorbells once more";
            warn("somebody holds on to the registers", &error);
        }
        match device.reset(Duration::ZERO) {
            // Whoever unbinds the device has it locked.
            Err(VfioError::Call { source, .. }) if source.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(error) => warn("no reset", &error),
            Ok(_) => {}
        }
        // The kernel waits until no BAR is mapped. The addresses stay, with other memory behind them.
        let bars: Vec<_> =
            self.bars.lock().drain(..).filter_map(|(_, bar)| bar.upgrade()).collect();
        let mapped = bars.iter().map(|bar| &**bar).chain([&*self.registers]);
        for memory in mapped {
            if let Err(error) = self.removed.take_place_of(memory) {
                warn("a BAR stays mapped", &error);
            }
        }
        // After that, so that nobody can have mapped them in between.
        bars.iter().for_each(|bar| device.evict(bar));
        for index in [sys::VFIO_PCI_MSIX_IRQ_INDEX, sys::VFIO_PCI_REQ_IRQ_INDEX] {
            if let Err(error) = ioctl::silence_interrupts(device.fd(), index) {
                tracing::debug!(device = self.name, %error, index, "interrupts not switched off");
            }
        }
        drop(device);
        drop(claim);
        interrupts.signal_all();
    }
}

/// Waits for the kernel to ask for the device, until `stop`.
fn watch(function: &Weak<VfioFunction>, request: &EventFd, stop: &EventFd) {
    while function.strong_count() > 0 {
        if stop.take() {
            return;
        }
        if request.wait_or(stop, WATCH) && request.take() {
            let Some(function) = function.upgrade() else { return };
            tracing::warn!(
                device = function.name,
                "the kernel asks for the drive; it is given back"
            );
            return function.surrender();
        }
    }
}

impl Function for VfioFunction {
    fn name(&self) -> &str {
        &self.name
    }

    #[inline]
    fn read32(&self, offset: usize) -> u32 {
        match self.registers.load_u32(offset, Ordering::Acquire) {
            Ok(value) if !self.surrendered.load(Ordering::Relaxed) => value,
            _ => u32::MAX,
        }
    }

    fn read64(&self, offset: usize) -> u64 {
        match self.registers.load_u64(offset, Ordering::Acquire) {
            Ok(value) if !self.surrendered.load(Ordering::Relaxed) => value,
            _ => u64::MAX,
        }
    }

    #[inline]
    fn write32(&self, offset: usize, value: u32) {
        order_stores();
        // An offset past the registers goes nowhere, as on the bus.
        let _ = self.registers.store_u32(offset, value, Ordering::Release);
    }

    fn write64(&self, offset: usize, value: u64) {
        order_stores();
        let _ = self.registers.store_u64(offset, value, Ordering::Release);
    }

    fn registers_len(&self) -> usize {
        self.registers.len()
    }

    fn dma(&self) -> &Arc<DmaSpace> {
        &self.dma
    }

    fn interrupt_vectors(&self) -> u16 {
        self.vectors
    }

    fn interrupt(&self, vector: u16) -> Result<Arc<EventFd>, HwError> {
        let mut live = self.live.lock();
        match live.as_mut() {
            Some(Live { device, interrupts, .. }) => interrupts.event(&device.fd(), vector),
            None => Err(HwError::Invalid {
                what: "interrupt of a drive that was given back",
                expected: "a drive that is open",
                got: vector.into(),
            }),
        }
    }

    fn bar(&self, index: u8) -> Result<Arc<SharedMemory>, HwError> {
        let live = self.live.lock();
        let invalid = HwError::Invalid {
            what: "BAR",
            expected: "a BAR with memory, other than 0, which holds the registers, of a drive that is open",
            got: index.into(),
        };
        let Some(Live { device, .. }) = live.as_ref().filter(|_| (1..6).contains(&index)) else {
            return Err(invalid);
        };
        let mut bars = self.bars.lock();
        bars.retain(|(_, bar)| bar.strong_count() > 0);
        if let Some(bar) = bars.iter().find(|(i, _)| *i == index).and_then(|(_, bar)| bar.upgrade())
        {
            return Ok(bar);
        }
        let bar = device.map_bar(index.into()).map(Arc::new).map_err(|error| match error {
            VfioError::Unsuitable { what, .. } => {
                tracing::debug!(device = self.name, what, "no memory behind a BAR");
                invalid
            }
            error => HwError::Os {
                what: format!("mapping BAR {index} of {}", self.name),
                source: std::io::Error::other(error),
            },
        })?;
        bars.push((index, Arc::downgrade(&bar)));
        Ok(bar)
    }

    fn lend_doorbells(&self, holder: Weak<dyn DoorbellHolder>) -> Result<Doorbells, HwError> {
        // Under the lock, so that whoever surrenders the function meanwhile asks this holder, too.
        let live = self.live.lock();
        if live.is_none() {
            return Err(HwError::Invalid {
                what: "doorbells of a drive that was given back",
                expected: "a drive that is open",
                got: 0,
            });
        }
        self.holders.add(holder);
        let memory = Arc::clone(&self.registers);
        Ok(Doorbells { memory, first: 0, kind: DoorbellMemory::Registers })
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn relax(&self, spins: u32) {
        relax_spinning(spins);
    }
}

impl Drop for VfioFunction {
    fn drop(&mut self) {
        self.surrender();
        self.stop.signal();
    }
}

const _: () = assert!(PAGE_BYTES == 4096, "BARs are mapped in pages of 4 KiB");
