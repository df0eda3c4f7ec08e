//! Crashes at every place: a workload is run once, with every write and flush noted at the controller;
//! then, for each place where the power may have gone and each choice of what was still in the drives'
//! caches, a pool is recovered from what would have been on the media, and judged.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use gcos_emulator::{Config, Emulator, Medium, MediumEvent, Run, WriteCacheConfig};
use gcos_engine::{Engine, HostQueueEngine, HostQueueOptions};
use gcos_hw::DmaSpace;
use gcos_layout::checksum::crc32c;
use gcos_layout::media::ZoneChunks;
use gcos_nvme::Options;
use gcos_store::{
    Canary, Durability, FormatOptions, IfExists, OpenOptions, PutOptions, PutOutcome, Store, format,
};
use parking_lot::Mutex;

use crate::client::read_whole;
use crate::keys::key_bytes;
use crate::memory::{BLOCK, BlockEngine, Blocks, Changed, Image, Log, Written, apply};
use crate::model::{Excuse, Model, Seen};
use crate::recycle::address_space;
use crate::verdict;

/// Capacity of each drive.
pub(crate) const DRIVE_BYTES: u64 = 6 << 20;
/// Blocks in caches up to which every subset of them is tried.
pub const ALL_SUBSETS: usize = 5;
/// Subsets that are drawn where there are more.
pub const DRAWN: usize = 24;
/// Keys of these workloads.
pub const KEYS: u8 = 3;

/// One operation of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// A synchronous put: key and length.
    Put(u8, u32),
    /// A relaxed put.
    Relaxed(u8, u32),
    /// Two puts in one call.
    Both(u32),
    /// A synchronous put of an object that lives for so many seconds: key, length, seconds.
    Mortal(u8, u32, u8),
    /// So many seconds pass.
    Later(u8),
    /// A get.
    Look(u8),
    /// A synchronous remove.
    Remove(u8),
    /// A relaxed remove.
    Forget(u8),
    /// A flush.
    Flush,
    /// A checkpoint of every drive.
    Checkpoint,
    /// A pass of maintenance, with deallocation.
    Maintain,
    /// A close and an open.
    Reopen,
}

/// The alphabet of the workloads of up to three operations.
pub const ALPHABET: [Step; 9] = [
    Step::Put(0, 700),
    Step::Put(0, 9_000),
    Step::Put(1, 5_000),
    Step::Relaxed(0, 4_000),
    Step::Both(300),
    Step::Remove(0),
    Step::Forget(0),
    Step::Checkpoint,
    Step::Reopen,
];

/// The alphabet of the workloads in which objects expire.
pub const MORTAL: [Step; 7] = [
    Step::Mortal(0, 700, 5),
    Step::Later(10),
    Step::Look(0),
    Step::Put(0, 9_000),
    Step::Relaxed(0, 4_000),
    Step::Checkpoint,
    Step::Reopen,
];

/// The time that stores are told, on the thread that enters it.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    seconds: AtomicU64,
    unique: AtomicU64,
}

impl gcos_store::World for Clock {
    fn pause(&self) {
        std::thread::yield_now();
    }
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn seconds(&self) -> u64 {
        1_700_000_000 + self.seconds.load(Ordering::Relaxed)
    }
    fn unique(&self) -> [u8; 16] {
        u128::from(1 + self.unique.fetch_add(1, Ordering::Relaxed)).to_le_bytes()
    }
}

/// What was seen at the controllers, in order.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Write {
        drive: usize,
        offset: u64,
        bytes: Arc<[u8]>,
        fua: bool,
    },
    Zero {
        drive: usize,
        offset: u64,
        len: u64,
    },
    Flush {
        drive: usize,
    },
    /// Operation `n` begins.
    Begin(usize),
    /// Operation `n` ended: whether it changed what it was to change.
    End(usize, bool),
}

/// What a search found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Searched {
    /// Workloads that were run.
    pub workloads: u64,
    /// Places where the power went.
    pub places: u64,
    /// Different media that pools were recovered from.
    pub recoveries: u64,
}

