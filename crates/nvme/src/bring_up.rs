//! The bring-up sequence (Base, section 3.5.1), at opening and after each reset.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gcos_hw::{DmaSpace, PAGE_BYTES};
use gcos_layout::nvme::{
    AdminCommand, Feature, FeatureId, IdentifyController, QueueCounts, Status,
};

use crate::admin::{AdminError, AdminPath};
use crate::bounce::BouncePool;
use crate::cmb::ControllerMemory;
use crate::counters::{Counters, add};
use crate::device::{Device, Disabled, gone};
use crate::inflight::Label;
use crate::options::ADMIN_ENTRIES;
use crate::pair::{PairMemory, QueuePair};
use crate::pointer::list_pages;
use crate::queue_memory::{Carver, sq_bytes};
use crate::shadow::{self, ShadowPages};
use crate::vector::{Vector, vector_of};
use crate::{
    Cmb, Completion, Namespace, NvmeError, Options, PointerChoice, ShadowDoorbells, WriteCache,
};

/// Largest I/O queue that the driver makes: leaves 4 bits of each CID for its generation.
const MAX_DEPTH: u32 = 4096;

/// The controller and everything it may reach by itself. Dropping it stops the controller first, and
/// frees the memory only then.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) device: Device,
    pub(crate) admin: QueuePair,
    pub(crate) pairs: Vec<QueuePair>,
    pub(crate) counters: Counters,
    pub(crate) bounces: BouncePool,
    /// Whether the controller is known to touch no memory any more.
    pub(crate) stopped: AtomicBool,
    /// Whether it could not be stopped: what it was told the address of is never freed.
    pub(crate) stuck: AtomicBool,
    /// The controller memory buffer, where queues lie in it.
    pub(crate) cmb: Option<ControllerMemory>,
    /// Shadow doorbells, where they are used.
    pub(crate) shadow: Option<ShadowPages>,
}

impl Core {
    /// A controller whose admin queues lie in memory of `carver`.
    pub(crate) fn new(device: Device, carver: &mut Carver) -> Result<Self, NvmeError> {
        let memory = PairMemory { main: carver, sq: None };
        let admin = QueuePair::new(&device, 0, ADMIN_ENTRIES, 1, None, memory)?;
        let bounces = BouncePool::new(device.function.dma(), PAGE_BYTES);
        let counters = Counters::default();
        let (stopped, stuck) = (AtomicBool::new(true), AtomicBool::new(false));
        let pairs = Vec::new();
        let (cmb, shadow) = (None, None);
        Ok(Self { device, admin, pairs, counters, bounces, stopped, stuck, cmb, shadow })
    }

    pub(crate) fn dma(&self) -> &Arc<DmaSpace> {
        self.device.function.dma()
    }

