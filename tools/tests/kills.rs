//! Commands that are killed in the middle of changing a pool.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod support;

use std::time::{Duration, Instant};

use support::{Place, Ran};

const MIB: u64 = 1 << 20;

/// Delays before the kill, spread over the time that the command takes.
const KILLS: u32 = 24;

/// Runs a command and kills it after `delay`; whether it was still running.
fn killed(place: &Place, args: &[&str], delay: Duration) -> bool {
    let mut command = place.command(args);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let start = Instant::now();
    let mut child = command.spawn().unwrap();
    std::thread::sleep(delay.saturating_sub(start.elapsed()));
    child.kill().unwrap();
    child.wait().unwrap().code().is_none()
}

/// How long a command takes that is left alone.
fn timed(place: &Place, args: &[&str]) -> (Duration, Ran) {
    let start = Instant::now();
    let ran = place.run(args);
    (start.elapsed(), ran)
}

#[test]
fn a_format_that_was_killed_leaves_a_pool_or_says_to_format_again() {
    let place = Place::new(64 * MIB);
    place.configure(&["emulated:a.img", "emulated:b.img", "emulated:c.img"], 64 * MIB);
    place.run(&["zone-format"]).expect(0);
    std::fs::write(place.path("in"), vec![7; 100_000]).unwrap();
    let format = ["zone-format", "--force", "--yes"];
    let (whole, ran) = timed(&place, &format);
    ran.expect(0);
    let mut in_the_middle = 0;
    for step in 0..KILLS {
        if killed(&place, &format, whole * step / KILLS) {
            in_the_middle += 1;
        }
        let ran = place.run(&["put", "key", "in"]);
        if ran.code == 0 {
            place.run(&["fsck", "--data"]).expect(0);
        } else {
            let ran = ran.expect(2);
            let said = format!("{}{}", ran.err, place.run(&["fsck"]).expect(1).text());
            assert!(said.contains("`gcos zone-format --force`"), "step {step}: {said}");
            place.run(&format).expect(0);
            place.run(&["put", "key", "in"]).expect(0);
        }
        assert_eq!(place.run(&["get", "key"]).expect(0).out.len(), 100_000);
    }
    assert!(in_the_middle > 0, "every format ended before its kill");
}

fn payload(index: usize) -> Vec<u8> {
    (0..300_000 + index).map(|i| (i * 31 % 251) as u8 ^ index as u8).collect()
}

#[test]
fn a_repair_that_was_killed_can_be_done_again() {
    let place = Place::formatted(64 * MIB);
    for index in 0..8 {
        std::fs::write(place.path("in"), payload(index)).unwrap();
        place.run(&["put", &format!("k{index}"), "in"]).expect(0);
    }
    damage(&place);
    let damaged = place.path("damaged.img");
    std::fs::copy(place.path("pool.img"), &damaged).unwrap();
    place.run(&["fsck", "--data"]).expect(1);
    let repair = ["fsck", "--data", "--repair", "--yes"];
    let (whole, ran) = timed(&place, &repair);
    ran.expect(0);
    let mut in_the_middle = 0;
    for step in 0..KILLS {
        std::fs::copy(&damaged, place.path("pool.img")).unwrap();
        if killed(&place, &repair, whole * step / KILLS) {
            in_the_middle += 1;
        }
        place.run(&repair).expect(0);
        let found = place.run(&["--json", "fsck", "--data"]).expect(0).json();
        assert_eq!(found["objects"], 7, "step {step}: {found:#}");
        assert_eq!(place.run(&["get", "k6"]).expect(0).out, payload(6));
        place.run(&["get", "k3"]).expect(1);
    }
    assert!(in_the_middle > 0, "every repair ended before its kill");
}

/// Damages one object of the pool and one copy of the superblock.
fn damage(place: &Place) {
    let mut image = std::fs::read(place.path("pool.img")).unwrap();
    let needle = &payload(3)[200_000..200_064];
    let at = image.windows(64).position(|window| window == needle).unwrap();
    image[at] ^= 1;
    image[..4096].fill(0xa5);
    std::fs::write(place.path("pool.img"), image).unwrap();
}
