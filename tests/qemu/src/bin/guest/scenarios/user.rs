//! The driver as root and as a user who was given the drive.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::Command;

use gcos_nvme::Completion;

use crate::drive::Drive;
use crate::report::{Report, Trouble, chain, ensure, failed};
use crate::sysfs;

/// The user of `/etc/passwd` who is not root.
const USER: u32 = 1000;

pub(crate) fn run(report: &mut Report) {
    report.case("root drives the controller, polled", || works(Completion::Polled));
    report.case("root drives the controller, by interrupts", || works(Completion::Interrupt));
    report.case("a user without the group's node is told how to get it", || {
        give_node(0)?;
        let (good, said) = as_user("8192")?;
        ensure(!good && said.contains("gcos bind"), || format!("it said: {said}"))
    });
    report.case("a user who owns the group's node drives the controller", || {
        give_node(USER)?;
        let (good, said) = as_user("8192")?;
        ensure(good, || format!("it said: {said}"))
    });
    report.case("a user with little lockable memory is told the limit and the cure", || {
        let (good, said) = as_user("64")?;
        let told = ["RLIMIT_MEMLOCK", "65536 bytes", "ulimit -l"];
        ensure(!good && told.iter().all(|part| said.contains(part)), || format!("it said: {said}"))
    });
    report.case("nothing of a user's is left mapped or bound", || works(Completion::Polled));
}

/// A process of its own that writes, reads and compares; it says what went wrong.
pub(crate) fn work() -> Result<(), Trouble> {
    works(Completion::Interrupt)
}

fn works(completion: Completion) -> Result<(), Trouble> {
    let drive = Drive::first(completion)?;
    (0..20).try_for_each(|seed| drive.works(seed))
}

/// Gives the node of the drive's group to a user.
fn give_node(user: u32) -> Result<(), Trouble> {
    let node = format!("/dev/vfio/{}", sysfs::group(&sysfs::controller()?)?);
    Ok(chown(node, Some(user), Some(user))?)
}

/// Runs [`work`] as the user, with so many KiB of lockable memory; whether it went well, and what it
/// said.
fn as_user(kib: &str) -> Result<(bool, String), Trouble> {
    let line = format!("ulimit -l {kib} && exec guest work");
    let output = Command::new("sh").args(["-c", &line]).uid(USER).gid(USER).output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return failed(chain(&error)),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    Ok((output.status.success(), said))
}
