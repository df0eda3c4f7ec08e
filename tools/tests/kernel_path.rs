//! Pools on plain files and block devices, through the kernel: which way is taken, who may decide, and
//! what is refused.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod support;

use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{GCOS, Place, Ran};

const MIB: u64 = 1 << 20;
const BYTES: u64 = 64 * MIB;

/// A place on the file system of the build: a temporary folder may be in memory, and whether that knows
/// direct I/O depends on the kernel.
fn place() -> Place {
    let place = Place { folder: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() };
    configure(&place, "gcos.json", &["pool.img"], "");
    place
}

/// Blocks of 4096 bytes suit every drive below the folder.
fn configure(place: &Place, name: &str, paths: &[&str], more: &str) {
    let text = format!(
        r#"{{
            "disk": {{ "number": {}, "paths": {paths:?}, "capacity_bytes": {BYTES}, "block_size": 4096 }},
            "zone_chunk_size_kb": {{ "sb": 64, "meta": 64, "data": 1024 }}{more}
        }}"#,
        paths.len()
    );
    std::fs::write(place.path(name), text).unwrap();
}

/// Runs with variables of the environment.
fn with(place: &Place, variables: &[(&str, &str)], args: &[&str]) -> Ran {
    Ran::new(place.command(args).envs(variables.iter().copied()).output().unwrap())
}

fn payload(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31 + seed * 7) % 251) as u8).collect()
}

/// Puts `k0`, `k1` …, of different lengths.
fn fill(place: &Place, variables: &[(&str, &str)], count: usize) {
    for index in 0..count {
        std::fs::write(place.path("in"), payload(index, length(index))).unwrap();
        with(place, variables, &["put", &format!("k{index}"), "in"]).expect(0);
    }
}

fn length(index: usize) -> usize {
    [1, 4096, 70_001, 1_500_000][index % 4] + index
}

fn check(place: &Place, variables: &[(&str, &str)], config: &str, count: usize) {
    for index in 0..count {
        let key = format!("k{index}");
        let ran = with(place, variables, &["--config", config, "get", &key]).expect(0);
        assert!(ran.out == payload(index, length(index)), "{key} differs");
    }
}

/// The way of the first drive and its reason, as `gcos stat` says.
fn way(place: &Place, variables: &[(&str, &str)]) -> (String, String) {
    let json = with(place, variables, &["--json", "stat"]).expect(0).json();
    let text = |name: &str| json["drives"][0][name].as_str().unwrap().to_owned();
    (text("way"), text("reason"))
}

#[test]
fn a_pool_on_a_plain_file_works_through_every_way() {
    for (variables, name) in [
        (&[][..], ""),
        (&[("GCOS_FORCE_PATH", "posix")], "POSIX"),
        (&[("GCOS_FORCE_PATH", "posix"), ("GCOS_USE_DIRECT_IO", "0")], "POSIX"),
        (&[("GCOS_USE_DIRECT_IO", "false")], ""),
    ] {
        let place = place();
        with(&place, variables, &["zone-format"]).expect(0);
        fill(&place, variables, 8);
        check(&place, variables, "gcos.json", 8);
        with(&place, variables, &["fsck", "--data"]).expect(0);
        with(&place, variables, &["scrub", "--rate", "1GiB"]).expect(0);
        let (found, reason) = way(&place, variables);
        assert!(name.is_empty() || found == name, "{found}: {reason}");
        assert!(found == "POSIX" || found == "io_uring", "{found}: {reason}");
        let direct = variables.iter().all(|(name, _)| *name != "GCOS_USE_DIRECT_IO");
        let words = if direct { "direct I/O" } else { "page cache (GCOS_USE_DIRECT_IO is off)" };
        assert!(reason.contains("a plain file") && reason.contains(words), "{reason}");
        if name == "POSIX" {
            assert!(reason.contains("GCOS_FORCE_PATH forces POSIX"), "{reason}");
        }
        let text = with(&place, variables, &["stat"]).expect(0).text();
        assert!(text.contains(&format!("pool.img: {found} (a plain file")), "{text}");
        let log = with(&place, variables, &["-v", "ls"]).expect(0).err;
        let lines: Vec<_> = log.lines().filter(|line| line.contains("drive opened")).collect();
        assert!(lines.len() == 1 && lines[0].contains(&found), "{log}");
    }
}

