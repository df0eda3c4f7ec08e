//! The log of the library, given to Python's `logging`.
//!
//! Whoever logs may hold locks that a thread of Python waits for, so nobody who logs waits for the interpreter: a
//! thread of its own hands the lines over.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::error::Failure;

/// Lines that wait for the interpreter; more are left out.
const WAITING: usize = 1024;

/// How long the end of the interpreter waits for lines that are left.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Levels by name, each with its number here and in Python's `logging`.
const LEVELS: &[(&str, u8, i32)] = &[
    ("off", 0, 0),
    ("error", 1, 40),
    ("warning", 2, 30),
    ("info", 3, 20),
    ("debug", 4, 10),
    ("trace", 5, 5),
];

/// Highest level that is handed over.
static LEVEL: AtomicU8 = AtomicU8::new(2);
/// Where lines go, and the process that the thread behind it is in.
static LINES: Mutex<Option<(u32, Sender<Message>)>> = Mutex::new(None);

#[derive(Debug)]
enum Message {
    Line {
        level: i32,
        logger: String,
        text: String,
    },
    /// To be answered when the lines before it have been handed over.
    Flush(Sender<()>),
}

fn number(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

/// Name of Python's logger for a module of Rust.
fn logger(target: &str) -> String {
    let name = target.replace("::", ".");
    match name.strip_prefix("gcos_") {
        Some(rest) => format!("gcos.{rest}"),
        None if name == "gcos" || name.starts_with("gcos.") => name,
        None => format!("gcos.{name}"),
    }
}

struct ToPython;

impl Subscriber for ToPython {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The level may change at any time.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        number(*metadata.level()) <= LEVEL.load(Ordering::Relaxed)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = number(*event.metadata().level());
        let python = LEVELS.iter().find(|(_, here, _)| *here == level);
        let level = python.map_or(0, |(_, _, python)| *python);
        let logger = logger(event.metadata().target());
        if let Some(lines) = lines() {
            // A log that nobody reads is no reason to wait.
            let _ =
                lines.try_send(Message::Line { level, logger, text: text.message + &text.fields });
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The words of an event, then its fields.
#[derive(Debug, Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            name => {
                // Writing to a string does not fail.
                let _ = write!(self.fields, " {name}={value}");
            }
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// The way to the thread that hands lines over, which is started if it is not there: in a child process it is not.
fn lines() -> Option<Sender<Message>> {
    let process = std::process::id();
    let mut lines = LINES.try_lock_for(LAST_LINES)?;
    if let Some((_, sender)) = lines.as_ref().filter(|(of, _)| *of == process) {
        return Some(sender.clone());
    }
    let (sender, receiver) = bounded(WAITING);
    let thread = std::thread::Builder::new().name("gcos-log".to_owned());
    thread.spawn(move || hand_over(&receiver)).ok()?;
    *lines = Some((process, sender.clone()));
    Some(sender)
}

fn hand_over(messages: &Receiver<Message>) {
    while let Ok(message) = messages.recv() {
        match message {
            Message::Line { level, logger, text } => {
                let logged = Python::try_attach(|py| {
                    let logger = py.import("logging")?.call_method1("getLogger", (logger,))?;
                    logger.call_method1("log", (level, "%s", text)).map(drop)
                });
                match logged {
                    Some(Ok(())) => {}
                    Some(Err(error)) => {
                        let _ = Python::try_attach(|py| error.write_unraisable(py, None));
                    }
                    // The interpreter is gone.
                    None => return,
                }
            }
            Message::Flush(answer) => {
                let _ = answer.send(());
            }
        }
    }
}

/// Waits, not for long, until what has been logged is handed over.
pub(crate) fn flush() {
    let there = LINES.try_lock_for(LAST_LINES).and_then(|lines| lines.clone());
    let Some((_, sender)) = there.filter(|(of, _)| *of == std::process::id()) else { return };
    let (answer, answered) = bounded(1);
    if sender.send_timeout(Message::Flush(answer), LAST_LINES).is_ok() {
        let _ = answered.recv_timeout(LAST_LINES);
    }
}

/// Takes the log of the process, unless somebody has it.
pub(crate) fn start() {
    let _ = tracing::subscriber::set_global_default(ToPython);
}

/// Lines of this level and above go to Python's logging, to loggers below "gcos": "off", "error", "warning" (as it is
/// at first), "info", "debug" or "trace" (level 5).
#[pyfunction]
pub(crate) fn set_log_level(level: &str) -> PyResult<()> {
    let Some((_, number, _)) = LEVELS.iter().find(|(name, ..)| *name == level) else {
        let names: Vec<_> = LEVELS.iter().map(|(name, ..)| *name).collect();
        let message = format!("level: expected one of {}, got {level:?}", names.join(", "));
        return Err(Failure::invalid(message).into());
    };
    LEVEL.store(*number, Ordering::Relaxed);
    Ok(())
}
