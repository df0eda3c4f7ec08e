//! The controller as its users see it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use gcos_hw::{
    DmaSpace, DoorbellHolder, DoorbellMemory, Doorbells, EventFd, Function, HwError, SharedMemory,
    relax_spinning,
};
use gcos_layout::nvme::{AsyncEvent, CriticalWarning, DOORBELLS, Register};
use parking_lot::{Mutex, RwLock};

use crate::cache::WriteCache;
use crate::clock::Clock;
use crate::config::{AddressSpace, Config, Run};
use crate::controller::{Controller, INVALID_DOORBELL_REGISTER, Limits, Parked, Queues};
use crate::driven::{Stepper, Threads};
use crate::fault::Faults;
use crate::health::Health;
use crate::interrupts::Interrupts;
use crate::namespace::NamespaceState;
use crate::registers::{CMB_BAR, Registers};
use crate::shadow::Shadow;
use crate::storage::Storage;
use crate::wake::Waker;
use crate::{EmulatorError, IovaTable, Medium, MediumCounts};

/// An NVMe controller in software.
///
/// It behaves like a PCI function: the driver reaches it through [`Function`]. Dropping it stops
/// its threads; no memory is touched after that.
pub struct Emulator {
    name: String,
    space: AddressSpace,
    controller: Arc<Controller>,
    cmb: Option<Arc<SharedMemory>>,
    registers_len: usize,
    drive: Drive,
}

enum Drive {
    Threads(Threads),
    Stepped(Stepper),
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Emulator {
    /// Starts a controller, as after power on.
    ///
    /// # Errors
    /// [`EmulatorError`] for a configuration that cannot be, or when resources run out.
    pub fn new(config: Config) -> Result<Arc<Self>, EmulatorError> {
        config.check()?;
        let cmb = match config.cmb_bytes {
            0 => None,
            bytes => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                Some(Arc::new(SharedMemory::anonymous(bytes)?))
            }
        };
        let space = match &config.space {
            Some(space) => space.clone(),
            None => AddressSpace::new()?,
        };
        let doorbells_len = 2 * (usize::from(config.max_queue_pairs) + 1) * config.doorbell_stride;
        let doorbells = Arc::new(SharedMemory::anonymous(doorbells_len)?);
        let controller = Arc::new(Controller::new(&config, &space, doorbells, cmb.clone()));
        let drive = match config.run {
            Run::Threads => {
                let workers = config.worker_count();
                Drive::Threads(Threads::start(&controller, workers, config.spin)?)
            }
            Run::Stepped { seed } => Drive::Stepped(Stepper::new(seed)),
        };
        let name = match config.name.is_empty() {
            true => format!("emulated:{}", config.medium.name()),
            false => config.name,
        };
        let registers_len = DOORBELLS + doorbells_len;
        Ok(Arc::new(Self { name, space, controller, cmb, registers_len, drive }))
    }

    /// The controller as a driver takes it.
    #[must_use]
    pub fn function(self: &Arc<Self>) -> Arc<dyn Function> {
        Arc::clone(self) as _
    }

    /// The addresses that the controller can reach; give it to another controller to share them.
    #[must_use]
    pub fn space(&self) -> &AddressSpace {
        &self.space
    }

    /// The doorbell registers as memory; offset 0 is register offset 1000h. From the first call on,
    /// plain stores to it are noticed within a millisecond while the controller's thread sleeps
    /// ([`Config::spin`]), and at once while it does not.
    #[must_use]
    pub fn doorbells(&self) -> Arc<SharedMemory> {
        if let Drive::Threads(threads) = &self.drive {
            threads.watch_doorbells();
        }
        Arc::clone(&self.controller.doorbells)
    }

    /// The controller memory buffer, as the host would map it from BAR 2.
    #[must_use]
    pub fn cmb(&self) -> Option<&Arc<SharedMemory>> {
        self.cmb.as_ref()
    }

    /// The medium.
    #[must_use]
    pub fn medium(&self) -> &Arc<Medium> {
        self.controller.storage.medium()
    }

    /// What has reached the medium or its cache so far.
    #[must_use]
    pub fn counts(&self) -> MediumCounts {
        self.controller.storage.counts()
    }

