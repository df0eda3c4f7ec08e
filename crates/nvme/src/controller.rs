use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use gcos_hw::{DmaSlice, DmaSpace, Function};
use gcos_layout::nvme::{AdminCommand, IdentifyController, LogPage, SmartLog, Vs};
use parking_lot::Mutex;

use crate::admin::AdminError;
use crate::bring_up::{Core, Facts, check_options, discover};
use crate::device::{Device, gone};
use crate::events::Events;
use crate::inflight::Label;
use crate::pair::QueuePair;
use crate::queue_memory::Carver;
use crate::{CounterValues, Namespace, NvmeError, Options};

/// Where a controller is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Live,
    Resetting,
    ShutDown,
    Gone,
}

/// An NVMe controller that this process drives.
///
/// All methods may be called from any thread. Dropping it disables the controller, within the time
/// that the controller states (CAP.TO), before any memory is freed; [`Controller::shutdown`] is the
/// orderly way.
#[derive(Debug)]
pub struct Controller {
    pub(crate) core: Core,
    pub(crate) options: Options,
    pub(crate) facts: Facts,
    volatile_cache: AtomicBool,
    state: AtomicU8,
    /// Resets survived since opening; queues of an older epoch do not exist on the controller any
    /// more.
    pub(crate) epoch: AtomicU64,
    reason: Mutex<Arc<str>>,
    /// Held while an abort, a reset or a shutdown runs. Lock order: before any queue pair's lock.
    pub(crate) recovery: Mutex<()>,
    pub(crate) events: Events,
    /// Queue identifiers that may be lent.
    pub(crate) lendable: Mutex<Vec<u16>>,
}

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Numbers the threads, to spread them over queue pairs.
    static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
}

impl Controller {
    /// Brings the controller up: disables and enables it, identifies it and its namespaces, creates
    /// the I/O queues.
    ///
    /// # Errors
    /// [`NvmeError::Invalid`] and [`NvmeError::Unsupported`] for options that the controller does
    /// not allow, [`NvmeError::QueueGrant`] when it grants too few queues,
    /// [`NvmeError::NotReady`], [`NvmeError::Gone`], or an admin command's error.
    pub fn open(function: Arc<dyn Function>, options: Options) -> Result<Arc<Self>, NvmeError> {
        let device = Device::probe(function)?;
        check_options(&device, &options)?;
        let (mut carver, for_io) = Carver::from_options(&options);
        let mut core = Core::new(device, &mut carver)?;
        core.start_admin()?;
        let facts = discover(&mut core, &options, &mut for_io.unwrap_or(carver))?;
        let volatile_cache = core.start_io(&options, &facts.identity)?;
        let first_lent = options.io_queue_pairs + 1;
        let lendable = (first_lent..first_lent + options.lent_queue_pairs).rev().collect();
        let controller = Arc::new(Self {
            core,
            options,
            facts,
            volatile_cache: AtomicBool::new(volatile_cache),
            state: AtomicU8::new(State::Live as u8),
            epoch: AtomicU64::new(0),
            reason: Mutex::new(Arc::from("")),
            recovery: Mutex::new(()),
            events: Events::default(),
            lendable: Mutex::new(lendable),
        });
        controller.arm_events();
        tracing::info!(
            device = %controller.name(),
            model = %controller.identity().model,
            version = format_args!("{:#x}", controller.version().0),
            queue_pairs = controller.options.io_queue_pairs,
            max_transfer = controller.max_transfer(),
            volatile_cache,
            "controller is up"
        );
        Ok(controller)
    }

