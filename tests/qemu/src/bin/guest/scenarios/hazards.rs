//! What must not hurt: owners that die, memory that goes away, drives that are taken back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gcos_engine::{Ended, Engine, Geometry, HostQueueEngine, IoError, Op, Request, Ticket};
use gcos_hw::pci::PciAddress;
use gcos_hw::vfio::PeerError;
use gcos_hw::{DmaSpace, Function, PAGE_BYTES};
use gcos_layout::media::ZoneChunks;
use gcos_layout::nvme::{AdminCommand, Csts, IoCommand, Register, sq_tail_doorbell};
use gcos_nvme::{Completion, ErrorKind, IoOp, NvmeError};
use gcos_store::{FormatOptions, Lookup, OpenOptions, PutOptions, Sink, Source, Store};

use crate::child::Child;
use crate::drive::{Drive, check, fill};
use crate::load::{self, BYTES, ENTRIES};
use crate::raw::{NSID, Raw, ring_bytes};
use crate::report::{Report, Trouble, ensure, failed};
use crate::{kernel, sysfs};

const MIB: usize = 1 << 20;
/// Owners that are killed.
const KILLS: u64 = 10;
/// Where an owner's reads go in the peer.
const OWNED: usize = 4 * MIB;
/// How long an unbind may take while the drive is in use.
const UNBIND: Duration = Duration::from_secs(5);

pub(crate) fn run(report: &mut Report) {
    report.case("an owner that is killed with 32 commands in flight leaves the peer still", killed);
    report.case("memory of a live queue that is unmapped ends in a reset that recovers", || {
        unmapped_queue().map(drop)
    });
    report.case(
        "queues in a peer that stops decoding fall silent, and a reset recovers",
        silent_queue,
    );
    report
        .case("data in a peer that does not decode is noticed by the store's checksums", checksums);
    report.case("a peer that is removed from the bus is noticed, and comes back", removed_peer);
    report.case("unbinding a drive in use ends its commands and does not block", || {
        unbound(Completion::Polled)
    });
    report.case("unbinding a drive whose user sleeps for interrupts wakes it", || {
        unbound(Completion::Interrupt)
    });
}

/// A process that keeps 32 reads into the peer in flight until it is killed.
pub(crate) fn own() -> Result<(), Trouble> {
    let drive = Drive::first(Completion::Polled)?;
    let (_bar, peer) = drive.peer()?;
    let mut told = false;
    let mut reads = std::collections::VecDeque::new();
    for round in 0u64.. {
        let slot = (round % 32) as usize;
        let memory = peer.slice(OWNED + slot * 16 * 1024, 16 * 1024)?;
        // Another part of the medium each time, so that each read changes the peer's memory.
        let offset = (round % 61) * 16 * 1024;
        reads.push_back(drive.controller.submit(drive.request(IoOp::Read, offset, memory))?);
        if reads.len() == 32 {
            if !std::mem::replace(&mut told, true) {
                println!("running");
            }
            if let Some(read) = reads.pop_front() {
                read.wait()?;
            }
        }
    }
    Ok(())
}

fn killed() -> Result<(), Trouble> {
    let drive = Drive::first(Completion::Polled)?;
    let medium = drive.alloc(MIB)?.as_dma();
    fill(&medium, 77)?;
    drive.write(0, medium)?;
    drop(drive);
    let snapshot = || {
        let peer = sysfs::peer_memory()?;
        let mut bytes = vec![0; MIB];
        peer.read(OWNED, &mut bytes)?;
        Ok::<_, Trouble>(bytes)
    };
    for round in 0..KILLS {
        let owner = Child::start("own")?;
        let before = snapshot()?;
        thread::sleep(Duration::from_millis(5 + round * 7 % 40));
        let moving = snapshot()? != before;
        ensure(owner.kill()?, || "the owner ended by itself".into())?;
        ensure(moving, || "nothing arrived in the peer while the owner lived".into())?;
        let left = snapshot()?;
        thread::sleep(Duration::from_millis(30));
        ensure(snapshot()? == left, || format!("kill {round}: the peer still changed"))?;
        Drive::first(Completion::Polled)?.works(round)?;
        ensure(snapshot()? == left, || format!("kill {round}: the next owner changed the peer"))?;
    }
    Ok(())
}

