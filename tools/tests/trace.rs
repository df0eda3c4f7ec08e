//! A real conversation trace against the command. The variable `GCOS_TRACE` names the trace, a file of
//! JSON lines; without it there is nothing to do here.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests fail the test")]

mod support;

use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};
use support::Place;

const MIB: u64 = 1 << 20;

/// Requests that are replayed on an image file.
const REQUESTS: usize = 2500;

fn trace() -> Option<PathBuf> {
    let path = std::env::var_os("GCOS_TRACE").filter(|path| !path.is_empty());
    if path.is_none() {
        println!("skipped: set GCOS_TRACE to a trace file");
    }
    path.map(PathBuf::from)
}

/// What a trace holds, counted without the command.
#[derive(Debug)]
struct Counted {
    requests: u64,
    blocks: u64,
    distinct: u64,
    /// Hits of a pool that was empty at first and has room for everything.
    hits: u64,
}

fn count(lines: &[&str]) -> Counted {
    let mut counted = Counted { requests: 0, blocks: 0, distinct: 0, hits: 0 };
    let mut seen = HashSet::new();
    for line in lines {
        let request: Value = serde_json::from_str(line).unwrap();
        let ids = request["hash_ids"].as_array().unwrap();
        let ids: Vec<_> = ids.iter().map(|id| id.as_u64().unwrap()).collect();
        counted.requests += 1;
        counted.blocks += ids.len() as u64;
        counted.hits += ids.iter().take_while(|id| seen.contains(*id)).count() as u64;
        seen.extend(ids);
    }
    counted.distinct = seen.len() as u64;
    counted
}

/// A folder with the configuration of a pool on one drive of `bytes` bytes.
fn place(path: &str, bytes: u64, chunk_kb: u64) -> Place {
    let place = Place::new(bytes);
    let config = json!({
        "disk": { "number": 1, "paths": [path], "capacity_bytes": bytes, "block_size": 4096 },
        "zone_chunk_size_kb": { "sb": 64, "meta": 64, "data": chunk_kb },
        "pool": { "meta_percent": 5 },
    });
    std::fs::write(place.path("gcos.json"), config.to_string()).unwrap();
    place
}

/// A pool in memory of `bytes` bytes; it lives as long as the command.
fn in_memory(bytes: u64, chunk_kb: u64) -> Place {
    place(&format!("emulated:ram:{bytes}"), bytes, chunk_kb)
}

#[test]
fn the_whole_trace_hits_where_it_should() {
    let Some(trace) = trace() else { return };
    let text = std::fs::read_to_string(&trace).unwrap();
    let counted = count(&text.lines().collect::<Vec<_>>());
    let place = in_memory(1792 * MIB, 8192);
    let trace = trace.display().to_string();
    let args = ["--json", "replay", &trace, "--block-bytes", "4KiB", "--durability", "relaxed"];
    let found = place.run(&args).expect(0).json();
    for (name, expected) in [
        ("requests", counted.requests),
        ("blocks", counted.blocks),
        ("hits", counted.hits),
        ("stored", counted.distinct),
        ("evicted", 0),
        ("lost", 0),
        ("mismatches", 0),
    ] {
        assert_eq!(found[name], expected, "{name}: {found:#}");
    }
    assert_eq!((counted.requests, counted.blocks), (12_031, 288_500));
    let rate = found["hit_rate"].as_f64().unwrap();
    assert!((0.365..=0.367).contains(&rate), "{found:#}");
}

#[test]
fn a_pool_for_a_tenth_of_the_blocks_evicts_and_verifies() {
    let Some(trace) = trace() else { return };
    let place = in_memory(176 * MIB, 1024);
    let trace = trace.display().to_string();
    let found = place.run(&["--json", "replay", &trace, "--threads", "2"]).expect(0).json();
    let number = |name: &str| found[name].as_u64().unwrap();
    assert_eq!(number("mismatches"), 0, "{found:#}");
    assert!(number("evicted") > 100_000, "{found:#}");
    assert!(number("hits") > 20_000, "{found:#}");
    // A block of 4 KiB takes 8 KiB with its header: there is room for 22,528 at most.
    let held = number("stored") - number("evicted");
    assert!(held <= 22_528, "{held} blocks held at the end: {found:#}");
}

#[test]
fn a_replay_that_was_killed_goes_on_and_finds_what_it_stored() {
    let Some(trace) = trace() else { return };
    let text = std::fs::read_to_string(trace).unwrap();
    let lines: Vec<_> = text.lines().take(REQUESTS).collect();
    let cold = count(&lines);
    let place = place("emulated:pool.img", 512 * MIB, 8192);
    place.run(&["zone-format"]).expect(0);
    for part in [REQUESTS / 2, REQUESTS] {
        killed(&place, lines.get(..part).unwrap());
        let found = place.run(&["--json", "fsck"]).expect(0).json();
        assert!(found["objects"].as_u64().unwrap() > 0, "{found:#}");
    }
    let requests = REQUESTS.to_string();
    std::fs::write(place.path("trace"), lines.join("\n")).unwrap();
    let warm = place.run(&["--json", "replay", "trace", "--requests", &requests]);
    let warm = warm.expect(0).json();
    assert_eq!(warm["mismatches"], 0, "{warm:#}");
    assert_eq!(warm["blocks"], cold.blocks, "{warm:#}");
    assert!(warm["hits"].as_u64().unwrap() > cold.hits, "{cold:?}: {warm:#}");
    assert!(warm["stored"].as_u64().unwrap() < cold.distinct, "{cold:?}: {warm:#}");
    place.run(&["fsck", "--data"]).expect(0);
}

/// Feeds requests to a replay and kills it once it has taken all but the last few hundred: it has no
/// end of input to wait for, so it dies in the middle.
fn killed(place: &Place, lines: &[&str]) {
    let mut command = place.command(&["replay", "/dev/stdin", "--threads", "2"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    for line in lines {
        writeln!(pipe, "{line}").unwrap();
    }
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None, "it ended before it was killed");
}
