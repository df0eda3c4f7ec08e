//! In words, why there is no io_uring.

use std::fs;
use std::io;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, opcode};

/// Time for a request that does nothing.
const TRIAL: Duration = Duration::from_secs(2);

/// Why the kernel sets up no ring.
pub(super) fn setup(error: &io::Error) -> String {
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    words(error, disabled.trim())
}

/// `disabled` is the setting kernel.io_uring_disabled, "" where the kernel has none.
fn words(error: &io::Error, disabled: &str) -> String {
    match (error.raw_os_error(), disabled) {
        (Some(libc::ENOSYS), _) => {
            "this kernel has no io_uring, or a seccomp filter hides it (ENOSYS); Linux 5.11 or later \
             has it"
                .to_owned()
        }
        (Some(libc::EPERM), "2") => {
            "io_uring is turned off on this machine (sysctl kernel.io_uring_disabled is 2); set it to 0"
                .to_owned()
        }
        (Some(libc::EPERM), "1") => {
            "io_uring is for privileged processes alone on this machine (sysctl \
             kernel.io_uring_disabled is 1); set it to 0, or add the user to the group of \
             kernel.io_uring_group"
                .to_owned()
        }
        (Some(libc::EPERM | libc::EACCES), _) => {
            "io_uring is forbidden to this process (EPERM): the seccomp filter of a container runtime \
             or a security module; allow io_uring_setup, io_uring_enter and io_uring_register there"
                .to_owned()
        }
        (Some(libc::ENOMEM), _) => {
            "no memory for an io_uring (ENOMEM): kernels before 5.12 count it as locked memory; raise \
             the limit (ulimit -l, LimitMEMLOCK)"
                .to_owned()
        }
        _ => format!("the kernel sets up no io_uring: {error}"),
    }
}

/// What is needed and this kernel lacks.
pub(super) fn missing(ring: &IoUring) -> Result<(), String> {
    let parameters = ring.params();
    if !parameters.is_feature_ext_arg() || !parameters.is_feature_nodrop() {
        return Err(
            "this kernel's io_uring has no waits with a time limit; Linux 5.11 or later has"
                .to_owned(),
        );
    }
    let mut probe = Probe::new();
    let needed = [
        ("read", opcode::Read::CODE),
        ("write", opcode::Write::CODE),
        ("readv", opcode::Readv::CODE),
        ("writev", opcode::Writev::CODE),
        ("fsync", opcode::Fsync::CODE),
        ("cancel", opcode::AsyncCancel::CODE),
    ];
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| format!("the kernel does not say what its io_uring can do: {error}"))?;
    match needed.iter().find(|(_, code)| !probe.is_supported(*code)) {
        Some((name, _)) => Err(format!("this kernel's io_uring does not know {name}")),
        None => Ok(()),
    }
}

/// Whether a ring that was set up works, too: a filter may forbid its use alone.
pub(super) fn tried(ring: &mut IoUring) -> Result<(), String> {
    let nothing = opcode::Nop::new().build();
    // SAFETY: it points at nothing.
    let pushed = unsafe { ring.submission().push(&nothing) };
    let time = Timespec::from(TRIAL);
    let entered = ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time));
    if let Err(error) = entered
        && !matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME))
    {
        return Err(setup(&error));
    }
    match ring.completion().next() {
        Some(answer) if pushed.is_ok() && answer.result() == 0 => Ok(()),
        _ => Err(format!("the io_uring does not answer within {TRIAL:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_why_and_what_to_do() {
        let cases = [
            (libc::ENOSYS, "", "no io_uring"),
            (libc::EPERM, "2", "kernel.io_uring_disabled is 2"),
            (libc::EPERM, "1", "kernel.io_uring_group"),
            (libc::EPERM, "0", "seccomp"),
            (libc::EPERM, "", "seccomp"),
            (libc::ENOMEM, "0", "LimitMEMLOCK"),
            (libc::EMFILE, "0", "Too many open files"),
        ];
        for (errno, disabled, part) in cases {
            let text = words(&io::Error::from_raw_os_error(errno), disabled);
            assert!(text.contains(part), "{text}");
        }
    }
}
