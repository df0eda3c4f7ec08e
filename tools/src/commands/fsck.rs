use gcos::check::{CheckOptions, Phase, Progress, Report, check};
use gcos::units;

use crate::args::{FsckArgs, Globals};
use crate::failure::{Failure, Outcome};
use crate::meter::{Meter, Unit};
use crate::output::Output;
use crate::pool;

/// `gcos fsck`.
pub(crate) fn run(globals: &Globals, args: &FsckArgs, out: &Output) -> Result<Outcome, Failure> {
    let config = pool::config(globals)?;
    let drives = pool::drives(&config)?;
    let options =
        CheckOptions { data: args.data, repair: args.repair, io_deadline: config.io_deadline() };
    let meter = Meter::new(out, "check", Some(0), Unit::Things);
    let report = check(&drives.engines, &options, &mut |progress| show(&meter, progress))?;
    drop(meter);
    pool::release(&config, drives)?;
    out.result(&report, text(&report, args));
    Ok(Outcome::good_if(report.is_clean() || report.is_repaired()))
}

fn show(meter: &Meter, progress: Progress) {
    meter.say(match progress.phase {
        Phase::Superblocks => "superblocks",
        Phase::Metadata => "metadata",
        Phase::Objects => "objects",
        Phase::Data => "data",
        Phase::Repair => "repair",
    });
    meter.set(progress.done, progress.total);
}

fn text(report: &Report, args: &FsckArgs) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let drive = finding.drive.as_deref().unwrap_or("pool");
        let repaired = if finding.repaired { " (repaired)" } else { "" };
        text += &format!("{drive}: {}: {}{repaired}\n", finding.what, finding.detail);
    }
    let pool = report.pool_uuid.as_deref().unwrap_or("no pool");
    text += &format!(
        "{pool}: {} objects, {} of payload on {} drives",
        report.objects,
        units::about(report.payload_bytes),
        report.drives.len()
    );
    if args.data {
        text += &format!(", {} read and verified", units::about(report.data_bytes_read));
    }
    text += match (report.is_clean(), report.is_repaired()) {
        (true, _) => ": clean.",
        (false, true) => ": repaired.",
        (false, false) if args.repair => ": damage that cannot be repaired is left.",
        (false, false) => ": damage was found; `gcos fsck --repair` repairs what can be repaired.",
    };
    text
}
