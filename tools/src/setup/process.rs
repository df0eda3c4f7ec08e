//! Programs of the system that are run for a moment.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time that one may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Runs a program to its end, and gives back the little that it says.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("cannot run {program}: {error}"))?;
    let end = Instant::now() + DEADLINE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                // It may be beyond reach inside the kernel; waiting for it would not end either.
                let _gone = child.kill();
                return Err(format!("{program} has not ended within {} s", DEADLINE.as_secs()));
            }
            Err(error) => return Err(format!("cannot wait for {program}: {error}")),
        }
    };
    let mut said = String::new();
    if let Some(mut pipe) = child.stdout.take() {
        let read = pipe.read_to_string(&mut said);
        read.map_err(|error| format!("cannot read what {program} says: {error}"))?;
    }
    if status.success() { Ok(said) } else { Err(format!("{program} ended with {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_give_back_what_they_say_or_why_not() {
        assert_eq!(run("echo", &["a"]).as_deref(), Ok("a\n"));
        assert!(run("false", &[]).is_err_and(|error| error.contains("exit status: 1")));
        assert!(run("no-such-program-here", &[]).is_err_and(|error| error.contains("cannot run")));
    }
}
