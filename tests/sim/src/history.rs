//! Runs one plan from the format of the pool to the last check.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;
use gcos_check::Severity;
use gcos_emulator::Medium;
use gcos_engine::Engine;
use gcos_store::{Canary, FormatOptions, OpenOptions, Store, StoreError, format};
use parking_lot::Mutex;

use crate::baton::Baton;
use crate::client::{Shared, read_whole, tell};
use crate::decay::Patient;
use crate::model::{Excuse, Model};
use crate::plan::{Decay, End, KEYS, Plan, Round};
use crate::recycle::address_space;
use crate::verdict;
use crate::world::{DEADLINE, Digest, Stop, World, chunks, zones};

/// How to run a plan.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The bug to plant.
    pub canary: Option<Canary>,
    /// Whether to tell of every operation.
    pub verbose: bool,
}

/// What a history came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// A digest of everything that happened: of writes, flushes and answers in order.
    pub digest: u64,
    /// Steps of all rounds.
    pub steps: u64,
    /// What was wrong, if anything was.
    pub failure: Option<String>,
}

/// Runs a plan.
#[must_use]
pub fn run(plan: &Plan, options: Options) -> Outcome {
    let mut history = History::new(plan, options);
    gcos_store::plant(options.canary);
    let result = catch_unwind(AssertUnwindSafe(|| history.run()));
    gcos_store::plant(None);
    gcos_store::enter(None);
    let failure = match result {
        Ok(result) => result.err(),
        Err(panic) => Some(format!("panic: {}", words(&*panic))),
    };
    Outcome { digest: history.digest.lock().value(), steps: history.steps, failure }
}

/// The message of a panic.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

struct History<'a> {
    plan: &'a Plan,
    options: Options,
    media: Vec<Arc<Medium>>,
    /// What the media held when the last round began.
    before: Vec<Vec<u8>>,
    rng: Rng,
    model: Mutex<Model>,
    digest: Arc<Mutex<Digest>>,
    steps: u64,
    /// Wall-clock seconds since the beginning.
    wall: Arc<AtomicU64>,
    /// Whether the pool was left other than by a close.
    crashed: bool,
    /// Whether a drive was missing, or failed, in some round.
    incomplete: bool,
    /// Whether media have decayed.
    decayed: bool,
    /// Whether one of two checkpoints has: then the journal since the other one counts, too.
    one_checkpoint: bool,
    /// Frames by which others were replaced: see [`Patient::suffer`].
    twins: HashSet<u32>,
    /// Keys and generations that only a frame names that does not follow the one before it.
    cut_off: Vec<(Vec<u8>, u64)>,
}

/// How an attempt to open ended.
enum Opened {
    Store(Box<Store>),
    /// It was refused, as it should be: nothing more can happen.
    Refused,
    /// The power went meanwhile.
    Cut,
}

