use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_cuda::{DeviceMemory, DeviceSlice, Gpu, GpuError, Kernels, LaunchShape, Stream};
use gcos_layout::gpu::{MAX_QUEUE_ENTRIES, Share};
use gcos_layout::nvme::{IoCommand, IoOpcode};
use gcos_nvme::{Controller, NvmeError};
use smallvec::SmallVec;

use super::bell::{Bell, DoorbellChoice};
use super::flight::{Claim, Flight, GpuTicket, Parts};
use super::lane::Lane;
use super::plan::{Limits, Plan, bounce_pieces};
use super::shared::{Holder, Leased, Shared};
use super::slate::Slate;
use super::stats::GpuStats;
use crate::device::{DeviceEngine, DevicePath, DeviceTicket, DeviceTransfer, Driver, HostDriven};
use crate::host::geometry;
use crate::{HostQueueEngine, IoError, IoErrorKind, Op};

/// The kernel that carries out a batch.
const KERNEL: &str = "gcos_io";
/// Threads of its blocks: as many commands are posted in one round.
const THREADS: u32 = 256;
/// The same where each is a thread of the host.
const PLAYED_THREADS: u32 = 32;
/// Largest transfer of one command: one page of PRP list describes so much from any offset.
const MOST_TRANSFER: usize = 2 << 20;
/// Commands that are worth a further queue pair.
const COMMANDS_PER_LANE: usize = 16;
/// How long the end of an engine waits beside what its batches may take.
const END: Duration = Duration::from_secs(5);

/// How to open a [`GpuQueueEngine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuQueueOptions {
    /// Queue pairs to borrow from the controller, which was opened with at least as many
    /// [`gcos_nvme::Options::lent_queue_pairs`] to spare.
    pub queue_pairs: u16,
    /// Entries of each queue, 2 to 4096 and at most what the controller supports.
    pub queue_depth: u32,
    /// How doorbells may be rung.
    pub doorbells: DoorbellChoice,
}

impl Default for GpuQueueOptions {
    fn default() -> Self {
        Self { queue_pairs: 4, queue_depth: 1024, doorbells: DoorbellChoice::Auto }
    }
}

/// Why a [`GpuQueueEngine`] cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuEngineError {
    /// The GPU, its memory or its kernels.
    #[error("{drive}: the GPU cannot drive queues")]
    Gpu {
        /// The drive.
        drive: String,
        /// Why, and what to do.
        #[source]
        source: GpuError,
    },
    /// The controller.
    #[error("{drive}: the controller lends no queues to the GPU")]
    Controller {
        /// The drive.
        drive: String,
        /// Why, and what to do.
        #[source]
        source: NvmeError,
    },
    /// A parameter that cannot be.
    #[error("{drive}: {what}: expected {expected}, got {got}")]
    Invalid {
        /// The drive.
        drive: String,
        /// The parameter.
        what: &'static str,
        /// What is accepted.
        expected: String,
        /// What was given.
        got: u64,
    },
    /// No queue pair could be made.
    #[error("{drive}: no queue pair could be made for the GPU: {reason}")]
    NoPair {
        /// The drive.
        drive: String,
        /// Why.
        reason: String,
    },
    /// The rung below could not be had either.
    #[error("{drive}: the host cannot drive transfers of the GPU")]
    Host {
        /// The drive.
        drive: String,
        /// Why.
        #[source]
        source: Box<IoError>,
    },
}

/// Where a queue that the GPU drives lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePlace {
    /// Address of the submission queue's first byte for the GPU.
    pub device_address: u64,
    /// The same for this process.
    pub cpu_address: usize,
}

/// Moves blocks by NVMe queue pairs in GPU memory that kernels drive: for each batch one short kernel, each
/// of whose blocks owns a queue pair for as long as it runs. The host describes the batch, launches the
/// kernel, and learns of the results without a blocking call.
///
/// After a fault the queue pairs concerned are deleted and made anew, and only then is memory given back.
/// When none can be made any more the host's queues take over ([`HostDriven`]), which is said once.
#[derive(Debug)]
pub struct GpuQueueEngine {
    shared: Arc<Shared>,
    host: HostDriven,
    options: GpuQueueOptions,
    refused: Vec<String>,
}

