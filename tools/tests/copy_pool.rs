//! `gcos copy-pool`: from one path to another, killed in the middle, run again.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use support::Place;

const MIB: u64 = 1 << 20;

/// Delays before the kill, spread over the time that the command takes.
const KILLS: u32 = 12;

fn configure(place: &Place, name: &str, path: &str, bytes: u64) {
    let text = format!(
        r#"{{
            "disk": {{ "number": 1, "paths": [{path:?}], "capacity_bytes": {bytes}, "block_size": 4096 }},
            "zone_chunk_size_kb": {{ "sb": 64, "meta": 64, "data": 1024 }}
        }}"#
    );
    std::fs::write(place.path(name), text).unwrap();
}

/// `from.json` over an emulated drive and `to.json` over a plain file, both formatted.
fn two_pools() -> Place {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let place = Place { folder };
    configure(&place, "from.json", "emulated:from.img", 64 * MIB);
    configure(&place, "to.json", "to.img", 64 * MIB);
    for config in ["from.json", "to.json"] {
        place.run(&["--config", config, "zone-format"]).expect(0);
    }
    place
}

fn payload(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8 ^ seed as u8).collect()
}

/// Many objects by one process: the blocks of a trace.
fn fill(place: &Place, config: &str) {
    let mut trace = String::new();
    for request in 0..12u64 {
        let ids: Vec<_> = (0..20).map(|block| request * 100 + block).collect();
        trace += &format!("{{\"timestamp\": {request}, \"hash_ids\": {ids:?}}}\n");
    }
    std::fs::write(place.path("trace"), trace).unwrap();
    let replay = ["--config", config, "replay", "trace", "--block-bytes", "128KiB"];
    place.run(&replay).expect(0);
    std::fs::write(place.path("in"), payload(1, 1_500_001)).unwrap();
    place.run(&["--config", config, "put", "big", "in", "--ttl", "1h"]).expect(0);
}

