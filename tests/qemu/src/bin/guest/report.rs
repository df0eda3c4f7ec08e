//! Cases and how they end, told line by line.

use std::fmt::Display;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// From this time on, how long a case took is told.
const LONG: Duration = Duration::from_secs(1);

/// How a case can fail to hold.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It does not hold.
    Failed(String),
    /// What it is about is not there.
    NotOffered(String),
}

impl<E: std::error::Error> From<E> for Trouble {
    /// With its sources: what the system said is the last of them.
    fn from(error: E) -> Self {
        Self::Failed(chain(&error))
    }
}

/// An error with its sources, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// A failure for `?`.
pub(crate) fn failed<T>(why: impl Display) -> Result<T, Trouble> {
    Err(Trouble::Failed(why.to_string()))
}

/// Fails with a message unless it holds.
pub(crate) fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), Trouble> {
    if holds { Ok(()) } else { Err(Trouble::Failed(why())) }
}

/// What has been told so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    cases: usize,
}

impl Report {
    /// Runs a case and tells how it ended. A panic is a failure.
    pub(crate) fn case(&mut self, name: &str, case: impl FnOnce() -> Result<(), Trouble>) {
        let start = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(case));
        self.tell(name, ended.unwrap_or_else(|_| failed("it panicked; see the console")));
        let took = start.elapsed();
        if took > LONG {
            self.note(format!("{name}: {:.1} s", took.as_secs_f64()));
        }
    }

    /// Tells how a case ended.
    pub(crate) fn tell(&mut self, name: &str, ended: Result<(), Trouble>) {
        self.cases += 1;
        let verdict = match ended {
            Ok(()) => "ok".to_owned(),
            Err(Trouble::Failed(why)) => format!("FAILED: {}", one_line(&why)),
            Err(Trouble::NotOffered(why)) => format!("not offered: {}", one_line(&why)),
        };
        line(&format!("test {} ... {verdict}", one_line(name)));
    }

    /// Tells a figure or another remark.
    pub(crate) fn note(&self, text: impl Display) {
        line(&format!("note {}", one_line(&text.to_string())));
    }

    /// Asks the host to do something. It cannot answer: look for what it does.
    pub(crate) fn ask(&self, text: &str) {
        line(&format!("ask {text}"));
    }

    /// The last line.
    pub(crate) fn finish(&self) -> ExitCode {
        line(&format!("cases {}", self.cases));
        ExitCode::SUCCESS
    }
}

fn one_line(text: &str) -> String {
    text.trim().replace("\r\n", " | ").replace(['\n', '\r'], " | ")
}

fn line(text: &str) {
    println!("{text}");
    // Whoever follows the report sees it now.
    let _ = std::io::stdout().flush();
}