impl<'a> History<'a> {
    fn new(plan: &'a Plan, options: Options) -> Self {
        Self {
            plan,
            options,
            media: Vec::new(),
            before: Vec::new(),
            rng: Rng::with_seed(plan.seed ^ 0x5EED),
            model: Mutex::new(Model::new(KEYS, plan.seed)),
            digest: Arc::default(),
            steps: 0,
            wall: Arc::default(),
            crashed: false,
            incomplete: false,
            decayed: false,
            one_checkpoint: false,
            twins: HashSet::new(),
            cut_off: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<(), String> {
        for drive in &self.plan.drives {
            self.media.push(Medium::ram(drive.bytes).map_err(|error| error.to_string())?);
        }
        self.format()?;
        self.remember(0)?;
        for (at, round) in self.plan.rounds.iter().enumerate() {
            if self.options.verbose {
                tell(&format!("round {at}: {:?} {:?}", round.decay, round.end));
            }
            let outcome = self.round(at, round).map_err(|wrong| format!("round {at}: {wrong}"))?;
            if !outcome {
                return Ok(());
            }
        }
        self.last().map_err(|wrong| format!("after the last round: {wrong}"))
    }

    fn world(&mut self, missing: u8) -> Result<Arc<World>, String> {
        let seed = self.rng.u64(..);
        gcos_store::enter(None);
        let world = World::new(self.plan, &self.media, missing, seed, &self.digest, &self.wall)?;
        gcos_store::enter(Some(Arc::clone(&world) as _));
        Ok(world)
    }

    fn engines(&self) -> Result<Vec<Arc<dyn Engine>>, String> {
        let space = address_space()?;
        Ok(verdict::engines(self.plan, &self.media, &space.dma))
    }

    fn format(&mut self) -> Result<(), String> {
        let options = FormatOptions { chunks: chunks(self.plan), ..FormatOptions::default() };
        if let Some(step) = self.plan.cut_format {
            self.cut_format(step, &options)?;
        }
        let _world = self.world(0)?;
        // What a format has left that was cut short may be in the way.
        let options = FormatOptions { force: self.plan.cut_format.is_some(), ..options };
        format(&self.engines()?, &options).map_err(|error| format!("format: {error}"))?;
        Ok(())
    }

    /// Formats, and cuts the power meanwhile: what is left is no pool, or an empty one.
    fn cut_format(&mut self, step: u32, options: &FormatOptions) -> Result<(), String> {
        let world = self.world(0)?;
        world.stop_at(Stop::Power(step.into()));
        let options = FormatOptions { io_deadline: DEADLINE, ..options.clone() };
        match world.engines() {
            Ok(engines) => match format(&engines, &options) {
                Ok(_) => {}
                Err(_) if world.is_over() => {}
                Err(error) => return Err(format!("format: {error}")),
            },
            Err(_) if world.is_over() => {}
            Err(error) => return Err(format!("a controller did not come up: {error}")),
        }
        self.steps += world.steps();
        world.cut_power();
        leave(world)?;
        let world = self.world(0)?;
        let left = OpenOptions { background: false, ..OpenOptions::default() };
        match Store::open(self.engines()?, left) {
            Ok(store) => self.check_all(&store, &world),
            Err(
                StoreError::NotAPool { .. }
                | StoreError::Unopenable { .. }
                | StoreError::Format { .. },
            ) => Ok(()),
            Err(error) => Err(format!("after a format that was cut short: {error} ({error:?})")),
        }
    }

    /// Keeps what the media hold that go back to it before round `next`.
    fn remember(&mut self, next: usize) -> Result<(), String> {
        let stale = |decay: &Decay| matches!(decay, Decay::Stale(..) | Decay::Rollback);
        let decay = self.plan.rounds.get(next).map_or(&[][..], |round| &round.decay);
        self.before.resize_with(self.media.len(), Vec::new);
        for (drive, (medium, image)) in self.media.iter().zip(&mut self.before).enumerate() {
            if decay.iter().any(|(at, decay)| usize::from(*at) == drive && stale(decay)) {
                image.resize(medium.len() as usize, 0);
                medium.peek(0, image).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// Whether the history goes on.
    fn round(&mut self, at: usize, round: &Round) -> Result<bool, String> {
        let mut lost_superblocks = false;
        self.wall.fetch_add(round.asleep.into(), Ordering::Relaxed);
        for &(drive, decay) in &round.decay {
            let Some(medium) = self.media.get(usize::from(drive)) else { continue };
            let kind = &self.plan.drives[usize::from(drive)];
            let zones = zones(self.plan, kind)?;
            let before = &self.before[usize::from(drive)];
            let patient = Patient { medium, before, zones: &zones };
            let excuse = patient.suffer(decay, &mut self.rng, &mut self.twins)?;
            self.excuse(excuse);
            if decay == Decay::Splice && round.missing == 0 {
                self.cut_off.extend(patient.spliced()?);
            }
            let there = round.missing & 1 << drive == 0;
            lost_superblocks |= decay == Decay::Superblocks(3) && there;
            self.decayed = true;
            self.one_checkpoint |= decay == Decay::OneCheckpoint;
        }
        self.excuse_older_checkpoint();
        self.remember(at + 1)?;
        if round.missing != 0 {
            self.excuse(Excuse::Anything);
            self.incomplete = true;
        }
        if let Some(step) = round.cut_open
            && let Opened::Refused = self.open(round, Some(step), lost_superblocks)?.1
        {
            return Ok(false);
        }
        let (world, store) = match self.open(round, None, lost_superblocks)? {
            (world, Opened::Store(store)) => (world, store),
            _ => return Ok(false),
        };
        for (key, generation) in self.cut_off.drain(..) {
            if store.info(&key).is_some_and(|info| info.generation == generation) {
                return Err("a frame counts that names another one before it".to_owned());
            }
        }
        self.check_all(&store, &world)?;
        self.work(round, world, *store)?;
        Ok(true)
    }

    fn excuse(&self, excuse: Excuse) {
        let mut model = self.model.lock();
        model.excuse(excuse);
        if excuse >= Excuse::Journal {
            // What is already believed to be there may be what went back.
            model.crash(false);
        }
    }

    /// Where the newest checkpoint may be lost and the journal too, what comes back may be older.
    fn excuse_older_checkpoint(&self) {
        if self.one_checkpoint && self.model.lock().excuse == Excuse::Journal {
            self.excuse(Excuse::Anything);
        }
    }

    fn open(
        &mut self,
        round: &Round,
        cut: Option<u32>,
        lost_superblocks: bool,
    ) -> Result<(Arc<World>, Opened), String> {
        let excuse = self.model.lock().excuse;
        let all = self.engines()?;
        let report = verdict::examine(&all, false)?;
        drop(all);
        let bad = verdict::unexplained(&report, excuse, self.crashed || self.decayed);
        if !bad.is_empty() && !lost_superblocks {
            return Err(format!("before an open the checker finds {}", bad.join("; ")));
        }
        let world = self.world(round.missing)?;
        if let Some(step) = cut {
            world.stop_at(Stop::Power(step.into()));
        }
        let mut engines = match world.engines() {
            Ok(engines) => engines,
            Err(_) if world.is_over() => return Ok((world, Opened::Cut)),
            Err(error) => return Err(format!("a controller did not come up: {error}")),
        };
        let rotate = usize::from(round.rotate) % engines.len().max(1);
        engines.rotate_left(rotate);
        let options = OpenOptions {
            background: false,
            io_deadline: DEADLINE,
            allow_missing: round.missing != 0,
            ..OpenOptions::default()
        };
        let opened = Store::open(engines, options);
        self.steps += world.steps();
        if cut.is_some() {
            drop(opened);
            world.cut_power();
            self.crashed = true;
            return Ok((world, Opened::Cut));
        }
        match opened {
            Ok(_) if lost_superblocks => {
                Err("a drive opens that has one superblock copy of four".to_owned())
            }
            Ok(store) => {
                let found = store.recovery().objects;
                // Of what is damaged the checker also counts what it believes to have been there.
                let intact = !report.findings.iter().any(|f| f.severity == Severity::Error);
                let whole = round.missing == 0 && report.missing.is_empty();
                if report.objects != found && whole && (intact || excuse < Excuse::Journal) {
                    let theirs = report.objects;
                    let findings: Vec<_> = report.findings.iter().map(|f| f.code).collect();
                    return Err(format!(
                        "{found} objects after recovery, {theirs} by the checker, which finds {findings:?}"
                    ));
                }
                Ok((world, Opened::Store(Box::new(store))))
            }
            Err(_) if lost_superblocks => Ok((world, Opened::Refused)),
            Err(StoreError::Unopenable { .. } | StoreError::Format { .. })
                if excuse >= Excuse::Journal =>
            {
                Ok((world, Opened::Refused))
            }
            Err(error) => Err(format!("the pool does not open: {error} ({error:?})")),
        }
    }

    fn check_all(&self, store: &Store, world: &World) -> Result<(), String> {
        for key in 0..KEYS {
            let since = {
                let mut model = self.model.lock();
                model.wall = world.wall();
                model.begin_read()
            };
            let seen = read_whole(store, key)?;
            if self.options.verbose {
                tell(&format!("  key {key} is {seen}"));
            }
            world.note(since);
            let mut model = self.model.lock();
            model.wall = world.wall();
            model.observe(key, since, &seen)?;
        }
        Ok(())
    }

    fn work(&mut self, round: &Round, world: Arc<World>, store: Store) -> Result<(), String> {
        let opened = world.steps();
        match round.end {
            End::PowerAtStep(step) => world.stop_at(Stop::Power(step.into())),
            End::Kill(step) => world.stop_at(Stop::Unreachable(step.into())),
            End::PowerAtWrite(drive, write) => world.cut_at_write(drive, write),
            End::Close | End::Drop => {}
        }
        self.model.lock().evicted = false;
        let mut faults = round.faults.clone();
        faults.sort_by_key(|fault| std::cmp::Reverse(fault.after));
        let (failure, faults, begun) = (Mutex::new(None), Mutex::new(faults), Mutex::new(0));
        let shared = Shared {
            store: &store,
            world: &world,
            model: &self.model,
            failure: &failure,
            faults: &faults,
            begun: &begun,
            several: self.plan.drives.len() > 1,
            verbose: self.options.verbose,
        };
        run_clients(&shared, &world, &round.clients, self.rng.u64(..), self.options.canary)?;
        self.steps += world.steps().max(opened);
        if let Some(failure) = failure.into_inner() {
            return Err(failure);
        }
        self.end(round.end, world, store)
    }

    fn end(&mut self, end: End, world: Arc<World>, store: Store) -> Result<(), String> {
        let stats = store.stats();
        {
            let mut model = self.model.lock();
            model.evicted |= stats.evicted > 0;
            model.wall = world.wall();
        }
        let lost = stats.drives_lost > 0;
        let (mut orderly, mut space) = (false, None);
        match end {
            End::Close if !world.is_over() => {
                let flushed = store.flush().is_ok();
                let used = store.stats().used_bytes;
                match store.close() {
                    Ok(()) => orderly = true,
                    Err(_) if world.is_disturbed() => {}
                    Err(error) => return Err(format!("close: {error} ({error:?})")),
                }
                space = (orderly && flushed && !lost).then_some(used);
            }
            End::Close | End::Drop => drop(store),
            End::Kill(_) => {
                if !world.is_over() {
                    world.end_process();
                }
                drop(store);
            }
            End::PowerAtStep(_) | End::PowerAtWrite(..) => {
                if !world.is_over() {
                    world.cut_power();
                }
                drop(store);
            }
        }
        leave(world)?;
        if let Some(used) = space {
            self.space(used)?;
        }
        self.excuse_older_checkpoint();
        let mut model = self.model.lock();
        if lost {
            self.incomplete = true;
            if self.plan.drives.len() > 1 {
                model.excuse(Excuse::Anything);
            }
        }
        self.crashed |= !orderly;
        model.crash(orderly);
        if orderly && !lost {
            model.checkpointed(u64::MAX);
        }
        Ok(())
    }

    /// What the store thought to be in use must be what the media say.
    fn space(&self, used: u64) -> Result<(), String> {
        if self.model.lock().excuse > Excuse::Errors {
            return Ok(());
        }
        let report = verdict::examine(&self.engines()?, false)?;
        match report.used_bytes == used {
            true => Ok(()),
            false => Err(format!(
                "{used} bytes are in use at the end, the checker finds {} of {} objects",
                report.used_bytes, report.objects
            )),
        }
    }

    /// Opens once more without any trouble, checks everything, closes, and has the media checked.
    fn last(&mut self) -> Result<(), String> {
        let round = Round {
            asleep: 0,
            decay: Vec::new(),
            missing: 0,
            rotate: 0,
            cut_open: None,
            clients: Vec::new(),
            faults: Vec::new(),
            end: End::Close,
        };
        let (world, Opened::Store(store)) = self.open(&round, None, false)? else { return Ok(()) };
        self.check_all(&store, &world)?;
        self.end(End::Close, world, *store)?;
        let report = verdict::examine(&self.engines()?, true)?;
        let excuse = self.model.lock().excuse;
        let bad = verdict::unexplained(&report, excuse, self.decayed);
        if !bad.is_empty() {
            return Err(format!("the checker finds {}", bad.join("; ")));
        }
        Ok(())
    }
}

/// Ends a world. Its controllers write back what they cache, unless the power has gone: nobody may look at
/// the media before.
fn leave(world: Arc<World>) -> Result<(), String> {
    gcos_store::enter(None);
    match Arc::into_inner(world) {
        Some(world) => {
            drop(world);
            Ok(())
        }
        None => Err("something of a store is left that was dropped".to_owned()),
    }
}

/// Runs the clients of a round to their ends, one at a time.
fn run_clients(
    shared: &Shared<'_>,
    world: &Arc<World>,
    clients: &[Vec<crate::plan::Op>],
    seed: u64,
    canary: Option<Canary>,
) -> Result<(), String> {
    if let [only] = clients {
        shared.run(0, only);
        return Ok(());
    }
    let baton = Arc::new(Baton::new(clients.len(), seed));
    world.give_baton(Arc::clone(&baton));
    let mut panics = Vec::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter()
            .enumerate()
            .map(|(client, ops)| {
                let baton = &baton;
                scope.spawn(move || {
                    let _turn = baton.begin(client);
                    gcos_store::plant(canary);
                    gcos_store::enter(Some(Arc::clone(world) as _));
                    shared.run(client, ops);
                    gcos_store::enter(None);
                })
            })
            .collect();
        for thread in threads {
            if let Err(panic) = thread.join() {
                panics.push(words(&*panic));
            }
        }
    });
    world.give_baton(Arc::new(Baton::new(0, 0)));
    match panics.pop() {
        Some(panic) => Err(format!("panic: {panic}")),
        None => Ok(()),
    }
}
