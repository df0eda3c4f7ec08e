//! Repairs and scrubs as a user runs them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Stdio;

use support::Place;

const MIB: u64 = 1 << 20;

fn payload(index: usize) -> Vec<u8> {
    (0..200_000 + index).map(|i| (i * 29 % 253) as u8 ^ index as u8).collect()
}

/// A pool of six objects.
fn stocked() -> Place {
    let place = Place::formatted(64 * MIB);
    for index in 0..6 {
        std::fs::write(place.path("in"), payload(index)).unwrap();
        place.run(&["put", &format!("k{index}"), "in"]).expect(0);
    }
    place
}

fn change(place: &Place, change: impl FnOnce(&mut [u8])) {
    let mut image = std::fs::read(place.path("pool.img")).unwrap();
    change(&mut image);
    std::fs::write(place.path("pool.img"), image).unwrap();
}

/// Changes a byte of an object's payload.
fn rot(place: &Place, index: usize) {
    change(place, |image| {
        let needle = &payload(index)[150_000..150_064];
        let at = image.windows(64).position(|window| window == needle).unwrap();
        image[at] ^= 1;
    });
}

/// Damages both checkpoint headers; the first lies behind the 64 KiB of the superblock.
fn behead(place: &Place) {
    change(place, |image| {
        let mut headers = 0;
        for block in image.chunks_mut(4096) {
            if block.starts_with(b"GCOSCKPT") {
                block[2000] ^= 1;
                headers += 1;
            }
        }
        assert_eq!(headers, 2);
    });
}

#[test]
fn a_repair_asks_first_and_changes_nothing_without_an_answer() {
    let place = stocked();
    behead(&place);
    let before = std::fs::read(place.path("pool.img")).unwrap();
    let refused = place.run(&["get", "k1"]).expect(2);
    assert!(refused.err.contains("gcos fsck --repair"), "{}", refused.err);
    let asked = place.run(&["fsck", "--repair"]).expect(2);
    assert!(asked.err.contains("--yes"), "{}", asked.err);
    let told = place.run(&["--json", "fsck", "--repair"]).expect(2).json();
    assert_eq!(told["error"]["kind"], "consent");
    let dry = place.run(&["--json", "fsck", "--repair", "--dry-run"]).expect(1).json();
    assert_eq!((&dry["would_be_repaired"], &dry["repaired"]), (&true.into(), &false.into()));
    assert!(dry["actions"].as_array().is_some_and(|actions| actions.len() >= 2), "{dry:#}");
    let text = place.run(&["fsck", "--repair", "--dry-run"]).expect(1).text();
    assert!(text.contains("A repair would write:"), "{text}");
    assert!(std::fs::read(place.path("pool.img")).unwrap() == before, "something was written");
    let done = place.run(&["--json", "fsck", "--repair", "--yes"]).expect(0).json();
    assert_eq!(done["actions"], dry["actions"]);
    assert_eq!(done["objects"], 6);
    place.run(&["fsck", "--data"]).expect(0);
    for index in 0..6 {
        assert_eq!(place.run(&["get", &format!("k{index}")]).expect(0).out, payload(index));
    }
    // Nothing to do is nothing to ask.
    place.run(&["fsck", "--repair"]).expect(0);
}

#[test]
fn flags_that_mean_nothing_alone_are_refused() {
    let place = stocked();
    for flags in [["fsck", "--salvage"], ["fsck", "--dry-run"], ["fsck", "--yes"]] {
        place.run(&flags).expect(2);
    }
    place.run(&["fsck", "--repair", "--dry-run", "--yes"]).expect(2);
    place.run(&["scrub", "--rate", "0"]).expect(2);
}

#[test]
fn a_pool_in_use_is_neither_repaired_nor_scrubbed() {
    let place = stocked();
    behead(&place);
    let before = std::fs::read(place.path("pool.img")).unwrap();
    let holder = std::fs::File::open(place.path("pool.img")).unwrap();
    holder.lock().unwrap();
    for command in [&["fsck", "--repair", "--yes"][..], &["scrub"]] {
        let refused = place.run(command).expect(2);
        assert!(refused.err.contains("in use"), "{}", refused.err);
    }
    assert!(std::fs::read(place.path("pool.img")).unwrap() == before);
}

#[test]
fn a_scrub_reports_and_removes_what_is_damaged() {
    let place = stocked();
    let good = place.run(&["--json", "scrub"]).expect(0).json();
    assert_eq!((&good["objects"], &good["damaged"]), (&6.into(), &0.into()));
    assert_eq!(good["complete"], true);
    rot(&place, 2);
    let found = place.run(&["--json", "scrub", "--rate", "1GiB"]).expect(1).json();
    assert_eq!((&found["objects"], &found["damaged"]), (&5.into(), &1.into()));
    assert_eq!(found["found"][0]["key"], "k2");
    place.run(&["get", "k2"]).expect(1);
    assert_eq!(place.run(&["get", "k3"]).expect(0).out, payload(3));
    let text = place.run(&["scrub"]).expect(0).text();
    assert!(text.contains("5 objects"), "{text}");
    place.run(&["fsck", "--data"]).expect(0);
}

#[test]
fn a_scrub_keeps_to_its_rate_ends_in_time_and_may_be_killed() {
    let place = stocked();
    let part =
        place.run(&["--json", "scrub", "--rate", "400KiB", "--for", "300ms"]).expect(0).json();
    assert_eq!(part["complete"], false);
    let mut slow = place.command(&["scrub", "--rate", "100KiB"]);
    let mut slow = slow.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(400));
    slow.kill().unwrap();
    slow.wait().unwrap();
    let whole = place.run(&["--json", "scrub"]).expect(0).json();
    assert_eq!(whole["objects"], 6);
    place.run(&["fsck", "--data"]).expect(0);
}
