use indicatif::{ProgressBar, ProgressStyle};

use crate::output::Output;

/// A progress bar where one makes sense, nothing elsewhere.
#[derive(Debug)]
pub(crate) struct Meter(ProgressBar);

/// What a meter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Things,
}

impl Meter {
    pub(crate) fn new(out: &Output, what: &'static str, total: Option<u64>, unit: Unit) -> Self {
        if !out.progress {
            return Self(ProgressBar::hidden());
        }
        let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
        let template = match (unit, total) {
            (Unit::Bytes, Some(_)) => {
                "{msg:12} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {eta}"
            }
            (Unit::Things, Some(_)) => "{msg:12} [{wide_bar}] {pos}/{len} {eta}",
            (Unit::Bytes, None) => "{msg:12} {binary_bytes} {elapsed}",
            (Unit::Things, None) => "{msg:12} {pos} {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what);
        Self(bar)
    }

    pub(crate) fn set(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.inc(more);
    }

    pub(crate) fn say(&self, what: &'static str) {
        self.0.set_message(what);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
