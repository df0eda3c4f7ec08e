//! What a user does with real drives, through the command: find them, take them, keep objects on
//! them, give them back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use gcos_hw::pci::PciAddress;
use gcos_nvme::Completion;
use serde_json::{Value, json};

use crate::child::Child;
use crate::command::{gcos, gcos_as, killed, path, sh};
use crate::drive::{Drive, pattern};
use crate::report::{Report, Trouble, ensure, failed};
use crate::sysfs;

/// The configuration that is shipped.
const EXAMPLE: &str = include_str!("../../../../../../gcos.json.example");

/// Bytes of each drive that the pool takes.
const CAPACITY: u64 = 128 << 20;

/// Objects that stay, by length.
const LENGTHS: [usize; 3] = [1, 300_001, 12 << 20];

/// Commands of a kind that are killed, spread over the time that one takes.
const KILLS: u32 = 5;

/// How long the kernel may take to have a drive again.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn run(report: &mut Report) {
    report.case("the drives are listed with their driver", listed);
    report.case("doctor finds the machine fit", || gcos(&["doctor"])?.expect(0).map(drop));
    report.case("a drive that is mounted is not taken", mounted);
    report.case("drives are taken by name, twice without harm", taken);
    report.case("a bind that was killed can be done again", bind_killed);
    report.case("a drive that holds something is formatted only by force", formatted);
    report.case("objects are put, listed and fetched over four drives", objects);
    report.case("the pool is whole by fsck", || gcos(&["fsck", "--data"])?.expect(0).map(drop));
    report.case("a trace is replayed without a wrong byte", replayed);
    report.case("a put that was killed leaves a whole pool", put_killed);
    report.case("a user who was given the drives fetches objects", user);
    report.case("a drive in use is not given back", in_use);
    report.case("a short bench runs", || {
        let args =
            ["bench", "--path", "emulated:ram:64MiB", "--size", "64KiB", "--seconds", "0.05"];
        gcos(&args)?.expect(0).map(drop)
    });
    report.case("drives that are given back are the kernel's again", given_back);
    report.case("what is taken again, by address, still holds the objects", taken_again);
}

fn name(index: usize) -> String {
    format!("/dev/libnvm{index}")
}

fn drives() -> Result<Vec<PciAddress>, Trouble> {
    let drives = sysfs::controllers()?;
    ensure(drives.len() == 4, || format!("not four drives: {drives:?}"))?;
    Ok(drives)
}

fn listed() -> Result<(), Trouble> {
    let ran = gcos(&["devices"])?.expect(0)?;
    drives()?.iter().try_fold(ran, |ran, drive| ran.says(&drive.to_string()))?;
    gcos(&["--json", "devices"])?.expect(0)?.json().map(drop)
}

fn mounted() -> Result<(), Trouble> {
    let drive = drives()?[0];
    let node = node(&drive)?;
    sh(&format!("mke2fs /dev/{node} && mount -t ext4 /dev/{node} /mnt"))?;
    fs::write("/mnt/kept", "kept")?;
    let address = drive.to_string();
    let refused = gcos(&["bind", &address, "--as", &name(0), "--yes"])?.expect(2)?.says("/mnt");
    let with = sysfs::driver(&drive);
    let kept = fs::read_to_string("/mnt/kept")?;
    sh("umount /mnt")?;
    refused?;
    ensure(with.as_deref() == Some("nvme"), || format!("it is with {with:?}"))?;
    ensure(kept == "kept", || "the file changed".into())
}

/// The kernel's name of the first namespace of a drive.
fn node(drive: &PciAddress) -> Result<String, Trouble> {
    for controller in fs::read_dir(sysfs::folder(drive).join("nvme"))? {
        for entry in fs::read_dir(controller?.path())? {
            let entry = entry?.file_name().to_string_lossy().into_owned();
            if entry.ends_with("n1") && entry.starts_with("nvme") && !entry.contains('c') {
                return Ok(entry);
            }
        }
    }
    failed(format!("{drive} has no block device"))
}

fn bind(index: usize, drive: &PciAddress) -> Result<(), Trouble> {
    gcos(&["bind", &drive.to_string(), "--as", &name(index), "--yes"])?.expect(0)?;
    let with = sysfs::driver(drive);
    ensure(with.as_deref() == Some("vfio-pci"), || format!("{drive} is with {with:?}"))
}

fn taken() -> Result<(), Trouble> {
    for round in 0..2 {
        for (index, drive) in drives()?.iter().enumerate() {
            bind(index, drive)?;
            let node = format!("/dev/vfio/{}", sysfs::group(drive)?);
            ensure(Path::new(&node).exists(), || format!("round {round}: no {node}"))?;
        }
    }
    let ran = gcos(&["devices"])?.expect(0)?;
    (0..4).try_fold(ran, |ran, index| ran.says(&name(index))).map(drop)
}

fn bind_killed() -> Result<(), Trouble> {
    let drive = drives()?[3];
    let address = drive.to_string();
    let args = ["bind", &address, "--as", &name(3), "--yes"];
    let start = Instant::now();
    gcos(&["unbind", &address])?.expect(0)?;
    gcos(&args)?.expect(0)?;
    let whole = start.elapsed();
    let mut in_the_middle = 0;
    for step in 0..8 {
        gcos(&["unbind", &address])?.expect(0)?;
        if killed(&args, whole * step / 8)? {
            in_the_middle += 1;
        }
        bind(3, &drive)?;
    }
    ensure(in_the_middle > 0, || "every bind ended before its kill".into())
}

