//! Configurations and drives that are refused, and why.

mod support;

use support::Place;

const MIB: u64 = 1 << 20;

#[test]
fn mistakes_in_the_configuration_are_all_named() {
    let place = Place::new(64 * MIB);
    let config = r#"{"disk": {"number": 2, "paths": ["emulated:a"], "capcity_bytes": 67108864}}"#;
    std::fs::write(place.path("gcos.json"), config).unwrap();
    let ran = place.run(&["config", "check"]).expect(2);
    assert!(ran.err.contains("did you mean \"capacity_bytes\"?"), "{}", ran.err);
    assert!(ran.err.contains("disk.paths has 1 entries"), "{}", ran.err);
    let json = place.run(&["--json", "ls"]).expect(2).json();
    assert_eq!(json["error"]["kind"], "config");
    assert_eq!(json["error"]["problems"][0]["path"], "disk.capcity_bytes");
}

#[test]
fn the_configuration_is_found_by_flag_variable_and_default() {
    let place = Place::new(64 * MIB);
    place.run(&["config", "check"]).expect(0);
    std::fs::rename(place.path("gcos.json"), place.path("other.json")).unwrap();
    assert!(place.run(&["config", "check"]).expect(2).err.contains("gcos.json.example"));
    place.run(&["--config", "other.json", "config", "check"]).expect(0);
    let mut command = place.command(&["--json", "config", "check"]);
    let ran = support::Ran::new(command.env("GCOS_CONFIG", "other.json").output().unwrap());
    assert_eq!(ran.expect(0).json()["config"]["disk"]["number"], 1);
}

#[test]
fn a_drive_that_is_not_there_is_refused_with_a_way_on() {
    let place = Place::new(64 * MIB);
    for (path, word, way) in [
        // No machine has a function 7 of the last device of the last bus of the last domain.
        ("ffff:ff:1f.7", "could not be opened", "gcos d"),
        ("/dev/libnvm-none", "/dev/libnvm-none", "gcos d"),
        ("/dev/gcos-none", "no such block device", "gcos d"),
    ] {
        place.configure(&[path], 64 * MIB);
        place.run(&["config", "check"]).expect(0);
        let err = place.run(&["zone-format"]).expect(2).err;
        assert!(err.contains(word) && err.contains(way), "{err}");
    }
    assert!(!std::path::Path::new("/dev/gcos-none").exists(), "nothing is made where devices are");
}

#[test]
fn real_and_software_drives_do_not_mix() {
    let place = Place::new(64 * MIB);
    place.configure(&["emulated:pool.img", "ffff:ff:1f.7"], 64 * MIB);
    let err = place.run(&["zone-format"]).expect(2).err;
    assert!(err.contains("all of one kind"), "{err}");
    assert!(!place.path("pool.img").exists());
}

#[test]
fn images_are_private_sparse_and_of_the_size_asked_for() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::formatted(64 * MIB);
    let image = std::fs::metadata(place.path("pool.img")).unwrap();
    assert_eq!(image.mode() & 0o777, 0o600);
    assert_eq!(image.len(), 64 * MIB);
    assert!(image.blocks() * 512 < 32 * MIB, "{} blocks", image.blocks());
}

#[test]
fn another_pool_is_not_formatted_over_without_force() {
    let place = Place::formatted(64 * MIB);
    let ran = place.run(&["--json", "zone-format"]).expect(2);
    assert_eq!(ran.json()["error"]["kind"], "occupied");
    assert!(ran.text().contains("GCOS pool"), "{}", ran.text());
    assert!(place.run(&["zone-format", "--force"]).expect(2).err.contains("--yes"));
    let pool = |text: &serde_json::Value| text["pool"]["pool_uuid"].as_str().unwrap().to_owned();
    let before = pool(&place.run(&["--json", "stat"]).expect(0).json());
    let after = pool(&place.run(&["--json", "zone-format", "--force", "--yes"]).expect(0).json());
    assert_ne!(before, after);
}

#[test]
fn foreign_content_is_recognised_and_kept() {
    let place = Place::new(64 * MIB);
    for (offset, magic, name) in [(1080, &b"\x53\xef"[..], "ext4"), (512, b"EFI PART", "GPT")] {
        let mut image = vec![0; (64 * MIB) as usize];
        image[offset..offset + magic.len()].copy_from_slice(magic);
        std::fs::write(place.path("pool.img"), &image).unwrap();
        let err = place.run(&["zone-format"]).expect(2).err;
        assert!(err.contains(name) && err.contains("--force"), "{err}");
        assert_eq!(std::fs::read(place.path("pool.img")).unwrap(), image);
        place.run(&["zone-format", "--force", "--yes"]).expect(0);
        place.run(&["ls"]).expect(0);
    }
}

#[test]
fn a_missing_drive_costs_its_objects_not_the_pool() {
    let place = Place::new(64 * MIB);
    place.configure(&["emulated:a.img", "emulated:b.img"], 64 * MIB);
    place.run(&["zone-format"]).expect(0);
    std::fs::remove_file(place.path("b.img")).unwrap();
    let ran = place.run(&["--json", "stat"]).expect(0);
    assert_eq!(ran.json()["stats"]["drives_lost"], 1);
    assert!(ran.err.contains("drive left out"), "{}", ran.err);
}

#[test]
fn a_memory_pool_is_ready_in_each_process() {
    let place = Place::new(64 * MIB);
    place.configure(&["emulated:ram:64MiB"], 64 * MIB);
    assert_eq!(place.run(&["--json", "stat"]).expect(0).json()["stats"]["objects"], 0);
}

#[test]
fn completions_and_manual_pages_come_from_the_definition() {
    let place = Place::new(64 * MIB);
    assert!(place.run(&["completions", "bash"]).expect(0).text().contains("zone-format"));
    assert!(place.run(&["man"]).expect(0).text().contains(".TH"));
    place.run(&["man", "pages"]).expect(0);
    assert!(place.path("pages/gcos-put.1").exists());
    let help = place.run(&["--help"]).expect(0).text();
    assert!(help.contains("Exit codes:") && !help.contains("quickstart-writer"));
    assert!(place.run(&["--version"]).expect(0).text().starts_with("gcos 0."));
    let usage = place.run(&["--json", "put"]).expect(2).json();
    assert_eq!(usage["error"]["kind"], "usage");
}

#[test]
fn a_pool_is_used_through_interrupts() {
    let place = Place::new(64 * MIB);
    let text = std::fs::read_to_string(place.path("gcos.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["namespace"] = serde_json::json!({"cpu": {"qps": 2, "interrupts": true}});
    std::fs::write(place.path("gcos.json"), config.to_string()).unwrap();
    place.run(&["zone-format"]).expect(0);
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    std::fs::write(place.path("in"), &bytes).unwrap();
    place.run(&["put", "k", "in"]).expect(0);
    assert_eq!(place.run(&["get", "k", "-o", "-"]).expect(0).out, bytes);
    place.run(&["fsck", "--data"]).expect(0);
}
