//! The VFIO system calls that GCOS makes itself, each with its error number kept.
//!
//! Structures and constants are those of `vfio-bindings`. `vfio-ioctls` opens the container and maps
//! memory; its group and device types lose the error number of most calls and panic when a device has
//! gone, so those are here. Numbers and argument layouts: Linux `include/uapi/linux/vfio.h`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use vfio_bindings::bindings::vfio as sys;

use crate::EventFd;
use crate::pci::PciAddress;

/// `_IO(VFIO_TYPE, VFIO_BASE + number)`.
const fn request(number: u32) -> libc::Ioctl {
    (((sys::VFIO_TYPE as u32) << 8) | (sys::VFIO_BASE + number)) as libc::Ioctl
}

const SET_IOMMU: libc::Ioctl = request(2);
const GROUP_GET_STATUS: libc::Ioctl = request(3);
const GROUP_SET_CONTAINER: libc::Ioctl = request(4);
const GROUP_UNSET_CONTAINER: libc::Ioctl = request(5);
const GROUP_GET_DEVICE_FD: libc::Ioctl = request(6);
const DEVICE_GET_INFO: libc::Ioctl = request(7);
const DEVICE_GET_REGION_INFO: libc::Ioctl = request(8);
const DEVICE_GET_IRQ_INFO: libc::Ioctl = request(9);
const DEVICE_SET_IRQS: libc::Ioctl = request(10);
const DEVICE_RESET: libc::Ioctl = request(11);
const IOMMU_GET_INFO: libc::Ioctl = request(12);

/// Largest answer of VFIO_IOMMU_GET_INFO that is believed, in bytes: some thousand ranges.
const MOST_INFO_BYTES: usize = 64 << 10;

fn check(rc: libc::c_int) -> io::Result<libc::c_int> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

