use std::time::Duration;

/// When a way is left. Each rule by itself; a number that is 0 turns its rule off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemotionRules {
    /// Requests that may fail within [`DemotionRules::error_window`]; the way is left at the next one. 0
    /// is off. Requests that do not fit the drive do not count.
    pub max_errors: u32,
    /// How long a failed request counts.
    pub error_window: Duration,
    /// Whether the way is left when its device is gone: pulled out, or not back from a reset.
    pub gone: bool,
    /// Multiple of its usual latency past which the drive is slow. 0 is off.
    pub latency_multiple: u32,
    /// Latency that is never slow, whatever is usual: what the host's own scheduling can cause.
    pub latency_floor: Duration,
    /// Requests of a kind that are judged together, at least 8. Less is not judged.
    pub latency_samples: u32,
    /// For how long the drive must have been slow without a break.
    pub latency_lasting: Duration,
}

impl Default for DemotionRules {
    /// A device that is gone is left; errors and latency are not counted.
    fn default() -> Self {
        Self {
            max_errors: 0,
            error_window: Duration::from_secs(60),
            gone: true,
            latency_multiple: 0,
            latency_floor: Duration::from_millis(50),
            latency_samples: 64,
            latency_lasting: Duration::from_secs(5),
        }
    }
}

impl DemotionRules {
    /// No rule at all.
    #[must_use]
    pub fn off() -> Self {
        Self { gone: false, ..Self::default() }
    }

    /// Whether no rule is on.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.max_errors == 0 && !self.gone && self.latency_multiple == 0
    }
}
