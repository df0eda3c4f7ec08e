//! What to do about an error of the system, by call and error number.

use std::io;

use crate::pci::PciAddress;

const NO_VFIO: &str = "load the driver with `modprobe vfio-pci`, and switch the IOMMU on if it is off \
                       (`gcos doctor` tells)";

/// Opening /dev/vfio/vfio.
pub(super) fn container(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            format!("/dev/vfio/vfio is missing or has no driver; {NO_VFIO}")
        }
        Some(libc::EACCES | libc::EPERM) => {
            "/dev/vfio/vfio cannot be opened by this user; its mode should be 0666 (udev's default), \
             and containers need it passed through"
                .into()
        }
        Some(libc::EMFILE | libc::ENFILE) => "no file descriptor is left; raise `ulimit -n`".into(),
        _ => format!("/dev/vfio/vfio cannot be used with type 1 (v2) of the IOMMU interface; {NO_VFIO}"),
    }
}

/// Opening /dev/vfio/GROUP.
pub(super) fn group(error: &io::Error, device: PciAddress, group: u32) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => {
            format!("/dev/vfio/{group} is missing: bind the drive with `gcos bind {device}`")
        }
        Some(libc::EACCES | libc::EPERM) => format!(
            "this user may not open /dev/vfio/{group}; `gcos bind {device} --user USER` as root gives \
             the group to a user"
        ),
        Some(libc::EBUSY) => format!(
            "another process has the group, or another address space of this one; it must close it \
             first (`fuser /dev/vfio/{group}` as root names the process)"
        ),
        _ => "see the kernel's log (dmesg)".into(),
    }
}

/// What EPERM from the IOMMU means.
const NO_REMAPPING: &str = "the platform does not remap interrupts, so a drive could raise any \
    interrupt: switch interrupt remapping (VT-d, x2APIC) on in the firmware, or, where every device is \
    trusted, set vfio_iommu_type1.allow_unsafe_interrupts=1; if it does remap them, firmware keeps \
    memory of its own mapped for the drive, and the kernel's log (dmesg) says so";

/// Putting a group into a container.
pub(super) fn join(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => format!(
            "a device of the group is with another driver, or another process has it through iommufd; \
             or {NO_REMAPPING}"
        ),
        _ => iommu(error),
    }
}

/// Choosing the IOMMU of a container, or asking for its address space.
pub(super) fn iommu(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => NO_REMAPPING.into(),
        Some(libc::EBUSY) => "the group is in another container or in use by another process".into(),
        Some(libc::EINVAL) => "the group's IOMMU does not fit the address space of the drives that are \
            open already: open it in a process of its own; or firmware keeps memory of its own mapped \
            for the drive, and the kernel's log (dmesg) says so"
            .into(),
        Some(libc::ENODEV | libc::ENOTTY) => "the kernel has no type 1 IOMMU backend loaded: `modprobe \
            vfio_iommu_type1`"
            .into(),
        Some(libc::ENOMEM) => "the kernel has no memory for it, or the limit of locked memory is \
            reached; raise `ulimit -l`"
            .into(),
        _ => "see the kernel's log (dmesg)".into(),
    }
}

/// Resetting a device.
pub(super) fn reset(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => {
            "the kernel has the drive locked, to take it back or to reset a neighbour; try again"
                .into()
        }
        _ => "cut the drive's power and start it again if it does not come back".into(),
    }
}

/// Opening a device of a group.
pub(super) fn device(error: &io::Error, device: PciAddress) -> String {
    match error.raw_os_error() {
        Some(libc::ENODEV) => format!("it is not bound to vfio-pci: `gcos bind {device}`"),
        Some(libc::EBUSY) => "another process has it open".into(),
        Some(libc::EAGAIN) => "the kernel has the drive or a neighbour locked; try again".into(),
        Some(libc::EIO) => {
            "the drive does not answer on the bus; cut its power and start it again, or \
            remove and rescan it"
                .into()
        }
        _ => "see the kernel's log (dmesg)".into(),
    }
}

/// Routing interrupts.
pub(super) fn interrupts(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSPC) => {
            "the system has too few interrupt vectors left; use fewer queue pairs, or \
            polled completion"
                .into()
        }
        Some(libc::EINVAL) => "the drive has no such MSI-X vector".into(),
        _ => "see the kernel's log (dmesg); polled completion needs no interrupts".into(),
    }
}

/// Mapping memory, with what is mapped already.
pub(super) fn map(error: &io::Error, mapped: usize, len: usize) -> String {
    let advice = match error.raw_os_error() {
        Some(libc::ENOMEM) => no_memory(memlock_limit(), mapped, len),
        Some(libc::ENOSPC) => "the container holds as many mappings as it may \
            (vfio_iommu_type1.dma_entry_limit); use fewer, larger buffers"
            .into(),
        Some(libc::EFAULT) => {
            "the memory cannot be pinned: memory of a peer device needs the type 1 \
            container (not iommufd's) and a device whose memory decoding is on"
                .into()
        }
        Some(libc::EEXIST) => "something is mapped there already".into(),
        Some(libc::EINVAL) => {
            "the IOMMU does not take this address or length: whole 4 KiB pages outside \
            its reserved ranges"
                .into()
        }
        _ => "see the kernel's log (dmesg)".into(),
    };
    format!("{error}; {advice}")
}

/// Too little memory, with so much that may be locked.
fn no_memory(limit: Option<u64>, mapped: usize, len: usize) -> String {
    match limit {
        Some(limit) => format!(
            "DMA memory is locked memory: the limit (RLIMIT_MEMLOCK) is {limit} bytes, {mapped} bytes \
             are mapped already and {len} more are needed; raise it with `ulimit -l unlimited`, \
             LimitMEMLOCK=infinity in a systemd unit, or a line in /etc/security/limits.d"
        ),
        None => format!(
            "the system has no {len} bytes left to lock, beside {mapped} that are mapped already; there \
             is no limit (RLIMIT_MEMLOCK), so use fewer buffers or free memory"
        ),
    }
}

/// The soft limit of locked memory in bytes; `None` when there is none.
fn memlock_limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes one rlimit.
    let rc = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    (rc == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_error_number_says_what_to_do() {
        let os = io::Error::from_raw_os_error;
        let address: PciAddress = "0000:01:00.0".parse().unwrap();
        assert!(container(&os(libc::ENOENT)).contains("modprobe vfio-pci"));
        assert!(group(&os(libc::EACCES), address, 7).contains("gcos bind 0000:01:00.0 --user"));
        assert!(group(&os(libc::EBUSY), address, 7).contains("/dev/vfio/7"));
        assert!(join(&os(libc::EPERM)).contains("allow_unsafe_interrupts"));
        assert!(device(&os(libc::ENODEV), address).contains("vfio-pci"));
        assert!(interrupts(&os(libc::ENOSPC)).contains("polled"));
        assert!(join(&os(libc::EPERM)).contains("iommufd"));
        assert!(iommu(&os(libc::EPERM)).contains("allow_unsafe_interrupts"));
        assert!(reset(&os(libc::EAGAIN)).contains("try again"));
        assert!(no_memory(None, 0, 4096).contains("no limit"));
        let text = no_memory(Some(65536), 4096, 8192);
        for part in ["RLIMIT_MEMLOCK", "4096 bytes are mapped", "8192 more", "LimitMEMLOCK"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(map(&os(libc::EFAULT), 0, 4096).contains("iommufd"));
    }
}
