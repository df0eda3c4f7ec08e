use gcos::Durability;
use serde_json::json;

use crate::args::{Globals, RmArgs};
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::{key, pool};

/// `gcos rm`.
pub(crate) fn run(globals: &Globals, args: &RmArgs, out: &Output) -> Result<Outcome, Failure> {
    let store = pool::open(globals)?;
    let (mut removed, mut absent) = (Vec::new(), Vec::new());
    for key in &args.keys {
        let there = store.remove(&key.0, Durability::Sync)?;
        if there { &mut removed } else { &mut absent }.push(key::typed(&key.0));
        if !there && !out.json {
            out.remark(format_args!("gcos: no such key: {}", key::show(&key.0)));
        }
    }
    store.close()?;
    if out.json {
        out.result(&json!({ "removed": removed, "absent": absent }), "");
    }
    Ok(Outcome::good_if(absent.is_empty()))
}