impl std::ops::AddAssign for Searched {
    fn add_assign(&mut self, other: Self) {
        self.workloads += other.workloads;
        self.places += other.places;
        self.recoveries += other.recoveries;
    }
}

/// A crash that was not survived.
#[derive(Debug, Clone)]
pub struct Lost {
    /// The workload.
    pub steps: Vec<Step>,
    /// Which event the power went before, and what was kept of the caches.
    pub place: String,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: power cut {}: {}", self.steps, self.place, self.what)
    }
}

/// A pool of so many drives as it is formatted, to run workloads on.
#[derive(Debug, Clone)]
pub struct Bed {
    images: Vec<Arc<Vec<u8>>>,
    dma: Arc<DmaSpace>,
    canary: Option<Canary>,
}

impl Bed {
    /// Formats a pool.
    ///
    /// # Errors
    /// What the store says.
    pub fn new(drives: usize, canary: Option<Canary>) -> Result<Self, String> {
        let dma = address_space()?.dma;
        let blank = Arc::new(vec![0; DRIVE_BYTES as usize]);
        let images: Vec<_> = (0..drives)
            .map(|drive| Arc::new(Image::new(drive, &blank, Changed::new(), &Log::default())))
            .collect();
        let engines = engines(&images, &dma);
        let chunks = ZoneChunks { superblock: 4096, meta: 65_536, data: 256 << 10 };
        let options = FormatOptions { chunks, ..FormatOptions::default() };
        format(&engines, &options).map_err(|error| error.to_string())?;
        let whole = |image: &Arc<Image>| {
            let mut bytes = vec![0; DRIVE_BYTES as usize];
            image.read(0, &mut bytes).map(|()| Arc::new(bytes))
        };
        let images = images.iter().map(whole).collect::<Result<_, _>>()?;
        Ok(Self { images, dma, canary })
    }

    /// Runs a workload and recovers from every crash in it; of a workload whose beginnings are searched
    /// by themselves, only those in its last operation (`last_only`).
    ///
    /// # Errors
    /// The first crash that was not survived.
    pub fn search(&self, steps: &[Step], last_only: bool, seed: u64) -> Result<Searched, Lost> {
        let lost = |what| Lost { steps: steps.to_vec(), place: "nowhere".to_owned(), what };
        let clock = Arc::new(Clock::default());
        gcos_store::plant(self.canary);
        gcos_store::enter(Some(Arc::clone(&clock) as _));
        let recorded = self.record(steps, seed, &clock);
        clock.seconds.store(0, Ordering::Relaxed);
        let result = match recorded {
            Ok(events) => Search::new(self, steps, &clock, last_only, seed).run(&events),
            Err(what) => Err(lost(what)),
        };
        gcos_store::enter(None);
        gcos_store::plant(None);
        result
    }

    /// Runs a workload over the driver and controllers in steps.
    fn record(&self, steps: &[Step], seed: u64, clock: &Clock) -> Result<Vec<Event>, String> {
        let rig = Rig::new(&self.images, seed)?;
        let events = &rig.events;
        let open = || Store::open(rig.engines()?, quiet()).map_err(|error| error.to_string());
        let mut store = open()?;
        let mut model = Model::new(KEYS, seed);
        for (at, step) in steps.iter().enumerate() {
            events.lock().push(Event::Begin(at));
            let mut changed = true;
            if *step == Step::Reopen {
                store.close().map_err(|error| format!("close: {error}"))?;
                store = open()?;
            } else {
                changed = carry_out(&store, *step, &mut model, clock)
                    .map_err(|error| format!("{step:?}: {error}"))?;
            }
            events.lock().push(Event::End(at, changed));
        }
        // Those of the drop are no part of it.
        let events = std::mem::take(&mut *events.lock());
        Ok(events)
    }
}

/// Controllers in steps over images, and what they note.
pub(crate) struct Rig {
    emulators: Vec<Arc<Emulator>>,
    pub(crate) events: Arc<Mutex<Vec<Event>>>,
}

