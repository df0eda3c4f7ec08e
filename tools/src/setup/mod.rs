//! Setting a machine up for the userspace driver: what the commands `devices`, `bind`, `unbind` and
//! `doctor` share.

pub(crate) mod check;
mod gpu;
mod libraries;
mod limits;
pub(crate) mod modules;
mod platform;
mod process;
pub(crate) mod user;

use gcos::hw::pci::{BindError, NamesError, Sysfs};

use crate::failure::Failure;
use check::Check;

/// Every check of `gcos doctor`, in the order in which one would mend things.
pub(crate) fn checks(sysfs: &Sysfs) -> Vec<Check> {
    let mut checks = platform::checks(sysfs);
    checks.extend(limits::checks(sysfs));
    checks.extend(gpu::checks(sysfs));
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