impl GpuQueueEngine {
    /// Borrows queue pairs of a controller that is up, for the GPU of `memory`.
    ///
    /// # Errors
    /// [`GpuEngineError`]: no kernels, not enough memory, options that do not fit, or a controller that
    /// lends none.
    pub fn new(
        controller: &Arc<Controller>,
        nsid: u32,
        memory: &Arc<DeviceMemory>,
        options: GpuQueueOptions,
    ) -> Result<Self, GpuEngineError> {
        let drive = || controller.name().to_owned();
        let of_gpu = |source| GpuEngineError::Gpu { drive: drive(), source };
        let invalid = |what, expected: String, got| {
            Err(GpuEngineError::Invalid { drive: drive(), what, expected, got })
        };
        let gpu = memory.gpu();
        let most = controller.options().lent_queue_pairs;
        if options.queue_pairs == 0 || options.queue_pairs > most {
            let expected = format!("1 to {most}, which the controller was opened to lend");
            return invalid("queue pairs of a GPU", expected, options.queue_pairs.into());
        }
        if !(2..=MAX_QUEUE_ENTRIES).contains(&options.queue_depth) {
            let expected = format!("2 to {MAX_QUEUE_ENTRIES}");
            return invalid("queue depth of a GPU", expected, options.queue_depth.into());
        }
        if !Arc::ptr_eq(memory.space(), controller.dma()) {
            let expected = "GPU memory in the address space of the drive".into();
            return invalid("address space", expected, gpu.ordinal() as u64);
        }
        // Checks the namespace.
        let of_controller = |source| GpuEngineError::Controller { drive: drive(), source };
        let host = HostQueueEngine::new(Arc::clone(controller), nsid).map_err(of_controller)?;
        let Some(namespace) = controller.namespace(nsid) else {
            return invalid("namespace", "an active one".into(), nsid.into());
        };
        let geometry = geometry(controller, namespace);
        let host = HostDriven::new(Arc::new(host), Arc::clone(memory))
            .map_err(|source| GpuEngineError::Host { drive: drive(), source: Box::new(source) })?;
        let kernels = Kernels::load(gpu).map_err(of_gpu)?;
        let sgl = matches!(controller.identity().sgls.support(), 1 | 2);
        let max_transfer = controller.max_transfer().min(MOST_TRANSFER) as u64;
        let limits = Limits::new(geometry.lba_bytes, max_transfer, sgl);
        let lanes = (0..usize::from(options.queue_pairs))
            .map(|index| Lane::new(index, memory, options.queue_depth, nsid, limits))
            .collect::<Result<Vec<_>, _>>()
            .map_err(of_gpu)?;
        let holder = Arc::new(Holder::default());
        let (bell, refused) = {
            let weak: std::sync::Weak<Holder> = Arc::downgrade(&holder);
            Bell::open(gpu, controller.function(), weak, lanes.len(), options.doorbells)
        }
        .map_err(of_gpu)?;
        for reason in &refused {
            tracing::info!(
                drive = controller.name(),
                reason,
                "doorbells are forwarded by a thread"
            );
        }
        let bell = (bell, holder);
        let (memory, controller) = (Arc::clone(memory), Arc::clone(controller));
        let shared = Shared::new(memory, kernels, controller, nsid, geometry, limits, lanes, bell);
        let engine = Self { shared, host, options, refused };
        engine.try_out()?;
        tracing::info!(drive = engine.shared.name(), path = %engine.path(), "a GPU drives queues");
        Ok(engine)
    }