impl Rig {
    pub(crate) fn new(images: &[Arc<Vec<u8>>], seed: u64) -> Result<Self, String> {
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let space = address_space()?;
        let mut emulators = Vec::new();
        for (drive, image) in images.iter().enumerate() {
            let medium = Medium::ram(DRIVE_BYTES).map_err(|error| error.to_string())?;
            medium.poke(0, image).map_err(|error| error.to_string())?;
            let log = Arc::clone(&events);
            let config = Config {
                run: Run::Stepped { seed: seed ^ drive as u64 },
                write_cache: Some(WriteCacheConfig { capacity_bytes: 64 << 20, seed }),
                serial: format!("CRASH{drive}"),
                space: Some(space.clone()),
                observer: Some(Arc::new(move |event: &MediumEvent<'_>| {
                    log.lock().push(noted(drive, event));
                })),
                ..Config::new(medium)
            };
            emulators.push(Emulator::new(config).map_err(|error| error.to_string())?);
        }
        Ok(Self { emulators, events })
    }

    /// Drivers of the controllers.
    pub(crate) fn engines(&self) -> Result<Vec<Arc<dyn Engine>>, String> {
        let mut engines: Vec<Arc<dyn Engine>> = Vec::new();
        for emulator in &self.emulators {
            let options = HostQueueOptions { controller: Options::default(), nsid: 1 };
            let engine = HostQueueEngine::open(emulator.function(), options);
            engines.push(Arc::new(engine.map_err(|error| error.to_string())?));
        }
        Ok(engines)
    }
}

pub(crate) fn quiet() -> OpenOptions {
    OpenOptions { background: false, allow_missing: false, ..OpenOptions::default() }
}

pub(crate) fn engines(images: &[Arc<Image>], dma: &Arc<DmaSpace>) -> Vec<Arc<dyn Engine>> {
    let each = images.iter().enumerate();
    each.map(|(drive, image)| {
        let blocks: Arc<dyn Blocks> = Arc::clone(image) as _;
        BlockEngine::over(format!("image{drive}"), blocks, 4096, dma)
    })
    .collect()
}

fn noted(drive: usize, event: &MediumEvent<'_>) -> Event {
    match *event {
        MediumEvent::Write { offset, data, fua } => {
            Event::Write { drive, offset, bytes: data.into(), fua }
        }
        MediumEvent::Zero { offset, len, .. } => Event::Zero { drive, offset, len },
        MediumEvent::Flush => Event::Flush { drive },
    }
}

/// Keys and lengths that a step puts.
fn puts(step: Step) -> Vec<(u8, u32)> {
    match step {
        Step::Put(key, len) | Step::Relaxed(key, len) | Step::Mortal(key, len, _) => {
            vec![(key, len)]
        }
        Step::Both(len) => vec![(1, len), (2, len + 1)],
        _ => Vec::new(),
    }
}

/// Seconds that what a step puts lives.
fn ttl(step: Step) -> Option<u64> {
    match step {
        Step::Mortal(_, _, ttl) => Some(ttl.into()),
        _ => None,
    }
}

