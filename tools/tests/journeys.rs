//! The long commands, small: quickstart, replay, bench.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod support;

use std::fmt::Write;

use support::Place;

const MIB: u64 = 1 << 20;

/// A trace of `requests` prompts that share prefixes.
fn trace(requests: u64, blocks: u64) -> String {
    let mut text = String::new();
    for request in 0..requests {
        let shared = blocks / 2;
        let own = |i: u64| {
            if i < shared { (request % 5) * 1000 + i } else { 1_000_000 + request * 1000 + i }
        };
        let ids: Vec<_> = (0..blocks).map(own).collect();
        writeln!(text, "{{\"timestamp\": {request}, \"hash_ids\": {ids:?}}}").unwrap();
    }
    text
}

#[test]
fn quickstart_verifies_everything_after_a_kill() {
    let place = Place::new(64 * MIB);
    let ran = place.run(&["--json", "quickstart", "--size", "256MiB", "--dir", "demo", "--keep"]);
    let json = ran.expect(0).json();
    assert_eq!(json["verified"], true);
    assert_eq!(json["acknowledged"], json["found"]["right"]);
    assert_eq!(json["killed_during_put"], true);
    let listed = place.run(&["--config", "demo/gcos.json", "ls"]).expect(0).text();
    assert!(listed.lines().count() as u64 >= json["acknowledged"].as_u64().unwrap());
    assert!(!place.path("demo/ceiling.bin").exists());
    let again = place.run(&["quickstart", "--size", "256MiB", "--dir", "demo"]).expect(2);
    assert!(again.err.contains("exists"), "{}", again.err);
    place.run(&["quickstart", "--size", "1MiB"]).expect(2);
}

#[test]
fn replay_evicts_and_never_returns_a_wrong_byte() {
    let place = Place::formatted(64 * MIB);
    std::fs::write(place.path("trace"), trace(120, 40)).unwrap();
    let args = ["--json", "replay", "trace", "--block-bytes", "64KiB", "--threads", "2"];
    let json = place.run(&args).expect(0).json();
    assert_eq!(json["requests"], 120);
    assert_eq!(json["blocks"], 4800);
    assert_eq!(json["mismatches"], 0);
    assert!(json["evicted"].as_u64().unwrap() > 0, "{json}");
    assert!(json["hits"].as_u64().unwrap() > 0, "{json}");
    place.run(&["fsck", "--data"]).expect(0);
}

#[test]
fn replay_goes_on_with_what_is_there() {
    let place = Place::formatted(64 * MIB);
    std::fs::write(place.path("trace"), trace(10, 20)).unwrap();
    let cold = place.run(&["--json", "replay", "trace", "--durability", "sync"]).expect(0).json();
    let warm = place.run(&["--json", "replay", "trace", "--requests", "5"]).expect(0).json();
    assert!(cold["hit_rate"].as_f64().unwrap() < 0.5);
    assert_eq!(warm["hits"], 100);
    assert_eq!(warm["stored"], 0);
    let other = place.run(&["replay", "trace", "--block-bytes", "8KiB"]).expect(2);
    assert!(other.err.contains("another --block-bytes"), "{}", other.err);
}

#[test]
fn malformed_traces_are_refused_with_the_line() {
    let place = Place::formatted(64 * MIB);
    std::fs::write(place.path("trace"), "{\"hash_ids\": [1]}\n{\"hash_ids\": [1,}\n").unwrap();
    let ran = place.run(&["replay", "trace"]).expect(2);
    assert!(ran.err.contains("trace, line 2"), "{}", ran.err);
    place.run(&["replay", "no-such-trace"]).expect(2);
}