/// Creates a queue pair behind the driver's back in memory that is then unmapped.
fn unmapped_queue() -> Result<(), Trouble> {
    const QID: u16 = 3;
    let drive = Drive::first(Completion::Polled)?;
    drive.works(1)?;
    let (sq, cq) = (drive.alloc(PAGE_BYTES)?, drive.alloc(PAGE_BYTES)?);
    let timeout = Duration::from_secs(5);
    let (entries, contiguous) = (ENTRIES, true);
    let create = AdminCommand::CreateCq { qid: QID, entries, vector: None, contiguous };
    drive.controller.admin(create, 0, Some(cq.as_dma()), timeout)?;
    let create = AdminCommand::CreateSq { qid: QID, entries, cqid: QID, priority: 0, contiguous };
    drive.controller.admin(create, 0, Some(sq.as_dma()), timeout)?;
    kernel::expecting_faults(|| {
        drop((sq, cq));
        drive.function.write32(sq_tail_doorbell(QID, 4), 1);
        thread::sleep(Duration::from_millis(50));
        Ok(())
    })?;
    let csts = Csts(drive.function.read32(Register::Csts.offset()));
    ensure(csts.cfs(), || format!("the controller does not say that it failed: {csts:?}"))?;
    // Whoever waits looks at the status: the driver resets by itself, at the latest for a command that
    // does not end.
    let result = drive.works(2);
    if drive.controller.counters().resets == 0 {
        drive.controller.reset()?;
    }
    ensure(drive.controller.is_usable(), || format!("it did not come back: {result:?}"))?;
    let csts = Csts(drive.function.read32(Register::Csts.offset()));
    ensure(csts.rdy() && !csts.cfs(), || format!("after the reset: {csts:?}"))?;
    drive.works(3)
}

fn silent_queue() -> Result<(), Trouble> {
    let drive = Drive::first(Completion::Polled)?;
    let (bar, peer) = drive.peer()?;
    let rings = peer.slice(0, ring_bytes(ENTRIES))?;
    let data = drive.alloc(BYTES)?;
    let mut raw = Raw::new(&drive.controller, &rings, ENTRIES)?;
    load::run(&mut raw, &data.as_dma(), drive.lba_bytes(), 200, 1)?;
    let address = sysfs::peer()?;
    sysfs::decode(&address, false)?;
    let noticed = matches!(bar.check(), Err(PeerError::NotDecoding { .. }));
    let pointer = load::pages(&data.as_dma(), &data.as_dma(), 1)?;
    raw.post(1, &IoCommand::Read { slba: 0, nlb: 1, fua: false }, pointer)?;
    raw.ring();
    let completion = raw.wait_for(Duration::from_millis(300));
    sysfs::decode(&address, true)?;
    ensure(noticed, || "the peer's BAR says that all is well".into())?;
    // What is read from memory that does not decode may look like a new entry; it names no queue.
    let ours = completion.filter(|cqe| cqe.sqid() == raw.qid());
    ensure(ours.is_none(), || format!("a completion from nowhere: {ours:?}"))?;
    bar.check()?;
    drive.controller.reset()?;
    ensure(!raw.is_current(), || "the queues should be gone with the reset".into())?;
    drop(raw);
    let mut raw = Raw::new(&drive.controller, &rings, ENTRIES)?;
    load::run(&mut raw, &data.as_dma(), drive.lba_bytes(), 200, 2)?;
    drive.works(4)
}

fn checksums() -> Result<(), Trouble> {
    const LEN: usize = 256 << 10;
    let drive = Drive::first(Completion::Polled)?;
    let (_bar, peer) = drive.peer()?;
    let address = sysfs::peer()?;
    let inner = HostQueueEngine::new(Arc::clone(&drive.controller), NSID)?;
    let blinding = Arc::new(Blinding { inner, peer: address, armed: AtomicBool::new(false) });
    let engine: Arc<dyn Engine> = Arc::clone(&blinding) as _;
    let chunks = ZoneChunks { superblock: 4096, meta: 65_536, data: 1 << 20 };
    let capacity = Some(128 << 20);
    let format = FormatOptions { chunks, capacity, force: true, ..FormatOptions::default() };
    gcos_store::format(&[Arc::clone(&engine)], &format)?;
    let options = OpenOptions { background: false, capacity, ..OpenOptions::default() };
    let store = Store::open(vec![engine], options)?;
    let memory = [peer.slice(0, LEN)?];
    let put = |key: &[u8], seed| {
        fill(&memory[0], seed)?;
        store.put(key, Source::Segments(&memory), &PutOptions::default())?;
        Ok::<_, Trouble>(())
    };
    let get = |key: &[u8]| Ok::<_, Trouble>(store.get(key, Sink::Segments(&memory))?);
    let hit = |lookup: &Lookup| matches!(lookup, Lookup::Hit(_));
    put(b"good", 1)?;
    memory[0].fill(0, LEN, 0)?;
    let lookup = get(b"good")?;
    ensure(hit(&lookup), || format!("a good object: {lookup:?}"))?;
    check(&memory[0], 1)?;
    // The drive fetches the payload while the peer does not decode; the checksums are of what is there.
    blinding.armed.store(true, Ordering::Relaxed);
    let written = put(b"bad", 2);
    blinding.armed.store(false, Ordering::Relaxed);
    ensure(written.is_ok(), || format!("the drive noticed by itself: {written:?}"))?;
    let lookup = get(b"bad")?;
    ensure(!hit(&lookup), || format!("bytes that were never read were returned: {lookup:?}"))?;
    // A get that cannot reach the memory is no hit either.
    sysfs::decode(&address, false)?;
    let lookup = get(b"good");
    sysfs::decode(&address, true)?;
    let lookup = lookup?;
    ensure(!hit(&lookup), || format!("a hit in memory that does not decode: {lookup:?}"))?;
    // The store goes on.
    put(b"again", 3)?;
    memory[0].fill(0, LEN, 0)?;
    let lookup = get(b"again")?;
    ensure(hit(&lookup), || format!("an object put afterwards: {lookup:?}"))?;
    check(&memory[0], 3)
}