/// Carries a step out: whether it found what it was to change.
fn carry_out(store: &Store, step: Step, model: &mut Model, clock: &Clock) -> Result<bool, String> {
    let durability = match step {
        Step::Relaxed(..) | Step::Forget(_) => Durability::Relaxed,
        _ => Durability::Sync,
    };
    let words = |error: gcos_store::StoreError| error.to_string();
    match step {
        Step::Put(..) | Step::Relaxed(..) | Step::Mortal(..) | Step::Both(_) => {
            let ttl = ttl(step).map(Duration::from_secs);
            let if_exists = IfExists::Replace;
            let options = PutOptions { durability, if_exists, ttl, ..PutOptions::default() };
            let payloads: Vec<_> = puts(step)
                .into_iter()
                .map(|(key, len)| (key_bytes(key), model.begin_put(key, len).1))
                .collect();
            let items: Vec<_> = payloads
                .iter()
                .map(|(key, bytes)| (key.as_slice(), gcos_store::Source::Bytes(bytes)))
                .collect();
            for result in store.put_many(&items, &options) {
                if result.map_err(words)? != PutOutcome::Stored {
                    return Err("an object was kept that was to be replaced".to_owned());
                }
            }
            Ok(true)
        }
        Step::Remove(key) | Step::Forget(key) => {
            store.remove(&key_bytes(key), durability).map_err(words)
        }
        Step::Later(seconds) => {
            clock.seconds.fetch_add(seconds.into(), Ordering::Relaxed);
            Ok(true)
        }
        Step::Look(key) => store.get_vec(&key_bytes(key)).map(|_| true).map_err(words),
        Step::Flush => store.flush().map(|()| true).map_err(words),
        Step::Checkpoint => store.checkpoint().map(|()| true).map_err(words),
        Step::Maintain => store.maintain().map(|()| true).map_err(words),
        Step::Reopen => Ok(true),
    }
}

/// What one drive holds at a place of the log.
#[derive(Debug, Clone, Default)]
struct Drive {
    durable: Changed,
    /// Blocks in the cache: each with its versions since the last flush, oldest first.
    cached: Vec<(u64, Vec<Arc<[u8]>>)>,
}

impl Drive {
    fn cache(&mut self, block: u64, bytes: Arc<[u8]>) {
        match self.cached.iter_mut().find(|(other, _)| *other == block) {
            Some((_, versions)) => versions.push(bytes),
            None => self.cached.push((block, vec![bytes])),
        }
    }

    fn flush(&mut self) {
        for (block, mut versions) in self.cached.drain(..) {
            if let Some(newest) = versions.pop() {
                self.durable.insert(block, newest);
            }
        }
    }
}

/// A block that may have reached the medium of a drive, and its versions since the last flush.
pub(crate) type Choice = (usize, u64, Vec<Arc<[u8]>>);

/// What several drives hold at a place of the log.
#[derive(Debug, Clone)]
pub(crate) struct Media {
    images: Vec<Arc<Vec<u8>>>,
    drives: Vec<Drive>,
}

impl Media {
    pub(crate) fn new(images: &[Arc<Vec<u8>>]) -> Self {
        Self { images: images.to_vec(), drives: vec![Drive::default(); images.len()] }
    }

    /// Carries an event out.
    pub(crate) fn happen(&mut self, event: &Event) {
        match event {
            Event::Write { drive, offset, bytes, fua } => {
                let base = &self.images[*drive];
                let unit = &mut self.drives[*drive];
                for (block, part) in blocks(*offset, bytes) {
                    if *fua {
                        unit.cached.retain(|(other, _)| *other != block);
                        apply(base, &mut unit.durable, block * BLOCK, &part);
                    } else {
                        unit.cache(block, part);
                    }
                }
            }
            Event::Zero { drive, offset, len } => {
                let zeros: Arc<[u8]> = vec![0; BLOCK as usize].into();
                for block in offset / BLOCK..(offset + len) / BLOCK {
                    self.drives[*drive].cache(block, Arc::clone(&zeros));
                }
            }
            Event::Flush { drive } => self.drives[*drive].flush(),
            Event::Begin(_) | Event::End(..) => {}
        }
    }

    /// What may or may not be on the media when the power goes before an event, or in the middle of it: of each
    /// block one of its versions, or none of them.
    pub(crate) fn choices(&self, event: &Event) -> Vec<Choice> {
        let mut choices: Vec<Choice> = Vec::new();
        for (drive, unit) in self.drives.iter().enumerate() {
            for (block, versions) in &unit.cached {
                choices.push((drive, *block, versions.clone()));
            }
        }
        if let Event::Write { drive, offset, bytes, .. } = event {
            for (block, part) in blocks(*offset, bytes) {
                let known = choices.iter_mut().find(|(d, b, _)| (*d, *b) == (*drive, block));
                match known {
                    Some((_, _, versions)) => versions.push(part),
                    None => choices.push((*drive, block, vec![part])),
                }
            }
        }
        choices
    }

