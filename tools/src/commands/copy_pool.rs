use std::ops::ControlFlow;
use std::path::Path;

use gcos::copy::{CopyError, CopyOptions, CopyReport, Untouched, copy};
use gcos::{Config, Drives, OpenOptions, Store, open_drives, units};
use serde_json::{Value, json};

use crate::args::CopyPoolArgs;
use crate::failure::{Failure, Outcome};
use crate::key;
use crate::meter::{Meter, Unit};
use crate::output::Output;
use crate::pool;

/// `gcos copy-pool`.
pub(crate) fn run(args: &CopyPoolArgs, out: &Output) -> Result<Outcome, Failure> {
    let (from, to) = configs(args)?;
    // The source is left as it is, and so is the destination where nothing is to be written.
    let source = Pool::open(&from, &args.from, true)?;
    let destination = Pool::open(&to, &args.to, args.dry_run)?;
    let options = CopyOptions {
        prefix: args.prefix.0.clone(),
        replace: args.replace,
        dry_run: args.dry_run,
        ..CopyOptions::default()
    };
    let meter = Meter::new(out, "objects", None, Unit::Things);
    let copied = copy(&source.store, &destination.store, &options, |report| {
        meter.set(report.done(), report.objects);
        ControlFlow::Continue(())
    });
    drop(meter);
    // Both are closed whatever has come of it: what was copied is durable and stays.
    let closed = destination.close().and(source.close());
    let report = copied?;
    closed?;
    out.result(&document(&report), describe(&report));
    Ok(Outcome::good_if(report.failed == 0 && report.drives_lost == 0))
}

/// Both configurations. GPUs have no part in it; no drive may be in both.
fn configs(args: &CopyPoolArgs) -> Result<(Config, Config), Failure> {
    let mut configs = [Config::load(&args.from)?, Config::load(&args.to)?];
    let through_the_kernel = configs.each_ref().map(|config| !config.kernel_files().is_empty());
    for (config, itself) in configs.iter_mut().zip(through_the_kernel) {
        config.namespace.gpu.num = 0;
        // What the environment forces concerns the one of both that it can concern.
        if !itself && through_the_kernel.contains(&true) {
            config.kernel_path.force = None;
        }
    }
    let [from, to] = configs;
    let shared = from.entries().find(|entry| to.entries().any(|other| same(entry, other)));
    match shared {
        Some(path) => Err(Failure::usage(format!(
            "{path} is in both configurations; the pools must lie on different drives"
        ))),
        None => Ok((from, to)),
    }
}

/// Whether two entries are the same drive, as far as their words and their files tell.
fn same(a: &str, b: &str) -> bool {
    if a.starts_with("emulated:ram:") {
        return false;
    }
    let file = |path: &str| {
        let path = path.strip_prefix("emulated:").unwrap_or(path);
        std::fs::canonicalize(path).unwrap_or_else(|_| path.into())
    };
    file(a) == file(b)
}

/// A pool that is open, and that nothing leaves by itself.
struct Pool {
    store: Store,
    /// Its drives, if they are to stay as they are.
    untouched: Option<(Config, Drives)>,
}

impl Pool {
    fn open(config: &Config, name: &Path, untouched: bool) -> Result<Self, Failure> {
        let failed =
            |failure: Failure| Failure::new(failure.kind, format!("{}: {failure}", name.display()));
        let mut drives = open_drives(config, false).map_err(|e| failed(e.into()))?;
        let options = OpenOptions {
            high_watermark: 100,
            low_watermark: 100,
            deallocate: false,
            background: !untouched,
            ..drives.open_options(config)
        };
        let engines = match untouched {
            true => Untouched::over(&drives.engines),
            false => std::mem::take(&mut drives.engines),
        };
        let store = Store::open(engines, options).map_err(|e| failed(e.into()))?;
        let untouched = untouched.then(|| (config.clone(), drives));
        Ok(Self { store, untouched })
    }

    fn close(self) -> Result<(), Failure> {
        let Some((config, drives)) = self.untouched else { return Ok(self.store.close()?) };
        drop(self.store);
        pool::release(&config, drives)
    }
}

fn document(report: &CopyReport) -> Value {
    let mut document = json!(report);
    let problem =
        |p: &gcos::copy::CopyProblem| json!({ "key": key::typed(&p.key), "reason": p.reason });
    if let Value::Object(map) = &mut document {
        let problems: Vec<_> = report.problems.iter().map(problem).collect();
        map.insert("problems".to_owned(), problems.into());
    }
    document
}

fn describe(report: &CopyReport) -> String {
    let of = |objects: u64, bytes: u64| format!("{objects} ({})", units::about(bytes));
    let mut text = format!(
        "Of {} objects: {} {}, {} there already with the same bytes",
        of(report.objects, report.bytes),
        of(report.copied, report.copied_bytes),
        if report.dry_run { "would be copied" } else { "copied and verified" },
        of(report.same, report.same_bytes),
    );
    if report.gone > 0 {
        text += &format!(", {} gone from the source meanwhile", report.gone);
    }
    if report.failed > 0 {
        text += &format!(", {} NOT copied", report.failed);
    }
    text.push('.');
    if report.drives_lost > 0 {
        let drives = match report.drives_lost {
            1 => "1 drive of the source is".to_owned(),
            more => format!("{more} drives of the source are"),
        };
        text +=
            &format!("\n{drives} lost: what lies there alone was NOT copied, and is not counted.");
    }
    for problem in &report.problems {
        text += &format!("\n  {}: {}", key::show(&problem.key), problem.reason);
    }
    text
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Self {
        let kind = match error {
            CopyError::Full { .. } => "full",
            CopyError::Memory { .. } => "memory",
            _ => "device",
        };
        Self::chain(kind, &error)
    }
}
