use std::collections::VecDeque;
use std::time::Duration;

/// Failed requests, counted within a window of time.
#[derive(Debug)]
pub(super) struct ErrorBudget {
    most: u32,
    window: Duration,
    /// When the last ones failed, at most one more than the budget.
    failed: VecDeque<Duration>,
}

impl ErrorBudget {
    pub(super) fn new(most: u32, window: Duration) -> Self {
        Self { most, window, failed: VecDeque::new() }
    }

    /// Forgets what has failed so far.
    pub(super) fn forgive(&mut self) {
        self.failed.clear();
    }

    /// Notes a request that failed at `now`. Says, in words, when that is one too many.
    pub(super) fn failed(&mut self, now: Duration) -> Option<String> {
        if self.most == 0 {
            return None;
        }
        let begin = now.saturating_sub(self.window);
        while self.failed.front().is_some_and(|&at| at < begin) {
            self.failed.pop_front();
        }
        self.failed.push_back(now);
        let past = self.failed.len() > self.most as usize;
        past.then(|| {
            let (count, window) = (self.failed.len(), self.window);
            format!("{count} requests failed within {window:?}, {} are allowed", self.most)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn errors_count_within_their_window_and_no_longer() {
        let mut budget = ErrorBudget::new(3, 10 * SECOND);
        for second in [0, 4, 8] {
            assert_eq!(budget.failed(second * SECOND), None);
        }
        // The first one is too long ago by now.
        assert_eq!(budget.failed(11 * SECOND), None);
        let said = budget.failed(12 * SECOND).unwrap();
        assert!(said.contains("4 requests") && said.contains("3 are allowed"), "{said}");
    }

    #[test]
    fn steady_errors_below_the_rate_never_use_the_budget_up() {
        let mut budget = ErrorBudget::new(3, 10 * SECOND);
        assert!((0..10_000).all(|n| budget.failed(n * 4 * SECOND).is_none()));
        assert!(budget.failed.len() <= 4, "what is over is forgotten");
    }

    #[test]
    fn a_budget_of_0_is_no_rule() {
        let mut budget = ErrorBudget::new(0, SECOND);
        assert!((0..1000).all(|_| budget.failed(SECOND).is_none()));
        assert!(budget.failed.is_empty());
    }
}
