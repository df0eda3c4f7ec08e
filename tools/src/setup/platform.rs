//! Kernel, IOMMU and VFIO.

use std::fs::OpenOptions;
use std::io::ErrorKind;

use gcos::hw::pci::{Drive, Sysfs};

use super::check::Check;
use super::modules;

pub(super) fn checks(sysfs: &Sysfs) -> Vec<Check> {
    vec![
        kernel(sysfs),
        iommu(sysfs),
        interrupt_remapping(sysfs),
        vfio_pci(sysfs),
        vfio_container(sysfs),
        noiommu(sysfs),
        drives(sysfs),
    ]
}

fn kernel(sysfs: &Sysfs) -> Check {
    let check = Check::required("kernel", "VFIO as GCOS uses it was seen on Linux 6.1 to 7.2");
    let Some(release) = sysfs.text("proc/sys/kernel/osrelease") else {
        return check.warn("unknown: /proc cannot be read", "mount /proc");
    };
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (6, 1) {
        check.ok(release)
    } else {
        check.warn(release, "nothing is known to be wrong with it; 6.1 or newer is what was tried")
    }
}

fn iommu(sysfs: &Sysfs) -> Check {
    let check =
        Check::required("iommu", "it keeps drives from writing anywhere but where they may");
    let made_up = |group: &String| {
        let name = sysfs.text(format!("sys/kernel/iommu_groups/{group}/name"));
        name.as_deref() == Some("vfio-noiommu")
    };
    let groups = sysfs.names("sys/kernel/iommu_groups");
    let groups = groups.iter().filter(|group| !made_up(group)).count();
    let units = sysfs.names("sys/class/iommu");
    if groups > 0 {
        return check.ok(format!("{groups} groups, units: {}", list(&units)));
    }
    let (cpu, switch) = match cpu(sysfs) {
        Cpu::Intel => ("VT-d", "intel_iommu=on"),
        Cpu::Amd => ("AMD-Vi (IOMMU, SVM)", "amd_iommu=on"),
        Cpu::Other => ("VT-d, AMD-Vi or SMMU", "intel_iommu=on on Intel"),
    };
    let line = sysfs.text("proc/cmdline").unwrap_or_default();
    let told: Vec<_> = line.split(' ').filter(|word| word.contains("iommu")).collect();
    let told = if told.is_empty() {
        "nothing of an IOMMU on the kernel's command line".to_owned()
    } else {
        format!("the kernel's command line says {}", told.join(" "))
    };
    let cure = format!(
        "switch {cpu} on in the firmware setup, put {switch} on the kernel's command line \
         (GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub), and reboot; in a virtual machine, \
         give it a virtual IOMMU"
    );
    check.missing(format!("no IOMMU groups; units: {}; {told}", list(&units)), cure)
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[derive(PartialEq, Eq)]
enum Cpu {
    Intel,
    Amd,
    Other,
}

fn cpu(sysfs: &Sysfs) -> Cpu {
    let info = sysfs.text("proc/cpuinfo").unwrap_or_default();
    match info.lines().find(|line| line.starts_with("vendor_id")) {
        Some(line) if line.contains("GenuineIntel") => Cpu::Intel,
        Some(line) if line.contains("AuthenticAMD") => Cpu::Amd,
        _ => Cpu::Other,
    }
}

fn interrupt_remapping(sysfs: &Sysfs) -> Check {
    let check = Check::required(
        "interrupt_remapping",
        "without it a drive could raise any interrupt, and VFIO refuses it (EPERM)",
    );
    let interrupts = sysfs.text("proc/interrupts").unwrap_or_default();
    // The names of the chips: IR-PCI-MSIX, IR-IO-APIC.
    if interrupts.split_whitespace().any(|word| word.starts_with("IR-")) {
        return check.ok("interrupts are remapped");
    }
    if cpu(sysfs) == Cpu::Other {
        return check.ok("not a matter of this processor's interrupts as far as can be seen");
    }
    let cure = "switch interrupt remapping (with VT-d also x2APIC) on in the firmware setup and \
                take intremap=off off the kernel's command line";
    if is_on(sysfs, "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts") {
        let found = "interrupts are not remapped; allow_unsafe_interrupts lets VFIO go on";
        return check.warn(found, format!("trust every such device, or {cure}"));
    }
    check.missing("no interrupt is remapped (/proc/interrupts names no IR- chip)", cure)
}

fn is_on(sysfs: &Sysfs, parameter: &str) -> bool {
    matches!(sysfs.text(parameter).as_deref(), Some("Y" | "1"))
}

fn vfio_pci(sysfs: &Sysfs) -> Check {
    let check = Check::required("vfio_pci", "the kernel's driver that hands a drive to a process");
    if modules::has_vfio_pci(sysfs) {
        check.ok("loaded")
    } else if modules::is_installed(sysfs, "vfio-pci") {
        let cure = "modprobe vfio-pci; at every start: echo vfio-pci > \
                    /etc/modules-load.d/gcos.conf (`gcos bind` as root loads it too)";
        check.warn("installed, not loaded", cure)
    } else {
        let cure = "install the modules of the running kernel (a package such as \
                    linux-modules-extra), or build it with CONFIG_VFIO_PCI; in a container, load it \
                    on the host";
        check.missing("not loaded, and no module file found", cure)
    }
}

fn vfio_container(sysfs: &Sysfs) -> Check {
    const NODE: &str = "/dev/vfio/vfio";
    let check = Check::required("vfio_container", "the node through which memory is mapped");
    let type1 = modules::is_loaded(sysfs, "vfio-iommu-type1");
    let type1_can_be = type1 || modules::is_installed(sysfs, "vfio-iommu-type1");
    match OpenOptions::new().read(true).write(true).open(sysfs.path(NODE)) {
        Ok(_) if type1 => check.ok(format!("{NODE} can be opened, type 1 is loaded")),
        Ok(_) if type1_can_be => {
            check.ok(format!("{NODE} can be opened; the kernel loads type 1 when it is needed"))
        }
        Ok(_) => check.missing(
            format!("{NODE} can be opened, but there is no vfio_iommu_type1"),
            "a kernel with CONFIG_VFIO_IOMMU_TYPE1; in a container, load it on the host",
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => check.missing(
            format!("{NODE} cannot be opened by this user"),
            format!("chmod 666 {NODE} (udev's default; the groups beside it protect the devices)"),
        ),
        Err(_) if !modules::has_vfio_pci(sysfs) && modules::is_installed(sysfs, "vfio-pci") => {
            check.warn(format!("no {NODE} yet"), "modprobe vfio-pci")
        }
        Err(error) => check.missing(
            format!("{NODE}: {error}"),
            format!("modprobe vfio-pci; in a container, pass {NODE} and the group's node through"),
        ),
    }
}

fn noiommu(sysfs: &Sysfs) -> Check {
    let check = Check::required("noiommu", "VFIO without an IOMMU lets a drive write anywhere");
    if is_on(sysfs, "sys/module/vfio/parameters/enable_unsafe_noiommu_mode") {
        let cure = "echo N > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode, and take it out \
                    of /etc/modprobe.d; GCOS does not drive a drive so";
        return check.missing("enable_unsafe_noiommu_mode is on, which is not acceptable", cure);
    }
    check.ok("off")
}

fn drives(sysfs: &Sysfs) -> Check {
    let check = Check::optional("drives", "`gcos devices` lists them with all reasons");
    let all = Drive::list(sysfs);
    let bound = all.iter().filter(|drive| drive.is_bound()).count();
    let fit =
        all.iter().filter(|drive| !drive.is_bound() && drive.obstacles(&[]).is_empty()).count();
    let found = format!("{} NVMe, {bound} bound to vfio-pci, {fit} could be bound", all.len());
    if bound + fit > 0 {
        check.ok(found)
    } else {
        check.missing(found, "`gcos devices` says of each drive why not")
    }
}
