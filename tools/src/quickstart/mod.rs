//! `gcos quickstart`: store, get killed, recover, verify, measure, in one go and without a drive.

mod ceiling;
mod shape;
mod verify;
mod writer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use gcos::{Config, open_drives, units};
use serde_json::{Value, json};

use self::ceiling::Ceiling;
use self::verify::Found;
use self::writer::Writes;
pub(crate) use self::writer::writer;
use crate::args::QuickstartArgs;
use crate::failure::{Failure, Outcome};
use crate::meter::{Meter, Unit};
use crate::output::{Output, table};
use crate::pool;

/// Smallest image that holds a few objects.
const MIN_SIZE: u64 = 256 << 20;

/// Most objects: the demonstration stays short on large images too.
const MAX_OBJECTS: u64 = 16;

/// `gcos quickstart`.
pub(crate) fn run(args: &QuickstartArgs, out: &Output) -> Result<Outcome, Failure> {
    if args.size < MIN_SIZE || !args.size.is_multiple_of(1 << 20) {
        let text = format!(
            "--size: expected whole MiB, at least 256 MiB, got {}",
            units::exact(args.size)
        );
        return Err(Failure::usage(text));
    }
    let folder = Folder::make(args)?;
    let config_file = write_config(&folder.path, args.size)?;
    let config = Config::load(&config_file)?;
    format_pool(&config)?;

    // Half of the image, so that nothing needs to be evicted.
    let object = shape::OBJECT_BYTES as u64;
    let objects = (args.size / 2 / object).clamp(2, MAX_OBJECTS);
    let meter = Meter::new(out, "put", Some(2 * objects * object), Unit::Bytes);
    let writes = writer::write_and_kill(&config_file, objects, &meter)?;
    meter.say("get");
    let found = verify::verify(&config, writes.acknowledged, writes.interrupted, &meter)?;
    drop(meter);
    let ceiling = ceiling::measure(&folder.path, objects)?;

    let summary = Summary { objects, writes, found, ceiling };
    let kept = args.keep.then_some(&config_file);
    out.result(&summary.document(kept), summary.text(kept));
    let outcome = Outcome::good_if(summary.found.all_right());
    folder.end(args.keep)?;
    Ok(outcome)
}

/// Where image and configuration go; gone at the end unless it is kept.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Folder {
    fn make(args: &QuickstartArgs) -> Result<Self, Failure> {
        if let Some(path) = &args.dir {
            std::fs::create_dir_all(path).map_err(|e| Failure::file("create", path, &e))?;
            return Ok(Self { path: path.clone(), temporary: None });
        }
        let temporary = tempfile::Builder::new()
            .prefix("gcos-quickstart-")
            .tempdir()
            .map_err(|e| Failure::file("create a folder in", &std::env::temp_dir(), &e))?;
        Ok(Self { path: temporary.path().to_owned(), temporary: Some(temporary) })
    }

    fn end(self, keep: bool) -> Result<(), Failure> {
        match self.temporary {
            Some(temporary) if keep => {
                let _path = temporary.keep();
            }
            Some(_removed_when_dropped) => {}
            None if keep => {}
            None => {
                for name in [IMAGE, CONFIG] {
                    let file = self.path.join(name);
                    std::fs::remove_file(&file).map_err(|e| Failure::file("remove", &file, &e))?;
                }
            }
        }
        Ok(())
    }
}

const IMAGE: &str = "gcos.img";
const CONFIG: &str = "gcos.json";

fn write_config(folder: &Path, size: u64) -> Result<PathBuf, Failure> {
    let folder = std::path::absolute(folder).map_err(|e| Failure::file("find", folder, &e))?;
    let (image, file) = (folder.join(IMAGE), folder.join(CONFIG));
    for taken in [&image, &file] {
        if taken.exists() {
            let text = format!("{} exists; give an empty folder", taken.display());
            return Err(Failure::new("occupied", text));
        }
    }
    let Some(image) = image.to_str() else {
        return Err(Failure::usage("the folder's name is not UTF-8; give another one with --dir"));
    };
    let config = json!({
        "disk": { "number": 1, "paths": [format!("emulated:{image}")], "capacity_bytes": size },
    });
    let text = format!("{config:#}\n");
    std::fs::write(&file, text).map_err(|e| Failure::file("write", &file, &e))?;
    Ok(file)
}

