use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use gcos::status::message_of;
use gcos::{ConfigError, OpenError, StoreError};

/// How a job that could be done ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As it should.
    Good,
    /// It found a problem: a miss, damage, bytes that differ.
    Problem,
}

impl Outcome {
    pub(crate) fn good_if(good: bool) -> Self {
        if good { Outcome::Good } else { Outcome::Problem }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Good => ExitCode::SUCCESS,
            Outcome::Problem => ExitCode::from(1),
        }
    }
}

/// What kept a job from being done. Exit code 2.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Stable name for `--json`.
    pub(crate) kind: &'static str,
    message: String,
    /// What the message lists, for `--json`.
    pub(crate) problems: Vec<gcos::config::Problem>,
}

impl Failure {
    pub(crate) fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), problems: Vec::new() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new("usage", message)
    }

    /// An error of the system on a file.
    pub(crate) fn file(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::new("io", format!("cannot {what} {}: {error}", path.display()))
    }

    /// An error with its sources.
    pub(crate) fn chain(kind: &'static str, error: &dyn Error) -> Self {
        Self::new(kind, message_of(error))
    }

    pub(crate) fn exit_code(&self) -> u8 {
        2
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { problems: error.problems().to_vec(), ..Self::chain("config", &error) }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::chain("device", &error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let kind = match error {
            StoreError::Invalid { .. } | StoreError::WrongSize { .. } => "usage",
            StoreError::Full { .. } => "full",
            StoreError::NotAPool { .. } => "not_a_pool",
            StoreError::Occupied { .. } => "occupied",
            StoreError::Unopenable { .. } | StoreError::MixedPools { .. } => "pool",
            StoreError::Format { .. } => "format",
            _ => "device",
        };
        let mut failure = Self::chain(kind, &error);
        if matches!(error, StoreError::MixedPools { .. }) {
            failure.message += "; if a zone-format of all of them was interrupted, \
                                `gcos zone-format --force` makes one pool and erases what is there";
        }
        failure
    }
}

impl From<gcos::hw::HwError> for Failure {
    fn from(error: gcos::hw::HwError) -> Self {
        Self::chain("memory", &error)
    }
}

impl From<gcos::hw::OutOfBounds> for Failure {
    fn from(error: gcos::hw::OutOfBounds) -> Self {
        Self::chain("memory", &error)
    }
}

impl From<gcos::engine::IoError> for Failure {
    fn from(error: gcos::engine::IoError) -> Self {
        Self::chain("device", &error)
    }
}

impl From<gcos::check::CheckError> for Failure {
    fn from(error: gcos::check::CheckError) -> Self {
        Self::chain("device", &error)
    }
}