    /// Makes the queue pairs: one at least must be there.
    fn try_out(&self) -> Result<(), GpuEngineError> {
        let shared = &self.shared;
        let mut reason = None;
        let mut made = 0;
        for lane in &shared.lanes {
            match lane.make(&shared.controller, &shared.bell) {
                Ok(_) => made += 1,
                Err(error) => reason = Some(error.to_string()),
            }
        }
        shared.stats.made.add(made);
        match reason {
            Some(reason) => Err(GpuEngineError::NoPair { drive: shared.name().to_owned(), reason }),
            None => Ok(()),
        }
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> GpuStats {
        self.shared.stats.values(self.shared.bell.forwarded())
    }

    /// Where its submission queues lie.
    #[must_use]
    pub fn queue_places(&self) -> Vec<QueuePlace> {
        let place = |lane: &Lane| QueuePlace {
            device_address: lane.queue_address(),
            cpu_address: lane.queue_cpu_address(),
        };
        self.shared.lanes.iter().map(place).collect()
    }

    fn failed(&self, kind: IoErrorKind, detail: impl Into<String>) -> IoError {
        IoError::about(self.shared.name(), kind, "start", detail)
    }

    fn gpu_failed(&self, error: &GpuError) -> IoError {
        let mut detail = format!("the GPU takes no work: {error}");
        let mut source = std::error::Error::source(error);
        while let Some(error) = source {
            detail.push_str(&format!(": {error}"));
            source = error.source();
        }
        self.failed(IoErrorKind::Device, detail)
    }

    /// From now on the host does it.
    fn demote(&self, why: &str) {
        let mut state = self.shared.state.lock();
        if state.demoted.is_none() {
            tracing::warn!(
                drive = self.shared.name(),
                why,
                "the GPU drives this drive's queues no longer: the host does"
            );
            state.demoted = Some(why.to_owned());
        }
    }

    /// Takes lanes, waiting for some until `deadline` has passed.
    fn lease(
        &self,
        stream: &Stream,
        want: usize,
        deadline: Duration,
    ) -> Result<Option<Vec<usize>>, IoError> {
        let start = Instant::now();
        let mut spins = 0;
        loop {
            self.shared.reap();
            match self.shared.lease(stream, want) {
                Leased::Lanes(lanes) => return Ok(Some(lanes)),
                Leased::Never => return Ok(None),
                Leased::None => {}
            }
            if start.elapsed() >= deadline {
                let detail = format!(
                    "all {} queue pairs were taken by other streams for {deadline:?}; configure more \
                     (namespace.gpu.qps), or use fewer streams at a time",
                    self.shared.lanes.len()
                );
                return Err(self.failed(IoErrorKind::Timeout, detail));
            }
            gcos_hw::relax_spinning(spins);
            spins += 1;
        }
    }

    /// Gives a planned batch to the GPU. After an error, `lanes` are those that are free again.
    fn launch(
        &self,
        stream: &Stream,
        plan: &mut Plan,
        transfers: Vec<DeviceTransfer>,
        lanes: &mut Vec<usize>,
        deadline: Duration,
    ) -> Result<Arc<Flight>, IoError> {
        let shared = &self.shared;
        let gpu_failed = |error: GpuError| self.gpu_failed(&error);
        let bounces = self.bounce_in(stream, plan, &transfers).map_err(gpu_failed)?;
        let shares = divide(plan.commands.len(), lanes, |lane| {
            shared.lanes.get(lane).map_or(0, Lane::record_address)
        });
        let records: SmallVec<[Share; 4]> = shares.iter().map(|(_, share)| *share).collect();
        let found = shared.state.lock().slates.find(records.len(), plan);
        let mut slate = match found {
            Some(slate) => slate,
            None => Slate::new(self.gpu(), records.len(), plan).map_err(gpu_failed)?,
        };
        slate.fill(&records, plan).map_err(|error| {
            self.failed(IoErrorKind::Invalid, format!("describing a batch: {error}"))
        })?;
        let budget_ns = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        let batch = slate.batch(budget_ns).to_bytes();
        let block = if self.gpu().is_played() { PLAYED_THREADS } else { THREADS };
        let shape = LaunchShape { grid: records.len() as u32, block, shared_bytes: 0 };
        let claims = transfers.iter().zip(&plan.counts).map(claim).collect();
        let lbas = plan.commands.iter().map(|command| command.lba).collect();
        let bytes: u64 = transfers.iter().map(DeviceTransfer::bytes).sum();
        let mut held: Vec<DeviceSlice> =
            transfers.iter().flat_map(|transfer| transfer.segments.iter().cloned()).collect();
        held.extend(bounces.as_ref().map(|bounces| bounces.memory.clone()));
        // Whoever revokes the doorbells finds every batch that was launched on the list.
        let _launching = shared.launching.read();
        if shared.is_revoked() {
            self.give(slate);
            return Err(self.failed(IoErrorKind::Gone, "the drive was given back"));
        }
        shared.bell.begin();
        if let Err(error) = shared.kernels.launch(stream, KERNEL, shape, &batch) {
            shared.bell.end();
            self.give(slate);
            return Err(gpu_failed(error));
        }
        // From here on the kernel may run: nothing of the batch may go before it has ended.
        let copied = bounces.as_ref().map_or(Ok(()), |bounces| bounces.copy_out(stream));
        if let Err(error) = &copied {
            tracing::error!(drive = shared.name(), %error, "bounced data does not arrive");
            slate.abort();
        }
        let ended = match stream.record() {
            Ok(ended) => ended,
            Err(error) => {
                // CUDA has failed as a whole: nobody can tell when the kernel ends. The drive is kept from the
                // memory, and no other batch gets these lanes.
                slate.abort();
                for lane in lanes.drain(..) {
                    if let Err(error) = shared.stop_lane(lane) {
                        tracing::error!(drive = shared.name(), %error, "a queue pair goes on");
                    }
                }
                std::mem::forget((slate, held));
                shared.stats.leaked.add(1);
                shared.bell.end();
                return Err(gpu_failed(error));
            }
        };
        shared.stats.batches.add(1);
        shared.stats.commands.add(plan.commands.len() as u64);
        shared.stats.bytes.add(bytes);
        shared.stats.bounced.add(plan.bounced.len() as u64);
        let copies = bounces.is_some_and(|bounces| bounces.has_reads());
        let spoilt = copied.is_err();
        let parts =
            Parts { lanes: shares, claims, lbas, slate, held, ended, copies, spoilt, deadline };
        let flight = Flight::new(shared, parts);
        shared.state.lock().flights.push(Arc::clone(&flight));
        Ok(flight)
    }

    /// Keeps a slate for another batch.
    fn give(&self, slate: Slate) {
        // What is not kept ends outside the lock.
        let dropped = self.shared.state.lock().slates.give(slate);
        drop(dropped);
    }

    /// Gives memory to what must be bounced and copies what is to be written.
    fn bounce_in(
        &self,
        stream: &Stream,
        plan: &mut Plan,
        transfers: &[DeviceTransfer],
    ) -> Result<Option<Bounces>, GpuError> {
        if plan.bounced.is_empty() {
            return Ok(None);
        }
        let bytes = usize::try_from(plan.bounce_bytes).unwrap_or(usize::MAX);
        let memory = self.shared.memory.alloc(bytes, 4096)?.as_slice();
        plan.place_bounces(&memory);
        let mut reads = Vec::new();
        for bounced in &plan.bounced {
            let Some(transfer) = transfers.get(bounced.transfer) else { continue };
            let pieces = bounce_pieces(bounced, &memory, &transfer.segments)?;
            if matches!(transfer.op, Op::Write { .. }) {
                for (place, segment) in &pieces {
                    stream.copy(segment, place)?;
                }
            } else {
                reads.extend(pieces);
            }
        }
        Ok(Some(Bounces { memory, reads }))
    }
}

/// Bounce memory of a batch.
struct Bounces {
    memory: DeviceSlice,
    /// What is copied behind the kernel: from, to.
    reads: Vec<(DeviceSlice, DeviceSlice)>,
}

impl Bounces {
    fn has_reads(&self) -> bool {
        !self.reads.is_empty()
    }

