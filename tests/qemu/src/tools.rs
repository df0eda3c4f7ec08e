//! Where QEMU and the guest's parts are: what `tests/qemu/fetch` unpacked.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// QEMU, a guest kernel and busybox, in a folder laid out like a Debian system.
#[derive(Debug, Clone)]
pub struct Tools {
    root: PathBuf,
}

impl Tools {
    /// The tools that `$GCOS_QEMU` names: the folder given to `tests/qemu/fetch`.
    ///
    /// # Errors
    /// A message that says what to do, when it is not set or holds no QEMU.
    pub fn find() -> Result<Self, String> {
        let folder = env::var_os("GCOS_QEMU")
            .ok_or("GCOS_QEMU is not set; tests/qemu/run fetches QEMU and sets it")?;
        let root = Path::new(&folder).join("root");
        let qemu = root.join("usr/bin/qemu-system-x86_64");
        if !qemu.is_file() {
            return Err(format!("{} is missing; run tests/qemu/run", qemu.display()));
        }
        Ok(Self { root })
    }

    /// A program of the folder, run by the folder's own loader and libraries.
    fn program(&self, name: &str) -> Command {
        let libraries =
            [self.root.join("lib/x86_64-linux-gnu"), self.root.join("usr/lib/x86_64-linux-gnu")];
        let path: Vec<_> = libraries.iter().map(|path| path.display().to_string()).collect();
        let mut command = Command::new(libraries[0].join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(path.join(":"));
        command.arg(self.root.join("usr/bin").join(name));
        command.env("QEMU_MODULE_DIR", libraries[1].join("qemu"));
        command
    }

    /// `qemu-system-x86_64`, without devices or a configuration of its own.
    #[must_use]
    pub fn qemu(&self) -> Command {
        let mut command = self.program("qemu-system-x86_64");
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(self.root.join(folder));
        }
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command
    }

    /// `qemu-img`.
    #[must_use]
    pub fn qemu_img(&self) -> Command {
        self.program("qemu-img")
    }

    /// The guest kernel.
    ///
    /// # Errors
    /// A message when there is none.
    pub fn kernel(&self) -> Result<PathBuf, String> {
        self.only("boot", "vmlinuz-")
    }

    /// The folder of the guest kernel's modules (`lib/modules/VERSION`).
    ///
    /// # Errors
    /// A message when there is none.
    pub fn modules(&self) -> Result<PathBuf, String> {
        self.only("lib/modules", "")
    }

    /// busybox, linked statically.
    #[must_use]
    pub fn busybox(&self) -> PathBuf {
        self.root.join("bin/busybox")
    }

    /// The one entry of a folder whose name starts so.
    fn only(&self, folder: &str, prefix: &str) -> Result<PathBuf, String> {
        let folder = self.root.join(folder);
        let entries = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)))
            .ok_or_else(|| format!("{}: nothing named {prefix}*", folder.display()))
    }
}
