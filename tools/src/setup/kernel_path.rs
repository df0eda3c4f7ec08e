//! Block devices and files, through the kernel: io_uring, direct I/O, cuFile.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gcos::cuda::cufile::{CuFile, UdevGap};
use gcos::hw::kernel::{Direct, KernelError, Ring, RingOptions, Target, TargetOptions};
use gcos::hw::pci::Sysfs;
use gcos::status::message_of;
use gcos::{Config, ConfigError, units};

use super::check::Check;
use super::libraries;

pub(super) fn checks(sysfs: &Sysfs, config: Result<&Config, &ConfigError>) -> Vec<Check> {
    let files = Files::of(config);
    let mut checks = vec![io_uring(sysfs)];
    if sysfs.is_machine() {
        checks.push(files.drives());
    }
    checks.extend([cufile(sysfs), nvidia_fs(sysfs), udev(sysfs, &files)]);
    checks
}

fn io_uring(sysfs: &Sysfs) -> Check {
    let check = Check::optional(
        "io_uring",
        "the best way to drives that stay with the kernel; without it threads do the same with \
         preadv2 and pwritev2",
    );
    let cure = "sysctl kernel.io_uring_disabled=0; a container's seccomp profile may forbid it too";
    let setting = sysfs.text("proc/sys/kernel/io_uring_disabled");
    let tried = sysfs.is_machine().then(try_io_uring);
    match (tried, setting.as_deref()) {
        (Some(Ok(())), _) => check.ok("a ring was set up"),
        (Some(Err(why)), Some(value @ ("1" | "2"))) => {
            check.missing(format!("{why} (kernel.io_uring_disabled is {value})"), cure)
        }
        (Some(Err(why)), _) => check.missing(why, cure),
        (None, Some("0")) => check.ok("allowed"),
        (None, Some("1")) => check.warn("allowed for CAP_SYS_ADMIN and one group only", cure),
        (None, Some(value)) => {
            check.missing(format!("forbidden (io_uring_disabled is {value})"), cure)
        }
        (None, None) => check.ok("the kernel has no switch for it"),
    }
}

/// Sets a ring up on a file made for it.
fn try_io_uring() -> Result<(), String> {
    let fail = |what: &str, error: &dyn std::fmt::Display| format!("not tried, {what}: {error}");
    let file = tempfile::NamedTempFile::new().map_err(|e| fail("no temporary file", &e))?;
    file.as_file().set_len(4096).map_err(|e| fail("no temporary file", &e))?;
    let options = TargetOptions { direct: Direct::Never, read_only: false };
    let target = Target::open(file.path(), &options).map_err(|e| fail("no temporary file", &e))?;
    Ring::open(target, RingOptions { depth: 8, ..RingOptions::default() }).map(drop)
}

/// Block devices and files of the configuration, opened for a look where that can be.
struct Files {
    /// Why none are known.
    unknown: Option<Unknown>,
    direct: bool,
    opened: Vec<(PathBuf, Result<Arc<Target>, KernelError>)>,
}

enum Unknown {
    /// There is no configuration.
    NotThere,
    /// It cannot be used, for this reason.
    Unusable(String),
}

impl Unknown {
    fn of(error: &ConfigError) -> Self {
        match error {
            ConfigError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Self::NotThere
            }
            error => Self::Unusable(message_of(error)),
        }
    }
}

impl Files {
    fn of(config: Result<&Config, &ConfigError>) -> Self {
        let unknown = config.err().map(Unknown::of);
        let direct = config.is_ok_and(|config| config.kernel_path.use_direct_io);
        let options = TargetOptions {
            direct: if direct { Direct::Require } else { Direct::Never },
            read_only: true,
        };
        let files = config.map(Config::kernel_files).unwrap_or_default();
        let open = |file: PathBuf| (file.clone(), Target::open(&file, &options));
        Self { unknown, direct, opened: files.into_iter().map(open).collect() }
    }

