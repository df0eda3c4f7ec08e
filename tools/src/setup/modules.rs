//! Kernel modules: loaded, there to be loaded, or not there.

use gcos::hw::pci::Sysfs;

use super::process;

/// Whether a module file for it is installed for the running kernel. `name` with dashes, as its file
/// is called.
pub(crate) fn is_installed(sysfs: &Sysfs, name: &str) -> bool {
    let Some(release) = sysfs.text("proc/sys/kernel/osrelease") else { return false };
    let file = format!("/{name}.ko");
    ["modules.dep", "modules.builtin"].iter().any(|list| {
        let list = sysfs.text(format!("lib/modules/{release}/{list}")).unwrap_or_default();
        list.lines().any(|line| line.contains(&file))
    })
}

/// Whether it is part of the running kernel. `name` with dashes.
pub(crate) fn is_loaded(sysfs: &Sysfs, name: &str) -> bool {
    sysfs.exists(format!("sys/module/{}", name.replace('-', "_")))
}

/// Whether vfio-pci takes devices.
pub(crate) fn has_vfio_pci(sysfs: &Sysfs) -> bool {
    sysfs.exists("sys/bus/pci/drivers/vfio-pci")
}

/// Runs `modprobe`.
pub(crate) fn load(name: &str) -> Result<(), String> {
    process::run("modprobe", &[name]).map(drop)
}
