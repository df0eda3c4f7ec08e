//! Power cuts: the store on QEMU's controllers, which are killed in the middle of work.
//!
//! The images are qcow2. What was written to one and not flushed is lost when QEMU is killed, since
//! the tables that say where blocks are stand in QEMU's memory until then: a volatile cache that is
//! nobody's model of one.
#![cfg(feature = "qemu")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "how many cuts there were is told")]

use std::collections::HashMap;
use std::env;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use gcos_check::{CheckOptions, Finding, FindingCode, Severity, check};
use gcos_engine::{
    Engine, Geometry, HostQueueEngine, HostQueueOptions, IoError, Op, Request, Ticket,
};
use gcos_hw::DmaSpace;
use gcos_layout::media::ZoneChunks;
use gcos_nvme::Options;
use gcos_qemu_tests::machine::Machine;
use gcos_qemu_tests::tools::Tools;
use gcos_store::{
    Durability, FormatOptions, IfExists, MissReason, OpenOptions, PutOptions, Store, format,
};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const DRIVE_BYTES: u64 = 24 * MIB;
/// Clients at once, at most, and keys of each.
const CLIENTS: u64 = 3;
const KEYS: u64 = 8;

/// Durable operations that were acknowledged, in all.
static ACKNOWLEDGED: AtomicU64 = AtomicU64::new(0);

/// Cuts that one pool lives through.
const CUTS_OF_A_POOL: u64 = 10;

/// What stands between the store and the drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    /// QEMU's controller takes a write with FUA for one without, so each is followed by a flush: a
    /// drive that does what FUA asks for.
    Force,
    /// Flushes and FUA are acknowledged and not carried out.
    Lie,
}

#[derive(Debug)]
struct Shim {
    engine: Arc<dyn Engine>,
    between: Between,
}

impl Engine for Shim {
    fn geometry(&self) -> &Geometry {
        self.engine.geometry()
    }
    fn dma(&self) -> &Arc<DmaSpace> {
        self.engine.dma()
    }
    fn submit(&self, mut request: Request) -> Result<Box<dyn Ticket>, IoError> {
        let forced = request.op == Op::Write { fua: true };
        if forced {
            request.op = Op::Write { fua: false };
        }
        match (self.between, request.op) {
            (Between::Lie, Op::Flush) => Ok(Box::new(Flushed)),
            (Between::Force, _) if forced => {
                let flush = Some(Request::flush(request.deadline));
                let ticket = self.engine.submit(request)?;
                Ok(Box::new(Forced { engine: Arc::clone(&self.engine), ticket, flush }))
            }
            _ => self.engine.submit(request),
        }
    }
    fn shutdown(&self, deadline: Duration) -> Result<(), IoError> {
        self.engine.shutdown(deadline)
    }
}

/// A write that a flush follows.
#[derive(Debug)]
struct Forced {
    engine: Arc<dyn Engine>,
    ticket: Box<dyn Ticket>,
    flush: Option<Request>,
}

impl Ticket for Forced {
    fn poll(&mut self) -> Option<Result<(), IoError>> {
        let result = self.ticket.poll()?;
        match self.flush.take() {
            Some(flush) if result.is_ok() => match self.engine.submit(flush) {
                Ok(ticket) => {
                    self.ticket = ticket;
                    self.poll()
                }
                Err(error) => Some(Err(error)),
            },
            _ => Some(result),
        }
    }
    fn wait(self: Box<Self>) -> Result<(), IoError> {
        self.ticket.wait()?;
        self.flush.map_or(Ok(()), |flush| self.engine.run(flush))
    }
}

/// A flush that was not carried out.
#[derive(Debug)]
struct Flushed;

impl Ticket for Flushed {
    fn poll(&mut self) -> Option<Result<(), IoError>> {
        Some(Ok(()))
    }
    fn wait(self: Box<Self>) -> Result<(), IoError> {
        Ok(())
    }
}

/// What a key may read as: versions, `None` for a miss.
type Model = HashMap<u64, Vec<Option<u64>>>;

fn payload(version: u64) -> Vec<u8> {
    let mut rng = Rng::with_seed(version);
    let len = if rng.u8(0..8) == 0 { rng.usize(1..300_000) } else { rng.usize(1..20_000) };
    let mut out = vec![0; len];
    rng.fill(&mut out);
    out
}

