//! A process of this program in a role, which says when it has begun.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::report::{Trouble, ensure};

/// A process that runs until it is killed.
#[derive(Debug)]
pub(crate) struct Child(std::process::Child);

impl Child {
    /// Starts a role and waits until it says that it is running.
    pub(crate) fn start(role: &str) -> Result<Self, Trouble> {
        let mut child = Command::new("/proc/self/exe").arg(role).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let child = Self(child);
        ensure(line.trim() == "running", || format!("{role} did not get to run: {line:?}"))?;
        Ok(child)
    }

    /// Kills it with SIGKILL and waits for its end: whether it had not ended by itself.
    pub(crate) fn kill(mut self) -> Result<bool, Trouble> {
        self.0.kill()?;
        Ok(self.0.wait()?.code().is_none())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Fails for one that has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