    /// What each of them is, and whether it can be driven as the configuration says.
    fn drives(&self) -> Check {
        let check = Check::optional(
            "kernel_drives",
            "block devices and files of disk.paths and fallback.path, opened as the configuration says",
        );
        match &self.unknown {
            Some(Unknown::NotThere) => {
                let found = "no configuration is there; name one with --config to have its drives looked at";
                return check.ok(found);
            }
            Some(Unknown::Unusable(why)) => return check.warn(why, "gcos config check"),
            None if self.opened.is_empty() => {
                return check.ok("nothing in the configuration goes through the kernel");
            }
            None => {}
        }
        let bad = self.opened.iter().filter(|(_, opened)| opened.is_err()).count();
        let lines = self.opened.iter().map(|(path, opened)| match opened {
            Ok(target) => describe(target),
            Err(error) => named(path, error),
        });
        let found = lines.collect::<Vec<_>>().join("; ");
        if bad == 0 {
            return check.ok(found);
        }
        let no_direct = |(_, opened): &(_, Result<_, KernelError>)| {
            matches!(opened, Err(KernelError::NoDirect { .. }))
        };
        let cure = if self.direct && self.opened.iter().any(no_direct) {
            "where there is no direct I/O: kernel_path.use_direct_io false, or a file on ext4, XFS or \
             btrfs; `gcos zone-format` makes files that are not there"
        } else {
            "`gcos zone-format` makes files that are not there; what is in use, its user must let go of"
        };
        check.warn(found, cure)
    }
}

fn describe(target: &Target) -> String {
    let kind = if target.is_block_device() { "block device" } else { "file" };
    let on = match target.file_system() {
        "" => String::new(),
        system => format!(" on {system}"),
    };
    let direct = if target.is_direct() { "direct I/O" } else { "page cache" };
    format!(
        "{}: {kind}{on}, {}, blocks of {}, {direct}",
        target.path().display(),
        units::about(target.capacity()),
        target.lba_bytes()
    )
}

/// An error, beginning with the path.
fn named(path: &Path, error: &KernelError) -> String {
    let (name, text) = (path.display().to_string(), message_of(error));
    if text.starts_with(&name) { text } else { format!("{name}: {text}") }
}

fn cufile(sysfs: &Sysfs) -> Check {
    let check = Check::optional(
        "cufile",
        "GPUDirect Storage, between GPUs and drives that stay with the kernel; without it the host \
         copies",
    );
    let cure = "install libcufile (part of CUDA; on PyPI nvidia-cufile)";
    if !sysfs.is_machine() {
        return match libraries::find(sysfs, "libcufile.so.0") {
            Some(path) => check.ok(format!("found {}", path.display())),
            None => check.missing("libcufile.so.0 was not found", cure),
        };
    }
    match CuFile::open() {
        Ok(library) => {
            let version = library.version().unwrap_or_else(|| "of an unknown version".to_owned());
            let (path, mode) = (library.path().display(), library.mode().name());
            check.ok(format!("{path}, {version}, {mode}"))
        }
        Err(error) => check.missing(message_of(&error), cure),
    }
}

fn nvidia_fs(sysfs: &Sysfs) -> Check {
    let check = Check::optional(
        "nvidia_fs",
        "without it cuFile runs in compatibility mode: it copies through host memory",
    );
    if sysfs.exists("sys/module/nvidia_fs") || sysfs.exists("proc/driver/nvidia-fs") {
        check.ok("loaded")
    } else {
        check.missing("the module nvidia-fs is not loaded", "install nvidia-fs, modprobe nvidia-fs")
    }
}

fn udev(sysfs: &Sysfs, files: &Files) -> Check {
    let check = Check::optional(
        "udev",
        "cuFile asks udev's records for file systems; without them registering a file fails (5027)",
    );
    let cure = "mount the host's /run/udev, or write /run/udev/data/bMAJOR:MINOR of the file system's \
                device with the lines E:ID_FS_TYPE=ext4 (its type) and E:ID_FS_USAGE=filesystem";
    let targets = files.opened.iter().filter_map(|(_, opened)| opened.as_ref().ok());
    let gaps =
        targets.filter_map(|t| Some(format!("{}: {}", t.path().display(), UdevGap::of(t.fd())?)));
    let gaps: Vec<_> = gaps.collect();
    if sysfs.is_machine() && !gaps.is_empty() {
        return check.missing(gaps.join("; "), cure);
    }
    let records = sysfs.names("run/udev/data");
    let blocks = records.iter().filter(|name| name.starts_with('b')).count();
    if blocks > 0 {
        return check.ok(format!("{blocks} records of block devices"));
    }
    check.missing("/run/udev/data has no record of a block device, as in most containers", cure)
}
