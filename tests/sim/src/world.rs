//! The drives of one round, in steps on simulated time, and everything that happens to them: power,
//! faults, the end of the process.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use gcos_emulator::{
    Action, Config, Emulator, Medium, MediumEvent, Namespace, Rule, Run, WriteCacheConfig,
};
use gcos_engine::{Engine, HostQueueEngine, HostQueueOptions};
use gcos_hw::{Function, Intercept};
use gcos_layout::checksum::crc32c;
use gcos_layout::media::{ZoneChunks, ZoneMap};
use gcos_nvme::Options;
use parking_lot::Mutex;

use crate::baton::Baton;
use crate::plan::{DriveKind, Fault, FaultKind, Plan, Region};
use crate::recycle::address_space;

/// Deadline of each I/O, in simulated time.
pub const DEADLINE: Duration = Duration::from_millis(60);
/// Bytes of the largest write to the data zone.
const LARGEST_WRITE: u64 = (1 << 20) + 65_536;
/// Steps of one round after which it will never end.
const ENDLESS: u64 = 30_000_000;

/// When the drives of a round stop working.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stop {
    /// They do not.
    #[default]
    Never,
    /// The power goes at this step.
    Power(u64),
    /// They cannot be reached any more from this step on, and lose nothing.
    Unreachable(u64),
}

/// Zones of a drive of a plan.
///
/// # Errors
/// Sizes that do not fit.
pub fn zones(plan: &Plan, drive: &DriveKind) -> Result<ZoneMap, String> {
    ZoneMap::plan(drive.bytes, chunks(plan), 1).map_err(|error| error.to_string())
}

/// Chunk sizes of a plan's pool.
#[must_use]
pub fn chunks(plan: &Plan) -> ZoneChunks {
    ZoneChunks { superblock: 4096, meta: 65_536, data: plan.chunk }
}

/// A history of numbers as one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Digest {
    /// Adds a number.
    pub fn add(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ mixed >> 29;
    }

    /// The digest so far.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }
}

/// One drive of a round.
struct Unit {
    emulator: Arc<Emulator>,
    zones: ZoneMap,
    lba_bytes: u64,
    removed: AtomicBool,
}

/// The drives of one round.
pub struct World {
    units: Vec<Option<Unit>>,
    patience: u8,
    baton: Mutex<Arc<Baton>>,
    steps: AtomicU64,
    stop: Mutex<Stop>,
    /// Whether the power is gone, or the process.
    over: AtomicBool,
    rng: Mutex<Rng>,
    /// Time that passed in pauses, in nanoseconds, and before this round.
    paused: AtomicU64,
    /// Wall-clock seconds that have passed beside simulated time, and before this round.
    wall: Arc<AtomicU64>,
    unique: AtomicU64,
    seed: u64,
    digest: Arc<Mutex<Digest>>,
    /// Whether a fault has been armed that makes operations fail.
    disturbed: AtomicBool,
    /// Whether a fault has been armed that makes reads return something else once.
    misreads: AtomicBool,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("steps", &self.steps).finish_non_exhaustive()
    }
}

/// A drive's function, seen by the driver: whoever waits lets the world go on.
#[derive(Debug)]
struct Port {
    behind: Arc<dyn Function>,
    world: Arc<World>,
    drive: usize,
}

impl Intercept for Port {
    fn behind(&self) -> &Arc<dyn Function> {
        &self.behind
    }
    fn relax(&self, _: u32) {
        self.world.relax(self.drive);
    }
}

