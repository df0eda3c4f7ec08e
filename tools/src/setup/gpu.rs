//! GPU and Vulkan. On this machine GPUs are opened and tried out; of the rest, and on a machine that
//! tests made of files, it is said what is found.

mod live;

use std::env;
use std::path::PathBuf;

use gcos::hw::pci::Sysfs;

use super::check::Check;
use super::libraries;

pub(super) fn checks(sysfs: &Sysfs) -> Vec<Check> {
    let mut checks = vec![driver(sysfs), cuda(sysfs), vulkan(sysfs), gdrcopy(sysfs)];
    if sysfs.is_machine() {
        checks.extend(live::checks(sysfs));
    }
    checks.push(doorbells(sysfs));
    checks
}

fn gdrcopy(sysfs: &Sysfs) -> Check {
    let check = Check::optional("gdrcopy", "another way to GPU memory, where Vulkan gives none");
    let library = libraries::find(sysfs, "libgdrapi.so.2");
    match (sysfs.exists("dev/gdrdrv"), library) {
        (true, Some(path)) => check.ok(format!("found /dev/gdrdrv and {}", path.display())),
        (true, None) => check.missing("found /dev/gdrdrv, no libgdrapi.so.2", "none is needed"),
        (false, _) => check.missing("no /dev/gdrdrv", "none is needed where Vulkan works"),
    }
}

/// Bit of CAP_SYS_ADMIN.
const CAP_SYS_ADMIN: u32 = 21;

/// Whether the GPU may ring a drive's doorbells itself. Without a drive only the conditions are known.
fn doorbells(sysfs: &Sysfs) -> Check {
    let check = Check::optional(
        "gpu_doorbells",
        "with them a GPU rings a drive's doorbells itself; without, a host thread passes them on. Whether \
         the driver agrees is known with a drive",
    );
    let params = sysfs.text("proc/driver/nvidia/params").unwrap_or_default();
    if params.contains("PeerMappingOverride=1") {
        return check.ok("the NVIDIA driver has PeerMappingOverride=1");
    }
    let status = sysfs.text("proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    match capabilities.is_some_and(|bits| bits & (1 << CAP_SYS_ADMIN) != 0) {
        true => check.ok("this process has CAP_SYS_ADMIN"),
        false => check.missing(
            "neither CAP_SYS_ADMIN nor PeerMappingOverride=1",
            "options nvidia NVreg_RegistryDwords=\"PeerMappingOverride=1\" in /etc/modprobe.d, or run as root",
        ),
    }
}

fn driver(sysfs: &Sysfs) -> Check {
    let check = Check::optional("gpu_driver", "NVIDIA's kernel driver, for KV cache in GPU memory");
    let text = sysfs.text("proc/driver/nvidia/version").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let is_version = |word: &&str| {
        word.contains('.') && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    };
    match line.split_whitespace().find(is_version) {
        Some(version) => check.ok(version),
        None => check.missing("no /proc/driver/nvidia/version", "install the NVIDIA driver"),
    }
}

fn library(sysfs: &Sysfs, check: Check, name: &str, cure: &str) -> Check {
    match libraries::find(sysfs, name) {
        Some(path) => check.ok(format!("found {}", path.display())),
        None => check.missing(format!("{name} was not found"), cure),
    }
}

fn cuda(sysfs: &Sysfs) -> Check {
    let check = Check::optional("cuda", "the CUDA driver library, loaded when a GPU is used");
    library(sysfs, check, "libcuda.so.1", "install the NVIDIA driver's user libraries")
}

fn vulkan(sysfs: &Sysfs) -> Check {
    let check = Check::optional(
        "vulkan",
        "through Vulkan GCOS maps GPU memory for the drive without a kernel module",
    );
    let loader = libraries::find(sysfs, "libvulkan.so.1");
    let told =
        ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].map(|name| env::var_os(name).unwrap_or_default());
    let told: Vec<PathBuf> = told.iter().flat_map(|paths| env::split_paths(paths)).collect();
    let folders = ["/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/usr/share/vulkan/icd.d"];
    let usual = folders.iter().flat_map(|folder| {
        sysfs.names(folder).into_iter().map(move |name| PathBuf::from(folder).join(name))
    });
    let mut files = told.into_iter().chain(usual);
    let icd = files.find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("nvidia") && name.ends_with(".json") && sysfs.exists(path)
    });
    match (loader, icd) {
        (Some(loader), Some(icd)) => {
            check.ok(format!("found {} and {}", loader.display(), icd.display()))
        }
        (None, icd) => {
            let icd =
                icd.map_or("no ICD file either".to_owned(), |p| format!("found {}", p.display()));
            check.missing(
                format!("libvulkan.so.1 was not found; {icd}"),
                "install the Vulkan loader (Debian: libvulkan1)",
            )
        }
        (Some(loader), None) => check.missing(
            format!("found {}, no ICD file of NVIDIA", loader.display()),
            "install the driver's nvidia_icd.json, or set VK_DRIVER_FILES to it; in a container, \
             NVIDIA_DRIVER_CAPABILITIES must include graphics",
        ),
    }
}
