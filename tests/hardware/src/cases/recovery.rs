//! Ends in order and out of order.

use std::time::Duration;

use gcos_layout::nvme::AdminCommand;
use gcos_nvme::{ErrorKind, IoOp};

use crate::outcome::ensure;
use crate::rig::Rig;
use crate::{Stop, Target};

const DEPTH: u64 = 32;

pub(super) fn an_orderly_shutdown_completes_and_the_controller_comes_back(
    target: &Target,
) -> Result<(), Stop> {
    let rig = Rig::open(target)?;
    let before = rig.read(0, 1)?;
    // Waits for CSTS.SHST to say "complete".
    rig.controller.shutdown(None)?;
    let buffer = rig.alloc(rig.lba)?;
    match rig.run(IoOp::Read, 0, 1, vec![buffer.as_dma()]) {
        Err(error) if error.kind() == ErrorKind::Gone => {}
        other => return Err(Stop::failed(format!("a read after the shutdown gave {other:?}"))),
    }
    drop(rig);
    let after = Rig::open(target)?.read(0, 1)?;
    ensure!(before == after, "block 0 has changed");
    Ok(())
}

pub(super) fn an_abort_of_no_command_is_answered(target: &Target) -> Result<(), Stop> {
    let rig = Rig::open(target)?;
    let command = AdminCommand::Abort { sqid: 1, cid: 0x7ABC };
    match rig.controller.admin(command, 0, None, target.timeout) {
        Ok(dw0) => ensure!(dw0 & 1 == 1, "a command that does not exist was aborted"),
        Err(error) => ensure!(error.status().is_some(), "no answer: {error}"),
    }
    rig.read(0, 1).map(drop)
}

pub(super) fn a_reset_in_mid_flight_ends_everything_once_and_the_drive_works(
    target: &Target,
) -> Result<(), Stop> {
    let rig = Rig::open(target)?;
    let window = rig.window(1 << 20)?;
    for round in 0..4 {
        let (old, new) = (700 + 2 * round, 701 + 2 * round);
        rig.write(window.slba, DEPTH, old)?;
        let buffer = rig.alloc(DEPTH as usize * rig.lba)?;
        let mut pending = Vec::new();
        for i in 0..DEPTH {
            let memory = buffer.slice(i as usize * rig.lba, rig.lba)?;
            rig.fill(&memory, window.slba + i, new)?;
            let write = IoOp::Write { fua: false };
            pending.push(rig.submit(write, window.slba + i, 1, vec![memory])?);
        }
        rig.controller.reset()?;
        for (i, pending) in (0..).zip(pending) {
            let lba = window.slba + i;
            match pending.wait() {
                Ok(()) => rig.verify(lba, 1, new)?,
                Err(error) if error.kind() == ErrorKind::Timeout => either(&rig, lba, old, new)?,
                Err(error) => return Err(error.into()),
            }
        }
    }
    let resets = rig.controller.counters().resets;
    ensure!(resets == 4, "4 resets asked for, {resets} carried out");
    rig.write(window.slba, DEPTH, 790)?;
    rig.verify(window.slba, DEPTH, 790)
}

/// A write that was cut short left one of the two versions, unless a block is no atomic unit.
fn either(rig: &Rig, lba: u64, old: u64, new: u64) -> Result<(), Stop> {
    rig.verify(lba, 1, new).or_else(|_| rig.verify(lba, 1, old))
}

pub(super) fn commands_that_miss_their_deadline_end_once_and_the_drive_works(
    target: &Target,
) -> Result<(), Stop> {
    let rig = Rig::open(target)?;
    let window = rig.window(1 << 20)?;
    rig.write(window.slba, DEPTH, 800)?;
    let buffer = rig.alloc(DEPTH as usize * rig.lba)?;
    let mut late = 0;
    for i in 0..DEPTH {
        let lba = window.slba + i;
        let memory = buffer.slice(i as usize * rig.lba, rig.lba)?;
        rig.fill(&memory, lba, 801)?;
        let mut request = rig.request(IoOp::Write { fua: false }, lba, 1, vec![memory]);
        // Shorter than any drive needs: the driver aborts, and resets if that does not help.
        request.timeout = Duration::from_nanos(1);
        match rig.controller.run(request) {
            Ok(()) => rig.verify(lba, 1, 801)?,
            Err(error) if error.kind() == ErrorKind::Timeout => {
                late += 1;
                either(&rig, lba, 800, 801)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let counters = rig.controller.counters();
    ensure!(counters.leaked_commands == 0, "{} commands were leaked", counters.leaked_commands);
    ensure!(counters.aborts >= late, "{late} ended late, {} aborts", counters.aborts);
    rig.write(window.slba, DEPTH, 802)?;
    rig.verify(window.slba, DEPTH, 802)
}
