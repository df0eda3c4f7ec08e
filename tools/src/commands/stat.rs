use gcos::store::DriveHealth;
use gcos::{DriveChoice, ObjectInfo, Stats, Store, units};
use serde_json::json;

use crate::args::{Globals, StatArgs};
use crate::failure::{Failure, Outcome};
use crate::key::{self, Key};
use crate::output::{Output, table};
use crate::pool;

/// `gcos stat`.
pub(crate) fn run(globals: &Globals, args: &StatArgs, out: &Output) -> Result<Outcome, Failure> {
    let (store, choices) = pool::open_described(globals)?;
    let outcome = match &args.key {
        Some(key) => object(&store, key, out),
        None => whole(&store, &choices, out),
    };
    store.close()?;
    Ok(outcome)
}

fn object(store: &Store, key: &Key, out: &Output) -> Outcome {
    let name = key::typed(&key.0);
    let info = store.info(&key.0);
    match &info {
        None if !out.json => out.remark(format_args!("gcos: no such key: {}", key::show(&key.0))),
        info => {
            let text = info.as_ref().map(|info| describe(&key.0, info)).unwrap_or_default();
            out.result(&json!({ "key": name, "object": info }), text);
        }
    }
    Outcome::good_if(info.is_some())
}

fn describe(name: &[u8], info: &ObjectInfo) -> String {
    let drives: Vec<_> = info.drives.iter().map(u8::to_string).collect();
    let mut pairs = vec![
        ["key".to_owned(), key::show(name)],
        ["length".to_owned(), format!("{} ({} bytes)", units::about(info.len.into()), info.len)],
        ["generation".to_owned(), info.generation.to_string()],
        ["drives".to_owned(), drives.join(", ")],
    ];
    if let Some(at) = info.expires_at {
        pairs.push(["expires".to_owned(), format!("{at} seconds since 1970")]);
    }
    table(&[], rows(pairs), &[])
}

fn rows(pairs: Vec<[String; 2]>) -> Vec<Vec<String>> {
    pairs.into_iter().map(Vec::from).collect()
}

fn whole(store: &Store, choices: &[DriveChoice], out: &Output) -> Outcome {
    let (pool, stats, recovery) = (store.pool(), store.stats(), store.recovery());
    let Stats { objects, used_bytes, capacity_bytes, .. } = stats;
    let percent = used_bytes as f64 * 100.0 / capacity_bytes.max(1) as f64;
    let row = |name: &str, value: String| [name.to_owned(), value];
    let mut pairs = vec![
        row("pool", pool.pool_uuid.clone()),
        row("drives", format!("{} in use, {} lost", stats.drives_online, stats.drives_lost)),
        row("objects", format!("{objects}, {} of payload", units::about(stats.payload_bytes))),
        row(
            "space",
            format!(
                "{} of {} in use ({percent:.1} %)",
                units::about(used_bytes),
                units::about(capacity_bytes)
            ),
        ),
        row(
            "metadata",
            format!(
                "{} of {}",
                units::about(stats.meta_used_bytes),
                units::about(stats.meta_capacity_bytes)
            ),
        ),
        row("index", format!("{} of memory", units::about(stats.index_bytes))),
        row(
            "recovery",
            format!(
                "{}, {} journal records, {:.1} ms",
                if recovery.clean { "closed in order" } else { "not closed in order" },
                recovery.journal_records,
                recovery.micros as f64 / 1000.0
            ),
        ),
    ];
    let members = store.drives();
    for choice in choices {
        pairs.push(row("drive", format!("{}: {} ({})", choice.path, choice.way, choice.reason)));
        let left = members.iter().filter(|member| member.name == choice.name);
        let left =
            left.filter(|member| member.demotions > 0 || member.health != DriveHealth::Online);
        pairs.extend(left.map(|member| {
            row("", format!("{:?}, now {} ({})", member.health, member.way, member.reason))
        }));
        pairs.extend(choice.gpus.iter().map(|gpu| row("", gpu.clone())));
    }
    let document = json!({
        "pool": pool, "drives": choices, "members": members, "stats": stats, "recovery": recovery
    });
    out.result(&document, table(&[], rows(pairs), &[]));
    Outcome::Good
}
