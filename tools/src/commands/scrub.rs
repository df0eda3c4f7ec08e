use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::time::Instant;

use gcos::store::{ScrubCursor, ScrubOptions, ScrubReport};
use gcos::units;
use serde_json::json;

use crate::args::{Globals, ScrubArgs};
use crate::failure::{Failure, Outcome};
use crate::key;
use crate::meter::{Meter, Unit};
use crate::output::{Output, table};
use crate::pool;

/// Damaged objects that are printed one by one.
const PRINTED: usize = 20;

/// `gcos scrub`.
pub(crate) fn run(globals: &Globals, args: &ScrubArgs, out: &Output) -> Result<Outcome, Failure> {
    let Some(rate) = NonZeroU64::new(args.rate) else {
        return Err(Failure::usage("--rate is 0, expected at least one byte a second"));
    };
    let store = pool::open(globals)?;
    let total = store.stats().payload_bytes;
    let begun = Instant::now();
    let meter = Meter::new(out, "scrub", Some(total), Unit::Bytes);
    let mut said = 0;
    let mut watch = |report: &ScrubReport| {
        meter.set(report.bytes.min(total), total);
        // At once: whoever interrupts the command has seen what it found.
        for damage in report.found.iter().skip(said) {
            out.remark(format_args!(
                "damaged, removed: {} ({}: {})",
                key::show(&damage.key),
                damage.drive,
                damage.detail
            ));
        }
        said = report.found.len();
        match args.limit.is_some_and(|limit| begun.elapsed() >= limit) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let options = ScrubOptions { bytes_per_second: Some(rate), most_bytes: None };
    let report = store.scrub(&mut ScrubCursor::default(), &options, &mut watch)?;
    watch(&report).is_break();
    drop(meter);
    store.close()?;
    let seconds = begun.elapsed().as_secs_f64();
    out.result(&document(&report, args.rate, seconds), text(&report, seconds));
    Ok(Outcome::good_if(report.damaged == 0 && report.unread == 0))
}

fn document(report: &ScrubReport, rate: u64, seconds: f64) -> serde_json::Value {
    let damage = |damage: &gcos::store::ScrubDamage| json!({ "key": key::typed(&damage.key), "drive": damage.drive, "detail": damage.detail });
    json!({
        "complete": report.complete,
        "objects": report.objects,
        "bytes": report.bytes,
        "damaged": report.damaged,
        "skipped": report.skipped,
        "unread": report.unread,
        "bytes_per_second": rate,
        "seconds": seconds,
        "found": report.found.iter().map(damage).collect::<Vec<_>>(),
    })
}

fn text(report: &ScrubReport, seconds: f64) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("pass", if report.complete { "complete" } else { "ended before its end" }.to_owned()),
        row("verified", format!("{} objects", report.objects)),
        row("read", format!("{} in {seconds:.1} s", units::about(report.bytes))),
        row("damaged", format!("{} objects, removed", report.damaged)),
    ];
    for damage in report.found.iter().take(PRINTED) {
        let what = format!("{} ({}: {})", key::show(&damage.key), damage.drive, damage.detail);
        rows.push(row("", what));
    }
    if report.unread > 0 {
        rows.push(row("not read", format!("{} objects, kept; the log says why", report.unread)));
    }
    if report.skipped > 0 {
        let what = format!("{} objects, gone meanwhile or on a missing drive", report.skipped);
        rows.push(row("left out", what));
    }
    table(&[], rows, &[])
}
