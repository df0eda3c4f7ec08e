use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use gcos::layout::media::MAX_KEY_BYTES;
use gcos::{
    Durability, IfExists, OpenOptions, PutOptions, PutOutcome, Source, Store, StoreError,
    open_drives, units,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::args::{Globals, ImportLmcacheGdsArgs};
use crate::failure::{Failure, Outcome};
use crate::meter::{Meter, Unit};
use crate::output::Output;
use crate::pool;

/// Ends of the names of the files that hold data: on most file systems, and on WekaFS.
const DATA: [&str; 2] = [".kvcache.safetensors", ".weka1"];
/// What a data file's name has behind it in that of the file that says that the data is whole.
const METADATA: &str = ".metadata";
/// Both kinds begin with this much metadata.
const HEADER_BYTES: usize = 4096;
/// Version of the metadata.
const VERSION: &str = "1";
/// Bytes and objects that are stored together.
const BATCH_BYTES: u64 = 64 << 20;
const BATCH_OBJECTS: usize = 64;
/// Objects of the pool that are looked at together.
const PAGE_OBJECTS: usize = 100_000;
/// Problems that are listed; all are counted.
const LISTED: usize = 100;

/// `gcos import-lmcache-gds`.
pub(crate) fn run(
    globals: &Globals,
    args: &ImportLmcacheGdsArgs,
    out: &Output,
) -> Result<Outcome, Failure> {
    let mut report = Report { dry_run: args.dry_run, ..Report::default() };
    let files = find(&args.folder, &mut report)?;
    report.found = files.len() as u64;
    if report.found + report.refused + report.incomplete == 0 {
        let folder = args.folder.display();
        let message = format!(
            "{folder} holds no file of LMCache's GDS backend: expected *{} and *{METADATA} in it or below; \
             give the folder that `gds_path` names",
            DATA.join(", *")
        );
        return Err(Failure::usage(message));
    }
    let store = open(globals)?;
    if !args.dry_run {
        hold(&store);
    }
    let meter = Meter::new(out, "objects", Some(report.found), Unit::Things);
    let imported = import(&store, &files, &mut report, &meter);
    drop(meter);
    // What was imported is durable and stays, however it ended.
    let closed = store.close();
    imported?;
    closed?;
    out.result(&report, report.describe());
    Ok(Outcome::good_if(report.refused == 0 && report.incomplete == 0))
}

/// Opens the pool so that nothing leaves it to make room.
fn open(globals: &Globals) -> Result<Store, Failure> {
    let config = pool::config(globals)?;
    let drives = open_drives(&config, false)?;
    let options =
        OpenOptions { high_watermark: 100, low_watermark: 100, ..drives.open_options(&config) };
    Ok(Store::open(drives.engines, options)?)
}

/// Keeps what is in the pool from being evicted, until the store is closed.
fn hold(store: &Store) {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.list(b"", after.as_deref(), PAGE_OBJECTS);
        for (key, _) in &page {
            // One that is gone by now needs no pin.
            let _gone: bool = store.pin(key);
        }
        match page.last() {
            Some((key, _)) if page.len() == PAGE_OBJECTS => after = Some(key.clone()),
            _ => return,
        }
    }
}

#[derive(Debug, Default, Serialize)]
struct Report {
    found: u64,
    imported: u64,
    imported_bytes: u64,
    there_already: u64,
    refused: u64,
    incomplete: u64,
    dry_run: bool,
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
struct Problem {
    file: PathBuf,
    reason: String,
}

impl Report {
    fn refuse(&mut self, file: &Path, reason: impl Into<String>) {
        self.refused += 1;
        self.list(file, reason);
    }

    fn list(&mut self, file: &Path, reason: impl Into<String>) {
        if self.problems.len() < LISTED {
            self.problems.push(Problem { file: file.to_owned(), reason: reason.into() });
        }
    }