    /// What a choice leaves (for each block, how many of its versions reached the medium).
    pub(crate) fn left(&self, choices: &[Choice], kept: &[usize]) -> Vec<Changed> {
        let mut media: Vec<Changed> = self.drives.iter().map(|d| d.durable.clone()).collect();
        for ((drive, block, versions), kept) in choices.iter().zip(kept) {
            if let Some(bytes) = kept.checked_sub(1).and_then(|at| versions.get(at)) {
                media[*drive].insert(*block, Arc::clone(bytes));
            }
        }
        media
    }
}

struct Search<'a> {
    bed: &'a Bed,
    steps: &'a [Step],
    clock: &'a Clock,
    last_only: bool,
    rng: Rng,
    media: Media,
    model: Model,
    /// Media that have been recovered from already, since the last operation began or ended.
    seen: HashSet<u64>,
    out: Searched,
}

impl<'a> Search<'a> {
    fn new(bed: &'a Bed, steps: &'a [Step], clock: &'a Clock, last_only: bool, seed: u64) -> Self {
        Self {
            bed,
            steps,
            clock,
            last_only,
            rng: Rng::with_seed(seed),
            media: Media::new(&bed.images),
            model: Model::new(KEYS, seed),
            seen: HashSet::new(),
            out: Searched { workloads: 1, ..Searched::default() },
        }
    }

    fn run(mut self, events: &[Event]) -> Result<Searched, Lost> {
        // The writes of the open before the first operation are part of the first.
        let mut current = 0;
        let mut under_way = Vec::new();
        let mut since = 0;
        for (at, event) in events.iter().enumerate() {
            let wanted = !self.last_only || current + 1 == self.steps.len();
            if wanted {
                self.place(at, event)?;
            }
            match event {
                Event::Begin(step) => {
                    current = *step;
                    since = self.model.begin_read();
                    under_way = self.begin(self.steps[*step]);
                    self.seen.clear();
                }
                Event::End(step, changed) => {
                    self.end(self.steps[*step], since, *changed, &under_way);
                    self.seen.clear();
                }
                other => self.media.happen(other),
            }
        }
        self.place(events.len(), &Event::End(0, true))?;
        Ok(self.out)
    }

    fn begin(&mut self, step: Step) -> Vec<crate::model::WriteId> {
        let removed = match step {
            Step::Remove(key) | Step::Forget(key) => Some(self.model.begin_remove(key)),
            _ => None,
        };
        if let Step::Later(seconds) = step {
            self.model.wall += u64::from(seconds);
        }
        let mut begun: Vec<_> = removed.into_iter().collect();
        for (key, len) in puts(step) {
            let write = self.model.begin_put(key, len).0;
            if let Some(ttl) = ttl(step) {
                self.model.mortal(write, ttl);
            }
            begun.push(write);
        }
        begun
    }

    fn end(&mut self, step: Step, since: u64, changed: bool, writes: &[crate::model::WriteId]) {
        let sync = !matches!(step, Step::Relaxed(..) | Step::Forget(_));
        for write in writes {
            match changed {
                true => self.model.done(*write, sync),
                false => self.model.forget(*write),
            }
        }
        if matches!(step, Step::Flush | Step::Checkpoint | Step::Reopen) {
            self.model.flushed(since);
        }
    }

    /// The power goes before an event, or in the middle of it.
    fn place(&mut self, at: usize, event: &Event) -> Result<(), Lost> {
        self.out.places += 1;
        let choices = self.media.choices(event);
        for kept in subsets(&choices, &mut self.rng) {
            self.recover(&choices, &kept).map_err(|what| Lost {
                steps: self.steps.to_vec(),
                place: format!("before event {at} ({}), kept {kept:?}", brief(event)),
                what,
            })?;
        }
        Ok(())
    }