/// Keys, lengths and expiry of all objects.
fn objects(place: &Place, config: &str) -> Vec<(String, u64, bool)> {
    let json = place.run(&["--json", "--config", config, "ls"]).expect(0).json();
    let of = |object: &serde_json::Value| {
        let key = object["key"].as_str().unwrap().to_owned();
        (key, object["len"].as_u64().unwrap(), object["expires_at"].is_u64())
    };
    json["objects"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn a_pool_moves_to_another_path_and_back() {
    let place = two_pools();
    fill(&place, "from.json");
    let before = objects(&place, "from.json");
    assert_eq!(before.len(), 241);
    let dry = place.run(&["--json", "copy-pool", "from.json", "to.json", "--dry-run"]).expect(0);
    assert_eq!(dry.json()["copied"], 241);
    let image = || std::fs::read(place.path("to.img")).unwrap();
    let before_dry = image();
    place.run(&["copy-pool", "from.json", "to.json", "--dry-run"]).expect(0);
    assert!(image() == before_dry, "nothing was written, not even a mark that it was open");
    let ran = place.run(&["--json", "copy-pool", "from.json", "to.json"]).expect(0).json();
    assert_eq!((&ran["copied"], &ran["same"]), (&241.into(), &0.into()));
    assert_eq!((&ran["complete"], &ran["dry_run"]), (&true.into(), &false.into()));
    assert_eq!(objects(&place, "to.json"), before);
    assert_eq!(objects(&place, "from.json"), before, "the source has what it had");
    place.run(&["--config", "to.json", "fsck", "--data"]).expect(0);
    let found = place.run(&["--config", "to.json", "get", "big"]).expect(0).out;
    assert!(found == payload(1, 1_500_001));
    // The blocks of a replay verify themselves.
    let replay = ["--json", "--config", "to.json", "replay", "trace", "--block-bytes", "128KiB"];
    let json = place.run(&replay).expect(0).json();
    assert_eq!((&json["hits"], &json["mismatches"]), (&240.into(), &0.into()));
    let text = place.run(&["copy-pool", "from.json", "to.json"]).expect(0).text();
    assert!(text.contains("241 (") && text.contains("there already"), "{text}");
    // And back, into a pool that has everything.
    let back = place.run(&["--json", "copy-pool", "to.json", "from.json"]).expect(0).json();
    assert_eq!((&back["copied"], &back["same"]), (&0.into(), &241.into()));
}

#[test]
fn a_copy_that_was_killed_leaves_two_valid_pools_and_is_run_again() {
    let place = two_pools();
    fill(&place, "from.json");
    let before = objects(&place, "from.json");
    let copy = ["copy-pool", "from.json", "to.json"];
    let start = Instant::now();
    place.run(&copy).expect(0);
    let whole = start.elapsed();
    let (mut in_the_middle, mut partly) = (0, 0);
    for step in 0..KILLS {
        place.run(&["--config", "to.json", "zone-format", "--force", "--yes"]).expect(0);
        let mut command = place.command(&copy);
        let start = Instant::now();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let delay = whole * (step + 1) / (KILLS + 1);
        std::thread::sleep(delay.saturating_sub(start.elapsed()).max(Duration::from_millis(1)));
        child.kill().unwrap();
        in_the_middle += u32::from(child.wait().unwrap().code().is_none());
        // A frame that was torn is for the next open to put right, and nothing that was counted.
        let arrived = objects(&place, "to.json");
        place.run(&["--config", "to.json", "fsck", "--data"]).expect(0);
        assert_eq!(objects(&place, "from.json"), before, "step {step}");
        place.run(&["--config", "from.json", "fsck", "--data"]).expect(0);
        assert!(arrived.iter().all(|object| before.contains(object)), "step {step}");
        partly += u32::from(!arrived.is_empty() && arrived.len() < before.len());
        let ran = place.run(&["--json", "copy-pool", "from.json", "to.json"]).expect(0).json();
        assert_eq!(ran["same"], arrived.len(), "step {step}");
        assert_eq!(objects(&place, "to.json"), before, "step {step}");
        assert_eq!(objects(&place, "from.json"), before, "step {step}");
    }
    assert!(in_the_middle > 0 && partly > 0, "killed {in_the_middle}, partly there {partly}");
}

#[test]
fn what_differs_and_what_is_damaged_is_named_and_makes_exit_code_1() {
    let place = two_pools();
    for (seed, key) in ["a", "b", "c"].iter().enumerate() {
        std::fs::write(place.path("in"), payload(seed, 300_000)).unwrap();
        place.run(&["--config", "from.json", "put", key, "in"]).expect(0);
    }
    std::fs::write(place.path("in"), b"something else").unwrap();
    place.run(&["--config", "to.json", "put", "a", "in"]).expect(0);
    let mut image = std::fs::read(place.path("from.img")).unwrap();
    let needle = &payload(1, 300_000)[200_000..200_064];
    let at = image.windows(64).position(|window| window == needle).unwrap();
    image[at] ^= 1;
    std::fs::write(place.path("from.img"), &image).unwrap();
    let ran = place.run(&["--json", "copy-pool", "from.json", "to.json"]).expect(1).json();
    assert_eq!((&ran["copied"], &ran["failed"]), (&1.into(), &2.into()));
    assert!(std::fs::read(place.path("from.img")).unwrap() == image, "the source is as it was");
    let problems = ran["problems"].as_array().unwrap();
    let reason = |key: &str| {
        let problem = problems.iter().find(|problem| problem["key"] == key).unwrap();
        problem["reason"].as_str().unwrap().to_owned()
    };
    assert!(reason("a").contains("other bytes"), "{problems:?}");
    assert!(reason("b").contains("damaged"), "{problems:?}");
    let found = |key: &str| place.run(&["--config", "to.json", "get", key]).expect(0).out;
    assert_eq!(found("a"), b"something else");
    assert!(found("c") == payload(2, 300_000));
    place.run(&["--config", "to.json", "get", "b"]).expect(1);
    let replacing = ["--json", "copy-pool", "from.json", "to.json", "--replace"];
    let ran = place.run(&replacing).expect(1).json();
    assert_eq!((&ran["copied"], &ran["failed"]), (&1.into(), &1.into()), "b is still damaged");
    assert!(found("a") == payload(0, 300_000));
}

#[test]
fn a_drive_of_the_source_that_is_missing_is_said_and_makes_exit_code_1() {
    let place = two_pools();
    place.configure(&["emulated:a.img", "emulated:b.img"], 64 * MIB);
    place.run(&["zone-format"]).expect(0);
    fill(&place, "gcos.json");
    std::fs::remove_file(place.path("b.img")).unwrap();
    let ran = place.run(&["--json", "copy-pool", "gcos.json", "to.json"]).expect(1).json();
    assert_eq!((&ran["drives_lost"], &ran["complete"]), (&1.into(), &false.into()));
    assert!((1..241).contains(&ran["copied"].as_u64().unwrap()), "{ran}");
    let text = place.run(&["copy-pool", "gcos.json", "to.json"]).expect(1).text();
    assert!(
        text.contains("1 drive of the source is lost") && text.contains("NOT copied"),
        "{text}"
    );
}

#[test]
fn a_destination_that_is_too_small_is_full_and_stays_valid() {
    let place = two_pools();
    fill(&place, "from.json");
    configure(&place, "small.json", "small.img", 16 * MIB);
    place.run(&["--config", "small.json", "zone-format"]).expect(0);
    let ran = place.run(&["--json", "copy-pool", "from.json", "small.json"]).expect(2);
    let error = ran.json()["error"].clone();
    assert_eq!(error["kind"], "full");
    assert!(error["message"].as_str().unwrap().contains("nothing in it was evicted"), "{error}");
    place.run(&["--config", "small.json", "fsck", "--data"]).expect(0);
    assert_eq!(objects(&place, "from.json").len(), 241);
}

#[test]
fn what_cannot_be_two_pools_is_refused() {
    let place = two_pools();
    configure(&place, "same.json", "from.img", 64 * MIB);
    for (from, to, words) in [
        ("from.json", "same.json", "in both configurations"),
        ("from.json", "from.json", "in both configurations"),
        ("from.json", "none.json", "none.json"),
    ] {
        let err = place.run(&["copy-pool", from, to]).expect(2).err;
        assert!(err.contains(words), "{err}");
    }
    configure(&place, "blank.json", "emulated:blank.img", 64 * MIB);
    std::fs::File::create(place.path("blank.img")).unwrap().set_len(64 * MIB).unwrap();
    let err = place.run(&["copy-pool", "from.json", "blank.json"]).expect(2).err;
    assert!(err.contains("blank.json") && err.contains("zone-format"), "{err}");
    let mut command = place.command(&["copy-pool", "from.json", "to.json"]);
    // It concerns the one of both that goes through the kernel.
    let ran = support::Ran::new(command.env("GCOS_FORCE_PATH", "posix").output().unwrap());
    ran.expect(0);
}
