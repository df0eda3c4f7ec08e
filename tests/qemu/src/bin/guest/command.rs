//! The command `gcos` as a process, with a time limit.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::report::{Trouble, ensure, failed};

/// Longest run of one command, in seconds.
const LONGEST: &str = "60";

/// Where commands run: the configuration is here, and every user may read it.
pub(crate) const PLACE: &str = "/tmp";

/// What a run left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
    line: String,
}

impl Ran {
    fn new(line: String, output: Output) -> Self {
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { code: output.status.code(), out: output.stdout, err, line }
    }

    /// Checks the exit code.
    pub(crate) fn expect(self, code: i32) -> Result<Self, Trouble> {
        ensure(self.code == Some(code), || {
            let Self { line, code: got, err, .. } = &self;
            format!("{line}: exit code {got:?}, not {code}: {} {err}", self.text())
        })?;
        Ok(self)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Checks that it says something, on either output.
    pub(crate) fn says(self, part: &str) -> Result<Self, Trouble> {
        let all = format!("{} {}", self.text(), self.err);
        ensure(all.contains(part), || format!("{}: nothing of {part:?} in: {all}", self.line))?;
        Ok(self)
    }

    /// Standard output, which must be one JSON document.
    pub(crate) fn json(&self) -> Result<Value, Trouble> {
        Ok(serde_json::from_slice(&self.out)?)
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", LONGEST, "gcos"]).args(args).current_dir(PLACE);
    command.stdin(Stdio::null());
    command
}

/// Runs `gcos` as root.
pub(crate) fn gcos(args: &[&str]) -> Result<Ran, Trouble> {
    let output = command(args).output()?;
    Ok(Ran::new(format!("gcos {}", args.join(" ")), output))
}

/// Runs `gcos` and kills it after `delay`: whether it was still running.
pub(crate) fn killed(args: &[&str], delay: Duration) -> Result<bool, Trouble> {
    let mut command = Command::new("gcos");
    command.args(args).current_dir(PLACE);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let mut child = command.spawn()?;
    thread::sleep(delay.saturating_sub(start.elapsed()));
    child.kill()?;
    Ok(child.wait()?.code().is_none())
}

/// Runs `gcos` as a user of `/etc/passwd`, who may lock as much memory as he likes.
pub(crate) fn gcos_as(user: &str, line: &str) -> Result<Ran, Trouble> {
    let line = format!("ulimit -l unlimited && cd {PLACE} && su {user} -c 'gcos {line}'");
    let output =
        Command::new("timeout").args(["-s", "KILL", LONGEST, "sh", "-c", &line]).output()?;
    Ok(Ran::new(line, output))
}

/// Runs another program, which must go well.
pub(crate) fn sh(line: &str) -> Result<(), Trouble> {
    let output = Command::new("sh").args(["-c", line]).output()?;
    match output.status.success() {
        true => Ok(()),
        false => failed(format!("{line}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// A file of [`PLACE`].
pub(crate) fn path(name: &str) -> std::path::PathBuf {
    Path::new(PLACE).join(name)
}