    /// Recovers from the media that this choice leaves (for each block, how many of its versions reached
    /// the medium).
    fn recover(&mut self, choices: &[Choice], kept: &[usize]) -> Result<(), String> {
        let media = self.media.left(choices, kept);
        if !self.seen.insert(fingerprint(&media)) {
            return Ok(());
        }
        self.out.recoveries += 1;
        let mut model = self.model.clone();
        model.crash(false);
        if self.steps.iter().any(|&step| ttl(step).is_some()) {
            // The machine may stand still for a while.
            let mut late = model.clone();
            late.wall += 100;
            self.clock.seconds.store(late.wall, Ordering::Relaxed);
            judge(&media, self.bed, &mut late)?;
        }
        self.clock.seconds.store(model.wall, Ordering::Relaxed);
        let (objects, log) = judge(&media, self.bed, &mut model)?;
        // Now and then the power goes once more, while it recovers.
        if self.rng.u8(0..16) == 0 {
            self.again(media, &log, objects)?;
        }
        Ok(())
    }

    /// Cuts a recovery short at one of its writes, and recovers again.
    fn again(
        &mut self,
        mut media: Vec<Changed>,
        log: &[Written],
        objects: u64,
    ) -> Result<(), String> {
        let cut = self.rng.usize(0..=log.len());
        for (drive, offset, bytes) in log.iter().take(cut) {
            apply(&self.bed.images[*drive], &mut media[*drive], *offset, bytes);
        }
        let mut model = self.model.clone();
        model.crash(false);
        match judge(&media, self.bed, &mut model)?.0 {
            same if same == objects => Ok(()),
            other => {
                Err(format!("a recovery cut short at write {cut} finds {other}, not {objects}"))
            }
        }
    }
}

/// Opens a pool, compares every key, puts something, and has the media checked. How many objects there
/// were, and what the recovery wrote.
fn judge(media: &[Changed], bed: &Bed, model: &mut Model) -> Result<(u64, Vec<Written>), String> {
    let log = Log::default();
    let each = media.iter().zip(&bed.images).enumerate();
    let images: Vec<_> = each
        .map(|(drive, (changed, base))| Arc::new(Image::new(drive, base, changed.clone(), &log)))
        .collect();
    let report = verdict::examine(&engines(&images, &bed.dma), false)?;
    let bad = verdict::unexplained(&report, Excuse::Nothing, true);
    if !bad.is_empty() {
        return Err(format!("the checker finds {}", bad.join("; ")));
    }
    let store = Store::open(engines(&images, &bed.dma), quiet())
        .map_err(|error| format!("it does not open: {error}"))?;
    let written = log.lock().clone();
    let objects = store.recovery().objects;
    if objects != report.objects {
        return Err(format!("{objects} objects, the checker says {}", report.objects));
    }
    for key in 0..KEYS {
        let since = model.begin_read();
        let seen: Seen = read_whole(&store, key)?;
        model.observe(key, since, &seen)?;
    }
    // What is put now takes nobody's place.
    let payload = [7; 3000];
    store
        .put(b"after", payload.as_slice(), &PutOptions::default())
        .map_err(|error| error.to_string())?;
    drop(store);
    let report = verdict::examine(&engines(&images, &bed.dma), true)?;
    let bad = verdict::unexplained(&report, Excuse::Nothing, false);
    if !bad.is_empty() {
        return Err(format!("after recovery the checker finds {}", bad.join("; ")));
    }
    Ok((objects, written))
}

fn blocks(offset: u64, bytes: &[u8]) -> Vec<(u64, Arc<[u8]>)> {
    let first = offset / BLOCK;
    let parts = bytes.chunks(BLOCK as usize).enumerate();
    parts.map(|(at, part)| (first + at as u64, part.into())).collect()
}

