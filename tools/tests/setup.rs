//! `devices`, `bind`, `unbind` and `doctor`, as processes on machines made of plain files.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

#[path = "../../crates/hw/tests/machine/mod.rs"]
mod machine;
mod support;

use std::os::unix::fs::{MetadataExt, symlink};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use machine::Machine;
use support::Ran;

const BDF: &str = "0000:c1:00.0";
const OTHER: &str = "0000:c2:00.0";
const NAME: &str = "/dev/libnvm0";

/// A spare drive behind a bridge, and the drive of the system in a group of its own.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.bridge("0000:c0:01.0", Some(12));
    machine.nvme(BDF, 1, Some(12));
    machine.nvme(OTHER, 2, Some(13));
    machine.partition("nvme2n1", 1, "259:33");
    machine.mount("259:33", "/dev/nvme2n1p1", "/");
    machine.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nkv:x:1007:1007::/:/bin/sh\n");
    machine
}

fn command(machine: &Machine, args: &[&str]) -> Command {
    let mut command = Command::new(support::GCOS);
    command.args(args).current_dir(machine.root()).stdin(Stdio::null());
    command.env("GCOS_SYSROOT", machine.root());
    for variable in ["GCOS_STATE_DIR", "GCOS_LOG", "LD_LIBRARY_PATH", "VK_DRIVER_FILES"] {
        command.env_remove(variable);
    }
    command
}

fn gcos(machine: &Machine, args: &[&str]) -> Ran {
    Ran::new(command(machine, args).output().unwrap())
}

fn names(machine: &Machine) -> serde_json::Value {
    let text = std::fs::read(machine.path("var/lib/gcos/names.json")).unwrap();
    serde_json::from_slice::<serde_json::Value>(&text).unwrap()["names"].clone()
}

#[test]
fn a_drive_is_bound_with_a_name_found_by_it_and_given_back() {
    let machine = machine();
    let _kernel = machine.live(usize::MAX);
    let bind = ["bind", BDF, "--as", NAME, "--yes"];
    let said = gcos(&machine, &bind).expect(0).text();
    assert!(said.contains("0000:c1:00.0 is bound to vfio-pci, /dev/vfio/12, and named"), "{said}");
    assert!(machine.is_bound(BDF));
    assert_eq!(names(&machine)[NAME]["address"], BDF);
    assert_eq!(names(&machine)[NAME]["serial"], "SN-0000:c1:00.0");
    let again = gcos(&machine, &["--json", "bind", NAME]).expect(0).json();
    assert_eq!(again["drives"][0]["changed"], false);
    assert_eq!(again["drives"][0]["name"], NAME);
    let listed = gcos(&machine, &["--json", "devices"]).expect(0).json();
    assert_eq!(listed["drives"][0]["bound"], true);
    assert_eq!(listed["drives"][0]["name"], NAME);
    assert_eq!(listed["drives"][0]["identity"]["serial"], "SN-0000:c1:00.0", "from the record");
    let said = gcos(&machine, &["unbind", NAME]).expect(0).text();
    assert!(said.contains("back with the driver nvme; /dev/libnvm0 is forgotten"), "{said}");
    assert!(machine.is_given_back(BDF));
    let said = gcos(&machine, &["unbind", BDF]).expect(0).text();
    assert!(said.contains("(it was before)"), "{said}");
    let unknown = gcos(&machine, &["unbind", NAME]).expect(2).err;
    assert!(unknown.contains("no name is recorded"), "{unknown}");
}

#[test]
fn without_consent_nothing_changes() {
    let machine = machine();
    let ran = gcos(&machine, &["bind", BDF, "--as", NAME]).expect(2);
    assert!(ran.err.contains("no data is erased") && ran.err.contains("--yes"), "{}", ran.err);
    assert!(ran.err.contains("nvme1n1 of 1"), "{}", ran.err);
    assert!(machine.is_given_back(BDF) && !machine.path("var/lib/gcos").exists());
}

#[test]
fn the_drive_of_the_system_is_refused_with_and_without_consent() {
    let machine = machine();
    for args in [&["bind", OTHER][..], &["bind", OTHER, "--yes", "--as", NAME]] {
        let ran = gcos(&machine, args).expect(2);
        assert!(ran.err.contains("the running system is on this drive"), "{}", ran.err);
    }
    assert!(machine.is_given_back(OTHER) && !machine.path("var/lib/gcos").exists());
}