/// Nothing is wrong but what is known: a cut in the middle of a superblock's update leaves copies that
/// differ, which the next open mends.
fn fsck(engines: &[Arc<dyn Engine>], known: &[FindingCode]) -> Result<(), String> {
    let options = CheckOptions { data: true, ..CheckOptions::default() };
    let report = check(engines, &options, &mut |_| {}).map_err(|error| error.to_string())?;
    let bad =
        |finding: &&Finding| finding.severity != Severity::Info && !known.contains(&finding.code);
    match report.findings.iter().find(bad) {
        None => Ok(()),
        Some(finding) => Err(format!("fsck found {finding:?}")),
    }
}

/// Drives in qcow2 images, and what is on them.
struct Pool {
    folder: TempDir,
    drives: usize,
    between: Between,
    model: Model,
}

impl Pool {
    /// Fresh images with an empty pool on them.
    fn new(rng: &mut Rng, between: Between) -> Self {
        let folder = tempfile::Builder::new().prefix("gcos-power").tempdir_in("/dev/shm").unwrap();
        let drives = rng.usize(1..=3);
        for drive in 0..drives {
            // Small clusters: each block is lost or kept by itself.
            let mut create = Tools::find().unwrap().qemu_img();
            create.args(["create", "-q", "-f", "qcow2", "-o", "cluster_size=4096"]);
            create.arg(folder.path().join(format!("d{drive}"))).arg(DRIVE_BYTES.to_string());
            assert!(create.stdout(Stdio::null()).status().unwrap().success());
        }
        let pool = Self { folder, drives, between, model: Model::new() };
        let machine = pool.machine();
        let chunks = ZoneChunks { superblock: 4096, meta: 65_536, data: 512 << 10 };
        let layout = FormatOptions { chunks, ..FormatOptions::default() };
        let engines = pool.engines(&machine).unwrap();
        format(&engines, &layout).unwrap();
        // The images' owner is another after the first cut: what is there is meant to be there.
        engines.iter().for_each(|engine| engine.shutdown(Duration::from_secs(10)).unwrap());
        pool
    }

    fn machine(&self) -> Machine {
        let mut arguments = Vec::new();
        for drive in 0..self.drives {
            let path = self.folder.path().join(format!("d{drive}"));
            let path = path.display();
            let options = "format=qcow2,if=none,cache=writeback,discard=unmap";
            arguments.push("-drive".to_owned());
            arguments.push(format!("id=d{drive},file={path},{options}"));
            arguments.push("-device".to_owned());
            arguments.push(format!("nvme,id=nvme{drive},serial=POWER{drive},drive=d{drive}"));
        }
        Machine::start(&arguments).unwrap()
    }

    fn engines(&self, machine: &Machine) -> Result<Vec<Arc<dyn Engine>>, String> {
        let engine = |drive| -> Result<Arc<dyn Engine>, String> {
            let controller = Options { queue_depth: 64, ..Options::default() };
            let options = HostQueueOptions { controller, nsid: 1 };
            let engine = HostQueueEngine::open(machine.function(drive)?, options);
            let engine = Arc::new(engine.map_err(|error| error.to_string())?);
            Ok(Arc::new(Shim { engine, between: self.between }))
        };
        (0..self.drives).map(engine).collect()
    }

    /// Power returns: the pool opens, everything acknowledged is there, fsck is content. Then work
    /// until the power goes, which may be while the pool opens.
    fn live_and_die(&mut self, rng: &mut Rng) -> Result<(), String> {
        let machine = self.machine();
        let engines = self.engines(&machine)?;
        fsck(&engines, &[FindingCode::SuperblockStale, FindingCode::SuperblockAhead])?;
        let early = rng.u8(0..4) == 0;
        if early {
            machine.kill_after(rng.u64(1..60));
        }
        let open = OpenOptions { background: rng.bool(), ..OpenOptions::default() };
        let store = match Store::open(engines, open) {
            Ok(store) => store,
            Err(_) if machine.link().is_dead() => return Ok(()),
            Err(error) => return Err(format!("the pool does not open: {error:?}")),
        };
        let verified = self.verify(&store, &machine);
        if verified.is_ok() && !machine.link().is_dead() {
            self.work(&store, &machine, rng)?;
        }
        machine.kill();
        // A drive that vanishes in the middle of a verification explains a miss, not wrong bytes.
        verified
    }

