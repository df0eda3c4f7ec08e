//! Kernel modules: loaded, there to be loaded, or not there.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gcos::hw::pci::Sysfs;

/// Longest time that loading a module may take.
const DEADLINE: Duration = Duration::from_secs(30);

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
    let mut command = Command::new("modprobe");
    command.arg(name).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("cannot run modprobe: {error}"))?;
    let end = Instant::now() + DEADLINE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("modprobe ended with {status}")),
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            Ok(None) => {
                // It may be beyond reach inside the kernel; waiting for it would not end either.
                let _gone = child.kill();
                return Err(format!("modprobe has not ended within {} s", DEADLINE.as_secs()));
            }
            Err(error) => return Err(format!("cannot wait for modprobe: {error}")),
        }
    }
}
