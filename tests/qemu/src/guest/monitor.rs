//! QEMU's machine protocol, as far as a guest's test needs it: one command at a time.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// Longest time for one answer.
const ANSWER: Duration = Duration::from_secs(20);

/// A connection to QEMU's monitor.
#[derive(Debug)]
pub struct Monitor {
    reader: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects and agrees on the protocol.
    ///
    /// # Errors
    /// A message when nobody answers.
    pub fn connect(socket: &Path) -> Result<Self, String> {
        let fail = |error| format!("QEMU's monitor at {}: {error}", socket.display());
        let stream = UnixStream::connect(socket).map_err(fail)?;
        stream.set_read_timeout(Some(ANSWER)).map_err(fail)?;
        stream.set_write_timeout(Some(ANSWER)).map_err(fail)?;
        let mut monitor = Self { reader: BufReader::new(stream) };
        monitor.message()?;
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Runs a command and returns what it returns. Events that come before are passed over.
    ///
    /// # Errors
    /// What QEMU says, or that it says nothing.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let text = json!({ "execute": command, "arguments": arguments }).to_string();
        let written = self.reader.get_mut().write_all(text.as_bytes());
        written.map_err(|error| format!("QEMU's monitor, {command}: {error}"))?;
        loop {
            let mut message = self.message()?;
            if let Some(error) = message.get("error") {
                return Err(format!("QEMU's monitor, {text}: {error}"));
            }
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }

    fn message(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line);
        read.map_err(|error| format!("QEMU's monitor does not answer: {error}"))?;
        serde_json::from_str(&line).map_err(|error| format!("QEMU's monitor, {line:?}: {error}"))
    }
}
