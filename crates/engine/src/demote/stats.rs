use std::fmt;

/// Why a way was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DemotionReason {
    /// More requests failed than the budget allows.
    Errors,
    /// The device is gone: it was pulled out, or did not come back from a reset.
    Gone,
    /// It has become slow, measured by what it was.
    Latency,
    /// Somebody asked for it.
    Asked,
}

impl fmt::Display for DemotionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Errors => "errors",
            Self::Gone => "gone",
            Self::Latency => "latency",
            Self::Asked => "asked",
        })
    }
}

/// How often and why an engine left a way, since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demotions {
    /// Because of errors past the budget.
    pub errors: u64,
    /// Because the device was gone.
    pub gone: u64,
    /// Because of latency.
    pub latency: u64,
    /// Because somebody asked for it.
    pub asked: u64,
    /// Times it went back to its first way.
    pub promotions: u64,
    /// Requests that were carried out on another way after they had failed on theirs.
    pub retried: u64,
    /// Why it is not on its first way now, in words; `None` when it is.
    pub demoted: Option<String>,
    /// Whether it has no way left and takes no requests.
    pub out: bool,
}

impl Demotions {
    /// Demotions for any reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.errors + self.gone + self.latency + self.asked
    }

    pub(super) fn count(&mut self, reason: DemotionReason) {
        match reason {
            DemotionReason::Errors => self.errors += 1,
            DemotionReason::Gone => self.gone += 1,
            DemotionReason::Latency => self.latency += 1,
            DemotionReason::Asked => self.asked += 1,
        }
    }
}