    pub(crate) fn path(&self) -> AdminPath<'_> {
        let Self { device, admin, counters, bounces, .. } = self;
        AdminPath { device, queue: admin, counters, bounces }
    }

    /// All queue pairs, admin first.
    pub(crate) fn all_pairs(&self) -> impl Iterator<Item = &QueuePair> {
        std::iter::once(&self.admin).chain(&self.pairs)
    }

    /// Looks at a queue pair's completions.
    #[inline]
    pub(crate) fn reap(&self, pair: &QueuePair) {
        pair.try_reap(&self.device, &self.counters, &self.bounces);
    }

    /// The same, after another thread that is doing so: how many there were.
    pub(crate) fn reap_after_others(&self, pair: &QueuePair) -> u32 {
        let mut inner = pair.lock();
        match inner.open {
            true => pair.reap(&mut inner, &self.device, &self.counters, &self.bounces),
            false => 0,
        }
    }

    /// Stops the controller and creates the admin queues.
    pub(crate) fn start_admin(&self) -> Result<(), NvmeError> {
        match self.device.disable() {
            Disabled::Stopped => {}
            Disabled::Removed => return Err(gone(&self.device.name, "it was removed")),
            Disabled::Stuck => {
                let waited = self.device.ready_timeout();
                let what = "becoming disabled (CSTS.RDY = 0)";
                return Err(self.device.not_ready(what, waited, self.device.csts()));
            }
        }
        self.admin.clear_shadow();
        self.admin.reset(&self.device)?;
        let (asq, acq) = self.admin.addresses();
        self.stopped.store(false, Ordering::Release);
        self.device.enable(asq, acq, ADMIN_ENTRIES)?;
        self.admin.open();
        Ok(())
    }

    /// Creates the I/O queues and sets the write cache. Returns whether a volatile write cache is in
    /// use.
    pub(crate) fn start_io(
        &self,
        options: &Options,
        identity: &IdentifyController,
    ) -> Result<bool, NvmeError> {
        self.ask_for_queues(options).map_err(AdminError::into_inner)?;
        if let Some(cmb) = &self.cmb {
            // A reset may have hidden it.
            cmb.place(&self.device)?;
        }
        // Before the shadow doorbells, which take the values of the rings.
        self.pairs.iter().try_for_each(|pair| pair.reset(&self.device))?;
        if let Some(pages) = &self.shadow {
            self.start_shadow(pages, options.admin_timeout)?;
        }
        for pair in &self.pairs {
            self.create_pair(pair, options.admin_timeout).map_err(AdminError::into_inner)?;
        }
        let cached = match identity.volatile_write_cache() {
            true => self.set_write_cache(options).map_err(AdminError::into_inner)?,
            false => false,
        };
        self.pairs.iter().for_each(QueuePair::open);
        Ok(cached)
    }

    /// Tells the controller of the shadow doorbells, which a reset makes it forget. No I/O queue exists.
    fn start_shadow(&self, pages: &ShadowPages, timeout: Duration) -> Result<(), NvmeError> {
        pages.clear(&self.device)?;
        let told = self.path().configure_doorbells(pages.addresses(), timeout);
        told.map_err(AdminError::into_inner)?;
        for pair in self.all_pairs() {
            let (sq, cq) = pages.of(&self.device, pair.qid);
            pair.set_shadow(sq, cq);
        }
        Ok(())
    }

    fn ask_for_queues(&self, options: &Options) -> Result<(), AdminError> {
        let asked = u32::from(options.io_queue_pairs) + u32::from(options.lent_queue_pairs);
        let feature = Feature::NumberOfQueues(QueueCounts { sq: asked, cq: asked });
        let command = AdminCommand::SetFeatures { feature, save: false };
        let dw0 = self.path().run(command, 0, None, options.admin_timeout)?;
        match Feature::from_dword(FeatureId::NumberOfQueues, dw0) {
            Feature::NumberOfQueues(QueueCounts { sq, cq }) if sq < asked || cq < asked => {
                let device = Arc::clone(&self.device.name);
                Err(AdminError::Ended(NvmeError::QueueGrant { device, asked, sq, cq }))
            }
            _ => {
                let pairs = u16::try_from(asked).unwrap_or(u16::MAX);
                check_doorbells(&self.device, pairs).map_err(AdminError::Ended)
            }
        }
    }

    fn create_pair(&self, pair: &QueuePair, timeout: Duration) -> Result<(), AdminError> {
        let (sq, cq) = pair.addresses();
        let vector = pair.interrupt.as_ref().map(|vector| vector.index);
        self.create_queues(pair.qid, pair.entries, (sq, cq), vector, timeout)
    }

    /// Creates a completion queue, and a submission queue that uses it.
    pub(crate) fn create_queues(
        &self,
        qid: u16,
        entries: u32,
        (sq, cq): (u64, u64),
        vector: Option<u16>,
        timeout: Duration,
    ) -> Result<(), AdminError> {
        let create_cq = AdminCommand::CreateCq { qid, entries, vector, contiguous: true };
        self.path().create_queue(create_cq, cq, timeout)?;
        let create_sq =
            AdminCommand::CreateSq { qid, entries, cqid: qid, priority: 0, contiguous: true };
        self.path().create_queue(create_sq, sq, timeout).map(drop)
    }

    /// Deletes a submission queue, then its completion queue, as far as they exist.
    pub(crate) fn delete_queues(&self, qid: u16, timeout: Duration) -> Result<(), AdminError> {
        for command in [AdminCommand::DeleteSq { qid }, AdminCommand::DeleteCq { qid }] {
            match self.path().run(command, 0, None, timeout) {
                Err(AdminError::Ended(error))
                    if error.status().map(Status::code) == Some(Status::INVALID_QID) => {}
                result => drop(result?),
            }
        }
        Ok(())
    }

    fn set_write_cache(&self, options: &Options) -> Result<bool, AdminError> {
        let timeout = options.admin_timeout;
        if options.write_cache != WriteCache::Keep {
            let enabled = options.write_cache == WriteCache::Enable;
            let feature = Feature::VolatileWriteCache { enabled };
            let command = AdminCommand::SetFeatures { feature, save: false };
            self.path().run(command, 0, None, timeout)?;
        }
        let id = FeatureId::VolatileWriteCache;
        let command = AdminCommand::GetFeatures { id, select: 0, cdw11: 0 };
        let dw0 = self.path().run(command, 0, None, timeout)?;
        Ok(Feature::from_dword(id, dw0) == Feature::VolatileWriteCache { enabled: true })
    }

    /// Ends every command in flight with an error. Only for a controller that touches no memory.
    pub(crate) fn fail_all(&self, error: impl Fn(Label, bool) -> NvmeError) {
        for pair in self.all_pairs() {
            for command in pair.take_all(&self.device, &self.counters, &self.bounces) {
                command.fail(&error);
            }
        }
    }

    /// Ends every command in flight with an error and leaks everything that the controller was told
    /// the address of, because it could not be stopped.
    pub(crate) fn leak_all(&self, error: impl Fn(Label, bool) -> NvmeError) {
        self.stuck.store(true, Ordering::Release);
        for pair in self.all_pairs() {
            let commands = pair.lock().slots.drain();
            let count = commands.len();
            tracing::error!(
                device = %self.device.name, qid = pair.qid, commands = count,
                "the controller cannot be stopped: its queues and the memory of commands in \
                 flight are leaked"
            );
            add(&self.counters.leaked_commands, count as u64);
            commands.into_iter().for_each(|command| command.leak(&error));
            pair.leak_memory();
        }
        if let Some(pages) = &self.shadow {
            pages.leak();
        }
    }

    /// Closes the queues and stops the controller for good: every command in flight ends.
    pub(crate) fn stop(&self, error: impl Fn(Label, bool) -> NvmeError) {
        self.all_pairs().for_each(QueuePair::close);
        if self.stopped.swap(true, Ordering::AcqRel) {
            return self.fail_all(error);
        }
        match self.device.disable() {
            Disabled::Stopped | Disabled::Removed => self.fail_all(error),
            Disabled::Stuck => return self.leak_all(error),
        }
        if self.cmb.is_some() {
            ControllerMemory::hide(&self.device);
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let name = Arc::clone(&self.device.name);
        self.stop(|_, _| gone(&name, "it was closed"));
    }
}

