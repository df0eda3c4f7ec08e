use gcos::store::{self, Contents};
use gcos::{Config, Drives, open_drives, units};
use serde_json::json;

use crate::args::{FormatArgs, Globals};
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::pool;

/// `gcos zone-format`.
pub(crate) fn run(globals: &Globals, args: &FormatArgs, out: &Output) -> Result<Outcome, Failure> {
    let config = pool::config(globals)?;
    let mut drives = open_drives(&config, true)?;
    let new = std::mem::take(&mut drives.created);
    let choices = std::mem::take(&mut drives.choices);
    let formatted = contents(&config, &drives).and_then(|held| {
        consent(args, &held, out)?;
        let options = drives.format_options(&config, args.force);
        Ok((held, store::format(&drives.engines, &options)?))
    });
    // The first failure is the one to tell of.
    let released = pool::release(&config, drives);
    let (held, info) = formatted.inspect_err(|_| discard(&new))?;
    released?;
    let text = format!(
        "Pool {} on {}: {} for objects, in chunks of {}.",
        info.pool_uuid,
        if info.drives == 1 { "1 drive".to_owned() } else { format!("{} drives", info.drives) },
        units::about(info.data_bytes),
        units::exact(info.chunk_bytes.into()),
    );
    let held: Vec<_> =
        held.iter().map(|(drive, what)| json!({"drive": drive, "held": what})).collect();
    out.result(&json!({ "pool": info, "erased": held, "drives": choices }), text);
    Ok(Outcome::Good)
}

/// Removes files that this run has made.
fn discard(new: &[std::path::PathBuf]) {
    for image in new {
        if let Err(error) = std::fs::remove_file(image) {
            tracing::warn!(?image, %error, "the new file could not be removed");
        }
    }
}

/// What the drives hold, those that hold something.
fn contents(config: &Config, drives: &Drives) -> Result<Vec<(String, String)>, Failure> {
    let mut held = Vec::new();
    for engine in &drives.engines {
        let what = match store::probe(engine, config.io_deadline())? {
            Contents::Blank => continue,
            Contents::Pool { pool_uuid, drive_index, drives } => {
                format!("drive {drive_index} of {drives} of the GCOS pool {pool_uuid}")
            }
            Contents::Other(what) => what,
        };
        held.push((engine.geometry().name.clone(), what));
    }
    Ok(held)
}

/// Whether what is there may be erased.
fn consent(args: &FormatArgs, held: &[(String, String)], out: &Output) -> Result<(), Failure> {
    if held.is_empty() {
        return Ok(());
    }
    let list: Vec<_> = held.iter().map(|(drive, what)| format!("{drive} holds {what}")).collect();
    let list = list.join("; ");
    if !args.force {
        let text = format!("{list}; nothing was changed. To erase it, give --force");
        return Err(Failure::new("occupied", text));
    }
    if args.yes {
        out.remark(format_args!("Erasing: {list}"));
        return Ok(());
    }
    match out.ask(&format!("{list}. Erase it?")) {
        Some(true) => Ok(()),
        Some(false) => Err(Failure::new("occupied", "nothing was changed")),
        None => Err(Failure::new(
            "occupied",
            format!("{list}; nothing was changed. Without a terminal to ask on, give --yes too"),
        )),
    }
}
