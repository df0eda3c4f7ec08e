//! A drive that is pulled out while it works, and put back.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use gcos_hw::PAGE_BYTES;
use gcos_nvme::{Completion, ErrorKind, IoOp};

use super::hazards::use_until_gone;
use crate::drive::Drive;
use crate::report::{Report, Trouble, ensure, failed};
use crate::sysfs;

/// How long the host and the kernel may take to do what they are asked for.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(report: &mut Report) {
    report.case("a reset with commands in flight ends each once and the drive works", reset);
    for (round, completion) in [(1, Completion::Polled), (2, Completion::Interrupt)] {
        let name =
            format!("a drive that is pulled out at work, {completion:?}, ends every command once");
        let ended = pulled(report, round, completion);
        report.tell(&name, ended);
        let name = format!("the drive that is put back works again, {completion:?}");
        let ended = put_back(report, round, completion);
        report.tell(&name, ended);
    }
}

fn reset() -> Result<(), Trouble> {
    let drive = Drive::first(Completion::Polled)?;
    let memory = drive.alloc(32 * PAGE_BYTES)?;
    for _ in 0..3 {
        let reads: Vec<_> = (0..32)
            .map(|slot| {
                let memory = memory.slice(slot * PAGE_BYTES, PAGE_BYTES)?;
                Ok(drive.controller.submit(drive.request(IoOp::Read, 0, memory))?)
            })
            .collect::<Result<_, Trouble>>()?;
        // Time for the controller to fetch all of them; it carries them out at its slow pace.
        thread::sleep(Duration::from_millis(50));
        drive.controller.reset()?;
        for read in reads {
            match read.wait() {
                Err(error) if error.kind() != ErrorKind::Timeout => return Err(error.into()),
                // Carried out, or ended by the reset.
                _ => {}
            }
        }
        drive.works(1)?;
    }
    let resets = drive.controller.counters().resets;
    ensure(resets == 3, || format!("3 resets asked for, {resets} carried out"))
}

fn pulled(report: &Report, round: u32, completion: Completion) -> Result<(), Trouble> {
    let drive = Drive::first(completion)?;
    let address = drive.function.address();
    let (function, space) = (Arc::clone(&drive.function), Arc::clone(&drive.space));
    let user = thread::spawn(move || use_until_gone(&drive));
    thread::sleep(Duration::from_millis(200));
    ensure(!user.is_finished(), || "the user ended before the drive was pulled".into())?;
    report.ask(&format!("unplug {round}"));
    wait("the user of the drive to end", || user.is_finished())?;
    let errors = user.join().unwrap_or_else(|_| failed("the user panicked"))?;
    ensure(errors > 0, || "no command was in flight".into())?;
    ensure(function.is_surrendered(), || "the function was not surrendered".into())?;
    drop(function);
    let mapped = space.mapped();
    ensure(mapped.mappings == 0, || format!("still mapped: {mapped:?}"))?;
    wait("the drive to leave the bus", || !sysfs::folder(&address).exists())
}

fn put_back(report: &Report, round: u32, completion: Completion) -> Result<(), Trouble> {
    report.ask(&format!("plug {round}"));
    let there = || sysfs::controller().is_ok_and(|address| sysfs::driver(&address).is_some());
    wait("the drive to come back", there)?;
    Drive::first(completion)?.works(round.into())
}

fn wait(what: &str, done: impl Fn() -> bool) -> Result<(), Trouble> {
    let start = Instant::now();
    while !done() {
        ensure(start.elapsed() < PATIENCE, || format!("{PATIENCE:?} were not enough for {what}"))?;
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