    /// What to call it in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.core.device.name
    }

    /// The function that is driven.
    #[must_use]
    pub fn function(&self) -> &Arc<dyn Function> {
        &self.core.device.function
    }

    /// The address space that the controller reaches.
    #[must_use]
    pub fn dma(&self) -> &Arc<DmaSpace> {
        self.core.dma()
    }

    /// What Identify Controller says.
    #[must_use]
    pub fn identity(&self) -> &IdentifyController {
        &self.facts.identity
    }

    /// NVMe version that the controller implements.
    #[must_use]
    pub fn version(&self) -> Vs {
        self.core.device.version
    }

    /// Active namespaces, as they were at opening.
    #[must_use]
    pub fn namespaces(&self) -> &[Namespace] {
        &self.facts.namespaces
    }

    /// The namespace of an identifier.
    #[must_use]
    pub fn namespace(&self, nsid: u32) -> Option<&Namespace> {
        self.facts.namespaces.iter().find(|namespace| namespace.nsid == nsid)
    }

    /// The options it was opened with.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Largest transfer of one command in bytes: the least of MDTS and the options.
    #[must_use]
    pub fn max_transfer(&self) -> usize {
        self.facts.max_transfer
    }

    /// Whether completed writes may be lost on power failure until a flush: a volatile write cache
    /// is present and enabled.
    #[must_use]
    pub fn volatile_cache(&self) -> bool {
        self.volatile_cache.load(Ordering::Relaxed)
    }

    pub(crate) fn set_volatile_cache(&self, enabled: bool) {
        self.volatile_cache.store(enabled, Ordering::Relaxed);
    }

    /// What has been counted since opening.
    #[must_use]
    pub fn counters(&self) -> CounterValues {
        let mut values = self.core.counters.values();
        for pair in &self.core.pairs {
            let inner = pair.lock();
            values.commands += inner.commands;
            values.bytes += inner.bytes;
        }
        values
    }

    /// Whether requests are accepted (also while a reset is under way).
    #[must_use]
    pub fn is_usable(&self) -> bool {
        matches!(self.state(), State::Live | State::Resetting)
    }

    /// Runs an admin command and waits for it, first for room in the admin queue or the end of a
    /// reset. Returns DW0 of its completion. A command that the controller does not answer in time
    /// leads to a reset.
    ///
    /// Do not create or delete queues or change the number of queues with it. After Format NVM, open
    /// the controller anew.
    ///
    /// # Errors
    /// The command's error, or [`NvmeError::Gone`].
    pub fn admin(
        &self,
        command: AdminCommand,
        nsid: u32,
        data: Option<DmaSlice>,
        timeout: Duration,
    ) -> Result<u32, NvmeError> {
        self.admin_by(command, nsid, timeout, |left| {
            self.core.path().run(command, nsid, data.clone(), left)
        })
    }

    /// Reads the SMART / health log of the controller.
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub fn smart_log(&self) -> Result<SmartLog, NvmeError> {
        let data = self.log_page(LogPage::Smart as u8)?;
        Ok(SmartLog::decode(&data))
    }

    /// Reads the first 512 bytes of a log page.
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub fn log_page(&self, lid: u8) -> Result<[u8; 512], NvmeError> {
        let command = AdminCommand::GetLogPage { lid, bytes: 512, offset: 0, retain_event: false };
        let nsid = gcos_layout::nvme::NSID_ALL;
        self.admin_by(command, nsid, self.options.admin_timeout, |left| {
            self.core.path().fetch::<512>(command, nsid, left)
        })
    }

    /// Carries an admin command out with `run`, which is given the time that is left. Waits for the
    /// end of a reset that is under way, as requests do.
    fn admin_by<T>(
        &self,
        command: AdminCommand,
        nsid: u32,
        timeout: Duration,
        run: impl Fn(Duration) -> Result<T, AdminError>,
    ) -> Result<T, NvmeError> {
        let end = self.now().saturating_add(timeout);
        let mut spins = 0;
        loop {
            self.check_usable()?;
            let left = end.saturating_sub(self.now());
            match run(left) {
                Err(AdminError::Closed(_)) if left.is_zero() => {
                    let label = Label { opcode: command.opcode().name(), nsid, lba: 0 };
                    return Err(label.timed_out(&self.core.device.name, "a reset was under way"));
                }
                Err(AdminError::Closed(_)) => {}
                Err(AdminError::Hung(error)) => {
                    self.reset_because(&error.to_string());
                    return Err(error);
                }
                result => return result.map_err(AdminError::into_inner),
            }
            self.core.device.function.relax(spins);
            spins = spins.saturating_add(1);
        }
    }

    pub(crate) fn check_usable(&self) -> Result<(), NvmeError> {
        match self.state() {
            State::Live | State::Resetting => Ok(()),
            State::ShutDown | State::Gone => Err(self.gone()),
        }
    }

    /// The error of a controller that is gone or shut down.
    pub(crate) fn gone(&self) -> NvmeError {
        gone(&self.core.device.name, &self.reason.lock())
    }

    #[inline]
    pub(crate) fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Live,
            1 => State::Resetting,
            2 => State::ShutDown,
            _ => State::Gone,
        }
    }

    pub(crate) fn set_state(&self, state: State, reason: &str) {
        *self.reason.lock() = Arc::from(reason);
        self.state.store(state as u8, Ordering::Release);
    }

    /// The queue pair of the calling thread.
    #[inline]
    pub(crate) fn pair_of_thread(&self) -> usize {
        THREAD.with(|thread| thread % self.core.pairs.len())
    }

    #[inline]
    pub(crate) fn pair(&self, index: usize) -> &QueuePair {
        // The index came from `pair_of_thread`; the admin queue stands in for a bug.
        self.core.pairs.get(index).unwrap_or(&self.core.admin)
    }

    #[inline]
    pub(crate) fn now(&self) -> Duration {
        self.core.device.function.now()
    }
}