/// What opening found out and decided.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) identity: IdentifyController,
    pub(crate) namespaces: Vec<Namespace>,
    /// Largest transfer of one command in bytes.
    pub(crate) max_transfer: usize,
    /// Whether SGLs may be used.
    pub(crate) sgl: bool,
}

/// Checks the options that the capabilities alone can refuse.
pub(crate) fn check_options(device: &Device, options: &Options) -> Result<(), NvmeError> {
    let refuse = |what, expected: String, got: u64| NvmeError::Invalid {
        device: Arc::clone(&device.name),
        what,
        expected,
        got,
    };
    if options.io_queue_pairs == 0 {
        return Err(refuse("I/O queue pairs", "1 or more".into(), 0));
    }
    let pairs = options.io_queue_pairs.checked_add(options.lent_queue_pairs);
    if pairs.is_none_or(|pairs| pairs == u16::MAX) {
        return Err(refuse("I/O queue pairs", "65534 or fewer in all".into(), 65_535));
    }
    // Before the admin queue is used, whose doorbells lie before those.
    check_doorbells(device, 1)?;
    let most = device.cap.max_queue_entries().min(MAX_DEPTH);
    if !(2..=most).contains(&options.queue_depth) {
        let expected = format!("2 to {most} entries (CAP.MQES and the driver's limit)");
        return Err(refuse("I/O queue depth", expected, options.queue_depth.into()));
    }
    let transfer = options.max_transfer;
    if transfer == 0 || !transfer.is_multiple_of(PAGE_BYTES) || transfer > 64 << 20 {
        let expected = "a multiple of 4096 up to 64 MiB".into();
        return Err(refuse("largest transfer", expected, transfer as u64));
    }
    Ok(())
}

/// Checks that the last doorbell of so many I/O queue pairs lies in the registers that the platform has
/// mapped. Writes beyond go nowhere, and commands would hang.
fn check_doorbells(device: &Device, queue_pairs: u16) -> Result<(), NvmeError> {
    let len = device.function.registers_len();
    let fits = |pairs: u16| device.doorbells(pairs).1 + 4 <= len;
    if fits(queue_pairs) {
        return Ok(());
    }
    if !fits(1) {
        return Err(NvmeError::Unsupported {
            device: Arc::clone(&device.name),
            what: "CAP.DSTRD",
            expected: format!("the doorbells of a queue pair within {len} bytes of registers"),
            got: device.cap.dstrd().into(),
        });
    }
    Err(NvmeError::Invalid {
        device: Arc::clone(&device.name),
        what: "I/O queue pairs",
        expected: format!("doorbells within {len} bytes of registers"),
        got: queue_pairs.into(),
    })
}