#[test]
fn io_uring_is_forced_or_refused_with_the_reason() {
    let place = place();
    with(&place, &[], &["zone-format"]).expect(0);
    let forced = with(&place, &[("GCOS_FORCE_PATH", "io_uring")], &["--json", "stat"]);
    match way(&place, &[]).0.as_str() {
        "io_uring" => {
            let json = forced.expect(0).json();
            assert_eq!(json["drives"][0]["way"], "io_uring");
            let reason = json["drives"][0]["reason"].as_str().unwrap();
            assert!(reason.contains("GCOS_FORCE_PATH forces io_uring"), "{reason}");
        }
        _ => {
            let text = forced.expect(2).text();
            assert!(text.contains("GCOS_FORCE_PATH forces io_uring, which cannot"), "{text}");
        }
    }
}

#[test]
fn the_ways_understand_each_others_pools() {
    let place = place();
    configure(&place, "emulated.json", &["emulated:pool.img"], "");
    let ways: [(&str, &[(&str, &str)]); 4] = [
        ("emulated.json", &[]),
        ("gcos.json", &[]),
        ("gcos.json", &[("GCOS_FORCE_PATH", "posix")]),
        ("gcos.json", &[("GCOS_USE_DIRECT_IO", "0")]),
    ];
    with(&place, &[], &["--config", "emulated.json", "zone-format"]).expect(0);
    for (round, (config, variables)) in ways.iter().cycle().take(8).enumerate() {
        std::fs::write(place.path("in"), payload(round, length(round))).unwrap();
        let key = format!("k{round}");
        with(&place, variables, &["--config", config, "put", &key, "in"]).expect(0);
        let (next, variables) = ways[(round + 1) % ways.len()];
        check(&place, variables, next, round + 1);
        with(&place, variables, &["--config", next, "fsck", "--data"]).expect(0);
    }
}

