//! Queues, lists and data in the memory of another device.

use std::sync::Arc;

use gcos_hw::vfio::PeerBar;
use gcos_hw::{DmaBuffer, DmaSlice, PAGE_BYTES};
use gcos_layout::nvme::{DataPointer, IoCommand};
use gcos_nvme::{Completion, Options, QueueMemory};

use crate::drive::{Drive, bound, check, fill, pattern, peer_of};
use crate::load::{self, BYTES, DEPTH, ENTRIES};
use crate::raw::{Raw, ring_bytes};
use crate::report::{Report, Trouble, ensure, failed};
use crate::sysfs;

const MIB: usize = 1 << 20;

pub(crate) fn run(report: &mut Report) {
    let mut notes = Vec::new();
    let mut places = |name: &str, rings: bool, data: bool, commands: u32| {
        report.case(name, || {
            let drive = Drive::first(Completion::Polled)?;
            let (_bar, peer) = drive.peer()?;
            let host = drive.alloc(8 * MIB)?;
            let at = |in_peer: bool, offset, len| match in_peer {
                true => peer.slice(offset, len),
                false => host.slice(offset, len),
            };
            let mut raw =
                Raw::new(&drive.controller, &at(rings, 0, ring_bytes(ENTRIES))?, ENTRIES)?;
            let memory = at(data, MIB, BYTES)?;
            let took = load::run(&mut raw, &memory, drive.lba_bytes(), commands, 1)?;
            notes.push(format!(
                "{name}: {commands} verified commands at depth {DEPTH} in {:.2} s",
                took.as_secs_f64()
            ));
            Ok(())
        });
    };
    places("queues and data in the host's memory", false, false, 2_000);
    places("queues in the peer, data in the host's memory", true, false, 2_000);
    places("data and lists in the peer, queues in the host's memory", false, true, 2_000);
    places("queues, lists and data in the peer, ten thousand commands", true, true, 10_000);
    for note in notes {
        report.note(note);
    }
    report.case("submission queue in the peer, completion queue in the host's memory", || {
        let drive = Drive::first(Completion::Polled)?;
        let (_bar, peer) = drive.peer()?;
        let host = drive.alloc(MIB)?;
        mixed(&drive, peer.slice(0, PAGE_BYTES)?, host.slice(0, PAGE_BYTES)?)?;
        mixed(&drive, host.slice(0, PAGE_BYTES)?, peer.slice(0, PAGE_BYTES)?)
    });
    report.case("four megabytes of scattered pages of the peer in one command", scattered);
    report.case("the driver's own I/O queues lie in the peer", || own_queues(QueueMemory::Given));
    report.case("the driver's admin queues lie in the peer as well", || {
        own_queues(QueueMemory::GivenForAll)
    });
    report.case("the driver moves data between the peer and the medium", through_the_driver);
    report.case("a slice keeps the peer mapped after its owners have let go", kept_by_a_slice);
    report.case("a buffer that is gone is unmapped, and its addresses fault", unmapped_after_use);
}

fn mixed(drive: &Drive, sq: DmaSlice, cq: DmaSlice) -> Result<(), Trouble> {
    sq.fill(0, sq.len(), 0)?;
    cq.fill(0, cq.len(), 0)?;
    let mut raw = Raw::split(&drive.controller, sq, cq, ENTRIES)?;
    let data = drive.alloc(BYTES)?;
    load::run(&mut raw, &data.as_dma(), drive.lba_bytes(), 500, 2).map(drop)
}

fn scattered() -> Result<(), Trouble> {
    const PAGES: usize = 1024;
    let drive = Drive::first(Completion::Polled)?;
    ensure(drive.controller.max_transfer() >= PAGES * PAGE_BYTES, || {
        format!("the controller takes {} bytes only", drive.controller.max_transfer())
    })?;
    let (_bar, peer) = drive.peer()?;
    let mut raw = Raw::new(&drive.controller, &peer.slice(0, ring_bytes(ENTRIES))?, ENTRIES)?;
    let lists = peer.slice(MIB, 4 * PAGE_BYTES)?;
    // Every other page, backwards, so that no two are neighbours.
    let data = peer.slice(2 * MIB, 2 * PAGES * PAGE_BYTES)?;
    let page = |index: usize| data.slice((PAGES - 1 - index) * 2 * PAGE_BYTES, PAGE_BYTES);
    // A list page holds 511 entries and the address of the next one.
    let (mut list, mut at) = (0, 0);
    for index in 1..PAGES {
        if at == 511 && index + 1 < PAGES {
            let next = lists.iova() + ((list + 1) * PAGE_BYTES) as u64;
            lists.write(list * PAGE_BYTES + at * 8, &next.to_le_bytes())?;
            (list, at) = (list + 1, 0);
        }
        lists.write(list * PAGE_BYTES + at * 8, &page(index)?.iova().to_le_bytes())?;
        at += 1;
    }
    let nlb = (PAGES * PAGE_BYTES) as u64 / drive.lba_bytes();
    let pointer = DataPointer::Prp { prp1: page(0)?.iova(), prp2: lists.iova() };
    for index in 0..PAGES {
        fill(&page(index)?, index as u64)?;
    }
    let (slba, nlb) = (1024, nlb as u32);
    for command in
        [IoCommand::Write { slba, nlb, fua: false }, IoCommand::Read { slba, nlb, fua: false }]
    {
        raw.post(1, &command, pointer)?;
        raw.ring();
        let status = raw.wait()?.status();
        ensure(status.is_success(), || format!("{command:?}: {status}"))?;
        if matches!(command, IoCommand::Write { .. }) {
            data.fill(0, data.len(), 0)?;
        }
    }
    (0..PAGES).try_for_each(|index| check(&page(index)?, index as u64))
}

