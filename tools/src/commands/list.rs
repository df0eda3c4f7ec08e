use gcos::{ObjectInfo, Store};
use serde_json::{Value, json};

use crate::args::{Globals, LsArgs};
use crate::failure::{Failure, Outcome};
use crate::output::{Output, table};
use crate::{key, pool};

/// Keys taken from the index at a time, so that a large pool does not pile up in memory.
const PAGE: usize = 4096;

/// `gcos ls`.
pub(crate) fn run(globals: &Globals, args: &LsArgs, out: &Output) -> Result<Outcome, Failure> {
    let store = pool::open(globals)?;
    if out.json {
        let mut list = Vec::new();
        pages(&store, args, |page| list.extend(page.iter().map(document)));
        out.result(&json!({ "objects": list }), "");
    } else {
        pages(&store, args, |page| print(page, args.long, out));
    }
    store.close()?;
    Ok(Outcome::Good)
}

fn pages(store: &Store, args: &LsArgs, mut each: impl FnMut(&[(Vec<u8>, ObjectInfo)])) {
    let mut left = args.limit.unwrap_or(usize::MAX);
    let mut after: Option<Vec<u8>> = None;
    while left > 0 {
        let page = store.list(&args.prefix.0, after.as_deref(), left.min(PAGE));
        let Some((last, _)) = page.last() else { return };
        after = Some(last.clone());
        left -= page.len().min(left);
        each(&page);
    }
}

fn document((name, info): &(Vec<u8>, ObjectInfo)) -> Value {
    let mut value = json!(info);
    if let Value::Object(map) = &mut value {
        map.insert("key".to_owned(), key::typed(name).into());
    }
    value
}

fn print(page: &[(Vec<u8>, ObjectInfo)], long: bool, out: &Output) {
    if !long {
        page.iter().for_each(|(name, _)| out.line(key::show(name)));
        return;
    }
    let row = |(name, info): &(Vec<u8>, ObjectInfo)| {
        let drives: Vec<_> = info.drives.iter().map(u8::to_string).collect();
        let expiry = info.expires_at.map_or("-".to_owned(), |at| at.to_string());
        vec![
            info.len.to_string(),
            info.generation.to_string(),
            drives.join(","),
            expiry,
            key::show(name),
        ]
    };
    let header = ["bytes", "generation", "drives", "expires", "key"];
    out.line(table(&header, page.iter().map(row).collect(), &[0, 1]));
}
