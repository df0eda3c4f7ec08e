//! Setting a machine up for the userspace driver: what the commands `devices`, `bind`, `unbind` and
//! `doctor` share.

pub(crate) mod check;
mod gpu;
mod kernel_path;
mod libraries;
mod limits;
pub(crate) mod modules;
mod platform;
mod process;
pub(crate) mod user;

use gcos::hw::pci::{BindError, NamesError, Sysfs};
use gcos::{Config, ConfigError};

use crate::failure::Failure;
use check::{Check, Section};

/// Every check of `gcos doctor`, in the order in which one would mend things.
/// Where there is a configuration, also of the block devices and files that it names.
pub(crate) fn checks(sysfs: &Sysfs, config: Result<&Config, &ConfigError>) -> Vec<Check> {
    let mut checks = platform::checks(sysfs);
    checks.extend(limits::checks(sysfs));
    checks.extend(gpu::checks(sysfs).into_iter().map(|check| check.within(Section::Gpu)));
    let kernel = kernel_path::checks(sysfs, config);
    checks.extend(kernel.into_iter().map(|check| check.within(Section::KernelPath)));
    checks
}

impl From<NamesError> for Failure {
    fn from(error: NamesError) -> Self {
        let kind = match error {
            NamesError::Unknown { .. } | NamesError::Invalid { .. } | NamesError::Taken { .. } => {
                "usage"
            }
            NamesError::Io { .. } | NamesError::Damaged { .. } | NamesError::Locked { .. } => "io",
            _ => "device",
        };
        Self::chain(kind, &error)
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        Self::chain("device", &error)
    }
}