/// Ways to keep what was cached: all of them if there are few blocks; else none, all, each one alone, all
/// but each one, and some by chance.
pub(crate) fn subsets(choices: &[Choice], rng: &mut Rng) -> Vec<Vec<usize>> {
    let most: Vec<usize> = choices.iter().map(|(_, _, versions)| versions.len()).collect();
    if choices.len() <= ALL_SUBSETS {
        let mut all: Vec<Vec<usize>> = vec![Vec::new()];
        for &versions in &most {
            let longer = |kept: &Vec<usize>| {
                let kept = kept.clone();
                (0..=versions).map(move |n| kept.iter().copied().chain([n]).collect::<Vec<_>>())
            };
            all = all.iter().flat_map(longer).collect();
        }
        return all;
    }
    let mut out = vec![vec![0; most.len()], most.clone()];
    // One alone, and all but one: of some blocks if there are very many.
    let stride = most.len().div_ceil(DRAWN);
    for at in (rng.usize(0..stride)..most.len()).step_by(stride) {
        let mut one = vec![0; most.len()];
        one[at] = most[at];
        let mut others = most.clone();
        others[at] = 0;
        out.extend([one, others]);
    }
    for _ in 0..DRAWN {
        out.push(most.iter().map(|&versions| rng.usize(0..=versions)).collect());
    }
    out
}

pub(crate) fn fingerprint(media: &[Changed]) -> u64 {
    let mut digest = crate::world::Digest::default();
    for (drive, changed) in media.iter().enumerate() {
        digest.add(drive as u64);
        for (block, bytes) in changed {
            digest.add(*block);
            digest.add(crc32c(bytes).into());
        }
    }
    digest.value()
}

pub(crate) fn brief(event: &Event) -> String {
    match event {
        Event::Write { drive, offset, bytes, fua } => {
            format!("write of {} bytes at {offset} of drive {drive}, fua {fua}", bytes.len())
        }
        other => format!("{other:?}"),
    }
}

/// Searches many workloads with so many threads.
///
/// # Errors
/// One of the crashes that were not survived.
pub fn search_all(
    bed: &Bed,
    workloads: &[Vec<Step>],
    last_only: bool,
    jobs: usize,
) -> Result<Searched, Lost> {
    let (next, all) = (AtomicUsize::new(0), Mutex::new(Searched::default()));
    let lost = Mutex::new(None);
    let work = || {
        while lost.lock().is_none() {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(steps) = workloads.get(at) else { return };
            match bed.search(steps, last_only, at as u64) {
                Ok(searched) => *all.lock() += searched,
                Err(error) => *lost.lock() = Some(error),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(work);
        }
    });
    match lost.into_inner() {
        Some(lost) => Err(lost),
        None => Ok(all.into_inner()),
    }
}

/// A workload drawn from a seed.
#[must_use]
pub fn drawn(seed: u64, steps: usize) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    let one = |rng: &mut Rng| {
        let key = rng.u8(0..KEYS);
        let len = match rng.u8(0..8) {
            0 => rng.u32(60_000..400_000),
            _ => rng.u32(1..9_000),
        };
        match rng.u8(0..12) {
            0..4 => Step::Put(key, len),
            4 | 5 => Step::Relaxed(key, len),
            6 => Step::Both(len.min(5_000)),
            7 => Step::Remove(key),
            8 => Step::Forget(key),
            9 => Step::Flush,
            10 => Step::Checkpoint,
            _ if rng.bool() => Step::Maintain,
            _ => Step::Reopen,
        }
    };
    (0..steps).map(|_| one(&mut rng)).collect()
}

/// All workloads of exactly so many operations of the alphabet, in order.
#[must_use]
pub fn all_of(steps: usize) -> Vec<Vec<Step>> {
    all_over(&ALPHABET, steps)
}

/// All workloads of exactly so many operations of an alphabet, in order.
#[must_use]
pub fn all_over(alphabet: &[Step], steps: usize) -> Vec<Vec<Step>> {
    let mut out = vec![Vec::new()];
    for _ in 0..steps {
        let longer = |start: &Vec<Step>| {
            let start = start.clone();
            alphabet.iter().map(move |&step| [start.as_slice(), &[step]].concat())
        };
        out = out.iter().flat_map(longer).collect();
    }
    out
}
