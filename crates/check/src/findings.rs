use std::collections::{BTreeMap, BTreeSet};

use crate::{Action, Finding, FindingCode, Severity};

/// Findings of one kind that are kept; the rest is only counted.
const KEPT: u64 = 1000;

/// Which repair settles a finding. Drives by their position among those given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fix {
    /// None does.
    None,
    /// Rewriting the superblock copies.
    Copies(usize),
    /// A fresh pair of checkpoints.
    Checkpoint(usize),
    /// A superblock that follows the present one.
    Successor(usize),
}

/// What was found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: Vec<(Finding, Fix)>,
    wanted: BTreeSet<Fix>,
    counts: BTreeMap<FindingCode, u64>,
    actions: Vec<Action>,
    /// Whether nothing that a repair does is really done.
    dry: bool,
}

impl Findings {
    pub(crate) fn new(dry: bool) -> Self {
        Self { dry, ..Self::default() }
    }

    /// Notes a finding of its kind's usual severity.
    pub(crate) fn add(
        &mut self,
        code: FindingCode,
        fix: Fix,
        drive: Option<&str>,
        what: impl Into<String>,
        detail: impl Into<String>,
    ) {
        self.add_as(code.severity(), code, fix, drive, what, detail);
    }

    /// Notes a finding of another severity.
    pub(crate) fn add_as(
        &mut self,
        severity: Severity,
        code: FindingCode,
        fix: Fix,
        drive: Option<&str>,
        what: impl Into<String>,
        detail: impl Into<String>,
    ) {
        self.wanted.insert(fix);
        let count = self.counts.entry(code).or_insert(0);
        *count += 1;
        if *count > KEPT {
            return;
        }
        let (what, detail) = (what.into(), detail.into());
        tracing::debug!(?code, drive, what, detail, "finding");
        let drive = drive.map(str::to_owned);
        let finding =
            Finding { severity, code, drive, what, detail, repaired: false, would_repair: false };
        self.list.push((finding, fix));
    }

    /// Marks what a repair has settled.
    pub(crate) fn settle(&mut self, fix: Fix) {
        self.wanted.remove(&fix);
        for (finding, its_fix) in &mut self.list {
            let settled = *its_fix == fix;
            finding.repaired |= settled && !self.dry;
            finding.would_repair |= settled && self.dry;
        }
    }

    /// Notes what a repair is about to write.
    pub(crate) fn act(&mut self, drive: &str, what: String) {
        tracing::info!(drive, what, dry = self.dry, "repair");
        self.actions.push(Action { drive: drive.to_owned(), what });
    }

    /// What was, or would be, written so far.
    pub(crate) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Whether a finding, kept or not, awaits this repair.
    pub(crate) fn awaits(&self, fix: Fix) -> bool {
        self.wanted.contains(&fix)
    }

    /// The findings and how many there were of each kind.
    pub(crate) fn finish(self) -> (Vec<Finding>, BTreeMap<FindingCode, u64>) {
        (self.list.into_iter().map(|(finding, _)| finding).collect(), self.counts)
    }
}