    fn copy_out(&self, stream: &Stream) -> Result<(), GpuError> {
        self.reads.iter().try_for_each(|(place, segment)| stream.copy(place, segment))
    }
}

/// What a transfer is called in errors.
fn claim((transfer, commands): (&DeviceTransfer, &usize)) -> Claim {
    let opcode = match transfer.op {
        Op::Write { .. } => IoOpcode::Write,
        _ => IoCommand::Read { slba: 0, nlb: 1, fua: false }.opcode(),
    };
    Claim {
        op: transfer.op.name(),
        opcode: opcode.name(),
        offset: transfer.extents.first().map_or(0, |extent| extent.offset),
        len: transfer.bytes(),
        commands: *commands,
    }
}

/// Divides commands among lanes, evenly and in order.
fn divide(
    commands: usize,
    lanes: &[usize],
    record: impl Fn(usize) -> u64,
) -> SmallVec<[(usize, Share); 4]> {
    let mut first = 0;
    let mut left = lanes.len();
    let mut shares = SmallVec::new();
    for &lane in lanes {
        // With fewer commands than lanes the last ones go with nothing to do, and come back with the others.
        let count = (commands - first).div_ceil(left.max(1));
        left -= 1;
        let share = Share { queue_pair: record(lane), first: first as u32, count: count as u32 };
        shares.push((lane, share));
        first += count;
    }
    shares
}

impl DeviceEngine for GpuQueueEngine {
    fn gpu(&self) -> &Arc<Gpu> {
        self.shared.memory.gpu()
    }

    fn memory(&self) -> &Arc<DeviceMemory> {
        &self.shared.memory
    }

    fn path(&self) -> DevicePath {
        let shared = &self.shared;
        let refusals = shared.memory.probe().refusals.iter();
        let mut refused: Vec<_> = refusals
            .map(|refusal| format!("{}: {}", refusal.rung.name(), refusal.reason))
            .collect();
        refused.extend(self.refused.iter().cloned());
        let demoted = shared.state.lock().demoted.clone();
        let driver = match &demoted {
            Some(_) => Driver::Host,
            None => Driver::Gpu {
                queue_pairs: self.options.queue_pairs.into(),
                queue_depth: self.options.queue_depth,
            },
        };
        let doorbell = demoted.is_none().then(|| shared.bell.kind());
        refused.extend(demoted);
        DevicePath { driver, memory: shared.memory.rung(), doorbell, refused }
    }

