//! QEMU's machine protocol, with its events.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longest time for one answer.
const ANSWER: Duration = Duration::from_secs(20);

/// A connection to a machine's monitor.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    /// What has been read of the next message.
    partial: String,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Agrees on the protocol over a connection that QEMU has made.
    ///
    /// # Errors
    /// A message when QEMU does not greet.
    pub fn new(stream: UnixStream) -> Result<Self, String> {
        stream.set_write_timeout(Some(ANSWER)).map_err(|error| format!("QMP: {error}"))?;
        let reader = BufReader::new(stream);
        let mut qmp = Self { reader, partial: String::new(), events: VecDeque::new() };
        let greeting = qmp.message(Instant::now() + ANSWER)?;
        if greeting.get("QMP").is_none() {
            return Err(format!("QMP: expected a greeting, got {greeting}"));
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns its answer.
    ///
    /// # Errors
    /// What QEMU says, or that it says nothing in time.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let text = json!({ "execute": command, "arguments": arguments }).to_string();
        let written = self.reader.get_mut().write_all(text.as_bytes());
        written.map_err(|error| format!("QMP {command}: {error}"))?;
        let end = Instant::now() + ANSWER;
        loop {
            let mut message = self.message(end).map_err(|error| format!("{command}: {error}"))?;
            if let Some(error) = message.get("error") {
                return Err(format!("QMP {text}: {error}"));
            }
            match message.get_mut("return") {
                Some(answer) => return Ok(answer.take()),
                None => self.events.push_back(message),
            }
        }
    }

    /// Runs a command of the human monitor and returns what it prints.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn human(&mut self, command: &str) -> Result<String, String> {
        let answer = self.execute("human-monitor-command", json!({ "command-line": command }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// Waits for an event of this name; others before it are forgotten.
    ///
    /// # Errors
    /// A message when it does not come in time.
    pub fn event(&mut self, name: &str, timeout: Duration) -> Result<Value, String> {
        let end = Instant::now() + timeout;
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.message(end).map_err(|error| format!("event {name}: {error}"))?,
            };
            if event.get("event").and_then(Value::as_str) == Some(name) {
                return Ok(event);
            }
        }
    }

    fn message(&mut self, end: Instant) -> Result<Value, String> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("QMP: no message in time".to_owned());
            }
            let stream = self.reader.get_ref();
            stream.set_read_timeout(Some(left)).map_err(|error| format!("QMP: {error}"))?;
            match self.reader.read_line(&mut self.partial) {
                Ok(0) => return Err("QMP: QEMU has ended".to_owned()),
                Ok(_) => break,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(format!("QMP: {error}")),
            }
        }
        let line = std::mem::take(&mut self.partial);
        serde_json::from_str(&line).map_err(|error| format!("QMP: {line:?}: {error}"))
    }
}
