use std::error::Error;
use std::fmt;

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// What the case states holds.
    Passed,
    /// The controller does not offer what the case is about, or the target does not allow it.
    NotOffered(String),
    /// It does not hold.
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::NotOffered(why) => write!(f, "not offered: {why}"),
            Self::Failed(why) => write!(f, "FAILED: {why}"),
        }
    }
}

/// Why a case did not come to its end.
#[derive(Debug)]
pub enum Stop {
    /// See [`Outcome::NotOffered`].
    NotOffered(String),
    /// See [`Outcome::Failed`].
    Failed(String),
}

impl Stop {
    /// The controller lacks what the case is about.
    pub fn not_offered(why: impl Into<String>) -> Self {
        Self::NotOffered(why.into())
    }

    /// What the case states does not hold.
    pub fn failed(why: impl Into<String>) -> Self {
        Self::Failed(why.into())
    }
}

/// An operation that should have worked did not: the case has failed, with the error and its causes.
impl<E: Error> From<E> for Stop {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::Failed(text)
    }
}

/// Ends the case unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        match $condition {
            true => {}
            false => return Err($crate::Stop::failed(format!($($message)+))),
        }
    };
}
pub(crate) use ensure;

/// How a run of the suite went.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Names of the cases that passed.
    pub passed: Vec<&'static str>,
    /// Those not offered, and why.
    pub not_offered: Vec<(&'static str, String)>,
    /// Those that failed, and why.
    pub failed: Vec<(&'static str, String)>,
}

impl Summary {
    pub(crate) fn add(&mut self, name: &'static str, outcome: Outcome) {
        match outcome {
            Outcome::Passed => self.passed.push(name),
            Outcome::NotOffered(why) => self.not_offered.push((name, why)),
            Outcome::Failed(why) => self.failed.push((name, why)),
        }
    }

    /// Whether no case failed and at least one passed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.failed.is_empty() && !self.passed.is_empty()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, not_offered, failed } = self;
        let counts = (passed.len(), not_offered.len(), failed.len());
        write!(f, "{} passed, {} not offered, {} failed", counts.0, counts.1, counts.2)?;
        failed.iter().try_for_each(|(name, why)| write!(f, "\n  {name}: {why}"))
    }
}
