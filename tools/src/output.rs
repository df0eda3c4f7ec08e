//! The one place that writes to standard output and standard error.

use std::fmt::Display;
use std::io::{IsTerminal, Write, stderr, stdin, stdout};
use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::args::Globals;
use crate::failure::Failure;

/// Where results and remarks go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
    quiet: bool,
    /// Whether progress bars make sense.
    pub(crate) progress: bool,
}

impl Output {
    pub(crate) fn new(globals: &Globals) -> Self {
        let progress = !globals.no_progress && !globals.quiet && stderr().is_terminal();
        Self { json: globals.json, quiet: globals.quiet, progress }
    }

    /// The result of a command: the document with `--json`, else the text.
    pub(crate) fn result(&self, document: &impl Serialize, text: impl Display) {
        if self.json {
            match serde_json::to_string_pretty(document) {
                Ok(json) => self.line(json),
                Err(error) => self.remark(format!("cannot write the result as JSON: {error}")),
            }
        } else {
            self.line(text);
        }
    }

    /// A line of a result that has no JSON form of its own.
    pub(crate) fn line(&self, text: impl Display) {
        // Nobody is left to tell when standard output is closed (`gcos ls | head`).
        let _closed = writeln!(stdout().lock(), "{text}");
    }

    /// Bytes to standard output.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut out = stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }

    /// A remark on standard error, unless `--quiet`.
    pub(crate) fn remark(&self, text: impl Display) {
        if !self.quiet {
            let _closed = writeln!(stderr().lock(), "{text}");
        }
    }

    /// The line for a job that could not be done.
    pub(crate) fn failure(&self, failure: &Failure) {
        if self.json {
            let mut error = serde_json::json!({
                "error": { "kind": failure.kind, "message": failure.to_string() }
            });
            if let Some(fields) = error.get_mut("error").filter(|_| !failure.problems.is_empty()) {
                fields["problems"] = serde_json::json!(failure.problems);
            }
            self.line(format_args!("{error:#}"));
        } else {
            let _closed = writeln!(stderr().lock(), "gcos: {failure}");
        }
    }

    /// Asks a question on the terminal; `None` without one.
    pub(crate) fn ask(&self, question: &str) -> Option<bool> {
        if self.json || !stdin().is_terminal() || !stderr().is_terminal() {
            return None;
        }
        let mut answer = String::new();
        let _closed = write!(stderr().lock(), "{question} [y/N] ");
        stdin().read_line(&mut answer).ok()?;
        Some(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}

/// What the parser says about the command line: help on standard output, errors in the form that was
/// asked for.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|arg| arg == "--json");
    if error.use_stderr() && json {
        let out = Output { json: true, quiet: false, progress: false };
        out.failure(&Failure::usage(error.render().to_string().trim_end()));
    } else {
        let _closed = error.print();
    }
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

/// Sends log messages to standard error: warnings, with `-v` more. `GCOS_LOG` overrides.
pub(crate) fn start_log(globals: &Globals) {
    let level = match (globals.quiet, globals.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("GCOS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(false)
        .without_time();
    // Only fails when there is a log already, which then does the same.
    let _already = log.try_init();
}

/// A table without lines; the columns in `right` (from 0) hold numbers.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>, right: &[usize]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header.to_vec());
    }
    table.add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}