#[test]
fn bench_measures_every_path_beside_its_ceiling() {
    let place = Place::new(64 * MIB);
    let flags = ["--size", "64KiB", "--qd", "2", "--threads", "1", "--seconds", "0.05"];
    for (path, figures) in [("emulated:ram:128MiB", 5), ("noop", 2)] {
        let args: Vec<_> = ["--json", "bench", "--path", path].into_iter().chain(flags).collect();
        let json = place.run(&args).expect(0).json();
        let list = json["figures"].as_array().unwrap();
        assert_eq!(list.len(), figures, "{json}");
        assert!(list.iter().all(|figure| figure["bytes_per_second"].as_f64().unwrap() > 0.0));
        assert_eq!(list[0]["ratio"].is_null(), path == "noop");
    }
    let json = place
        .run(&["--json", "bench", "--driver-cost", "--path", "emulated:ram:64MiB"])
        .expect(0)
        .json();
    assert_eq!(json["costs"].as_array().unwrap().len(), 2);
    std::fs::write(place.path("mine"), b"precious").unwrap();
    place.run(&["bench", "--path", "emulated:mine"]).expect(2);
    assert_eq!(std::fs::read(place.path("mine")).unwrap(), b"precious");
}

#[test]
fn bench_sets_the_ways_to_a_file_side_by_side_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let place = Place { folder };
    let ways = ["posix:b", "emulated:b"];
    let flags = ["--size", "64KiB", "--qd", "2", "--seconds", "0.05", "--file-size", "64MiB"];
    let args = ["--json", "bench", "--path"].into_iter().chain(ways).chain(flags);
    let json = place.run(&args.collect::<Vec<_>>()).expect(0).json();
    let list = json["figures"].as_array().unwrap();
    assert_eq!(list.len(), 10, "{json}");
    for (index, figure) in list.iter().enumerate() {
        assert_eq!(figure["path"], ["posix", "emulated"][index % 2]);
        assert!(figure["bytes_per_second"].as_f64().unwrap() > 0.0);
        assert_eq!(
            figure["ceiling_bytes_per_second"],
            list[index / 2 * 2]["ceiling_bytes_per_second"]
        );
    }
    assert_eq!(std::fs::read_dir(place.folder.path()).unwrap().count(), 0);
    std::fs::write(place.path("b.posix"), b"precious").unwrap();
    place.run(&["bench", "--path", "posix:b", "emulated:b"]).expect(2);
    assert_eq!(std::fs::read(place.path("b.posix")).unwrap(), b"precious");
}

#[test]
fn bench_of_a_gpu_that_is_not_there_says_what_to_do() {
    let place = Place::new(64 * MIB);
    let json = place.run(&["--json", "bench", "--gpu", "9999"]).expect(2).json();
    assert_eq!(json["error"]["kind"], "gpu", "{json}");
    let message = json["error"]["message"].as_str().unwrap();
    assert!(message.contains("GPU 9999") || message.contains("driver"), "{message}");
    let large = place.run(&["bench", "--gpu", "--size", "64MiB"]).expect(2);
    assert!(large.err.contains("up to 32 MiB"), "{}", large.err);
    place.run(&["bench", "--gpu", "--driver-cost"]).expect(2);
    place.run(&["bench", "--gpu", "--seconds", "0"]).expect(2);
}

#[test]
fn bench_through_cufile_measures_or_says_what_is_missing_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let place = Place { folder };
    let flags = ["--size", "64KiB", "--qd", "2", "--seconds", "0.05", "--file-size", "32MiB"];
    let args: Vec<_> =
        ["--json", "bench", "--path", "cufile:b", "posix:b"].into_iter().chain(flags).collect();
    let ran = place.run(&args);
    match ran.code {
        0 => {
            let json = ran.json();
            let paths: Vec<_> =
                json["figures"].as_array().unwrap().iter().map(|f| f["path"].clone()).collect();
            assert!(paths.contains(&"cufile".into()) && paths.contains(&"posix".into()));
        }
        _ => {
            let error = ran.expect(2).json()["error"]["message"].as_str().unwrap().to_owned();
            assert!(error.contains("GPU 0") || error.contains("direct I/O"), "{error}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(place.folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