    fn start(
        &self,
        stream: &Stream,
        transfers: Vec<DeviceTransfer>,
        deadline: Duration,
    ) -> Result<Box<dyn DeviceTicket>, IoError> {
        let shared = &self.shared;
        if !stream.gpu().same(self.gpu()) {
            let detail = "the stream belongs to another GPU than this engine serves";
            return Err(self.failed(IoErrorKind::Invalid, detail));
        }
        for transfer in &transfers {
            transfer.check(&shared.geometry, self.gpu())?;
        }
        let (closed, demoted, mut plan) = {
            let mut state = shared.state.lock();
            let plan = state.plans.pop().unwrap_or_default();
            (state.closed, state.demoted.is_some(), plan)
        };
        if closed {
            return Err(self.failed(IoErrorKind::Gone, "the engine was shut down"));
        }
        if demoted || transfers.is_empty() {
            return self.by_host(stream, transfers, deadline);
        }
        plan.clear();
        transfers.iter().for_each(|transfer| plan.add(transfer, &shared.limits));
        let want = plan.commands.len().div_ceil(COMMANDS_PER_LANE).min(shared.lanes.len());
        let Some(mut lanes) = self.lease(stream, want, deadline)? else {
            self.demote("no queue pair can be made any more, or the drive was given back");
            return self.by_host(stream, transfers, deadline);
        };
        let launched = self.launch(stream, &mut plan, transfers, &mut lanes, deadline);
        shared.state.lock().plans.push(plan);
        match launched {
            Ok(flight) => Ok(Box::new(GpuTicket(flight))),
            Err(error) => {
                shared.unlease(&lanes);
                Err(error)
            }
        }
    }

    fn shutdown(&self, deadline: Duration) -> Result<(), IoError> {
        let start = Instant::now();
        self.shared.state.lock().closed = true;
        let mut spins = 0;
        loop {
            self.shared.reap();
            let left = self.shared.state.lock().flights.len();
            if left == 0 {
                break;
            }
            if start.elapsed() >= deadline {
                let detail = format!("{left} batches did not end within {deadline:?}");
                return Err(self.failed(IoErrorKind::Timeout, detail));
            }
            gcos_hw::relax_spinning(spins);
            spins += 1;
        }
        self.host.shutdown(deadline.saturating_sub(start.elapsed()))
    }
}

impl GpuQueueEngine {
    fn by_host(
        &self,
        stream: &Stream,
        transfers: Vec<DeviceTransfer>,
        deadline: Duration,
    ) -> Result<Box<dyn DeviceTicket>, IoError> {
        self.shared.stats.by_host.add(1);
        self.host.start(stream, transfers, deadline)
    }
}

impl Drop for GpuQueueEngine {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        // Each batch gives up by its own clock; what does not heed that keeps its memory, and this engine's
        // parts with it, for good.
        let mut spins = 0;
        let mut settled: Option<Instant> = None;
        loop {
            self.shared.reap();
            let flights = self.shared.state.lock().flights.clone();
            if flights.is_empty() {
                return;
            }
            if flights.iter().all(|flight| flight.is_concluded()) {
                let since = *settled.get_or_insert_with(Instant::now);
                if since.elapsed() > END {
                    let batches = flights.len();
                    tracing::error!(
                        drive = self.shared.name(),
                        batches,
                        "batches on a GPU did not end: their memory and queue pairs are leaked"
                    );
                    return;
                }
            }
            gcos_hw::relax_spinning(spins);
            spins += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_divided_evenly_and_every_lane_comes_back() {
        let divided = |commands, lanes: &[usize]| {
            let shares = divide(commands, lanes, |lane| lane as u64 * 100);
            shares
                .iter()
                .map(|(lane, s)| (*lane, s.queue_pair, s.first, s.count))
                .collect::<Vec<_>>()
        };
        assert_eq!(divided(10, &[3, 1, 2]), [(3, 300, 0, 4), (1, 100, 4, 3), (2, 200, 7, 3)]);
        assert_eq!(divided(1, &[0, 1]), [(0, 0, 0, 1), (1, 100, 1, 0)]);
        assert_eq!(divided(2, &[5]), [(5, 500, 0, 2)]);
    }
}