fn through_the_driver() -> Result<(), Trouble> {
    let drive = Drive::first(Completion::Interrupt)?;
    let (_bar, peer) = drive.peer()?;
    for (round, len) in (0u64..).zip([4096, 12_288, 128 << 10, 2 << 20]) {
        // From an offset within a page; QEMU takes no more than 1,024 pieces.
        let (out, back) = (peer.slice(512, len)?, peer.slice(16 * MIB + 1024, len)?);
        fill(&out, round)?;
        drive.write(0, out)?;
        back.fill(0, len, 0)?;
        drive.read(0, back.clone())?;
        check(&back, round)?;
    }
    Ok(())
}

/// The driver with its queues in the peer, over resets, and after the peer was out of reach.
fn own_queues(place: fn(DmaSlice) -> QueueMemory) -> Result<(), Trouble> {
    let mut all = None;
    let drive = Drive::with(bound()?, |function| {
        let (bar, peer) = peer_of(function)?;
        let base = Options { queue_depth: 64, ..Options::default() };
        // The size depends on which queues lie there, the place does not.
        let probe = Options { queue_memory: place(peer.slice(0, MIB)?), ..base.clone() };
        let memory = peer.slice(MIB, probe.queue_memory_bytes())?;
        memory.fill(0, memory.len(), 0xFF)?;
        all = Some((bar, peer));
        Ok(Options { queue_memory: place(memory), ..base })
    })?;
    let Some((_bar, peer)) = all else { return failed("no peer") };
    let data = peer.slice(8 * MIB, 32 << 10)?;
    for round in 0..3 {
        for seed in 0..100 {
            let seed = round * 100 + seed;
            fill(&data, seed)?;
            drive.write((seed * 32) << 10, data.clone())?;
            data.fill(0, data.len(), 0)?;
            drive.read((seed * 32) << 10, data.clone())?;
            check(&data, seed)?;
        }
        drive.controller.reset()?;
    }
    ensure(drive.controller.counters().resets == 3, || "not three resets".into())?;
    drive.works(7)?;
    // Zeros that do not arrive would leave old completions in the queue, which could look new.
    let peer = sysfs::peer()?;
    sysfs::decode(&peer, false)?;
    let reset = drive.controller.reset();
    sysfs::decode(&peer, true)?;
    match reset {
        Err(error) if error.to_string().contains("keeps what is written") => {}
        other => return failed(format!("queues in memory that does not decode: {other:?}")),
    }
    drop(drive);
    Drive::first(Completion::Polled)?.works(8)
}

fn kept_by_a_slice() -> Result<(), Trouble> {
    let drive = Drive::first(Completion::Polled)?;
    let before = drive.space.mapped();
    let (bar, peer) = drive.peer()?;
    let slice = peer.slice(8 * MIB, MIB)?;
    let memory = Arc::clone(bar.memory());
    let mapped = drive.space.mapped();
    ensure(mapped.mappings == before.mappings + 1, || format!("{before:?}, then {mapped:?}"))?;
    fill(&slice, 5)?;
    drive.write(0, slice.clone())?;
    slice.fill(0, MIB, 0)?;
    // Reads are in flight while buffer and BAR are let go; their slices are all that is left.
    let reads: Vec<_> = (0..16)
        .map(|part| {
            let at = part * (MIB / 16);
            let part = slice.slice(at, MIB / 16)?;
            let request = drive.request(gcos_nvme::IoOp::Read, at as u64, part);
            Ok::<_, Trouble>(drive.controller.submit(request)?)
        })
        .collect::<Result<_, _>>()?;
    drop((bar, peer, slice));
    let held = drive.space.mapped();
    ensure(held == mapped, || format!("{mapped:?}, then {held:?} with slices alive"))?;
    for read in reads {
        read.wait()?;
    }
    let after = drive.space.mapped();
    ensure(after == before, || format!("{before:?}, in the end {after:?}"))?;
    let mut got = vec![0; MIB];
    memory.read(8 * MIB, &mut got)?;
    ensure(got == pattern(5, MIB), || "the reads did not arrive in the peer".into())
}

fn unmapped_after_use() -> Result<(), Trouble> {
    let drive = Drive::first(Completion::Polled)?;
    let rings = drive.alloc(ring_bytes(ENTRIES))?;
    let mut raw = Raw::new(&drive.controller, &rings.as_dma(), ENTRIES)?;
    let (bar, peer): (PeerBar, DmaBuffer) = drive.peer()?;
    let iova = peer.as_dma().iova();
    drop(peer);
    bar.memory().fill(0, PAGE_BYTES, 0x77)?;
    let faults = crate::kernel::faults()?;
    crate::kernel::expecting_faults(|| {
        let command = IoCommand::Read { slba: 0, nlb: 1, fua: false };
        raw.post(1, &command, DataPointer::Prp { prp1: iova, prp2: 0 })?;
        raw.ring();
        // Some controllers report success all the same: only the IOMMU tells.
        raw.wait().map(drop)
    })?;
    let more = crate::kernel::faults()?;
    ensure(more > faults, || "the IOMMU let a read through to memory that is not mapped".into())?;
    let mut got = [0; 4096];
    bar.memory().read(0, &mut got)?;
    ensure(got == [0x77; 4096], || "the peer's memory changed".into())?;
    let _ = sysfs::peers()?;
    drive.works(9)
}