impl World {
    /// Powers the drives of a plan up, except those that are `missing` (bit mask). `wall`: seconds since the
    /// beginning of the history, which this world counts on.
    ///
    /// # Errors
    /// A configuration that cannot be.
    pub fn new(
        plan: &Plan,
        media: &[Arc<Medium>],
        missing: u8,
        round_seed: u64,
        digest: &Arc<Mutex<Digest>>,
        wall: &Arc<AtomicU64>,
    ) -> Result<Arc<Self>, String> {
        let mut rng = Rng::with_seed(round_seed);
        let space = address_space()?;
        let mut units = Vec::new();
        for (at, (kind, medium)) in plan.drives.iter().zip(media).enumerate() {
            let (seed, cache_seed) = (rng.u64(..), rng.u64(..));
            if missing & 1 << at != 0 {
                units.push(None);
                continue;
            }
            let log = Arc::clone(digest);
            let config = Config {
                namespaces: vec![Namespace { lba_bytes: kind.lba_bytes, bytes: medium.len() }],
                mdts: kind.max_transfer,
                sgl: kind.sgl,
                optional_commands: kind.deallocate,
                atomic_bytes: kind.atomic_bytes,
                write_cache: kind
                    .cache
                    .then_some(WriteCacheConfig { capacity_bytes: 1 << 20, seed: cache_seed }),
                run: Run::Stepped { seed },
                name: format!("drive{at}"),
                serial: format!("SIM{at}"),
                space: Some(space.clone()),
                observer: Some(Arc::new(move |event: &MediumEvent<'_>| {
                    note(&mut log.lock(), at as u64, event);
                })),
                ..Config::new(Arc::clone(medium))
            };
            let emulator = Emulator::new(config).map_err(|error| error.to_string())?;
            let lba_bytes = kind.lba_bytes.into();
            let zones = zones(plan, kind)?;
            units.push(Some(Unit { emulator, zones, lba_bytes, removed: AtomicBool::new(false) }));
        }
        Ok(Arc::new(Self {
            units,
            patience: plan.patience,
            baton: Mutex::new(Arc::new(Baton::new(0, 0))),
            steps: AtomicU64::new(0),
            stop: Mutex::default(),
            over: AtomicBool::new(false),
            rng: Mutex::new(rng),
            paused: AtomicU64::new(0),
            wall: Arc::clone(wall),
            unique: AtomicU64::new(0),
            seed: round_seed,
            digest: Arc::clone(digest),
            disturbed: AtomicBool::new(false),
            misreads: AtomicBool::new(false),
        }))
    }

    /// Drivers for the drives that are there, by drive.
    ///
    /// # Errors
    /// A driver that cannot bring its controller up.
    pub fn engines(self: &Arc<Self>) -> Result<Vec<Arc<dyn Engine>>, String> {
        let mut engines: Vec<Arc<dyn Engine>> = Vec::new();
        for (drive, unit) in self.units.iter().enumerate() {
            let Some(unit) = unit else { continue };
            let behind = unit.emulator.function();
            let port = Arc::new(Port { behind, world: Arc::clone(self), drive });
            let controller = Options {
                queue_depth: 32,
                abort_timeout: Duration::from_millis(10),
                admin_timeout: Duration::from_millis(100),
                ..Options::default()
            };
            let options = HostQueueOptions { controller, nsid: 1 };
            let engine = HostQueueEngine::open(port, options).map_err(|error| error.to_string())?;
            engines.push(Arc::new(engine));
        }
        Ok(engines)
    }

    /// Who runs from now on.
    pub fn give_baton(&self, baton: Arc<Baton>) {
        *self.baton.lock() = baton;
    }

    fn baton(&self) -> Arc<Baton> {
        Arc::clone(&self.baton.lock())
    }

    /// From now on steps are counted anew, and the drives stop as stated.
    pub fn stop_at(&self, stop: Stop) {
        self.steps.store(0, Ordering::Relaxed);
        *self.stop.lock() = stop;
    }

    /// Cuts the power in this write to a drive (1 is the next).
    pub fn cut_at_write(&self, drive: u8, writes: u32) {
        let seed = self.rng.lock().u64(..);
        if let Some(Some(unit)) = self.units.get(usize::from(drive)) {
            unit.emulator.cut_power_at_write(writes.into(), seed);
        }
    }

    /// Whether nothing reaches the drives any more.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Whether a fault was armed that makes commands fail.
    pub fn is_disturbed(&self) -> bool {
        self.disturbed.load(Ordering::Relaxed) || self.is_over()
    }

    /// Whether a read may have to be repeated.
    pub fn misreads(&self) -> bool {
        self.misreads.load(Ordering::Relaxed)
    }

    /// Steps since they are counted.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Lets wall-clock time pass, in which nothing else happens.
    pub fn pass(&self, seconds: u64) {
        self.wall.fetch_add(seconds, Ordering::Relaxed);
    }

    /// Seconds since the beginning of the history.
    pub fn wall(&self) -> u64 {
        self.wall.load(Ordering::Relaxed) + gcos_store::World::now(self).as_secs()
    }

    /// Adds to the digest of the history.
    pub fn note(&self, value: u64) {
        self.digest.lock().add(value);
    }

    fn units(&self) -> impl Iterator<Item = &Unit> {
        self.units.iter().flatten()
    }

    /// The power goes.
    pub fn cut_power(&self) {
        self.over.store(true, Ordering::Relaxed);
        for unit in self.units() {
            let seed = self.rng.lock().u64(..);
            unit.emulator.power_cut(seed);
        }
    }

    /// The process ends: nothing reaches the drives any more, which lose nothing.
    pub fn end_process(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.units().for_each(|unit| unit.emulator.remove());
    }

    fn relax(&self, drive: usize) {
        for (at, unit) in self.units.iter().enumerate() {
            let Some(unit) = unit else { continue };
            if at == drive || self.rng.lock().bool() {
                Function::relax(&*unit.emulator, 0);
            }
        }
        let steps = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        if !self.is_over() {
            let stop = *self.stop.lock();
            let torn =
                |unit: &Unit| !unit.emulator.is_present() && !unit.removed.load(Ordering::Relaxed);
            match stop {
                Stop::Power(at) if steps >= at => self.cut_power(),
                Stop::Unreachable(at) if steps >= at => self.end_process(),
                _ if self.units().any(torn) => self.cut_power(),
                _ => {}
            }
        }
        assert!(steps < ENDLESS, "endless: {steps} steps and no end");
        self.baton().stepped(self.patience);
    }

    /// Lets a fault take effect.
    pub fn arm(&self, fault: &Fault) {
        let Some(Some(unit)) = self.units.get(usize::from(fault.drive)) else { return };
        self.disturbed.fetch_or(fault.kind.disturbs(), Ordering::Relaxed);
        let misreads = matches!(fault.kind, FaultKind::CorruptRead(_));
        self.misreads.fetch_or(misreads, Ordering::Relaxed);
        let (data, journal) = (unit.blocks(Region::Data), unit.blocks(Region::Journal));
        let rule = match fault.kind {
            FaultKind::LoseCompletion => Rule::io(Action::LoseCompletion).times(1),
            FaultKind::DuplicateCompletion => Rule::io(Action::DuplicateCompletion).times(1),
            FaultKind::WrongCommand => Rule::io(Action::WrongCommandId(0x5555)).times(1),
            FaultKind::Hold => Rule::io(Action::Hold).times(1),
            FaultKind::Delay(micros) => {
                let delay = Duration::from_micros(micros.into());
                Rule::io(Action::Delay(delay)).times(2)
            }
            FaultKind::WriteError(region) => {
                let fault = Action::Status { sct: 2, sc: 0x80, dnr: false };
                Rule::io(fault).opcode(1).blocks(unit.blocks(region)).times(1)
            }
            FaultKind::FlushError => {
                Rule::io(Action::Status { sct: 2, sc: 0x80, dnr: false }).opcode(0).times(1)
            }
            FaultKind::Stick => Rule::io(Action::Stick).times(1),
            FaultKind::Fatal => return unit.emulator.fail(),
            FaultKind::Remove => {
                unit.removed.store(true, Ordering::Relaxed);
                return unit.emulator.remove();
            }
            FaultKind::CorruptRead(region) => {
                let bits = 3;
                let blocks = unit.blocks(region);
                Rule::io(Action::CorruptRead { bits }).opcode(2).blocks(blocks).times(1)
            }
            FaultKind::Unreadable(at) => {
                let first = data.start + (data.end - data.start) * u64::from(at) / 1000;
                let blocks = first..(first + 300_000 / unit.lba_bytes).min(data.end);
                Rule::io(Action::Status { sct: 2, sc: 0x81, dnr: true }).opcode(2).blocks(blocks)
            }
            FaultKind::LostWrite(region) => {
                let blocks = unit.blocks(region);
                Rule::io(Action::Lie).opcode(1).blocks(blocks).times(1)
            }
            FaultKind::Misdirected(blocks) => {
                let blocks = i64::from(blocks) * 4096 / unit.lba_bytes.cast_signed();
                // It stays in the data zone: past the end it would begin again at the front, in metadata.
                let room = blocks.cast_unsigned() + LARGEST_WRITE / unit.lba_bytes;
                let from = data.start..data.end.saturating_sub(room);
                Rule::io(Action::Misdirect { blocks }).opcode(1).blocks(from).times(1)
            }
            FaultKind::RotsAfterWrite(region) => {
                let blocks = unit.blocks(region);
                Rule::io(Action::BitRot).opcode(1).blocks(blocks).times(1)
            }
            FaultKind::LyingFlush => {
                let _ = unit.emulator.faults().add(Rule::io(Action::Lie).opcode(0));
                Rule::io(Action::IgnoreFua).opcode(1).blocks(journal)
            }
        };
        let _ = unit.emulator.faults().add(rule);
    }
}

