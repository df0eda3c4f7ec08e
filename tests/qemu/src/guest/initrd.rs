//! What the guest boots into: busybox, VFIO's modules, our programs.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use super::cpio::Cpio;
use crate::tools::Tools;

/// The kernel's modules in the order in which they depend on each other. Its NVMe driver is no
/// module of this kernel, nor are the file systems.
const MODULES: &[(&str, &str)] = &[
    ("kernel/virt/lib", "irqbypass.ko"),
    ("kernel/drivers/vfio", "vfio.ko"),
    ("kernel/drivers/vfio", "vfio_virqfd.ko"),
    ("kernel/drivers/vfio", "vfio_iommu_type1.ko"),
    ("kernel/drivers/vfio/pci", "vfio-pci-core.ko"),
    ("kernel/drivers/vfio/pci", "vfio-pci.ko"),
];

/// Our programs in the guest: the scenarios and the command.
const PROGRAMS: &[&str] = &["guest", "gcos"];

const FOLDERS: &[&str] =
    &["bin", "dev", "etc", "home", "mnt", "modules", "proc", "root", "run", "sys", "tmp", "var"];

/// Builds the archive. Programs come from the folder that `$GCOS_GUEST_PROGRAMS` names.
///
/// # Errors
/// A message that names what is missing.
pub(super) fn build(tools: &Tools) -> Result<Vec<u8>, String> {
    let mut archive = Cpio::default();
    for folder in FOLDERS {
        archive.folder(folder);
    }
    archive.file("init", 0o755, include_bytes!("init.sh"));
    archive.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\n",
    );
    archive.file("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\n");
    archive.file("bin/busybox", 0o755, &read(&tools.busybox())?);
    archive.link("bin/sh", "busybox");
    let modules = tools.modules()?;
    for (folder, name) in MODULES {
        archive.file(&format!("modules/{name}"), 0o644, &read(&modules.join(folder).join(name))?);
    }
    let order: Vec<_> = MODULES.iter().map(|(_, name)| *name).collect();
    archive.file("modules/order", 0o644, order.join("\n").as_bytes());
    let programs = programs()?;
    for name in PROGRAMS {
        archive.file(&format!("bin/{name}"), 0o755, &read(&programs.join(name))?);
    }
    Ok(archive.finish())
}

fn programs() -> Result<PathBuf, String> {
    let folder = env::var_os("GCOS_GUEST_PROGRAMS");
    folder.map(PathBuf::from).ok_or_else(|| {
        "GCOS_GUEST_PROGRAMS is not set; tests/qemu/run builds the guest's programs and sets it"
            .to_owned()
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}; run tests/qemu/run", path.display()))
}