fn format_pool(config: &Config) -> Result<(), Failure> {
    let drives = open_drives(config, true)?;
    gcos::store::format(&drives.engines, &config.format_options(false))?;
    pool::release(config, drives)
}

/// Everything that was measured and found.
#[derive(Debug)]
struct Summary {
    objects: u64,
    writes: Writes,
    found: Found,
    ceiling: Ceiling,
}

impl Summary {
    /// Bytes per second of moving all objects in `time`.
    fn rate(&self, time: Duration) -> f64 {
        (self.objects * shape::OBJECT_BYTES as u64) as f64 / time.as_secs_f64().max(1e-9)
    }

    fn rates(&self) -> [(&'static str, f64, f64); 2] {
        [
            ("put", self.rate(self.writes.time), self.rate(self.ceiling.write)),
            ("get", self.rate(self.found.get_time), self.rate(self.ceiling.read)),
        ]
    }

    fn document(&self, kept: Option<&PathBuf>) -> Value {
        let rates = self.rates().map(|(name, rate, ceiling)| {
            json!({ "what": name, "bytes_per_second": rate,
                "ceiling_bytes_per_second": ceiling, "ratio": rate / ceiling })
        });
        json!({
            "object_bytes": shape::OBJECT_BYTES,
            "acknowledged": self.writes.acknowledged,
            "killed_during_put": self.writes.interrupted.is_some(),
            "found": self.found,
            "throughput": rates,
            "ceiling_is_direct_io": self.ceiling.direct,
            "verified": self.found.all_right(),
            "config": kept,
        })
    }

    fn text(&self, kept: Option<&PathBuf>) -> String {
        let verdict = if self.found.all_right() {
            "Every acknowledged byte survived."
        } else {
            "SOMETHING DID NOT VERIFY: please report it."
        };
        let mut text = format!("{}\n\n{}\n\n{verdict}", self.story(), self.throughput());
        if let Some(file) = kept {
            text += &format!("\nGo on with: gcos --config {} ls", file.display());
        }
        text
    }

    fn story(&self) -> String {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let Found { right, layers_right, layers_wrong, .. } = self.found;
        let object = units::exact(shape::OBJECT_BYTES as u64);
        let findings = match self.found.check_findings {
            0 => "clean".to_owned(),
            count => format!("{count} findings"),
        };
        let rows = vec![
            row(
                "put and acknowledged",
                format!("{} objects of {object}", self.writes.acknowledged),
            ),
            row("then", "the writing process was killed in the middle of a put".to_owned()),
            row(
                "recovered",
                format!(
                    "{} objects in {:.1} ms",
                    self.found.recovered,
                    self.found.recovery_micros as f64 / 1000.0
                ),
            ),
            row(
                "every byte right",
                format!("{right} of {} acknowledged objects", self.writes.acknowledged),
            ),
            row(
                "single layers right",
                format!("{layers_right} of {} layers of 1 MiB", layers_right + layers_wrong),
            ),
            row("the put cut short", self.found.interrupted.to_owned()),
            row("fsck --data", findings),
        ];
        table(&[], rows, &[])
    }

    fn throughput(&self) -> String {
        let row = |(name, rate, ceiling): (&str, f64, f64)| {
            vec![
                name.to_owned(),
                format!("{:.2} GB/s", rate / 1e9),
                format!("{:.2} GB/s", ceiling / 1e9),
                format!("{:.0} %", rate * 100.0 / ceiling),
            ]
        };
        let file = if self.ceiling.direct { "direct I/O to a file" } else { "I/O to a file" };
        let header = ["", "GCOS", file, "ratio"];
        table(&header, self.rates().map(row).to_vec(), &[1, 2, 3])
    }
}
