//! Cases that only read.

use std::sync::Arc;
use std::time::Duration;

use gcos_nvme::{Completion, ErrorKind, IoOp, Options};

use crate::outcome::ensure;
use crate::rig::{Rig, bytes};
use crate::{Stop, Target};

pub(super) fn a_controller_identifies_itself_alike_each_time_it_is_brought_up(
    target: &Target,
) -> Result<(), Stop> {
    let first = Rig::open(target)?;
    let (identity, namespaces) =
        (first.controller.identity().clone(), first.controller.namespaces().to_vec());
    ensure!(!identity.serial.is_empty(), "the serial number is empty");
    ensure!(first.blocks > 0, "namespace {} has no blocks", first.nsid);
    let transfer = first.controller.max_transfer();
    ensure!(transfer >= first.lba, "one command moves {transfer} bytes, less than a block");
    drop(first);
    let second = Rig::open(target)?;
    ensure!(*second.controller.identity() == identity, "Identify Controller has changed");
    for (before, after) in namespaces.iter().zip(second.controller.namespaces()) {
        let same = before.nsid == after.nsid
            && before.blocks == after.blocks
            && before.descriptors == after.descriptors;
        ensure!(same, "namespace {} has changed", before.nsid);
    }
    let count = second.controller.namespaces().len();
    ensure!(count == namespaces.len(), "{} namespaces, then {count}", namespaces.len());
    Ok(())
}

pub(super) fn the_first_and_the_last_block_of_every_namespace_can_be_read(
    target: &Target,
) -> Result<(), Stop> {
    let rig = Rig::open(target)?;
    let namespaces = rig.controller.namespaces().iter();
    let usable = namespaces.filter(|namespace| namespace.unusable.is_none());
    for namespace in usable {
        let lba = namespace.lba_bytes as usize;
        let buffer = rig.alloc(lba)?;
        for slba in [0, namespace.blocks - 1] {
            let mut request = rig.request(IoOp::Read, slba, 1, vec![buffer.as_dma()]);
            request.nsid = namespace.nsid;
            rig.controller.run(request)?;
        }
    }
    Ok(())
}

pub(super) fn blocks_past_the_end_are_refused(target: &Target) -> Result<(), Stop> {
    let rig = Rig::open(target)?;
    let buffer = rig.alloc(2 * rig.lba)?;
    for (slba, blocks) in [(rig.blocks, 1), (rig.blocks - 1, 2), (u64::MAX, 1)] {
        let memory = buffer.slice(0, blocks as usize * rig.lba)?;
        match rig.run(IoOp::Read, slba, blocks, vec![memory]) {
            Err(error) if error.kind() == ErrorKind::Invalid => {}
            other => {
                let why = format!("a read of {blocks} blocks from {slba} gave {other:?}");
                return Err(Stop::failed(why));
            }
        }
    }
    rig.run(IoOp::Read, rig.blocks - 1, 1, vec![buffer.slice(0, rig.lba)?])?;
    Ok(())
}

pub(super) fn interrupts_wake_whoever_waits(target: &Target) -> Result<(), Stop> {
    let vectors = target.function.interrupt_vectors();
    if vectors < 2 {
        return Err(Stop::not_offered(format!("{vectors} interrupt vector(s)")));
    }
    let options = Options { completion: Completion::Interrupt, ..target.options.clone() };
    let rig = Rig::open_with(target, Options { io_queue_pairs: 1, ..options })?;
    let buffer = rig.alloc(rig.lba)?;
    for round in 0..64 {
        rig.run(IoOp::Read, round % rig.blocks, 1, vec![buffer.as_dma()])?;
    }
    let counters = rig.controller.counters();
    ensure!((counters.aborts, counters.resets) == (0, 0), "reads timed out: {counters:?}");
    // Vector 1 belongs to the queue. That it is signalled shows that waiting was not polling alone.
    let event = target.function.interrupt(1)?;
    let _ = event.take();
    let mut pending = rig.submit(IoOp::Read, 0, 1, vec![buffer.as_dma()])?;
    ensure!(event.wait(Duration::from_secs(5)), "a completion signalled no interrupt");
    let began = target.function.now();
    loop {
        if let Some(result) = pending.poll() {
            return Ok(result?);
        }
        let waited = target.function.now().saturating_sub(began);
        ensure!(waited < target.timeout, "no completion after the interrupt");
        target.function.relax(300);
    }
}

pub(super) fn the_health_log_can_be_read(target: &Target) -> Result<(), Stop> {
    let rig = Rig::open(target)?;
    let log = rig.controller.smart_log()?;
    // Some controllers report no temperature; one that does is neither frozen nor molten.
    let kelvin = log.temperature;
    ensure!(kelvin == 0 || (200..500).contains(&kelvin), "a temperature of {kelvin} K");
    Ok(())
}

pub(super) fn many_reads_at_once_return_the_same_as_one_by_one(
    target: &Target,
) -> Result<(), Stop> {
    const DEPTH: usize = 32;
    let rig = Rig::open(target)?;
    let mut rng = fastrand::Rng::with_seed(target.seed);
    let places: Vec<u64> = (0..DEPTH).map(|_| rng.u64(0..rig.blocks)).collect();
    let buffer = rig.alloc(DEPTH * rig.lba)?;
    let slices: Result<Vec<_>, _> =
        (0..DEPTH).map(|i| buffer.slice(i * rig.lba, rig.lba)).collect();
    let slices = slices?;
    let mut pending = Vec::new();
    for (&slba, slice) in places.iter().zip(&slices) {
        pending.push(rig.submit(IoOp::Read, slba, 1, vec![slice.clone()])?);
    }
    for pending in pending {
        pending.wait()?;
    }
    for (&slba, slice) in places.iter().zip(&slices) {
        let alone = rig.read(slba, 1)?;
        ensure!(alone == bytes(slice)?, "block {slba} read differently the second time");
    }
    ensure!(Arc::strong_count(&rig.controller) == 1, "a request outlived its end");
    Ok(())
}