impl Unit {
    /// Logical blocks of a region.
    fn blocks(&self, region: Region) -> std::ops::Range<u64> {
        let bytes = region_bytes(&self.zones, region);
        bytes.start / self.lba_bytes..bytes.end / self.lba_bytes
    }
}

/// Bytes of a region of a drive. The data region has superblock copies in it.
#[must_use]
pub fn region_bytes(zones: &ZoneMap, region: Region) -> std::ops::Range<u64> {
    let journal = zones.journal_offset();
    match region {
        Region::Checkpoints => zones.checkpoint_offset(0)..journal,
        Region::Journal => journal..journal + zones.journal_bytes,
        Region::Data => {
            let last = zones.superblock_offsets()[3];
            journal + zones.journal_bytes..last
        }
    }
}

fn note(digest: &mut Digest, drive: u64, event: &MediumEvent<'_>) {
    match event {
        MediumEvent::Write { offset, data, fua } => {
            digest.add(1 + u64::from(*fua));
            digest.add(drive << 56 ^ offset);
            digest.add(u64::from(crc32c(data)) << 32 ^ data.len() as u64);
        }
        MediumEvent::Zero { offset, len, .. } => {
            digest.add(3);
            digest.add(drive << 56 ^ offset);
            digest.add(*len);
        }
        MediumEvent::Flush => digest.add(4 + drive),
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The next one begins at 0.
        let own = gcos_store::World::now(self).as_secs() + 1;
        self.pass(own);
    }
}

impl gcos_store::World for World {
    fn pause(&self) {
        let idle = self.baton().pause();
        // Time passes faster the longer nobody can do anything.
        self.paused.fetch_add(1000 * idle.min(1000), Ordering::Relaxed);
    }

    fn now(&self) -> Duration {
        let drives = self.units().map(|unit| unit.emulator.now()).max().unwrap_or_default();
        drives + Duration::from_nanos(self.paused.load(Ordering::Relaxed))
    }

    fn seconds(&self) -> u64 {
        1_700_000_000 + self.wall()
    }

    fn unique(&self) -> [u8; 16] {
        let count = self.unique.fetch_add(1, Ordering::Relaxed);
        let mut rng = Rng::with_seed(self.seed ^ count << 48);
        rng.u128(..).to_le_bytes()
    }
}
