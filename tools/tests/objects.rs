//! Objects through the command line: round trips, misses, exit codes, JSON.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use support::{Place, Ran};

const MIB: u64 = 1 << 20;

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

#[test]
fn what_was_put_comes_back() {
    let place = Place::formatted(64 * MIB);
    let bytes = payload(3_000_001);
    std::fs::write(place.path("in"), &bytes).unwrap();
    place.run(&["put", "model/layer0", "in"]).expect(0);
    place.run(&["get", "model/layer0", "-o", "out"]).expect(0);
    assert_eq!(std::fs::read(place.path("out")).unwrap(), bytes);
    assert_eq!(place.run(&["get", "model/layer0"]).expect(0).out, bytes);
    let part = place.run(&["get", "model/layer0", "--offset", "1MiB", "--len", "100"]).expect(0);
    assert_eq!(part.out, bytes[1 << 20..(1 << 20) + 100]);
    place.run(&["get", "model/layer0", "--offset", "3000001", "--len", "1"]).expect(2);
}

#[test]
fn standard_input_is_stored() {
    let place = Place::formatted(64 * MIB);
    let mut child = place.command(&["put", "from-pipe"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"piped").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(place.run(&["get", "from-pipe"]).expect(0).out, b"piped");
    assert!(place.run(&["put", "empty"]).expect(2).err.contains("nothing to store"));
}

#[test]
fn existing_objects_are_kept_unless_replaced() {
    let place = Place::formatted(64 * MIB);
    std::fs::write(place.path("one"), b"one").unwrap();
    std::fs::write(place.path("two"), b"second").unwrap();
    let outcome = |ran: Ran| ran.expect(0).json()["outcome"].as_str().unwrap().to_owned();
    assert_eq!(outcome(place.run(&["--json", "put", "k", "one"])), "stored");
    assert_eq!(outcome(place.run(&["--json", "put", "k", "two"])), "kept");
    assert_eq!(place.run(&["get", "k"]).out, b"one");
    assert_eq!(
        outcome(place.run(&["--json", "put", "k", "two", "--replace", "--relaxed"])),
        "stored"
    );
    assert_eq!(place.run(&["get", "k"]).out, b"second");
}

#[test]
fn keys_are_listed_described_and_removed() {
    let place = Place::formatted(64 * MIB);
    std::fs::write(place.path("in"), payload(70_000)).unwrap();
    for key in ["a/1", "a/2", "b", "hex:ff0a"] {
        place.run(&["put", key, "in", "--ttl", "1h"]).expect(0);
    }
    assert_eq!(place.run(&["ls"]).expect(0).text(), "a/1\na/2\nb\n\\xff\\n\n");
    assert_eq!(place.run(&["ls", "a/", "--limit", "1"]).expect(0).text(), "a/1\n");
    assert!(place.run(&["ls", "--long"]).expect(0).text().contains("70000"));
    let listed = place.run(&["--json", "ls"]).expect(0).json();
    assert_eq!(listed["objects"][3]["key"], "hex:ff0a");
    let info = place.run(&["--json", "stat", "b"]).expect(0).json();
    assert_eq!(info["object"]["len"], 70_000);
    assert!(info["object"]["expires_at"].as_u64().unwrap() > 0);
    assert_eq!(place.run(&["--json", "stat"]).expect(0).json()["stats"]["objects"], 4);
    place.run(&["rm", "a/1", "hex:ff0a"]).expect(0);
    let gone = place.run(&["--json", "rm", "a/1", "b"]).expect(1).json();
    assert_eq!(gone, serde_json::json!({"removed": ["b"], "absent": ["a/1"]}));
    assert_eq!(place.run(&["ls"]).expect(0).text(), "a/2\n");
    place.run(&["fsck", "--data"]).expect(0);
}

#[test]
fn a_miss_is_exit_code_1_and_leaves_no_file() {
    let place = Place::formatted(64 * MIB);
    assert!(place.run(&["get", "nope", "-o", "out"]).expect(1).err.contains("no such key"));
    assert!(!place.path("out").exists());
    assert_eq!(place.run(&["--json", "get", "nope", "-o", "out"]).expect(1).json()["hit"], false);
    place.run(&["stat", "nope"]).expect(1);
    assert_eq!(
        place.run(&["--json", "stat", "nope"]).expect(1).json()["object"],
        serde_json::Value::Null
    );
}

#[test]
fn a_second_process_is_told_that_the_image_is_in_use() {
    let place = Place::formatted(64 * MIB);
    // A replay of a pipe holds the pool for as long as the pipe is open.
    let trace = place.path("endless");
    let made = std::process::Command::new("mkfifo").arg(&trace).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skipped: no mkfifo here");
        return;
    }
    let mut command = place.command(&["-v", "replay", "endless"]);
    let mut holder = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let pipe = std::fs::OpenOptions::new().write(true).open(&trace).unwrap();
    let mut log = BufReader::new(holder.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("controller is up")));
    let refused = place.run(&["ls"]).expect(2);
    assert!(refused.err.contains("in use by another process"), "{}", refused.err);
    drop(pipe);
    assert!(log.all(|line| line.is_ok()));
    assert!(holder.wait().unwrap().success());
    place.run(&["ls"]).expect(0);
}

#[test]
fn a_truncated_image_is_refused() {
    let place = Place::formatted(64 * MIB);
    let image = std::fs::OpenOptions::new().write(true).open(place.path("pool.img")).unwrap();
    image.set_len(10 * MIB).unwrap();
    let ran = place.run(&["ls"]).expect(2);
    assert!(ran.err.contains("has 10485760 bytes"), "{}", ran.err);
    std::fs::remove_file(place.path("pool.img")).unwrap();
    let ran = place.run(&["--json", "ls"]).expect(2);
    assert_eq!(ran.json()["error"]["kind"], "device");
    assert!(ran.text().contains("zone-format"), "{}", ran.text());
}

#[test]
fn damage_is_found_and_is_a_miss() {
    let place = Place::formatted(64 * MIB);
    let bytes = payload(500_000);
    std::fs::write(place.path("in"), &bytes).unwrap();
    place.run(&["put", "k", "in"]).expect(0);
    let mut image = std::fs::read(place.path("pool.img")).unwrap();
    let needle = &bytes[100_000..100_064];
    let at = image.windows(64).position(|window| window == needle).unwrap();
    image[at] ^= 1;
    std::fs::write(place.path("pool.img"), image).unwrap();
    place.run(&["fsck"]).expect(0);
    let report = place.run(&["--json", "fsck", "--data"]).expect(1).json();
    assert!(!report["findings"].as_array().unwrap().is_empty());
    assert!(place.run(&["get", "k", "-o", "out"]).expect(1).err.contains("damaged"));
    assert!(!place.path("out").exists());
}
