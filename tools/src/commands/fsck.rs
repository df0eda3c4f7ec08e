use std::cmp::Reverse;

use gcos::check::{CheckOptions, FindingCode, Phase, Progress, Report, Severity, check};
use gcos::{Drives, units};
use serde_json::{Value, json};

use crate::args::{FsckArgs, Globals};
use crate::failure::{Failure, Outcome};
use crate::meter::{Meter, Unit};
use crate::output::{Output, table};
use crate::pool;

/// `gcos fsck`.
pub(crate) fn run(globals: &Globals, args: &FsckArgs, out: &Output) -> Result<Outcome, Failure> {
    let config = pool::config(globals)?;
    let drives = pool::drives(&config)?;
    let plan = CheckOptions {
        data: args.data,
        repair: args.repair,
        dry_run: args.dry_run,
        salvage: args.salvage,
        io_deadline: config.io_deadline(),
    };
    let checked = consented(&drives, &plan, args, out);
    pool::release(&config, drives)?;
    let report = checked?;
    let document = json!({ "clean": report.is_clean(), "repaired": report.is_repaired(),
        "would_be_repaired": report.would_be_repaired(), "data": args.data, "repair": args.repair,
        "dry_run": args.dry_run, "salvage": args.salvage });
    out.result(&merged(&report, document), text(&report, args));
    Ok(Outcome::good_if(report.is_clean() || report.is_repaired()))
}

/// The check, and the repair if it is agreed to: a dry run tells first what it would write.
fn consented(
    drives: &Drives,
    plan: &CheckOptions,
    args: &FsckArgs,
    out: &Output,
) -> Result<Report, Failure> {
    if !args.repair || args.yes || args.dry_run {
        return checked(drives, plan, out);
    }
    let dry = checked(drives, &CheckOptions { dry_run: true, ..plan.clone() }, out)?;
    if dry.actions.is_empty() {
        return Ok(dry);
    }
    out.remark(text(&dry, &FsckArgs { dry_run: true, ..*args }));
    match out.ask("Write this?") {
        Some(true) => checked(drives, plan, out),
        Some(false) => Err(Failure::new("consent", "nothing was changed")),
        None => Err(Failure::new(
            "consent",
            format!(
                "the repair would make {} changes to the drives; nothing was changed. Without a \
                 terminal to ask on, give --yes; --dry-run lists them",
                dry.actions.len()
            ),
        )),
    }
}

fn checked(drives: &Drives, options: &CheckOptions, out: &Output) -> Result<Report, Failure> {
    let meter = Meter::new(out, "check", Some(0), Unit::Things);
    Ok(check(&drives.engines, options, &mut |progress| show(&meter, progress))?)
}

/// The report, and beside its fields what it amounts to.
fn merged(report: &Report, mut document: Value) -> Value {
    if let (Value::Object(all), Ok(Value::Object(fields))) =
        (&mut document, serde_json::to_value(report))
    {
        all.extend(fields);
    }
    document
}

fn show(meter: &Meter, progress: Progress) {
    meter.say(match progress.phase {
        Phase::Superblocks => "superblocks",
        Phase::Metadata => "metadata",
        Phase::Headers => "headers",
        Phase::Objects => "objects",
        Phase::Data => "data",
        Phase::Repair => "repair",
    });
    meter.set(progress.done, progress.total);
}

/// Findings of one kind that are printed one by one.
const LISTED: usize = 10;

fn text(report: &Report, args: &FsckArgs) -> String {
    let mut parts = vec![summary(report, args)];
    parts.extend(groups(report));
    parts.extend(actions(report, args));
    parts.push(advice(report, args));
    parts.join("\n\n")
}

fn summary(report: &Report, args: &FsckArgs) -> String {
    let verdict = match (report.is_clean(), report.is_repaired()) {
        (true, _) => "clean",
        (false, true) => "repaired",
        (false, false) if args.dry_run && report.would_be_repaired() => {
            "DAMAGED; a repair would settle all of it"
        }
        (false, false) if args.dry_run => "DAMAGED, and a repair would not settle all of it",
        (false, false) if args.repair => "DAMAGED, and not all of it could be repaired",
        (false, false) => "DAMAGED",
    };
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("pool", report.pool_uuid.clone().unwrap_or_else(|| "none found".to_owned())),
        row("result", verdict.to_owned()),
        row("drives", drives(report)),
        row(
            "objects",
            format!("{}, {} of payload", report.objects, units::about(report.payload_bytes)),
        ),
    ];
    if report.dropped > 0 {
        let done = args.repair && !args.dry_run;
        let what = if done { "dropped" } else { "that a repair would drop" };
        rows.push(row("objects lost", format!("{} {what}", report.dropped)));
    }
    if report.unproven > 0 {
        let what = match args.salvage {
            true => "brought back by --salvage, removed ones perhaps among them",
            false => {
                "left out: they may have been removed or replaced (--salvage brings them back)"
            }
        };
        rows.push(row("headers only", format!("{} {what}", report.unproven)));
    }
    rows.push(row("data", data(report, args)));
    table(&[], rows, &[])
}