    /// The end of a pool: it opens, is whole, closes in order, and nothing at all is wrong with it.
    fn rest(mut self) -> Result<(), String> {
        let machine = self.machine();
        let store = Store::open(self.engines(&machine)?, OpenOptions::default());
        let store = store.map_err(|error| format!("the pool does not open: {error:?}"))?;
        self.verify(&store, &machine)?;
        store.close().map_err(|error| format!("the pool does not close: {error:?}"))?;
        fsck(&self.engines(&machine)?, &[])
    }

    /// Each key reads as what it may; from now on as nothing else.
    fn verify(&mut self, store: &Store, machine: &Machine) -> Result<(), String> {
        for (key, allowed) in &mut self.model {
            let got = store.get_vec(&key.to_le_bytes()).map_err(|error| error.to_string())?;
            let found = match got {
                Ok(bytes) => {
                    let version = allowed.iter().flatten().find(|v| payload(**v) == bytes);
                    let wrong = || format!("key {key}: none of the versions {allowed:?}");
                    Some(*version.ok_or_else(wrong)?)
                }
                Err(_) if machine.link().is_dead() => return Ok(()),
                Err(MissReason::Absent) if allowed.contains(&None) => None,
                Err(reason) => return Err(format!("key {key}: {reason}; expected {allowed:?}")),
            };
            *allowed = vec![found];
        }
        Ok(())
    }

    fn work(&mut self, store: &Store, machine: &Machine, rng: &mut Rng) -> Result<(), String> {
        let killer = machine.killer();
        let by_time = rng.bool();
        let delay = Duration::from_micros(rng.u64(0..60_000));
        if by_time {
            std::thread::spawn(move || {
                std::thread::sleep(delay);
                killer();
            });
        } else {
            machine.kill_after(rng.u64(1..600));
        }
        // Several clients have records in common frames.
        let mut clients: Vec<_> = (0..rng.u64(1..=CLIENTS))
            .map(|index| {
                let keys = index * KEYS..(index + 1) * KEYS;
                let mine = self.model.extract_if(|key, _| keys.contains(key)).collect();
                Client { first: keys.start, model: mine, rng: rng.fork() }
            })
            .collect();
        let results: Vec<_> = std::thread::scope(|scope| {
            let spawn = |client| scope.spawn(|| Client::work(client, store, machine));
            let threads: Vec<_> = clients.iter_mut().map(spawn).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        clients.into_iter().for_each(|client| self.model.extend(client.model));
        results.into_iter().collect::<Result<Vec<()>, String>>()?;
        match store.stats().evicted {
            0 => Ok(()),
            evicted => Err(format!("{evicted} objects were evicted from a pool with room")),
        }
    }
}

/// One that puts and removes objects of its own keys.
struct Client {
    first: u64,
    model: Model,
    rng: Rng,
}

impl Client {
    fn work(&mut self, store: &Store, machine: &Machine) -> Result<(), String> {
        let end = Instant::now() + Duration::from_secs(20);
        while !machine.link().is_dead() {
            if Instant::now() > end {
                return Err("the power did not go".to_owned());
            }
            self.step(store);
        }
        Ok(())
    }

    /// One operation. Until it is acknowledged its key may read as before or as after.
    fn step(&mut self, store: &Store) {
        let (rng, first) = (&mut self.rng, self.first);
        let if_exists = IfExists::Replace;
        let durability = if rng.u8(0..5) == 0 { Durability::Relaxed } else { Durability::Sync };
        let options = PutOptions { durability, if_exists, ..PutOptions::default() };
        let sync = durability == Durability::Sync;
        match rng.u8(0..10) {
            0..=6 => {
                let (key, version) = (first + rng.u64(0..KEYS), rng.u64(..));
                self.begin(key, Some(version));
                let put = store.put(&key.to_le_bytes(), payload(version).as_slice(), &options);
                self.end(key, Some(version), put.is_ok() && sync);
            }
            7 | 8 => {
                let key = first + rng.u64(0..KEYS);
                self.begin(key, None);
                let removed = store.remove(&key.to_le_bytes(), durability);
                self.end(key, None, removed.is_ok_and(|removed| removed) && sync);
            }
            _ => {
                let first = first + rng.u64(0..=KEYS - 4);
                let items: Vec<_> = (first..first + 4)
                    .map(|key| (key, rng.u64(..)))
                    .map(|(key, version)| (key, key.to_le_bytes(), version, payload(version)))
                    .collect();
                items.iter().for_each(|(key, _, version, _)| self.begin(*key, Some(*version)));
                let puts: Vec<_> = items
                    .iter()
                    .map(|(_, name, _, bytes)| (name.as_slice(), bytes.as_slice().into()))
                    .collect();
                let results = store.put_many(&puts, &options);
                for ((key, _, version, _), put) in items.iter().zip(results) {
                    self.end(*key, Some(*version), put.is_ok() && sync);
                }
            }
        }
    }

    fn begin(&mut self, key: u64, version: Option<u64>) {
        self.model.entry(key).or_insert_with(|| vec![None]).push(version);
    }

    fn end(&mut self, key: u64, version: Option<u64>, durable: bool) {
        if durable {
            self.model.insert(key, vec![version]);
            ACKNOWLEDGED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Cuts the power so many times; the first thing that went wrong, with what repeats it.
fn cut(seed: u64, cuts: u64, between: Between) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    let mut pool = Pool::new(&mut rng, between);
    for cut in 0..cuts {
        let drives = pool.drives;
        let blame = |why| format!("seed {seed}, cut {cut}, {drives} drives: {why}");
        pool.live_and_die(&mut rng).map_err(blame)?;
        if (cut + 1).is_multiple_of(CUTS_OF_A_POOL) {
            let old = std::mem::replace(&mut pool, Pool::new(&mut rng, between));
            old.rest().map_err(blame)?;
        }
    }
    Ok(())
}

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name}: expected a number, got {text}"))
    })
}