/// An engine whose writes out of the peer, while armed, happen as the peer does not decode.
#[derive(Debug)]
struct Blinding {
    inner: HostQueueEngine,
    peer: PciAddress,
    armed: AtomicBool,
}

impl Engine for Blinding {
    fn geometry(&self) -> &Geometry {
        self.inner.geometry()
    }

    fn dma(&self) -> &Arc<DmaSpace> {
        self.inner.dma()
    }

    fn submit(&self, request: Request) -> Result<Box<dyn Ticket>, IoError> {
        // Payload alone is in the peer; headers and journal go through memory of the host.
        let payload = matches!(request.op, Op::Write { fua: false });
        if !(payload && self.armed.load(Ordering::Relaxed)) {
            return self.inner.submit(request);
        }
        let switch = |on| {
            let switched = sysfs::decode(&self.peer, on);
            switched.unwrap_or_else(|trouble| eprintln!("decoding {on}: {trouble:?}"));
        };
        switch(false);
        let result = self.inner.run(request);
        switch(true);
        Ok(Ended::ticket(result))
    }

    fn shutdown(&self, deadline: Duration) -> Result<(), IoError> {
        self.inner.shutdown(deadline)
    }
}

fn removed_peer() -> Result<(), Trouble> {
    let drive = Drive::first(Completion::Polled)?;
    let (bar, peer) = drive.peer()?;
    let address = sysfs::peer()?;
    let memory = peer.slice(0, 64 << 10)?;
    fill(&memory, 6)?;
    drive.write(0, memory.clone())?;
    sysfs::remove(&address)?;
    let checked = bar.check();
    ensure(checked.is_err(), || "the peer's BAR says that all is well".into())?;
    // Whatever the drive says now, its own memory and the next peer are none the worse.
    let _ = drive.read(0, memory.clone());
    drop((memory, peer, bar));
    sysfs::rescan()?;
    let (_bar, peer) = drive.peer()?;
    let memory = peer.slice(0, 64 << 10)?;
    memory.fill(0, memory.len(), 0)?;
    drive.read(0, memory.clone())?;
    check(&memory, 6)
}

fn unbound(completion: Completion) -> Result<(), Trouble> {
    let drive = Drive::first(completion)?;
    let address = drive.function.address();
    let (function, space) = (Arc::clone(&drive.function), Arc::clone(&drive.space));
    let user = thread::spawn(move || use_until_gone(&drive));
    thread::sleep(Duration::from_millis(200));
    ensure(!user.is_finished(), || "the user ended before the drive was taken".into())?;
    let start = Instant::now();
    let unbind = thread::spawn(move || sysfs::unbind(&address));
    while !unbind.is_finished() {
        ensure(start.elapsed() < UNBIND, || format!("the unbind still blocks after {UNBIND:?}"))?;
        thread::sleep(Duration::from_millis(10));
    }
    unbind.join().unwrap_or_else(|_| failed("the unbind panicked"))?;
    ensure(function.is_surrendered(), || "the function was not surrendered".into())?;
    ensure(sysfs::driver(&address).is_none(), || "it still has a driver".into())?;
    while !user.is_finished() {
        ensure(start.elapsed() < 2 * UNBIND, || "the user of the drive never ended".into())?;
        thread::sleep(Duration::from_millis(10));
    }
    let errors = user.join().unwrap_or_else(|_| failed("the user panicked"))?;
    ensure(errors > 0, || "no command was in flight".into())?;
    drop(function);
    let mapped = space.mapped();
    ensure(mapped.mappings == 0, || format!("still mapped: {mapped:?}"))?;
    Drive::first(completion)?.works(8)
}

/// Keeps 32 reads in flight until the drive has gone; each ends once. Returns how many ended with an
/// error.
pub(crate) fn use_until_gone(drive: &Drive) -> Result<usize, Trouble> {
    let memory = drive.alloc(32 * PAGE_BYTES)?;
    let mut reads = std::collections::VecDeque::new();
    let (mut submitted, mut good, mut errors) = (0usize, 0, 0);
    let gone = |error: &NvmeError| matches!(error.kind(), ErrorKind::Gone | ErrorKind::Timeout);
    loop {
        let slot = memory.slice(submitted % 32 * PAGE_BYTES, PAGE_BYTES)?;
        match drive.controller.submit(drive.request(IoOp::Read, 0, slot)) {
            Ok(read) => {
                submitted += 1;
                reads.push_back(read);
            }
            Err(error) if gone(&error) => break,
            Err(error) => return Err(error.into()),
        }
        if reads.len() == 32
            && let Some(read) = reads.pop_front()
        {
            match read.wait() {
                Ok(()) => good += 1,
                Err(error) if gone(&error) => errors += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
    for read in reads {
        match read.wait() {
            Ok(()) => good += 1,
            Err(_) => errors += 1,
        }
    }
    ensure(good + errors == submitted, || format!("{submitted} in, {good} + {errors} out"))?;
    Ok(errors)
}