fn drives(report: &Report) -> String {
    let usable = report.drives.iter().filter(|drive| drive.index.is_some()).count();
    let mut text = format!("{usable} of {} given are usable", report.drives.len());
    if !report.missing.is_empty() {
        let missing: Vec<_> = report.missing.iter().map(u16::to_string).collect();
        text += &format!("; missing in the pool: {}", missing.join(", "));
    }
    text
}

fn data(report: &Report, args: &FsckArgs) -> String {
    match args.data {
        true => {
            format!("{} read and compared with checksums", units::about(report.data_bytes_read))
        }
        false => "not read (--data reads every object)".to_owned(),
    }
}

/// What a repair wrote.
fn actions(report: &Report, args: &FsckArgs) -> Option<String> {
    let mut text = match args.dry_run {
        true => "A repair would write:",
        false => "Written:",
    }
    .to_owned();
    for action in &report.actions {
        text += &format!("\n  {}: {}", action.drive, action.what);
    }
    (!report.actions.is_empty()).then_some(text)
}

/// The findings of each kind together, the worst first.
fn groups(report: &Report) -> Vec<String> {
    let mut codes: Vec<_> = report.counts.keys().copied().collect();
    codes.sort_by_key(|code| (Reverse(code.severity()), *code));
    codes.into_iter().map(|code| group(report, code)).collect()
}

fn group(report: &Report, code: FindingCode) -> String {
    let findings: Vec<_> = report.findings.iter().filter(|f| f.code == code).collect();
    let repaired = findings.iter().filter(|finding| finding.repaired).count();
    let severity = match code.severity() {
        Severity::Info => "note",
        Severity::Warning => "warning",
        Severity::Error => "ERROR",
    };
    let count = report.count(code);
    let mut text = format!("{severity}: {} ({count}", name(code));
    text += &match repaired {
        0 => ")".to_owned(),
        _ if repaired as u64 == count => ", repaired)".to_owned(),
        some => format!(", {some} of those listed repaired)"),
    };
    for finding in findings.iter().take(LISTED) {
        let drive = finding.drive.as_deref().unwrap_or("pool");
        text += &format!("\n  {drive}: {}: {}", finding.what, finding.detail);
    }
    let more = count.saturating_sub(findings.len().min(LISTED) as u64);
    if more > 0 {
        text += &format!("\n  and {more} more; --json lists up to a thousand of a kind");
    }
    text
}

/// The stable name of a kind, with spaces.
fn name(code: FindingCode) -> String {
    serde_json::to_value(code)
        .ok()
        .and_then(|value| value.as_str().map(|name| name.replace('_', " ")))
        .unwrap_or_else(|| format!("{code:?}"))
}

/// What to do next.
fn advice(report: &Report, args: &FsckArgs) -> String {
    let lost = [
        FindingCode::SuperblockMissing,
        FindingCode::SuperblockNoQuorum,
        FindingCode::FormatInProgress,
        FindingCode::MixedPools,
    ];
    let unusable = report.pool_uuid.is_none() || report.drives.iter().any(|d| d.index.is_none());
    let formatting = report.count(FindingCode::FormatInProgress) > 0;
    let lost = (unusable || formatting) && lost.iter().any(|&code| report.count(code) > 0);
    let text = if report.is_clean() && args.data {
        "Nothing to do."
    } else if report.is_clean() {
        "Nothing to do. `gcos fsck --data` reads every object too."
    } else if args.dry_run && report.would_be_repaired() {
        "Next: the same without --dry-run."
    } else if report.is_repaired() {
        "Repaired. `gcos fsck --data` checks it once more."
    } else if lost {
        "Next: if a zone-format was interrupted, `gcos zone-format --force` makes a new pool and erases \
         what is there. If not, check that disk.paths names the right drives, and keep copies of them: \
         fsck does not invent superblocks."
    } else if report.count(FindingCode::SuperblockNoQuorum) > 0 && !args.repair {
        "Next: if a zone-format was interrupted, `gcos zone-format --force` makes the new pool. If not, \
         `gcos fsck --repair` goes by the superblock copy that is left; with --dry-run it says first \
         what it would do."
    } else if report
        .counts
        .keys()
        .all(|&code| code == FindingCode::DriveMissing || code.severity() == Severity::Info)
    {
        "Next: give the missing drives back in disk.paths; until then the objects on them are misses. \
         Nothing else is wrong."
    } else if args.repair {
        "Next: see above for what is left. The rest of the pool can be used; objects that are damaged \
         are misses."
    } else {
        "Next: `gcos fsck --repair` repairs what can be repaired without inventing data; with --dry-run \
         it says first what it would do, and with --data it looks at every object."
    };
    text.to_owned()
}