/// Half of the cuts; two tests, so that two processors share the work.
fn half(seed: u64) {
    let seed = number("GCOS_POWER_SEED", seed);
    let began = Instant::now();
    let cuts = number("GCOS_POWER_CUTS", 200).div_ceil(2);
    if let Err(why) = cut(seed, cuts, Between::Force) {
        panic!("{why}");
    }
    let acknowledged = ACKNOWLEDGED.load(Ordering::Relaxed);
    println!("seed {seed}: {cuts} power cuts in {:?}, {acknowledged} operations", began.elapsed());
    // A test in which nothing is ever acknowledged proves nothing.
    assert!(acknowledged > cuts, "{acknowledged} operations were acknowledged over {cuts} cuts");
}

#[test]
fn acknowledged_puts_survive_the_first_half_of_the_power_cuts() {
    half(1);
}

#[test]
fn acknowledged_puts_survive_the_second_half_of_the_power_cuts() {
    half(2);
}

#[test]
fn the_images_lose_what_was_not_flushed_and_keep_what_was() {
    let mut rng = Rng::with_seed(4);
    let pool = Pool::new(&mut rng, Between::Force);
    let deadline = Duration::from_secs(10);
    // Two blocks in the middle of the data zone, where an empty pool has nothing.
    let places = [(12 * MIB, 0x11), (13 * MIB, 0x22)];
    let machine = pool.machine();
    let engine = &pool.engines(&machine).unwrap()[0];
    assert!(engine.geometry().volatile_cache);
    for (offset, byte) in places {
        let buffer = engine.dma().alloc(4096).unwrap();
        buffer.as_dma().fill(0, 4096, byte).unwrap();
        engine.run(Request::write(offset, buffer.as_dma(), false, deadline)).unwrap();
        if byte == 0x11 {
            engine.run(Request::flush(deadline)).unwrap();
        }
    }
    machine.kill();
    drop(machine);
    let machine = pool.machine();
    let engine = &pool.engines(&machine).unwrap()[0];
    let found = places.map(|(offset, _)| {
        let buffer = engine.dma().alloc(4096).unwrap();
        engine.run(Request::read(offset, buffer.as_dma(), deadline)).unwrap();
        let mut bytes = [0xEE];
        buffer.as_dma().read(100, &mut bytes).unwrap();
        bytes[0]
    });
    assert_eq!(found, [0x11, 0]);
}

#[test]
fn a_drive_that_lies_about_flushes_is_caught_so_the_power_cuts_bite() {
    let caught = cut(3, 40, Between::Lie).unwrap_err();
    println!("{caught}");
}