/// Writes the shipped configuration with these paths.
fn configure(paths: &[String]) -> Result<(), Trouble> {
    let mut config: Value = serde_json::from_str(EXAMPLE)?;
    config["disk"]["number"] = json!(paths.len());
    config["disk"]["paths"] = json!(paths);
    config["disk"]["capacity_bytes"] = json!(CAPACITY);
    let file = path("gcos.json");
    fs::write(&file, config.to_string())?;
    Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o644))?)
}

fn formatted() -> Result<(), Trouble> {
    configure(&(0..4).map(name).collect::<Vec<_>>())?;
    // The first drive had a file system.
    gcos(&["zone-format", "--yes"])?.expect(2)?.says("--force")?;
    gcos(&["zone-format", "--force", "--yes"])?.expect(0).map(drop)
}

fn objects() -> Result<(), Trouble> {
    for (index, len) in LENGTHS.into_iter().enumerate() {
        fs::write(path("in"), pattern(index as u64, len))?;
        gcos(&["put", &format!("kept/{index}"), "in"])?.expect(0)?;
    }
    let ran = gcos(&["ls", "kept/"])?.expect(0)?;
    (0..LENGTHS.len()).try_fold(ran, |ran, index| ran.says(&format!("kept/{index}")))?;
    gcos(&["get", "absent"])?.expect(1)?;
    kept()
}

/// Checks the objects that stay.
fn kept() -> Result<(), Trouble> {
    for (index, len) in LENGTHS.into_iter().enumerate() {
        let got = gcos(&["get", &format!("kept/{index}")])?.expect(0)?.out;
        ensure(got == pattern(index as u64, len), || format!("object {index} has other bytes"))?;
    }
    Ok(())
}

fn replayed() -> Result<(), Trouble> {
    // Conversations: each request has the blocks of an earlier one and some of its own.
    let mut lines = String::new();
    let mut next = 0u64;
    let mut conversations = vec![Vec::new(); 5];
    for turn in 0..40 {
        let blocks: &mut Vec<u64> = &mut conversations[turn * 7 % 5];
        blocks.extend(next..next + 3);
        next += 3;
        lines.push_str(&json!({ "timestamp": turn, "hash_ids": blocks }).to_string());
        lines.push('\n');
    }
    fs::write(path("trace.jsonl"), lines)?;
    let args = ["--json", "replay", "trace.jsonl", "--block-bytes", "64KiB", "--threads", "2"];
    let summary = gcos(&args)?.expect(0)?.json()?;
    ensure(summary["mismatches"] == 0 && summary["hits"].as_u64() > Some(100), || {
        format!("unexpected: {summary}")
    })
}

fn put_killed() -> Result<(), Trouble> {
    fs::write(path("in"), pattern(99, 12 << 20))?;
    let args = ["put", "victim", "in", "--replace"];
    let start = Instant::now();
    gcos(&args)?.expect(0)?;
    let whole = start.elapsed();
    let mut in_the_middle = 0;
    for step in 1..KILLS {
        if killed(&args, whole * step / KILLS)? {
            in_the_middle += 1;
        }
        let got = gcos(&["get", "victim"])?.expect(0)?.out;
        ensure(got == pattern(99, 12 << 20), || format!("kill {step}: other bytes"))?;
    }
    ensure(in_the_middle > 0, || "every put ended before its kill".into())?;
    gcos(&["fsck", "--data"])?.expect(0).map(drop)
}

fn user() -> Result<(), Trouble> {
    for drive in drives()? {
        gcos(&["bind", &drive.to_string(), "--user", "user", "--yes"])?.expect(0)?;
    }
    let got = gcos_as("user", "get kept/1")?.expect(0)?.out;
    ensure(got == pattern(1, LENGTHS[1]), || "the user got other bytes".into())
}

/// A process that has the first drive open until it is killed.
pub(crate) fn hold() -> Result<(), Trouble> {
    let _drive = Drive::open(drives()?[0], Completion::Polled)?;
    println!("running");
    thread::sleep(Duration::from_secs(600));
    Ok(())
}

fn in_use() -> Result<(), Trouble> {
    let drive = drives()?[0];
    let holder = Child::start("hold")?;
    let held = gcos(&["get", "kept/0"])?;
    let unbind = gcos(&["unbind", &drive.to_string()])?;
    let with = sysfs::driver(&drive);
    ensure(holder.kill()?, || "the holder ended by itself".into())?;
    // The pool may go on without the drive, but then says so.
    let said = held.err.contains(&name(0));
    ensure(held.code != Some(0) || said, || format!("two have the drive: {held:?}"))?;
    unbind.expect(2)?;
    ensure(with.as_deref() == Some("vfio-pci"), || "it was given back".into())
}

fn given_back() -> Result<(), Trouble> {
    for index in 0..4 {
        gcos(&["unbind", &name(index)])?.expect(0)?;
    }
    let start = Instant::now();
    for drive in drives()? {
        while sysfs::driver(&drive).as_deref() != Some("nvme") || node(&drive).is_err() {
            ensure(start.elapsed() < PATIENCE, || format!("the kernel does not have {drive}"))?;
            thread::sleep(Duration::from_millis(20));
        }
        let node = node(&drive)?;
        sh(&format!("dd if=/dev/{node} of=/dev/null bs=1M count=1"))?;
    }
    Ok(())
}

fn taken_again() -> Result<(), Trouble> {
    let drives = drives()?;
    for drive in &drives {
        gcos(&["bind", &drive.to_string(), "--yes"])?.expect(0)?;
    }
    // In another order, too: the pool knows its drives.
    configure(&drives.iter().rev().map(PciAddress::to_string).collect::<Vec<_>>())?;
    kept()?;
    gcos(&["fsck", "--data"])?.expect(0).map(drop)
}