#[test]
fn files_and_emulated_drives_share_a_pool() {
    let place = place();
    configure(&place, "gcos.json", &["emulated:a.img", "b.img", "emulated:c.img"], "");
    with(&place, &[], &["zone-format"]).expect(0);
    fill(&place, &[], 12);
    let json = with(&place, &[], &["--json", "stat"]).expect(0).json();
    let drives = json["drives"].as_array().unwrap();
    let paths: Vec<_> = drives.iter().map(|drive| drive["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["emulated:a.img", "b.img", "emulated:c.img"], "in the order of disk.paths");
    assert_eq!(drives[0]["way"], "NVMe driver");
    with(&place, &[], &["fsck", "--data"]).expect(0);
    check(&place, &[], "gcos.json", 12);
    // One that is missing costs its objects, whichever kind it is.
    std::fs::rename(place.path("b.img"), place.path("away.img")).unwrap();
    let json = with(&place, &[], &["--json", "stat"]).expect(0).json();
    assert_eq!(json["stats"]["drives_lost"], 1);
    std::fs::rename(place.path("away.img"), place.path("b.img")).unwrap();
    check(&place, &[], "gcos.json", 12);
}

#[test]
fn files_are_made_private_and_with_room_for_all_their_bytes() {
    let place = place();
    let mut command = Command::new("sh");
    command.args(["-c", r#"umask 0; exec "$0" zone-format"#, GCOS]);
    command.current_dir(place.folder.path()).env_remove("GCOS_CONFIG");
    Ran::new(command.output().unwrap()).expect(0);
    let file = std::fs::metadata(place.path("pool.img")).unwrap();
    assert_eq!(file.permissions().mode() & 0o7777, 0o600);
    assert_eq!(file.len(), BYTES);
    assert!(file.blocks() * 512 >= BYTES, "{} blocks", file.blocks());
}

#[test]
fn values_of_the_environment_that_cannot_be_are_named() {
    let place = place();
    for (name, value) in [
        ("GCOS_USE_CUFILE", "yes"),
        ("GCOS_USE_DIRECT_IO", "2"),
        ("GCOS_FORCE_PATH", "uring"),
        ("GCOS_FORCE_PATH", "cufile"),
    ] {
        let ran = with(&place, &[(name, value)], &["--json", "zone-format"]).expect(2);
        let error = ran.json()["error"].clone();
        assert_eq!(
            (&error["kind"], &error["problems"][0]["path"]),
            (&"config".into(), &name.into())
        );
        assert!(!place.path("pool.img").exists());
    }
    let shown = with(&place, &[("GCOS_FORCE_PATH", "posix")], &["--json", "config", "check"]);
    let config = shown.expect(0).json()["config"].clone();
    assert_eq!(config["kernel_path"]["force"], "posix");
    assert_eq!(config["overrides"][0]["variable"], "GCOS_FORCE_PATH");
}

#[test]
fn a_way_is_not_forced_on_drives_that_do_not_go_through_the_kernel() {
    let place = place();
    configure(
        &place,
        "gcos.json",
        &["emulated:pool.img"],
        r#", "kernel_path": {"force": "posix"}"#,
    );
    let err = with(&place, &[], &["zone-format"]).expect(2).err;
    assert!(err.contains("kernel_path.force forces posix, and neither"), "{err}");
    assert!(!place.path("pool.img").exists());
}

#[test]
fn what_is_no_file_or_device_of_the_right_size_is_refused() {
    let place = place();
    std::fs::create_dir(place.path("folder")).unwrap();
    configure(&place, "gcos.json", &["folder"], "");
    let err = with(&place, &[], &["zone-format"]).expect(2).err;
    assert!(err.contains("a directory"), "{err}");
    assert!(place.path("folder").is_dir());
    std::fs::write(place.path("short.img"), vec![0; 1 << 20]).unwrap();
    configure(&place, "gcos.json", &["short.img"], "");
    let err = with(&place, &[], &["zone-format"]).expect(2).err;
    assert!(err.contains("1048576 bytes") && err.contains("67108864"), "{err}");
    assert_eq!(std::fs::metadata(place.path("short.img")).unwrap().len(), 1 << 20);
    configure(&place, "gcos.json", &["absent.img"], "");
    let err = with(&place, &[], &["ls"]).expect(2).err;
    assert!(err.contains("no such block device or file"), "{err}");
    configure(&place, "gcos.json", &["no-folder/pool.img"], "");
    assert!(with(&place, &[], &["zone-format"]).expect(2).err.contains("No such file"));
    configure(&place, "gcos.json", &["/dev/null"], "");
    let err = with(&place, &[], &["zone-format"]).expect(2).err;
    assert!(err.contains("character device"), "{err}");
}

#[test]
fn a_pool_in_a_file_that_was_cut_short_is_refused() {
    let place = place();
    with(&place, &[], &["zone-format"]).expect(0);
    let file = std::fs::File::options().write(true).open(place.path("pool.img")).unwrap();
    file.set_len(BYTES / 2).unwrap();
    let err = with(&place, &[], &["ls"]).expect(2).err;
    assert!(err.contains("33554432 bytes"), "{err}");
}

#[test]
fn a_file_in_use_is_refused_whichever_way_has_it() {
    let place = place();
    configure(&place, "emulated.json", &["emulated:pool.img"], "");
    with(&place, &[], &["zone-format"]).expect(0);
    for (holder, other) in
        [("gcos.json", "gcos.json"), ("gcos.json", "emulated.json"), ("emulated.json", "gcos.json")]
    {
        // A put that waits for its bytes does not have the pool open; a slow scrub does.
        std::fs::write(place.path("in"), payload(1, 8 << 20)).unwrap();
        with(&place, &[], &["put", "big", "in"]).expect(0);
        let mut command = place.command(&["--config", holder, "scrub", "--rate", "1MiB"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let refused = |_| {
            let ran = with(&place, &[], &["--config", other, "ls"]);
            (ran.code != 0).then_some(ran)
        };
        let ran = (0..20).find_map(refused);
        child.kill().unwrap();
        child.wait().unwrap();
        let err =
            ran.unwrap_or_else(|| panic!("{other} opened while {holder} had it")).expect(2).err;
        assert!(err.contains("in use"), "{err}");
    }
    with(&place, &[], &["fsck", "--data"]).expect(0);
}

#[test]
fn foreign_content_and_other_pools_need_consent() {
    let place = place();
    let mut image = vec![0; BYTES as usize];
    image[1080..1082].copy_from_slice(b"\x53\xef");
    std::fs::write(place.path("pool.img"), &image).unwrap();
    let err = with(&place, &[], &["zone-format"]).expect(2).err;
    assert!(err.contains("ext4") && err.contains("--force"), "{err}");
    assert!(std::fs::read(place.path("pool.img")).unwrap() == image, "nothing was changed");
    with(&place, &[], &["zone-format", "--force", "--yes"]).expect(0);
    let ran = with(&place, &[], &["--json", "zone-format"]).expect(2);
    assert_eq!(ran.json()["error"]["kind"], "occupied");
}

/// Runs in a mount namespace of its own, in which `small` is a file system of 16 MiB in memory; `None`
/// where this machine lets nobody do that.
fn in_small_file_system(place: &Place, variables: &[(&str, &str)], args: &[&str]) -> Option<Ran> {
    std::fs::create_dir_all(place.path("small")).unwrap();
    let mount = "mount -t tmpfs -o size=16m none small || exit 77; ";
    let list = "code=$?; ls small >&2; exit $code";
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c"]).arg(format!(r#"{mount}"$0" "$@"; {list}"#)).arg(GCOS);
    command.args(args).current_dir(place.folder.path()).envs(variables.iter().copied());
    let ran = Ran::new(command.stdin(Stdio::null()).output().ok()?);
    let refused =
        ran.code == 77 || ran.err.contains("unshare failed") || ran.err.starts_with("unshare:");
    (!refused).then_some(ran)
}

#[test]
fn a_full_disk_is_found_at_format_and_nothing_is_left_behind() {
    let place = place();
    configure(&place, "gcos.json", &["first.img", "small/pool.img"], "");
    let variables = &[("GCOS_USE_DIRECT_IO", "0")];
    let Some(ran) = in_small_file_system(&place, variables, &["zone-format"]) else { return };
    let err = ran.expect(2).err;
    assert!(err.contains("no room for 67108864 bytes") && err.contains("space left"), "{err}");
    assert!(err.lines().all(|line| line != "pool.img"), "{err}");
    assert!(!place.path("first.img").exists(), "what was made before is gone, too");
}

#[test]
fn memory_without_direct_io_is_refused_unless_the_page_cache_is_allowed() {
    let place = place();
    let shm = Path::new("/dev/shm");
    let Ok(folder) = tempfile::tempdir_in(shm) else { return };
    let file = folder.path().join("pool.img").display().to_string();
    configure(&place, "gcos.json", &[&file], "");
    let ran = with(&place, &[], &["zone-format"]);
    // Linux 6.6 and later take O_DIRECT on tmpfs, and go through memory all the same.
    if ran.code != 0 {
        let err = ran.expect(2).err;
        assert!(
            err.contains("kernel_path.use_direct_io asks for it") && err.contains("tmpfs"),
            "{err}"
        );
        assert!(!PathBuf::from(&file).exists(), "the file that was made for it is gone again");
        let forced = with(&place, &[("GCOS_USE_DIRECT_IO", "1")], &["zone-format"]).expect(2).err;
        assert!(forced.contains("GCOS_USE_DIRECT_IO asks for it"), "{forced}");
    }
    let variables = &[("GCOS_USE_DIRECT_IO", "0")];
    with(&place, variables, &["zone-format", "--force", "--yes"]).expect(0);
    fill(&place, variables, 4);
    check(&place, variables, "gcos.json", 4);
}

#[test]
fn doctor_tells_what_the_drives_of_the_configuration_are_and_lack() {
    let place = place();
    let check = |id: &str| {
        let json = with(&place, &[], &["--json", "doctor"]).json();
        let checks = json["checks"].as_array().unwrap();
        checks.iter().find(|check| check["id"] == id).unwrap().clone()
    };
    let missing = check("kernel_drives");
    assert_eq!((&missing["status"], &missing["section"]), (&"warn".into(), &"kernel_path".into()));
    assert!(missing["found"].as_str().unwrap().contains("pool.img"), "{missing}");
    with(&place, &[], &["zone-format"]).expect(0);
    let found = check("kernel_drives");
    assert_eq!(found["status"], "ok");
    let words = found["found"].as_str().unwrap();
    assert!(words.contains("64.0 MiB") && words.contains("direct I/O"), "{words}");
    // What doctor says of io_uring is what the pool then does.
    let ring = check("io_uring")["status"] == "ok";
    assert_eq!(way(&place, &[]).0 == "io_uring", ring);
    configure(&place, "gcos.json", &["."], "");
    let folder = check("kernel_drives");
    assert!(folder["found"].as_str().unwrap().contains("a directory"), "{folder}");
    std::fs::write(place.path("gcos.json"), r#"{"disk": {"paths": []}}"#).unwrap();
    let invalid = check("kernel_drives");
    assert_eq!(
        (&invalid["status"], &invalid["cure"]),
        (&"warn".into(), &"gcos config check".into())
    );
    assert!(invalid["found"].as_str().unwrap().contains("disk.number"), "{invalid}");
    std::fs::remove_file(place.path("gcos.json")).unwrap();
    assert_eq!(check("kernel_drives")["status"], "ok", "no configuration is no fault");
    with(&place, &[], &["--config", "gone.json", "doctor"]).expect(2);
}

/// A block device over a file; `None` where this machine lets nobody make one.
struct Loop(String);

impl Loop {
    fn new(file: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["-f", "--show"]).arg(file).output().ok()?;
        let name = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !name.is_empty()).then_some(Self(name))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _gone = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn a_pool_on_a_block_device_works_and_is_readable_in_the_file_below() {
    let place = place();
    std::fs::File::create(place.path("disk.img")).unwrap().set_len(BYTES).unwrap();
    let Some(device) = Loop::new(&place.path("disk.img")) else { return };
    configure(&place, "gcos.json", &[&device.0], "");
    with(&place, &[], &["zone-format"]).expect(0);
    fill(&place, &[], 8);
    let reason = way(&place, &[]).1;
    assert!(reason.contains("a block device, direct I/O"), "{reason}");
    with(&place, &[("GCOS_FORCE_PATH", "posix")], &["fsck", "--data"]).expect(0);
    // A device in use is refused, whoever has it.
    const O_EXCL: i32 = 0o200;
    let mut how = std::fs::File::options();
    let held = how.read(true).write(true).custom_flags(O_EXCL).open(&device.0).unwrap();
    let err = with(&place, &[], &["ls"]).expect(2).err;
    assert!(err.contains("in use"), "{err}");
    drop(held);
    check(&place, &[], "gcos.json", 8);
    drop(device);
    configure(&place, "gcos.json", &["emulated:disk.img"], "");
    check(&place, &[], "gcos.json", 8);
}

#[test]
fn a_way_may_be_forced_where_the_file_for_spill_alone_goes_through_the_kernel() {
    let place = place();
    let forced = r#", "fallback": {"path": "spill.img", "capacity_bytes": 33554432},
        "kernel_path": {"force": "posix"}"#;
    configure(&place, "gcos.json", &["emulated:a.img"], forced);
    with(&place, &[], &["zone-format"]).expect(0);
    let json = with(&place, &[], &["--json", "stat"]).expect(0).json();
    assert_eq!(json["drives"][1]["way"], "POSIX");
    assert_eq!(json["drives"][1]["name"], json["members"][1]["name"]);
    // And such a file is one of the drives that no other pool may have.
    configure(&place, "other.json", &["spill.img"], "");
    let err = with(&place, &[], &["copy-pool", "gcos.json", "other.json"]).expect(2).err;
    assert!(err.contains("spill.img is in both configurations"), "{err}");
}

#[test]
fn a_format_that_fails_leaves_none_of_the_files_behind_that_it_made() {
    let place = place();
    // Too small for the zones, which shows when all files are there.
    let spill = r#", "fallback": {"path": "spill.img", "capacity_bytes": 4096}"#;
    configure(&place, "gcos.json", &["a.img", "emulated:b.img"], spill);
    std::fs::File::create(place.path("b.img")).unwrap().set_len(BYTES).unwrap();
    let err = with(&place, &[], &["zone-format"]).expect(2).err;
    assert!(err.contains("spill.img"), "{err}");
    let there = ["a.img", "b.img", "spill.img"].map(|name| place.path(name).exists());
    assert_eq!(there, [false, true, false], "the one that was there stays");
}

#[test]
fn rules_for_leaving_a_way_leave_a_healthy_pool_alone() {
    let place = place();
    let rules = r#", "fallback": {"max_errors": 2, "latency_multiple": 50}"#;
    configure(&place, "gcos.json", &["pool.img", "emulated:b.img"], rules);
    with(&place, &[], &["zone-format"]).expect(0);
    fill(&place, &[], 8);
    check(&place, &[], "gcos.json", 8);
    with(&place, &[("GCOS_FORCE_PATH", "posix")], &["fsck", "--data"]).expect(0);
    with(&place, &[], &["scrub", "--rate", "1GiB"]).expect(0);
    assert_eq!(with(&place, &[], &["--json", "stat"]).expect(0).json()["stats"]["drives_lost"], 0);
}

#[test]
fn a_file_for_spill_is_made_with_the_pool_and_takes_objects_while_a_drive_is_away() {
    let place = place();
    let spill = r#", "fallback": {"path": "spill.img", "capacity_bytes": 33554432}"#;
    configure(&place, "gcos.json", &["a.img", "b.img"], spill);
    with(&place, &[], &["zone-format"]).expect(0);
    assert_eq!(std::fs::metadata(place.path("spill.img")).unwrap().len(), 32 * MIB);
    fill(&place, &[], 4);
    let json = with(&place, &[], &["--json", "stat"]).expect(0).json();
    assert_eq!(json["drives"][2]["path"], "spill.img");
    let members = json["members"].as_array().unwrap();
    let marks: Vec<_> = members.iter().map(|member| member["spill"] == true).collect();
    assert_eq!(marks, [false, false, true]);
    assert_eq!((&json["stats"]["spilled"], &members[2]["used_bytes"]), (&0.into(), &0.into()));
    let doctor = with(&place, &[], &["--json", "doctor"]).json();
    let found = |check: &&serde_json::Value| check["id"] == "kernel_drives";
    let found = doctor["checks"].as_array().unwrap().iter().find(found).unwrap();
    assert!(found["found"].as_str().unwrap().contains("spill.img"), "{found}");
    with(&place, &[], &["fsck", "--data"]).expect(0);
    check(&place, &[], "gcos.json", 4);
    // Without it, too: it is a drive that is missing.
    std::fs::rename(place.path("spill.img"), place.path("away.img")).unwrap();
    assert!(with(&place, &[], &["ls"]).expect(0).err.contains("no spill"));
    check(&place, &[], "gcos.json", 4);
}