#[test]
fn one_refused_drive_keeps_the_others_of_the_command_as_they_are() {
    let machine = machine();
    gcos(&machine, &["bind", BDF, OTHER, "--yes"]).expect(2);
    assert!(machine.is_given_back(BDF));
}

#[test]
fn a_missing_driver_and_wrong_arguments_are_refused_with_a_way_on() {
    let machine = machine();
    machine.unload("vfio-pci");
    for (args, said) in [
        (&["bind", BDF, "--yes"][..], "modprobe vfio-pci"),
        (&["bind", "nvme0", "--yes"], "expected domain:bus:device.function"),
        (&["bind", "--yes"], "DRIVE"),
        (&["bind", BDF, "--all"], "--all"),
        (&["bind", "/dev/libnvm9", "--yes"], "no name is recorded"),
        (&["bind", BDF, "--yes", "--user", "nobody-here"], "there is no user"),
        (&["bind", BDF, OTHER, "--as", NAME], "--as names one drive"),
        (&["bind", "0000:c0:01.0"], "no NVMe controller (PCI class 060400"),
        (&["unbind", "0000:77:00.0"], "no such PCI function"),
    ] {
        let ran = gcos(&machine, args).expect(2);
        assert!(ran.err.contains(said), "{args:?}: {}", ran.err);
    }
    assert!(machine.is_given_back(BDF));
}

#[test]
fn a_name_that_cannot_be_one_changes_nothing() {
    let machine = machine();
    let _kernel = machine.live(usize::MAX);
    let ran = gcos(&machine, &["bind", BDF, "--yes", "--as", "libnvm0"]).expect(2);
    assert!(ran.err.contains("cannot be a name"), "{}", ran.err);
    assert!(machine.is_given_back(BDF));
}

#[test]
fn a_drive_that_the_driver_refuses_goes_back_and_gets_no_name() {
    let machine = machine();
    machine.write("sys/bus/pci/drivers/vfio-pci/refuses", "");
    let _kernel = machine.live(usize::MAX);
    let ran = gcos(&machine, &["bind", BDF, "--yes", "--as", NAME]).expect(2);
    assert!(ran.err.contains("expected the driver vfio-pci after the probe"), "{}", ran.err);
    assert!(machine.is_given_back(BDF));
    assert_eq!(names(&machine), serde_json::json!({}));
}

#[test]
fn a_group_is_handed_to_a_user_by_number_and_by_name() {
    let machine = machine();
    let _kernel = machine.live(usize::MAX);
    let own = std::fs::metadata(machine.root()).unwrap().uid();
    let number = own.to_string();
    let ran = gcos(&machine, &["bind", BDF, "--yes", "--user", &number]).expect(0);
    assert!(ran.err.contains("memlock unlimited"), "{}", ran.err);
    assert_eq!(std::fs::metadata(machine.path("dev/vfio/12")).unwrap().uid(), own);
    // Only root may give files away.
    if own == 0 {
        gcos(&machine, &["bind", BDF, "--user", "kv"]).expect(0);
        assert_eq!(std::fs::metadata(machine.path("dev/vfio/12")).unwrap().uid(), 1007);
    }
}

#[test]
fn after_a_reboot_all_named_drives_are_bound_again() {
    let machine = machine();
    let third = "0000:c3:00.0";
    machine.nvme(third, 3, Some(14));
    {
        let _kernel = machine.live(usize::MAX);
        gcos(&machine, &["bind", BDF, "--as", NAME, "--yes"]).expect(0);
        gcos(&machine, &["bind", third, "--as", "/dev/libnvm-b", "--yes"]).expect(0);
    }
    for bdf in [BDF, third] {
        for (driver, attribute) in [("vfio-pci", "unbind"), ("", "driver_override")] {
            let path = match attribute {
                "unbind" => machine.path(&format!("sys/bus/pci/drivers/{driver}/unbind")),
                _ => machine.path(&format!("sys/bus/pci/devices/{bdf}/driver_override")),
            };
            let text = if attribute == "unbind" { bdf } else { "\n" };
            machine::effect(machine.root(), &path, text).unwrap();
        }
        let probe = machine.path("sys/bus/pci/drivers_probe");
        machine::effect(machine.root(), &probe, bdf).unwrap();
        assert!(machine.is_given_back(bdf));
    }
    let _kernel = machine.live(usize::MAX);
    gcos(&machine, &["bind", "--all", "--yes"]).expect(0);
    assert!(machine.is_bound(BDF) && machine.is_bound(third));
    // One drive is gone: the others are done all the same.
    machine.remove(&format!("sys/bus/pci/devices/{third}"));
    let ran = gcos(&machine, &["bind", "--all", "--yes"]).expect(1);
    assert!(ran.err.contains("no NVMe drive is now"), "{}", ran.err);
    let said = gcos(&machine, &["unbind", "/dev/libnvm-b"]).expect(0).text();
    assert!(said.contains("is forgotten"), "{said}");
    gcos(&machine, &["bind", "--all", "--yes"]).expect(0);
}

