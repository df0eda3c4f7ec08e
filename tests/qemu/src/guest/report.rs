//! What a scenario reports on its serial port, line by line, and whether it may count as passed.
//!
//! `test NAME ... ok`, `test NAME ... FAILED: WHY`, `test NAME ... not offered: WHY` for each case,
//! `note TEXT` for figures, `ask TEXT` for what the host shall do meanwhile, and at the end
//! `cases N` and `exit CODE`.

use std::fmt;

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Ok,
    /// It does not, and why.
    Failed(String),
    /// The controller does not have what it is about, and what that is.
    NotOffered(String),
}

/// One case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Its name, a sentence.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
}

/// Everything that a scenario said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The cases in the order in which they ended.
    pub cases: Vec<Case>,
    /// Figures and other remarks.
    pub notes: Vec<String>,
    /// What is wrong with the report itself.
    pub flaws: Vec<String>,
}

impl Report {
    /// Takes the lines apart.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut report = Self::default();
        let (mut counted, mut exit) = (None, None);
        for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            match line.split_once(' ') {
                Some(("test", rest)) => report.case(line, rest),
                Some(("note", rest)) => report.notes.push(rest.to_owned()),
                Some(("ask", _)) => {}
                Some(("cases", rest)) => counted = rest.parse::<usize>().ok(),
                Some(("exit", rest)) => exit = rest.parse::<i32>().ok(),
                _ => report.flaws.push(format!("not a line of a report: {line:?}")),
            }
        }
        if counted != Some(report.cases.len()) {
            let found = report.cases.len();
            report.flaws.push(format!("{found} cases reported, the scenario counted {counted:?}"));
        }
        if exit != Some(0) {
            report.flaws.push(format!("the scenario did not end well: exit code {exit:?}"));
        }
        report
    }

    fn case(&mut self, line: &str, rest: &str) {
        let verdict = rest.split_once(" ... ").and_then(|(name, verdict)| {
            let verdict = match verdict.split_once(": ") {
                None if verdict == "ok" => Verdict::Ok,
                Some(("FAILED", why)) => Verdict::Failed(why.to_owned()),
                Some(("not offered", why)) => Verdict::NotOffered(why.to_owned()),
                _ => return None,
            };
            Some(Case { name: name.to_owned(), verdict })
        });
        match verdict {
            Some(case) => self.cases.push(case),
            None => self.flaws.push(format!("not a line of a case: {line:?}")),
        }
    }

    /// What keeps this report from counting as passed: failures, flaws, no case at all, and cases that
    /// were not offered unless their name contains one of `may_lack`.
    #[must_use]
    pub fn faults(&self, may_lack: &[&str]) -> Vec<String> {
        let mut faults = self.flaws.clone();
        for Case { name, verdict } in &self.cases {
            match verdict {
                Verdict::Ok => {}
                Verdict::Failed(why) => faults.push(format!("{name}: {why}")),
                Verdict::NotOffered(why) if !may_lack.iter().any(|part| name.contains(part)) => {
                    faults.push(format!("{name}: not offered: {why}"));
                }
                Verdict::NotOffered(_) => {}
            }
        }
        if self.cases.is_empty() {
            faults.push("no case ran".to_owned());
        }
        faults
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Case { name, verdict } in &self.cases {
            match verdict {
                Verdict::Ok => writeln!(f, "  {name}: ok")?,
                Verdict::Failed(why) => writeln!(f, "  {name}: FAILED: {why}")?,
                Verdict::NotOffered(why) => writeln!(f, "  {name}: not offered: {why}")?,
            }
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  {note}"))
    }
}

/// What in the kernel's log nobody expected: faults of the IOMMU outside of the stretches that the
/// scenario marked with `gcos-guest: faults are expected` and `gcos-guest: faults are over`, and
/// whatever the kernel calls a bug.
#[must_use]
pub fn kernel_complaints(log: &str) -> Vec<String> {
    let mut expected = false;
    let mut complaints = Vec::new();
    for line in log.lines() {
        if line.contains("gcos-guest: faults are expected") {
            expected = true;
        } else if line.contains("gcos-guest: faults are over") {
            expected = false;
        }
        let fault = line.contains("DMAR:") && line.contains("fault");
        let bug =
            ["BUG:", "WARNING: CPU", "Oops", "Call Trace:", "Kernel panic", "blocked for more"];
        if (fault && !expected) || bug.iter().any(|word| line.contains(word)) {
            complaints.push(line.trim_end().to_owned());
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "test a b ... ok\r\nnote 5 us\r\nask unplug\r\n\
        test c ... not offered: no SGL\r\ncases 2\r\nexit 0\r\n";

    #[test]
    fn a_report_passes_only_whole_and_without_failures() {
        let report = Report::parse(GOOD);
        assert_eq!(report.notes, ["5 us"]);
        assert_eq!(report.faults(&["c"]), Vec::<String>::new());
        assert_eq!(report.faults(&[]), ["c: not offered: no SGL"]);
        for (from, to, fault) in [
            ("a b ... ok", "a b ... FAILED: lost", "a b: lost"),
            ("a b ... ok", "a b ...", "not a line of a case"),
            ("cases 2", "cases 3", "2 cases reported"),
            ("exit 0", "exit 101", "did not end well"),
            ("exit 0\r\n", "", "did not end well"),
            ("ask", "oops", "not a line of a report"),
        ] {
            let faults = Report::parse(&GOOD.replace(from, to)).faults(&["c"]);
            assert!(faults.iter().any(|f| f.contains(fault)), "{from:?} → {to:?}: {faults:?}");
        }
        assert!(Report::parse("cases 0\nexit 0\n").faults(&[]).contains(&"no case ran".to_owned()));
    }

    #[test]
    fn the_kernel_may_complain_of_faults_only_where_they_are_expected() {
        let fault = "[ 2.1] DMAR: [DMA Write NO_PASID] Request device [00:03.0] fault addr 0x1000";
        assert_eq!(kernel_complaints(fault), [fault]);
        let marked =
            format!("gcos-guest: faults are expected\n{fault}\n[3] gcos-guest: faults are over\n");
        assert_eq!(kernel_complaints(&marked), Vec::<String>::new());
        assert_eq!(kernel_complaints(&format!("{marked}{fault}")), [fault]);
        assert_eq!(kernel_complaints("[1] BUG: unable to handle page fault").len(), 1);
        assert_eq!(kernel_complaints("[1] DMAR: IOMMU enabled"), Vec::<String>::new());
    }
}