    fn describe(&self) -> String {
        let verb = if self.dry_run { "would be imported" } else { "imported" };
        let mut text = format!(
            "Of {} objects: {} ({}) {verb}, {} there already",
            self.found,
            self.imported,
            units::about(self.imported_bytes),
            self.there_already,
        );
        if self.refused > 0 {
            text += &format!(", {} NOT imported", self.refused);
        }
        text.push('.');
        if self.incomplete > 0 {
            text += &format!(
                "\n{} files have no file of their name and {METADATA} beside them, \
                 so LMCache had not finished them; left out.",
                self.incomplete
            );
        }
        for problem in &self.problems {
            text += &format!("\n  {}: {}", problem.file.display(), problem.reason);
        }
        text
    }
}

/// The data files whose metadata says that they are whole, in order: `DIR/ab/cd/KEY.kvcache.safetensors`.
fn find(folder: &Path, report: &mut Report) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for first in folders(folder)? {
        for second in folders(&first)? {
            let names = entries(&second)?;
            for path in &names {
                let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                    report.refuse(path, "its name is not UTF-8");
                    continue;
                };
                if stem(name).is_some() {
                    if metadata(path).is_file() {
                        files.push(path.clone());
                    } else {
                        report.incomplete += 1;
                        report.list(path, "there is no metadata file beside it");
                    }
                }
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// The name of a data file without its end; `None` for other files.
fn stem(name: &str) -> Option<&str> {
    DATA.iter().find_map(|end| name.strip_suffix(end))
}

/// The file that says that a data file is whole.
fn metadata(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(METADATA);
    path.into()
}

/// Folders in a folder whose names have two characters, as the first characters of hashes do.
fn folders(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let short = |path: &PathBuf| path.file_name().is_some_and(|name| name.len() == 2);
    Ok(entries(folder)?.into_iter().filter(|path| short(path) && path.is_dir()).collect())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let fail = |error: io::Error| Failure::file("read the folder", folder, &error);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        paths.push(entry.map_err(fail)?.path());
    }
    Ok(paths)
}

/// An object that has been read.
struct Object {
    file: PathBuf,
    key: Vec<u8>,
    bytes: Vec<u8>,
}

fn import(
    store: &Store,
    files: &[PathBuf],
    report: &mut Report,
    meter: &Meter,
) -> Result<(), Failure> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    for file in files {
        let parsed = match Header::of(file) {
            Ok(parsed) => parsed,
            Err(refusal) => {
                report.refuse(file, refusal.to_string());
                meter.add(1);
                continue;
            }
        };
        if store.info(&parsed.key).is_some_and(|info| u64::from(info.len) == parsed.len) {
            report.there_already += 1;
            meter.add(1);
            continue;
        }
        if report.dry_run {
            report.imported += 1;
            report.imported_bytes += parsed.len;
            meter.add(1);
            continue;
        }
        if bytes + parsed.len > BATCH_BYTES || batch.len() == BATCH_OBJECTS {
            flush(store, &mut batch, report, meter)?;
            bytes = 0;
        }
        match parsed.read(file) {
            Ok(object) => {
                bytes += parsed.len;
                batch.push(object);
            }
            Err(refusal) => {
                report.refuse(file, refusal.to_string());
                meter.add(1);
            }
        }
    }
    flush(store, &mut batch, report, meter)
}

/// Stores what has been read, durably.
fn flush(
    store: &Store,
    batch: &mut Vec<Object>,
    report: &mut Report,
    meter: &Meter,
) -> Result<(), Failure> {
    let options = PutOptions {
        durability: Durability::Sync,
        if_exists: IfExists::Replace,
        ttl: None,
        pin: true,
    };
    let items: Vec<_> =
        batch.iter().map(|o| (o.key.as_slice(), Source::Bytes(o.bytes.as_slice()))).collect();
    let results = store.put_many(&items, &options);
    for (object, result) in batch.iter().zip(results) {
        match result {
            Ok(PutOutcome::Stored | PutOutcome::Kept) => {
                report.imported += 1;
                report.imported_bytes += object.bytes.len() as u64;
            }
            // Nothing more would fit either.
            Err(error @ StoreError::Full { .. }) => return Err(error.into()),
            Err(error) => report.refuse(&object.file, Failure::from(error).to_string()),
        }
        meter.add(1);
    }
    batch.clear();
    Ok(())
}

/// Why a file is not imported.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("its metadata cannot be parsed: {0}")]
    Metadata(String),
    #[error("its metadata has version {found:?}, expected {VERSION:?}")]
    Version { found: String },
    #[error("the metadata file beside it says something else than the file itself")]
    Differs,
    #[error(
        "its format {format} with {dimensions} dimensions of type {dtype:?} is not one that the connector uses"
    )]
    Layout { format: u64, dimensions: usize, dtype: String },
    #[error("it has {found} bytes, its metadata wants {wanted}")]
    Length { found: u64, wanted: u64 },
    #[error("its name is no key of LMCache: {0}")]
    Key(&'static str),
    #[error("its key is {0} bytes long, {MAX_KEY_BYTES} are possible")]
    LongKey(usize),
}