    /// Bytes in the write cache that a power cut could lose.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.controller.storage.dirty_bytes()
    }

    /// The fault rules; they may be changed at any time.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.controller.faults
    }

    /// Cuts power during the `writes`-th media write from now (1 is the next); 0 disarms. That
    /// write is torn: each unit of it reaches the medium or not. Call [`Emulator::power_cut`] before
    /// looking at the medium when other commands may be in flight: it waits for them.
    pub fn cut_power_at_write(&self, writes: u64, seed: u64) {
        self.controller.storage.cut_after(writes, seed);
    }

    /// Cuts power now. Registers read as all ones; of the blocks that were not flushed some have
    /// reached the medium and the others are lost, by the seed. Waits for commands that are being
    /// carried out: when it returns no memory is touched. Must not be called by an observer.
    pub fn power_cut(&self, seed: u64) {
        self.controller.storage.power_off(seed);
        self.controller.quiesce();
    }

    /// Whether the function answers: powered and not removed.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.controller.is_present()
    }

    /// Pulls the function out: registers read as all ones. When it returns no memory is touched.
    /// What was written stays. Must not be called by an observer.
    pub fn remove(&self) {
        self.controller.removed.store(true, Ordering::SeqCst);
        self.controller.quiesce();
    }

    /// Brings power, or the function, back: a controller as new in front of the same medium.
    pub fn power_on(&self) {
        self.controller.storage.power_off(0);
        self.controller.power_on();
        self.controller.waker.wake();
    }

    /// Reports a fatal status (CSTS.CFS) and stops until the controller is reset.
    pub fn fail(&self) {
        self.controller.fail("requested");
    }

    /// A fault: event indexes of shadow doorbells are no longer updated, so that a host that trusts
    /// them does not ring when it should.
    pub fn freeze_event_indexes(&self, frozen: bool) {
        self.controller.shadow.frozen.store(frozen, Ordering::SeqCst);
    }

    /// Sets the composite temperature in kelvin; beyond a threshold it is a critical warning, and
    /// an asynchronous event where the host wants those.
    pub fn set_temperature(&self, kelvin: u16) {
        self.controller.health.lock().set_temperature(kelvin);
        self.controller.report();
    }

    /// Sets the critical warnings; new ones are asynchronous events where the host wants those.
    pub fn set_critical_warning(&self, warning: CriticalWarning) {
        self.controller.health.lock().set_warning(warning);
        self.controller.report();
    }

    /// A register was rung whose value is in memory.
    fn look(&self, index: usize) {
        let controller = &self.controller;
        if index.is_multiple_of(2)
            && let Some(Some(sq)) = controller.queues.read().sqs.get(index / 2)
        {
            sq.looked_at.store(true, Ordering::SeqCst);
        }
        controller.waker.wake();
    }

    fn ring(&self, offset: usize, value: u32) {
        let controller = &self.controller;
        let doorbell = offset - DOORBELLS;
        let index = doorbell / controller.limits.doorbell_stride;
        if controller.shadow.is_used_by(index / 2) {
            return self.look(index);
        }
        let stored = controller.doorbells.store_u32(doorbell, value, Ordering::Release);
        if stored.is_err() || !doorbell.is_multiple_of(controller.limits.doorbell_stride) {
            return;
        }
        controller.waker.wake();
        // Only rings for queues that are not there need a closer look.
        let queues = controller.queues.read();
        let exists = match index % 2 {
            0 => queues.sqs.get(index / 2).is_some_and(Option::is_some),
            _ => queues.cqs.get(index / 2).is_some_and(Option::is_some),
        };
        let enabled = !queues.sqs.is_empty();
        drop(queues);
        if enabled && !exists {
            let event = AsyncEvent::default().with_info(INVALID_DOORBELL_REGISTER);
            controller.raise(event.with_log_page(1));
        }
    }
}

impl Controller {
    fn new(
        config: &Config,
        space: &AddressSpace,
        doorbells: Arc<SharedMemory>,
        cmb: Option<Arc<SharedMemory>>,
    ) -> Self {
        let unit = u64::from(config.atomic_bytes);
        let cache =
            config.write_cache.map(|cache| WriteCache::new(unit, cache.capacity_bytes, cache.seed));
        let medium = Arc::clone(&config.medium);
        let storage = Storage::new(medium, cache, config.observer.clone(), unit);
        storage.cut_after(config.faults.cut_at_write, config.faults.cut_seed);
        let clock = match config.run {
            Run::Threads => Clock::Real(Instant::now()),
            Run::Stepped { .. } => Clock::Simulated(AtomicU64::new(0)),
        };
        Self {
            limits: Limits {
                mdts: config.mdts,
                max_queue_pairs: config.max_queue_pairs,
                mqes: config.mqes,
                optional_commands: config.optional_commands,
                sgl: config.sgl,
                doorbell_stride: config.doorbell_stride,
                shadow_doorbells: config.shadow_doorbells,
                ready_delay: config.ready_delay,
                serial: config.serial(),
                model: config.model.clone(),
            },
            table: Arc::clone(&space.table),
            storage,
            namespaces: NamespaceState::lay_out(config),
            identify_hook: config.identify.clone(),
            faults: Faults::new(&config.faults),
            registers: Mutex::new(Registers::new(config, cmb)),
            interrupts: Interrupts::new(config.interrupt_vectors),
            doorbells,
            shadow: Shadow::default(),
            queues: RwLock::new(Queues::default()),
            queues_version: AtomicUsize::new(0),
            health: Mutex::new(Health::new()),
            report_due: AtomicBool::new(false),
            parked: Mutex::new(Parked::default()),
            any_held: AtomicBool::new(false),
            registers_changed: AtomicBool::new(false),
            ready_pending: AtomicBool::new(false),
            executing: AtomicUsize::new(0),
            removed: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            fatal: AtomicBool::new(false),
            page_bytes: AtomicUsize::new(gcos_hw::PAGE_BYTES),
            clock,
            waker: Waker::default(),
        }
    }
}