/// Starts a command and kills it when the kernel has stalled in the write numbered `at`.
fn killed_in_write(machine: &Machine, args: &[&str], at: usize) {
    let kernel = machine.live(at);
    let mut child =
        command(machine, args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while kernel.writes() <= at {
        assert!(Instant::now() < end, "no write {at} within 20 s");
        assert!(child.try_wait().unwrap().is_none(), "ended before write {at}");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_killed_bind_or_unbind_is_mended_by_either() {
    let bind = &["bind", BDF, "--as", NAME, "--yes"][..];
    for first in [bind, &["unbind", BDF]] {
        for at in 0..2 {
            for again in [bind, &["unbind", BDF]] {
                let machine = machine();
                if first[0] == "unbind" {
                    let _kernel = machine.live(usize::MAX);
                    gcos(&machine, bind).expect(0);
                }
                killed_in_write(&machine, first, at);
                let _kernel = machine.live(usize::MAX);
                gcos(&machine, again).expect(0);
                let bound = again[0] == "bind";
                assert_eq!(machine.is_bound(BDF), bound, "{first:?} {at} {again:?}");
                assert_eq!(machine.is_given_back(BDF), !bound);
                assert_eq!(names(&machine)[NAME].is_object(), bound);
            }
        }
    }
}

#[test]
fn a_drive_in_use_is_not_given_back() {
    let machine = machine();
    let _kernel = machine.live(usize::MAX);
    gcos(&machine, &["bind", BDF, "--as", NAME, "--yes"]).expect(0);
    machine.process(4711, "server", "/dev/vfio/12");
    let ran = gcos(&machine, &["unbind", NAME]).expect(2);
    assert!(ran.err.contains("in use by process 4711 (server)"), "{}", ran.err);
    assert!(machine.is_bound(BDF));
    assert!(names(&machine)[NAME].is_object(), "the name stays with the drive");
    let listed = gcos(&machine, &["devices"]).expect(0).text();
    assert!(listed.contains("in use by process 4711 (server)"), "{listed}");
}

#[test]
fn devices_says_what_is_fit_and_why_the_rest_is_not() {
    let machine = machine();
    let text = gcos(&machine, &["devices"]).expect(0).text();
    for part in [
        "Fast Drive 9000 [144d:a80a]",
        "Gen4 x4",
        "live, 41 °C",
        "nvme1n1: 1.00 GiB, blocks of 512",
        "IOMMU group 12 also holds 0000:c0:01.0 (pcieport)",
        "nvme2n1p1 is mounted at /",
        "not fit: the running system is on this drive",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let drives = gcos(&machine, &["--json", "devices"]).expect(0).json()["drives"].clone();
    assert_eq!((&drives[0]["fit"], &drives[1]["fit"]), (&true.into(), &false.into()));
    assert_eq!(drives[0]["address"], BDF);
    assert_eq!(drives[0]["vendor"], "Samsung");
    assert_eq!(drives[0]["numa_node"], 1);
    assert_eq!(drives[0]["namespaces"][0]["bytes"], 1 << 30);
    assert_eq!(drives[1]["namespaces"][0]["uses"][0]["use"], "mounted");
    let none = Machine::new();
    assert!(gcos(&none, &["devices"]).expect(0).text().contains("There is no NVMe drive"));
}

#[test]
fn a_moved_drive_is_said_by_devices() {
    let machine = machine();
    {
        let _kernel = machine.live(usize::MAX);
        gcos(&machine, &["bind", BDF, "--as", NAME, "--yes"]).expect(0);
        gcos(&machine, &["unbind", NAME]).expect(0);
        gcos(&machine, &["bind", BDF, "--as", NAME, "--yes"]).expect(0);
    }
    machine.remove(&format!("sys/bus/pci/devices/{BDF}"));
    let lost = gcos(&machine, &["--json", "devices"]).expect(0).json()["lost_names"].clone();
    assert_eq!(lost[0]["name"], NAME);
    assert!(lost[0]["problem"].as_str().unwrap().contains("no NVMe drive is now"), "{lost}");
}

/// What a good machine has, for `doctor`.
fn healthy() -> Machine {
    let machine = machine();
    machine.write("proc/sys/kernel/osrelease", "6.12.1\n");
    machine.write("proc/cpuinfo", "vendor_id\t: GenuineIntel\n");
    machine.write("proc/cmdline", "quiet intel_iommu=on\n");
    machine.write("proc/interrupts", " 24: 0 IR-PCI-MSIX-0000:c1:00.0 nvme1q0\n");
    machine.write("proc/self/limits", "Max locked memory         unlimited unlimited bytes\n");
    machine.write("proc/self/status", "CapEff:\t0000000000000000\n");
    machine.write("proc/sys/kernel/io_uring_disabled", "0\n");
    machine.write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
    machine.folder("sys/class/iommu/dmar0");
    machine.folder("sys/module/vfio_iommu_type1");
    machine
}

fn check(machine: &Machine, id: &str) -> serde_json::Value {
    let ran = gcos(machine, &["--json", "doctor"]);
    let json = ran.json();
    let usable = json["usable"].as_bool().unwrap();
    assert_eq!(ran.code, i32::from(!usable));
    let checks = json["checks"].as_array().unwrap();
    let mut check = checks.iter().find(|check| check["id"] == id).unwrap().clone();
    check["usable"] = usable.into();
    check
}

#[test]
fn a_machine_that_has_everything_is_usable_without_a_gpu() {
    let machine = healthy();
    let ran = gcos(&machine, &["doctor"]).expect(0);
    assert!(ran.text().contains("The userspace driver can be used here."), "{}", ran.text());
    assert!(ran.text().contains("Block devices and files can be used through io_uring."));
    let json = gcos(&machine, &["--json", "doctor"]).expect(0).json();
    for check in json["checks"].as_array().unwrap() {
        assert!(check["required"] == false || check["status"] == "ok", "{check}");
    }
    assert_eq!(check(&machine, "cuda")["status"], "missing");
    assert_eq!(check(&machine, "gpu_driver")["required"], false);
}

#[test]
fn each_thing_that_is_missing_is_named_with_its_cure() {
    type Break = fn(&Machine);
    let cases: [(&str, &str, &str, bool, Break); 12] = [
        ("kernel", "warn", "6.1 or newer", true, |m| m.write("proc/sys/kernel/osrelease", "5.4.0")),
        ("iommu", "missing", "intel_iommu=on", false, |m| m.remove("sys/kernel/iommu_groups")),
        ("interrupt_remapping", "missing", "x2APIC", false, |m| {
            m.write("proc/interrupts", " 24: 0 PCI-MSI-524288-edge nvme0q0");
        }),
        ("interrupt_remapping", "warn", "trust", true, |m| {
            m.write("proc/interrupts", "");
            m.write("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y\n");
        }),
        ("vfio_pci", "missing", "CONFIG_VFIO_PCI", false, |m| m.unload("vfio-pci")),
        ("vfio_pci", "warn", "modprobe vfio-pci", true, |m| {
            m.unload("vfio-pci");
            m.write("lib/modules/6.12.1/modules.dep", "kernel/drivers/vfio/pci/vfio-pci.ko.xz:\n");
        }),
        ("vfio_container", "missing", "modprobe", false, |m| m.remove("dev/vfio/vfio")),
        ("vfio_container", "missing", "TYPE1", false, |m| m.remove("sys/module/vfio_iommu_type1")),
        ("noiommu", "missing", "does not drive", false, |m| {
            m.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
        }),
        ("memlock", "missing", "limits.d", false, |m| {
            m.write("proc/self/limits", "Max locked memory         8388608 8388608 bytes\n");
        }),
        ("huge_pages", "warn", "madvise", true, |m| {
            m.write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
        }),
        ("io_uring", "missing", "io_uring_disabled=0", true, |m| {
            m.write("proc/sys/kernel/io_uring_disabled", "2\n");
        }),
    ];
    for (id, status, cure, usable, break_it) in cases {
        let machine = healthy();
        assert_eq!(check(&machine, id)["status"], "ok", "{id} before");
        break_it(&machine);
        let check = check(&machine, id);
        assert_eq!(
            (check["status"].as_str(), check["usable"].as_bool()),
            (Some(status), Some(usable))
        );
        assert!(check["cure"].as_str().unwrap().contains(cure), "{check}");
    }
}

#[test]
fn groups_that_vfio_made_up_are_no_iommu() {
    let machine = healthy();
    for group in [12, 13] {
        machine.write(&format!("sys/kernel/iommu_groups/{group}/name"), "vfio-noiommu\n");
    }
    assert_eq!(check(&machine, "iommu")["status"], "missing");
}

#[test]
fn root_is_told_that_the_limit_of_the_user_counts() {
    let machine = healthy();
    machine.write("proc/self/limits", "Max locked memory         65536 65536 bytes\n");
    machine.write("proc/self/status", "Name: gcos\nCapEff:\t000001ffffffffff\n");
    let check = check(&machine, "memlock");
    assert_eq!(check["status"], "ok");
    assert!(check["found"].as_str().unwrap().contains("check again as the user"), "{check}");
}

#[test]
fn who_may_ring_doorbells_from_a_gpu_is_told() {
    let machine = healthy();
    let before = check(&machine, "gpu_doorbells");
    assert_eq!(before["status"], "missing");
    assert!(before["cure"].as_str().unwrap().contains("PeerMappingOverride=1"), "{before}");
    assert_eq!(before["usable"], true);
    machine.write("proc/driver/nvidia/params", "RegistryDwords: \"PeerMappingOverride=1\"\n");
    assert_eq!(check(&machine, "gpu_doorbells")["status"], "ok");
    machine.write("proc/driver/nvidia/params", "RegistryDwords: \"\"\n");
    assert_eq!(check(&machine, "gpu_doorbells")["status"], "missing");
    machine.write("proc/self/status", "Name: gcos\nCapEff:\t0000000000200000\n");
    assert_eq!(check(&machine, "gpu_doorbells")["status"], "ok");
    assert_eq!(check(&machine, "gdrcopy")["status"], "missing");
    machine.write("dev/gdrdrv", "");
    machine.write("usr/lib/x86_64-linux-gnu/libgdrapi.so.2", "");
    assert_eq!(check(&machine, "gdrcopy")["status"], "ok");
}

#[test]
fn libraries_and_records_of_a_gpu_machine_are_found_where_they_are() {
    let machine = healthy();
    let nvrm = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release\n";
    machine.write("proc/driver/nvidia/version", nvrm);
    machine.write("usr/lib/x86_64-linux-gnu/libcuda.so.1", "");
    machine.write("opt/vk/libvulkan.so.1", "");
    machine.write("etc/ld.so.cache", "x\0libvulkan.so.1\0/opt/vk/libvulkan.so.1\0");
    assert_eq!(check(&machine, "gpu_driver")["found"], "580.159.04");
    assert_eq!(check(&machine, "cuda")["status"], "ok");
    assert!(check(&machine, "vulkan")["found"].as_str().unwrap().contains("no ICD file"));
    machine.write("usr/share/vulkan/icd.d/nvidia_icd.json", "{}");
    assert_eq!(check(&machine, "vulkan")["status"], "ok");
    machine.remove("usr/share/vulkan/icd.d/nvidia_icd.json");
    machine.write("elsewhere/nvidia_icd.json", "{}");
    let mut command = command(&machine, &["--json", "doctor"]);
    command.env("VK_DRIVER_FILES", "/elsewhere/nvidia_icd.json");
    let text = Ran::new(command.output().unwrap()).text();
    assert!(text.contains("/elsewhere/nvidia_icd.json"), "{text}");
    assert!(check(&machine, "udev")["cure"].as_str().unwrap().contains("ID_FS_USAGE=filesystem"));
    machine.write("run/udev/data/b259:1", "E:ID_FS_USAGE=filesystem\n");
    assert_eq!(check(&machine, "udev")["status"], "ok");
    machine.folder("sys/module/nvidia_fs");
    assert_eq!(check(&machine, "nvidia_fs")["status"], "ok");
    machine.folder("usr/local/cuda/targets");
    machine.write("usr/local/cuda/targets/libcufile.so.0", "");
    symlink("targets", machine.path("usr/local/cuda/lib64")).unwrap();
    assert_eq!(check(&machine, "cufile")["status"], "ok");
}