/// What LMCache writes in front of the data, as it stands in the file.
#[derive(Debug, Deserialize)]
struct Document {
    kvcache: Tensor,
}

#[derive(Debug, Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
    fmt: u64,
    __metadata__: Extra,
}

#[derive(Debug, Deserialize)]
struct Extra {
    lmcache_version: String,
}

/// What is known of an object before its bytes are read.
#[derive(Debug)]
struct Header {
    key: Vec<u8>,
    len: u64,
}

impl Header {
    fn of(file: &Path) -> Result<Self, Refusal> {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let text = stem(name)
            .and_then(percent_decoded)
            .ok_or(Refusal::Key("it is not encoded as in URLs"))?;
        check_key(&text)?;
        let header = head(file)?;
        if head(&metadata(file))? != header {
            return Err(Refusal::Differs);
        }
        let Tensor { dtype, shape, data_offsets: [start, end], fmt, __metadata__: extra } =
            parsed(&header)?;
        if extra.lmcache_version != VERSION {
            return Err(Refusal::Version { found: extra.lmcache_version });
        }
        let layout = Layout::of(fmt, &shape, &dtype).ok_or(Refusal::Layout {
            format: fmt,
            dimensions: shape.len(),
            dtype,
        })?;
        let wanted = layout
            .bytes(&shape)
            .ok_or_else(|| Refusal::Metadata("its shape is too large".to_owned()))?;
        if start != 0 || end != wanted || wanted == 0 {
            return Err(Refusal::Metadata(format!(
                "its data lies at {start} to {end}, its shape wants {wanted} bytes"
            )));
        }
        let found = std::fs::metadata(file)?.len();
        if found != HEADER_BYTES as u64 + wanted {
            return Err(Refusal::Length { found, wanted: HEADER_BYTES as u64 + wanted });
        }
        let key = format!("{}|{text}", layout.tag()).into_bytes();
        if key.len() > MAX_KEY_BYTES {
            return Err(Refusal::LongKey(key.len()));
        }
        Ok(Self { key, len: wanted })
    }

    fn read(&self, file: &Path) -> Result<Object, Refusal> {
        let mut opened = File::open(file)?;
        io::copy(&mut (&mut opened).take(HEADER_BYTES as u64), &mut io::sink())?;
        let mut bytes = Vec::new();
        (&mut opened).take(self.len).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != self.len {
            let found = HEADER_BYTES as u64 + bytes.len() as u64;
            return Err(Refusal::Length { found, wanted: HEADER_BYTES as u64 + self.len });
        }
        Ok(Object { file: file.to_owned(), key: self.key.clone(), bytes })
    }
}

/// The part of a file that is metadata.
fn head(file: &Path) -> Result<Vec<u8>, Refusal> {
    let mut header = vec![0; HEADER_BYTES];
    File::open(file)?.read_exact(&mut header)?;
    Ok(header)
}

fn parsed(header: &[u8]) -> Result<Tensor, Refusal> {
    let wrong = |what: &str| Refusal::Metadata(what.to_owned());
    let (length, text) = header.split_first_chunk::<8>().ok_or_else(|| wrong("it is too short"))?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let text = text.get(..length).ok_or_else(|| wrong("its length is past its end"))?;
    let document: Document =
        serde_json::from_slice(text).map_err(|error| Refusal::Metadata(error.to_string()))?;
    Ok(document.kvcache)
}

/// `MODEL@WORLD@WORKER@HASH@TYPE`, then a layer's number, then tags.
fn check_key(text: &str) -> Result<(), Refusal> {
    let parts: Vec<_> = text.split('@').collect();
    let [_, world, worker, hash, _, ..] = parts.as_slice() else {
        return Err(Refusal::Key("it has fewer than five parts"));
    };
    if world.parse::<u32>().is_err() || worker.parse::<u32>().is_err() {
        return Err(Refusal::Key("the number of workers or of the worker is none"));
    }
    // LMCache's hash is a signed number, or bytes.
    let digits = hash.strip_prefix('-').unwrap_or(hash);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Refusal::Key("the hash is not hexadecimal"));
    }
    Ok(())
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<2>()?;
        rest = after;
        let digit = |at: u8| char::from(at).to_digit(16);
        bytes.push(u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// What `docs/lmcache.md` calls the layout of an object.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    text: String,
    item_bytes: u64,
}

