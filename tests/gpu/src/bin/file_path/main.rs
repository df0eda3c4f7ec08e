//! Files and GPU memory on a real GPU, with the real libcufile: what the engines and `GdsFileIo` move is compared
//! byte for byte, and their rates are set beside bare loops measured in the same run. Prints JSON; ends with 1 if
//! anything was not as it must be.
//!
//! Usage: `file_path FOLDER [played] [write-udev] [MIB]`. In FOLDER a file of MIB MiB (512) is made and removed. With
//! `played` host threads play the GPU and a stand-in the library: it runs, and its rates mean nothing. With
//! `write-udev` a record of udev that cuFile misses is written, as udevd would.
#![expect(clippy::print_stdout, reason = "what it finds is its output")]

mod bare;
mod checks;
mod objects;
mod rig;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gcos_engine::device::CuFileUse;
use serde_json::{Map, Value, json};

use rig::{Outcome, Rig};

/// It must have ended by then, whatever hangs.
const BUDGET: Duration = Duration::from_secs(55);

/// What was found so far. Printed at the end, or when the time is over.
#[derive(Debug, Default)]
struct Report(Mutex<Map<String, Value>>);

impl Report {
    fn put(&self, name: &str, value: Value) {
        self.found().insert(name.to_owned(), value);
    }

    fn found(&self) -> MutexGuard<'_, Map<String, Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does one part; one that fails does not keep the others from being done.
    fn part(&self, name: &str, f: impl FnOnce() -> Outcome<Value>) -> bool {
        let start = Instant::now();
        let result = f();
        let took = start.elapsed().as_secs_f64();
        match result {
            Ok(value) => {
                self.put(name, json!({ "ok": true, "took_s": took, "found": value }));
                true
            }
            Err(error) => {
                let mut text = error.to_string();
                let mut source = error.source();
                while let Some(error) = source {
                    text = format!("{text}: {error}");
                    source = error.source();
                }
                self.put(name, json!({ "ok": false, "took_s": took, "error": text }));
                false
            }
        }
    }
}

fn main() -> ExitCode {
    let report = Arc::<Report>::default();
    let printed = Arc::new(AtomicBool::new(false));
    let watched = (Arc::clone(&report), Arc::clone(&printed));
    std::thread::spawn(move || {
        std::thread::sleep(BUDGET);
        if !watched.1.swap(true, Ordering::SeqCst) {
            watched.0.put("out_of_time", json!(true));
            println!("{}", Value::Object(watched.0.found().clone()));
            std::process::exit(1);
        }
    });
    let good = run(&report);
    if printed.swap(true, Ordering::SeqCst) {
        return ExitCode::FAILURE;
    }
    report.put("good", json!(good));
    println!("{}", Value::Object(report.found().clone()));
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(report: &Report) -> bool {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut rig = None;
    let made = report.part("rig", || {
        let (made, told) = Rig::new(&args)?;
        rig = Some(made);
        Ok(told)
    });
    let Some(rig) = rig else { return made };
    let mut good = made;
    let mut part = |name: &str, f: &dyn Fn() -> Outcome<Value>| good &= report.part(name, f);
    part("disk", &|| rig.disk());
    part("link", &|| bare::link(&rig));
    part("cufile_engine_verified", &|| checks::engine(&rig, CuFileUse::Require));
    part("staged_engine_verified", &|| checks::engine(&rig, CuFileUse::Never));
    part("gds_file_io", &|| checks::gds_file_io(&rig));
    part("batch", &|| checks::batch(&rig));
    part("stream", &|| checks::stream(&rig));
    part("objects_by_cufile", &|| objects::objects(&rig, CuFileUse::Require));
    part("objects_by_staging", &|| objects::objects(&rig, CuFileUse::Never));
    part("rates", &|| bare::rates(&rig));
    part("latency_4k", &|| bare::latency(&rig));
    good
}
