//! Limits and settings of memory.

use gcos::hw::pci::Sysfs;
use gcos::units;

use super::check::Check;

/// Locked memory that a pool with the default configuration wants: up to 96 MiB of staging that is
/// kept, 32 MiB in flight for each of a few puts and gets at a time, and queues.
const MEMLOCK_BYTES: u64 = 256 << 20;

/// CAP_IPC_LOCK: the limit does not count.
const IPC_LOCK: u32 = 14;

pub(super) fn checks(sysfs: &Sysfs) -> Vec<Check> {
    vec![memlock(sysfs), huge_pages(sysfs)]
}

fn memlock(sysfs: &Sysfs) -> Check {
    let need = units::about(MEMLOCK_BYTES);
    let check = Check::required(
        "memlock",
        format!("memory that drives reach is locked; a default configuration wants {need}"),
    );
    let status = sysfs.text("proc/self/status").unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let capabilities = field("CapEff:").and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    if capabilities.is_some_and(|bits| bits >> IPC_LOCK & 1 == 1) {
        return check.ok("no limit for this process (CAP_IPC_LOCK); check again as the user");
    }
    let limits = sysfs.text("proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    let cure = "put `USER - memlock unlimited` into /etc/security/limits.d/gcos.conf and log in again; \
                for a service, LimitMEMLOCK=infinity; in a container, --ulimit memlock=-1";
    match soft.map(|soft| (soft, soft.parse::<u64>())) {
        Some(("unlimited", _)) => check.ok("unlimited"),
        Some((_, Ok(bytes))) if bytes >= MEMLOCK_BYTES => check.ok(units::about(bytes)),
        Some((_, Ok(bytes))) => check.missing(format!("{} at most", units::about(bytes)), cure),
        _ => check.warn("unknown: /proc/self/limits cannot be read", cure),
    }
}

fn huge_pages(sysfs: &Sysfs) -> Check {
    let check = Check::optional("huge_pages", "large pages make mapping memory for drives faster");
    let setting = sysfs.text("sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let chosen = setting.split(['[', ']']).nth(1).unwrap_or("not there").to_owned();
    let info = sysfs.text("proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|line| line.strip_prefix("HugePages_Total:"));
    let found = format!("transparent: {chosen}; reserved: {}", total.unwrap_or("0").trim());
    if matches!(chosen.as_str(), "always" | "madvise") {
        check.ok(found)
    } else {
        check.warn(found, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
    }
}