impl Layout {
    /// `fmt` is the value of LMCache's `MemoryFormat`, `dtype` a type as files of its GDS backend say it.
    fn of(fmt: u64, shape: &[u64], dtype: &str) -> Option<Self> {
        let (format, axis) = match (fmt, shape.len()) {
            (1, 4) => ("KV_2LTD", 2),
            (2, 3) => ("KV_T2D", 0),
            (3, 3) => ("KV_2TD", 1),
            (6, 4) => ("KV_MLA_FMT", 2),
            (6, 2) => ("KV_MLA_FMT", 0),
            _ => return None,
        };
        let (dtype, item_bytes) = match dtype {
            "F16" => ("float16", 2),
            "BF16" => ("bfloat16", 2),
            "F32" => ("float32", 4),
            "F64" => ("float64", 8),
            "U8" => ("uint8", 1),
            "U16" => ("uint16", 2),
            "U32" => ("uint32", 4),
            "U64" => ("uint64", 8),
            "I8" => ("int8", 1),
            "I16" => ("int16", 2),
            "I32" => ("int32", 4),
            "I64" => ("int64", 8),
            "F8E4M3FN" => ("float8_e4m3fn", 1),
            "F8E5M2" => ("float8_e5m2", 1),
            _ => return None,
        };
        let general =
            |(at, n): (usize, &u64)| if at == axis { "*".to_owned() } else { n.to_string() };
        let shape: Vec<_> = shape.iter().enumerate().map(general).collect();
        Some(Self { text: format!("{format};{dtype}:{}", shape.join("x")), item_bytes })
    }

    fn tag(&self) -> String {
        let digest = Sha256::digest(self.text.as_bytes());
        let digits: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("lm1:{digits}")
    }

    /// Bytes of an object of a shape.
    fn bytes(&self, shape: &[u64]) -> Option<u64> {
        shape.iter().try_fold(self.item_bytes, |bytes, n| bytes.checked_mul(*n))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn vectors() -> Vec<Value> {
        let text = include_str!("../../../crates/python/tests/lmcache_keys.json");
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn keys_are_those_of_the_connector() {
        let mut compared = 0;
        for vector in vectors() {
            let Some(gds) = vector.get("gds") else { continue };
            let shape: Vec<u64> = serde_json::from_value(vector["shapes"][0].clone()).unwrap();
            let dtype = gds["dtype"].as_str().unwrap();
            let layout = Layout::of(gds["fmt"].as_u64().unwrap(), &shape, dtype).unwrap();
            assert_eq!(layout.text, vector["layout"]);
            assert_eq!(layout.tag(), vector["tag"]);
            let key = format!("{}|{}", layout.tag(), vector["key"].as_str().unwrap());
            assert_eq!(key, vector["stored"]);
            check_key(vector["key"].as_str().unwrap()).unwrap();
            compared += 1;
        }
        assert!(compared >= 5, "the vectors have lost their part of files");
    }

    #[test]
    fn names_of_files_are_decoded_or_refused() {
        assert_eq!(percent_decoded("a%2Fb%401%25").as_deref(), Some("a/b@1%"));
        for wrong in ["a%", "a%2", "a%zz", "%ff"] {
            assert_eq!(percent_decoded(wrong), None, "{wrong}");
        }
        let hashes = ["xyz", "", "-", "--1", "1-"].map(|hash| format!("m@1@0@{hash}@half"));
        for wrong in
            ["", "m@1@0@00", "m@x@0@00@half"].into_iter().chain(hashes.iter().map(|h| &**h))
        {
            check_key(wrong).unwrap_err();
        }
    }

    #[test]
    fn metadata_that_is_not_whole_is_refused_without_reading_past_it() {
        let mut header = vec![0; HEADER_BYTES];
        parsed(&header).unwrap_err();
        header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        parsed(&header).unwrap_err();
        parsed(&header[..4]).unwrap_err();
        assert_eq!(Layout::of(1, &[2, 2], "F16"), None);
        assert_eq!(Layout::of(9, &[2, 2, 2, 2], "F16"), None);
        assert_eq!(Layout::of(1, &[2, 2, 2, 2], "F4"), None);
        let layout = Layout::of(1, &[u64::MAX, 2, 2, 2], "F16").unwrap();
        assert_eq!(layout.bytes(&[u64::MAX, 2, 2, 2]), None);
    }
}
