//! The process that is killed: it puts objects and says on standard output what is acknowledged.

use std::io::{BufRead, BufReader, Write, stdout};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gcos::PutOptions;

use super::shape;
use crate::args::{Globals, WriterArgs};
use crate::failure::{Failure, Outcome};
use crate::meter::Meter;
use crate::pool;

/// Runs in the child: `begin N` before a put, `acknowledged N NANOSECONDS` after it.
pub(crate) fn writer(globals: &Globals, args: &WriterArgs) -> Result<Outcome, Failure> {
    let store = pool::open(globals)?;
    let mut buffer = store.buffer(shape::OBJECT_BYTES)?;
    for object in 0..args.objects {
        shape::pattern(object).fill(buffer.bytes_mut()?);
        tell(format_args!("begin {object}"))?;
        let start = Instant::now();
        store.put(shape::key(object).as_bytes(), &buffer, &PutOptions::default())?;
        tell(format_args!("acknowledged {object} {}", start.elapsed().as_nanos()))?;
    }
    // Not closed: this process is not meant to end well.
    Ok(Outcome::Good)
}

fn tell(line: std::fmt::Arguments<'_>) -> Result<(), Failure> {
    let mut out = stdout().lock();
    let written = writeln!(out, "{line}").and_then(|()| out.flush());
    written.map_err(|error| Failure::new("io", format!("cannot report to quickstart: {error}")))
}

/// What the parent knows of the writer when it is dead.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// Objects that were acknowledged: 0 to this.
    pub(super) acknowledged: u64,
    /// Time that their puts took.
    pub(super) time: Duration,
    /// The object whose put was under way at the kill.
    pub(super) interrupted: Option<u64>,
}

/// Starts the writer and kills it (SIGKILL) during the put of object `objects`.
pub(super) fn write_and_kill(
    config: &Path,
    objects: u64,
    meter: &Meter,
) -> Result<Writes, Failure> {
    let fail = |error: std::io::Error| {
        Failure::new("io", format!("cannot run the writing process: {error}"))
    };
    let program = std::env::current_exe().map_err(fail)?;
    let mut child = Command::new(program)
        .args(["--quiet", "quickstart-writer", "--objects"])
        .arg((objects + 1).to_string())
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    let watched = watch(&mut child, objects, meter);
    // Whatever happened, no writer stays behind: the image is locked while it lives.
    let killed = child.kill().and_then(|()| child.wait());
    let writes = watched?;
    killed.map_err(fail)?;
    if writes.acknowledged < objects {
        let text = format!("the writing process ended after {} objects", writes.acknowledged);
        return Err(Failure::new("device", text));
    }
    Ok(writes)
}

/// Follows the writer until it is in the middle of its last put, or has ended.
fn watch(child: &mut Child, objects: u64, meter: &Meter) -> Result<Writes, Failure> {
    let mut writes = Writes::default();
    let Some(pipe) = child.stdout.take() else { return Ok(writes) };
    for line in BufReader::new(pipe).lines() {
        let line = line.map_err(|error| Failure::new("io", error.to_string()))?;
        let mut words = line.split(' ');
        let verb = words.next().unwrap_or_default();
        let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
        match (verb, numbers.as_slice()) {
            ("begin", [object]) if *object >= objects => {
                writes.interrupted = Some(*object);
                std::thread::sleep(middle(&writes));
                return Ok(writes);
            }
            ("acknowledged", [object, nanos]) => {
                writes.acknowledged = object + 1;
                writes.time += Duration::from_nanos(*nanos);
                meter.add(shape::OBJECT_BYTES as u64);
            }
            _ => {}
        }
    }
    Ok(writes)
}

/// Half the time that a put takes here.
fn middle(writes: &Writes) -> Duration {
    let puts = u32::try_from(writes.acknowledged).unwrap_or(u32::MAX).max(1);
    (writes.time / puts / 2).min(Duration::from_millis(200))
}
