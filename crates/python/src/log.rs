//! The log of the library, given to Python's `logging`.

use std::sync::Arc;

use gcos::log::{self, LevelFilter, Line, Sink};
use pyo3::prelude::*;

use crate::error::Failure;

/// Levels by name, each with its number in Python's `logging`.
const LEVELS: &[(&str, LevelFilter, i32)] = &[
    ("off", LevelFilter::OFF, 0),
    ("error", LevelFilter::ERROR, 40),
    ("warning", LevelFilter::WARN, 30),
    ("info", LevelFilter::INFO, 20),
    ("debug", LevelFilter::DEBUG, 10),
    ("trace", LevelFilter::TRACE, 5),
];

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

impl Sink for ToPython {
    fn take(&self, line: &Line) {
        let level = LEVELS.iter().find(|(_, level, _)| *level == line.level);
        let level = level.map_or(0, |(_, _, number)| *number);
        // Without an interpreter, which has ended then, there is nobody to tell.
        Python::try_attach(|py| {
            let logged = py
                .import("logging")
                .and_then(|logging| logging.call_method1("getLogger", (logger(line.target),)))
                .and_then(|logger| logger.call_method1("log", (level, "%s", &line.text)));
            if let Err(error) = logged {
                error.write_unraisable(py, None);
            }
        });
    }
}

/// Takes the log of the process, unless somebody has it.
pub(crate) fn start() {
    let _ = log::set(LevelFilter::WARN, Some(Arc::new(ToPython)));
}

/// Lines of this level and above go to Python's logging, to loggers below "gcos": "off", "error", "warning" (as it is
/// at first), "info", "debug" or "trace" (level 5).
#[pyfunction]
pub(crate) fn set_log_level(level: &str) -> PyResult<()> {
    let Some((_, level, _)) = LEVELS.iter().find(|(name, ..)| *name == level) else {
        let names: Vec<_> = LEVELS.iter().map(|(name, ..)| *name).collect();
        let message = format!("level: expected one of {}, got {level:?}", names.join(", "));
        return Err(Failure::invalid(message).into());
    };
    log::set_level(*level);
    Ok(())
}