/// Identifies the controller and its namespaces, and makes the I/O queue pairs in memory of `carver`,
/// not yet created on the controller.
pub(crate) fn discover(
    core: &mut Core,
    options: &Options,
    carver: &mut Carver,
) -> Result<Facts, NvmeError> {
    let identity = core.identify_controller(options.admin_timeout)?;
    // CAP.MPSMIN is 0: the unit of MDTS is 4 KiB.
    let limit = identity.max_transfer_bytes(PAGE_BYTES as u64).unwrap_or(u64::MAX);
    let max_transfer = options.max_transfer.min(usize::try_from(limit).unwrap_or(usize::MAX));
    let namespaces = core.identify_namespaces(&identity, max_transfer, options.admin_timeout)?;
    let supported = matches!(identity.sgls.support(), 1 | 2);
    if options.data_pointer == PointerChoice::Sgl && !supported {
        return Err(NvmeError::Unsupported {
            device: Arc::clone(&core.device.name),
            what: "SGLS",
            expected: "SGL support, as the options ask for".into(),
            got: identity.sgls.0.into(),
        });
    }
    core.bounces = BouncePool::new(core.dma(), max_transfer);
    core.shadow = shadow_pages(&core.device, options, &identity)?;
    make_pairs(core, options, max_transfer, carver)?;
    let sgl = supported && options.data_pointer != PointerChoice::Prp;
    Ok(Facts { identity, namespaces, max_transfer, sgl })
}

/// Memory for shadow doorbells, if they are to be used.
fn shadow_pages(
    device: &Device,
    options: &Options,
    identity: &IdentifyController,
) -> Result<Option<ShadowPages>, NvmeError> {
    let refused = match identity.doorbell_buffers() {
        true => shadow::refusal(device, options.io_queue_pairs, options.lent_queue_pairs),
        false => Some(NvmeError::Unsupported {
            device: Arc::clone(&device.name),
            what: "OACS",
            expected: "Doorbell Buffer Config (bit 8), as the options ask for".into(),
            got: identity.oacs.into(),
        }),
    };
    match (options.shadow_doorbells, refused) {
        (ShadowDoorbells::Off, _) | (ShadowDoorbells::Auto, Some(_)) => Ok(None),
        (ShadowDoorbells::On, Some(error)) => Err(error),
        (_, None) => ShadowPages::new(device).map(Some),
    }
}

/// Makes the I/O queue pairs, not yet created on the controller.
fn make_pairs(
    core: &mut Core,
    options: &Options,
    max_transfer: usize,
    carver: &mut Carver,
) -> Result<(), NvmeError> {
    carver.set_need(options.queue_memory_bytes_at(max_transfer));
    let mut in_cmb = None;
    if options.cmb == Cmb::SubmissionQueues {
        let cmb = ControllerMemory::find(&core.device)?;
        let need = sq_bytes(options.queue_depth) * usize::from(options.io_queue_pairs);
        let memory = cmb.memory(&core.device)?;
        in_cmb = Some(Carver::of("controller memory buffer", memory, need));
        core.cmb = Some(cmb);
    }
    let mut vectors: Vec<Arc<Vector>> = Vec::new();
    for qid in 1..=options.io_queue_pairs {
        let interrupt = match options.completion {
            Completion::Polled => None,
            Completion::Interrupt => Some(interrupt(&core.device, qid, &mut vectors)?),
        };
        let memory = PairMemory { main: carver, sq: in_cmb.as_mut() };
        let pages = list_pages(max_transfer);
        let depth = options.queue_depth;
        let pair = QueuePair::new(&core.device, qid, depth, pages, interrupt, memory)?;
        core.pairs.push(pair);
    }
    Ok(())
}

/// The vector that queue pair `qid` signals on.
fn interrupt(
    device: &Device,
    qid: u16,
    vectors: &mut Vec<Arc<Vector>>,
) -> Result<Arc<Vector>, NvmeError> {
    let index = vector_of(qid, device.function.interrupt_vectors());
    if let Some(vector) = vectors.iter().find(|vector| vector.index == index) {
        return Ok(Arc::clone(vector));
    }
    let event = device
        .function
        .interrupt(index)
        .map_err(NvmeError::platform(&device.name, "routing an interrupt vector"))?;
    let vector = Arc::new(Vector::new(index, event));
    vectors.push(Arc::clone(&vector));
    Ok(vector)
}
