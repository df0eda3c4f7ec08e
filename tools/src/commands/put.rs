use std::fs::File;
use std::io::{Read, stdin};
use std::path::Path;

use gcos::layout::media::MAX_PAYLOAD_BYTES;
use gcos::{Durability, IfExists, PutOptions, PutOutcome, units};
use serde_json::json;

use crate::args::{Globals, PutArgs};
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::{key, pool};

/// `gcos put`.
pub(crate) fn run(globals: &Globals, args: &PutArgs, out: &Output) -> Result<Outcome, Failure> {
    let payload = payload(&args.file)?;
    let store = pool::open(globals)?;
    let options = PutOptions {
        durability: if args.relaxed { Durability::Relaxed } else { Durability::Sync },
        if_exists: if args.replace { IfExists::Replace } else { IfExists::Keep },
        ttl: args.ttl,
        pin: false,
    };
    let outcome = store.put(&args.key.0, &payload[..], &options)?;
    store.close()?;
    let name = key::show(&args.key.0);
    let text = match outcome {
        PutOutcome::Stored => format!("stored {name}, {}", units::about(payload.len() as u64)),
        PutOutcome::Kept => format!("{name} exists and was kept; --replace replaces it"),
    };
    let document =
        json!({ "key": key::typed(&args.key.0), "outcome": outcome, "len": payload.len() });
    if out.json {
        out.result(&document, "");
    } else {
        out.remark(text);
    }
    Ok(Outcome::Good)
}

/// Reads what is to be stored; one byte more than can be is enough to refuse it.
fn payload(path: &Path) -> Result<Vec<u8>, Failure> {
    let limit = u64::from(MAX_PAYLOAD_BYTES);
    let mut payload = Vec::new();
    let fail = |error| Failure::file("read", path, &error);
    if path == Path::new("-") {
        stdin().lock().take(limit + 1).read_to_end(&mut payload).map_err(fail)?;
    } else {
        File::open(path).map_err(fail)?.take(limit + 1).read_to_end(&mut payload).map_err(fail)?;
    }
    match payload.len() as u64 {
        0 => Err(Failure::usage("nothing to store: an object has 1 byte to 1 GiB")),
        len if len > limit => Err(Failure::usage("too long: an object has 1 byte to 1 GiB")),
        _ => Ok(payload),
    }
}
