use std::path::Path;

use gcos::{Lookup, ObjectInfo, Store, units};
use serde_json::json;

use crate::args::{GetArgs, Globals};
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::{key, pool, staged_file};

/// `gcos get`.
pub(crate) fn run(globals: &Globals, args: &GetArgs, out: &Output) -> Result<Outcome, Failure> {
    let to_stdout = args.output == Path::new("-");
    if to_stdout && out.json {
        return Err(Failure::usage("with --json the object needs a file: give --output FILE"));
    }
    let store = pool::open(globals)?;
    let found = fetch(&store, args)?;
    store.close()?;
    let bytes = match found {
        Ok(bytes) => bytes,
        Err(reason) => return Ok(miss(args, &reason, out)),
    };
    if to_stdout {
        out.bytes(&bytes).map_err(|error| Failure::file("write to", &args.output, &error))?;
        return Ok(Outcome::Good);
    }
    staged_file::write(&args.output, &bytes)?;
    if out.json {
        let name = key::typed(&args.key.0);
        out.result(&json!({ "key": name, "hit": true, "len": bytes.len() }), "");
    } else {
        let about = units::about(bytes.len() as u64);
        out.remark(format_args!("wrote {about} to {}", args.output.display()));
    }
    Ok(Outcome::Good)
}

/// The bytes, or why there are none.
fn fetch(store: &Store, args: &GetArgs) -> Result<Result<Vec<u8>, String>, Failure> {
    let Some(info) = store.info(&args.key.0) else { return Ok(Err("no such key".to_owned())) };
    let (offset, len) = range(&info, args)?;
    let mut bytes = vec![0; len];
    match store.get_range(&args.key.0, offset, &mut bytes[..])? {
        Lookup::Hit(_) => Ok(Ok(bytes)),
        Lookup::Miss(reason) => Ok(Err(reason.to_string())),
    }
}

fn range(info: &ObjectInfo, args: &GetArgs) -> Result<(u32, usize), Failure> {
    let whole = u64::from(info.len);
    let len = args.len.unwrap_or(whole.saturating_sub(args.offset));
    let end = args.offset.checked_add(len);
    match (u32::try_from(args.offset), usize::try_from(len)) {
        (Ok(offset), Ok(len)) if len > 0 && end.is_some_and(|end| end <= whole) => {
            Ok((offset, len))
        }
        _ => Err(Failure::usage(format!(
            "{len} bytes at offset {} are not within the object, which has {whole} bytes",
            args.offset
        ))),
    }
}

fn miss(args: &GetArgs, reason: &str, out: &Output) -> Outcome {
    let name = key::typed(&args.key.0);
    if out.json {
        out.result(&json!({ "key": name, "hit": false, "reason": reason }), "");
    } else {
        out.remark(format_args!("gcos: miss: {}: {reason}", key::show(&args.key.0)));
    }
    Outcome::Problem
}