/// Longest pause of [`retried`].
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// Repeats a call for so long while it fails with the error `number`, which passes by itself.
pub(super) fn retried<T>(
    number: libc::c_int,
    longest: Duration,
    mut call: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let end = Instant::now() + longest;
    let mut pause = Duration::from_millis(1);
    loop {
        let result = call();
        let passing = result.as_ref().is_err_and(|e| e.raw_os_error() == Some(number));
        if !passing || Instant::now() >= end {
            return result;
        }
        thread::sleep(pause);
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

/// A call without an argument.
fn plain(fd: impl AsFd, request: libc::Ioctl) -> io::Result<()> {
    // SAFETY: the request takes no pointer.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request) }).map(drop)
}

/// A call whose argument is a structure that states its own size (`argsz`).
///
/// # Safety
/// `argument` is the structure that `request` takes, and its `argsz` does not exceed its size.
unsafe fn structure<T>(fd: impl AsFd, request: libc::Ioctl, argument: &mut T) -> io::Result<()> {
    let argument: *mut T = argument;
    // SAFETY: the kernel reads and writes no more than `argsz` bytes; the caller vouches for both.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, argument) }).map(drop)
}

const fn size_of<T>() -> u32 {
    std::mem::size_of::<T>() as u32
}

/// Chooses the type 1 (v2) IOMMU backend for a container that has a group. EINVAL when it has one.
pub(super) fn set_iommu(container: impl AsFd) -> io::Result<()> {
    let fd = container.as_fd().as_raw_fd();
    let kind = libc::c_ulong::from(sys::VFIO_TYPE1v2_IOMMU);
    // SAFETY: the argument is a number, not a pointer.
    check(unsafe { libc::ioctl(fd, SET_IOMMU, kind) }).map(drop)
}

/// Whether every device of the group is bound to VFIO or to nothing.
pub(super) fn group_is_viable(group: &File) -> io::Result<bool> {
    let mut status =
        sys::vfio_group_status { argsz: size_of::<sys::vfio_group_status>(), ..Default::default() };
    // SAFETY: VFIO_GROUP_GET_STATUS takes this structure.
    unsafe { structure(group, GROUP_GET_STATUS, &mut status) }?;
    Ok(status.flags & sys::VFIO_GROUP_FLAGS_VIABLE != 0)
}

/// Puts a group into a container.
pub(super) fn group_join(group: &File, container: impl AsFd) -> io::Result<()> {
    let container: RawFd = container.as_fd().as_raw_fd();
    let argument: *const RawFd = &container;
    // SAFETY: VFIO_GROUP_SET_CONTAINER reads one descriptor.
    check(unsafe { libc::ioctl(group.as_raw_fd(), GROUP_SET_CONTAINER, argument) }).map(drop)
}

/// Takes a group out of its container. EBUSY while a device of it, or a mapping of one, is open.
pub(super) fn group_leave(group: &File) -> io::Result<()> {
    plain(group, GROUP_UNSET_CONTAINER)
}

/// Opens a device of the group.
pub(super) fn group_device(group: &File, address: PciAddress) -> io::Result<OwnedFd> {
    let mut name = address.to_string().into_bytes();
    name.push(0);
    // SAFETY: VFIO_GROUP_GET_DEVICE_FD reads a string that ends with a zero byte.
    let fd = unsafe { libc::ioctl(group.as_raw_fd(), GROUP_GET_DEVICE_FD, name.as_ptr()) };
    let fd = check(fd)?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Flags of the device (`VFIO_DEVICE_FLAGS_*`).
pub(super) fn device_flags(device: BorrowedFd<'_>) -> io::Result<u32> {
    let argsz = size_of::<sys::vfio_device_info>();
    let mut info = sys::vfio_device_info { argsz, ..Default::default() };
    // SAFETY: VFIO_DEVICE_GET_INFO takes this structure.
    unsafe { structure(device, DEVICE_GET_INFO, &mut info) }?;
    Ok(info.flags)
}

/// One region of a device: a BAR, or the configuration space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RegionInfo {
    /// `VFIO_REGION_INFO_FLAG_*`.
    pub(super) flags: u32,
    /// Length in bytes; 0 when the device has no such region.
    pub(super) len: u64,
    /// Where it lies in the device's file, in bytes.
    pub(super) offset: u64,
}

/// What the kernel says of a region.
pub(super) fn device_region(device: BorrowedFd<'_>, index: u32) -> io::Result<RegionInfo> {
    let argsz = size_of::<sys::vfio_region_info>();
    let mut info = sys::vfio_region_info { argsz, index, ..Default::default() };
    // SAFETY: VFIO_DEVICE_GET_REGION_INFO takes this structure; capabilities that do not fit in
    // `argsz` are left out.
    unsafe { structure(device, DEVICE_GET_REGION_INFO, &mut info) }?;
    Ok(RegionInfo { flags: info.flags, len: info.size, offset: info.offset })
}

/// How many interrupts of a kind (`VFIO_PCI_*_IRQ_INDEX`) the device has.
pub(super) fn device_interrupts(device: BorrowedFd<'_>, index: u32) -> io::Result<u32> {
    let argsz = size_of::<sys::vfio_irq_info>();
    let mut info = sys::vfio_irq_info { argsz, index, ..Default::default() };
    // SAFETY: VFIO_DEVICE_GET_IRQ_INFO takes this structure.
    unsafe { structure(device, DEVICE_GET_IRQ_INFO, &mut info) }?;
    Ok(info.count)
}

/// Routes interrupts `start..` of a kind to events; `None` leaves the vector silent.
pub(super) fn route_interrupts(
    device: BorrowedFd<'_>,
    index: u32,
    start: u32,
    events: &[Option<&EventFd>],
) -> io::Result<()> {
    let fds = events.iter().map(|e| e.map_or(-1, |event| event.as_fd().as_raw_fd()));
    let flags = sys::VFIO_IRQ_SET_DATA_EVENTFD | sys::VFIO_IRQ_SET_ACTION_TRIGGER;
    set_interrupts(device, index, flags, start, &fds.collect::<Vec<_>>())
}

/// Switches all interrupts of a kind off.
pub(super) fn silence_interrupts(device: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let flags = sys::VFIO_IRQ_SET_DATA_NONE | sys::VFIO_IRQ_SET_ACTION_TRIGGER;
    set_interrupts(device, index, flags, 0, &[])
}

fn set_interrupts(
    device: BorrowedFd<'_>,
    index: u32,
    flags: u32,
    start: u32,
    fds: &[RawFd],
) -> io::Result<()> {
    // struct vfio_irq_set, as 32-bit words: argsz, flags, index, start, count, then the data.
    let words = size_of::<sys::vfio_irq_set>() / 4;
    let len = |n: usize| u32::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let argsz = len((words as usize + fds.len()) * 4)?;
    let mut set = vec![argsz, flags, index, start, len(fds.len())?];
    set.extend(fds.iter().map(|&fd| fd as u32));
    // SAFETY: VFIO_DEVICE_SET_IRQS reads `argsz` bytes: a vfio_irq_set and `count` descriptors.
    let rc = unsafe { libc::ioctl(device.as_raw_fd(), DEVICE_SET_IRQS, set.as_ptr()) };
    match check(rc)? {
        0 => Ok(()),
        // The kernel answers with the number of vectors that there would have been.
        _ => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
    }
}

/// Resets the device (function-level reset or what the platform has in its place).
pub(super) fn device_reset(device: BorrowedFd<'_>) -> io::Result<()> {
    plain(device, DEVICE_RESET)
}

/// What a container says of its address space.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct IommuInfo {
    /// Page sizes as a bit set; 0 when not told.
    pub(super) page_sizes: u64,
    /// Usable I/O virtual addresses, half-open; empty when not told (Linux before 5.4).
    pub(super) ranges: Vec<Range<u64>>,
    /// How many more mappings there may be, when told (Linux 5.10).
    pub(super) mappings_left: Option<u32>,
}

/// Asks a container for its address space.
pub(super) fn iommu_info(container: impl AsFd) -> io::Result<IommuInfo> {
    let mut len = std::mem::size_of::<sys::vfio_iommu_type1_info>();
    loop {
        // 64-bit words: aligned for every structure in the answer.
        let mut answer = vec![0u64; len.div_ceil(8)];
        if let Some(first) = answer.first_mut() {
            // argsz is the first 32-bit word.
            *first = u64::from_ne_bytes(pair(len as u32, 0));
        }
        let fd = container.as_fd().as_raw_fd();
        // SAFETY: VFIO_IOMMU_GET_INFO writes at most argsz bytes, which the vector holds.
        check(unsafe { libc::ioctl(fd, IOMMU_GET_INFO, answer.as_mut_ptr()) })?;
        let bytes: Vec<u8> = answer.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let wanted = read_u32(&bytes, 0).unwrap_or(0) as usize;
        if wanted <= len {
            return Ok(parse_iommu_info(&bytes));
        }
        if wanted > MOST_INFO_BYTES {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        // What did not fit was left out, ranges first of all. A group that joined in between makes
        // the answer longer once more.
        len = wanted;
    }
}

fn pair(low: u32, high: u32) -> [u8; 8] {
    let mut both = [0; 8];
    both[..4].copy_from_slice(&low.to_ne_bytes());
    both[4..].copy_from_slice(&high.to_ne_bytes());
    both
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    field.try_into().ok().map(u32::from_ne_bytes)
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    field.try_into().ok().map(u64::from_ne_bytes)
}

/// Reads `struct vfio_iommu_type1_info` and the capabilities behind it. What does not fit is left out.
fn parse_iommu_info(bytes: &[u8]) -> IommuInfo {
    use std::mem::offset_of;
    type Info = sys::vfio_iommu_type1_info;
    let mut info = IommuInfo::default();
    let flags = read_u32(bytes, offset_of!(Info, flags)).unwrap_or(0);
    if flags & sys::VFIO_IOMMU_INFO_PGSIZES != 0 {
        info.page_sizes = read_u64(bytes, offset_of!(Info, iova_pgsizes)).unwrap_or(0);
    }
    if flags & sys::VFIO_IOMMU_INFO_CAPS == 0 {
        return info;
    }
    let mut at = read_u32(bytes, offset_of!(Info, cap_offset)).unwrap_or(0) as usize;
    // Each capability names the next; one that points back would lead around for ever.
    while at != 0 {
        let Some(header) = read_u32(bytes, at) else { break };
        let next = read_u32(bytes, at + 4).unwrap_or(0) as usize;
        match header & 0xffff {
            sys::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE => info.ranges = parse_ranges(bytes, at),
            sys::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL => info.mappings_left = read_u32(bytes, at + 8),
            _ => {}
        }
        at = if next > at { next } else { 0 };
    }
    info
}

/// Ranges of `struct vfio_iommu_type1_info_cap_iova_range`, whose ends are inclusive.
fn parse_ranges(bytes: &[u8], at: usize) -> Vec<Range<u64>> {
    let count = read_u32(bytes, at + 8).unwrap_or(0) as usize;
    let first = at + std::mem::size_of::<sys::vfio_iommu_type1_info_cap_iova_range>();
    let entry = std::mem::size_of::<sys::vfio_iova_range>();
    let range = |n: usize| {
        let at = first + n * entry;
        let (start, last) = (read_u64(bytes, at)?, read_u64(bytes, at + 8)?);
        Some(start..last.saturating_add(1)).filter(|range| !range.is_empty())
    };
    (0..count).map_while(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn a_call_is_repeated_while_its_error_passes_and_no_longer() {
        let os = io::Error::from_raw_os_error;
        let mut calls = 0;
        let result = retried(libc::EBUSY, Duration::from_secs(60), || {
            calls += 1;
            if calls < 3 { Err(os(libc::EBUSY)) } else { Ok(calls) }
        });
        assert_eq!(result.unwrap(), 3);
        let mut calls = 0;
        let mut fail = |number| {
            retried(libc::EBUSY, Duration::from_millis(20), || {
                calls += 1;
                Err::<(), _>(os(number))
            })
        };
        assert_eq!(fail(libc::EBUSY).unwrap_err().raw_os_error(), Some(libc::EBUSY));
        assert_eq!(fail(libc::EIO).unwrap_err().raw_os_error(), Some(libc::EIO));
        assert!((3..30).contains(&calls), "{calls}");
    }

    #[test]
    fn the_address_space_is_read_with_all_its_capabilities() {
        let bytes = answer(&[
            112,
            3,
            0x1000,
            0x4000_0000,
            24,
            0, // header: pages of 4 KiB, capabilities at 24
            1 | 1 << 16,
            72,
            2,
            0, // IOVA ranges, two
            0,
            0,
            0xfedf_ffff,
            0,
            0xfef0_0000,
            0,
            0xffff_ffff,
            0x7f, //
            3 | 1 << 16,
            0,
            65535,
            0, // mappings left
        ]);
        let info = parse_iommu_info(&bytes);
        assert_eq!(info.ranges, [0..0xfee0_0000, 0xfef0_0000..0x80_0000_0000]);
        assert_eq!(info.mappings_left, Some(65535));
        assert_eq!(info.page_sizes, 0x4000_0000_0000_1000);
    }

    #[test]
    fn an_answer_that_is_cut_short_or_runs_in_circles_ends() {
        let whole = answer(&[64, 3, 0x1000, 0, 24, 0, 1, 24, 900, 0, 0, 0, 0xffff, 0]);
        let info = parse_iommu_info(&whole);
        assert_eq!(info.ranges.as_slice(), std::slice::from_ref(&(0..0x1_0000)));
        for len in 0..whole.len() {
            let _ = parse_iommu_info(&whole[..len]);
        }
        let empty = parse_iommu_info(&answer(&[24, 0, 0, 0, 0, 0]));
        assert_eq!(empty, IommuInfo::default());
    }
}