impl Function for Emulator {
    fn name(&self) -> &str {
        &self.name
    }

    fn read32(&self, offset: usize) -> u32 {
        let in_range = offset.is_multiple_of(4) && offset < self.registers_len;
        if !in_range || !self.controller.is_present() {
            return u32::MAX;
        }
        if offset >= DOORBELLS {
            return 0; // Doorbells are write only.
        }
        let value =
            self.controller.registers.lock().read(offset, self.controller.interrupts.masked());
        let fatal =
            offset == Register::Csts.offset() && self.controller.fatal.load(Ordering::SeqCst);
        value | u32::from(fatal) << 1
    }

    fn read64(&self, offset: usize) -> u64 {
        let high = self.read32(offset.saturating_add(4));
        u64::from(self.read32(offset)) | u64::from(high) << 32
    }

    fn write32(&self, offset: usize, value: u32) {
        let in_range = offset.is_multiple_of(4) && offset < self.registers_len;
        if !in_range || !self.controller.is_present() {
            return;
        }
        if offset >= DOORBELLS {
            return self.ring(offset, value);
        }
        match Register::at(offset) {
            Some(Register::Intms) => self.controller.interrupts.mask(value),
            Some(Register::Intmc) => self.controller.interrupts.unmask(value),
            _ => {
                let table: &IovaTable = &self.controller.table;
                self.controller.registers.lock().write(offset, value, table);
                self.controller.registers_changed.store(true, Ordering::SeqCst);
                self.controller.waker.wake();
            }
        }
    }

    fn write64(&self, offset: usize, value: u64) {
        if offset == Register::Cmbmsc.offset() {
            if self.controller.is_present() {
                self.controller.registers.lock().write_cmbmsc(value, &self.controller.table);
            }
            return;
        }
        self.write32(offset, value as u32);
        self.write32(offset.saturating_add(4), (value >> 32) as u32);
    }

    fn registers_len(&self) -> usize {
        self.registers_len
    }

    fn dma(&self) -> &Arc<DmaSpace> {
        &self.space.dma
    }

    fn interrupt_vectors(&self) -> u16 {
        self.controller.interrupts.count()
    }

    fn interrupt(&self, vector: u16) -> Result<Arc<EventFd>, HwError> {
        self.controller.interrupts.route(vector)
    }

    fn bar(&self, index: u8) -> Result<Arc<SharedMemory>, HwError> {
        let cmb = self.cmb.as_ref().filter(|_| index == CMB_BAR);
        cmb.cloned().ok_or(HwError::Invalid {
            what: "base address register",
            expected: "2, on a controller with a memory buffer",
            got: index.into(),
        })
    }

    fn lend_doorbells(&self, _: Weak<dyn DoorbellHolder>) -> Result<Doorbells, HwError> {
        // Stores to the memory of a controller that was removed are looked at by nobody: nothing has to
        // be let go of.
        let memory = self.doorbells();
        Ok(Doorbells { memory, first: DOORBELLS, kind: DoorbellMemory::Memory })
    }

    fn now(&self) -> Duration {
        self.controller.clock.now()
    }

    fn relax(&self, spins: u32) {
        match &self.drive {
            Drive::Threads(_) => relax_spinning(spins),
            Drive::Stepped(stepper) => stepper.step(&self.controller),
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // The controller's thread first; then nothing starts any more, and what is being worked on
        // ends. The medium keeps what was acknowledged: dropping is not a power cut.
        let controller = Arc::clone(&self.controller);
        controller.removed.store(true, Ordering::SeqCst);
        controller.quiesce();
        if !controller.storage.is_off()
            && let Err(error) = controller.storage.settle()
        {
            tracing::error!(%error, "write cache could not be emptied");
        }
    }
}
