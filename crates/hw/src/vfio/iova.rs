//! Which I/O virtual addresses may be used.

use std::fs;
use std::ops::Range;
use std::path::Path;

/// Below this, firmware keeps the interrupt window and 32-bit BARs; addresses above are preferred.
const LOW_BYTES: u64 = 4 << 30;

/// PCI windows are kept clear in whole blocks of this size: a device that is plugged in later gets its
/// BARs beside those that are there.
const CLEARANCE_BYTES: u64 = 1 << 30;

/// What the range of a container without the information is taken to be: 39 bits, the narrowest
/// IOMMU of servers, without the interrupt window below 4 GiB.
const ASSUMED: Range<u64> = LOW_BYTES..1 << 39;

/// Most ranges to give out: beyond, the smallest are left unused.
const MOST_RANGES: usize = 64;

/// Ranges that the IOMMU takes and that no PCI device decodes, above 4 GiB if there are any.
///
/// A transfer to an address that a bridge on the way takes for a BAR goes to that device instead of
/// the IOMMU (unless ACS redirects it), so such addresses are left out.
pub(super) fn usable(iommu: &[Range<u64>], windows: &[Range<u64>]) -> Vec<Range<u64>> {
    let all = if iommu.is_empty() { vec![ASSUMED] } else { iommu.to_vec() };
    let mut ranges = all;
    for window in windows {
        let start = window.start / CLEARANCE_BYTES * CLEARANCE_BYTES;
        let end = window.end.checked_next_multiple_of(CLEARANCE_BYTES).unwrap_or(u64::MAX);
        ranges = ranges.iter().flat_map(|range| without(range, start..end)).collect();
    }
    let high: Vec<_> = ranges.iter().flat_map(|range| without(range, 0..LOW_BYTES)).collect();
    let mut chosen = if high.is_empty() {
        // The first MiB stays unmapped, so that a null address faults.
        ranges.iter().flat_map(|range| without(range, 0..1 << 20)).collect()
    } else {
        high
    };
    chosen.sort_by_key(|range| std::cmp::Reverse(range.end - range.start));
    chosen.truncate(MOST_RANGES);
    chosen.sort_by_key(|range| range.start);
    chosen
}

/// Parts of a range outside a hole, cut to whole pages.
fn without(range: &Range<u64>, hole: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let page = crate::PAGE_BYTES as u64;
    let parts = [range.start..range.end.min(hole.start), range.start.max(hole.end)..range.end];
    parts.into_iter().filter_map(move |part| {
        let start = part.start.checked_next_multiple_of(page)?;
        let end = part.end / page * page;
        (start < end).then_some(start..end)
    })
}

/// Bus addresses that PCI devices and bridges decode, as sysfs shows them below `devices`
/// (`/sys/bus/pci/devices`). What cannot be read is left out.
pub(super) fn pci_windows(devices: &Path) -> Vec<Range<u64>> {
    let Ok(entries) = fs::read_dir(devices) else { return Vec::new() };
    let resources =
        entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("resource")).ok());
    resources.flat_map(|text| parse_resources(&text)).collect()
}

/// Lines of `resource`: first address, last address, flags, in hexadecimal.
fn parse_resources(text: &str) -> Vec<Range<u64>> {
    /// Linux `IORESOURCE_MEM`.
    const MEMORY: u64 = 0x200;
    let line = |line: &str| {
        let mut fields = line
            .split_whitespace()
            .map(|field| u64::from_str_radix(field.trim_start_matches("0x"), 16).ok());
        let (start, last, flags) = (fields.next()??, fields.next()??, fields.next()??);
        let range = start..last.checked_add(1)?;
        (flags & MEMORY != 0 && !range.is_empty()).then_some(range)
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice::from_ref;

    const GIB: u64 = 1 << 30;

    #[test]
    fn addresses_of_devices_and_those_below_4_gib_are_left_out() {
        let iommu = [0..0xfee0_0000, 0xfef0_0000..1 << 39];
        let windows = [0xfebf_0000..0xfebf_4000, 32 * GIB + 4096..33 * GIB + 1];
        assert_eq!(usable(&iommu, &windows), [4 * GIB..32 * GIB, 34 * GIB..1 << 39]);
    }

    #[test]
    fn a_narrow_iommu_gets_what_is_free_below_4_gib() {
        let iommu = [0..0xfee0_0000, 0xfef0_0000..1 << 32];
        let window = 0xfe00_0000..0xfe00_1000;
        assert_eq!(usable(&iommu, from_ref(&window)).as_slice(), from_ref(&(1 << 20..3 * GIB)));
    }

    #[test]
    fn ranges_are_whole_pages_and_windows_at_the_end_of_the_space_are_no_overflow() {
        let iommu = [5 * GIB + 1..6 * GIB - 1, 7 * GIB..u64::MAX];
        let window = u64::MAX - 10..u64::MAX;
        let ranges = usable(&iommu, from_ref(&window));
        assert_eq!(ranges[0], 5 * GIB + 4096..6 * GIB - 4096);
        assert_eq!(ranges[1].start, 7 * GIB);
        assert!(ranges.iter().all(|r| r.start % 4096 == 0 && r.end % 4096 == 0));
        assert_eq!(usable(&[], &[]), [ASSUMED]);
        assert_eq!(usable(from_ref(&(0..0)), &[]), []);
    }

    #[test]
    fn resources_are_read_as_sysfs_writes_them() {
        let text = "0x00000000febf0000 0x00000000febf3fff 0x0000000000140204\n\
                    0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                    0x000000000000c000 0x000000000000c03f 0x0000000000040101\n\
                    nonsense\n\
                    0x0000000800000000 0x0000000803ffffff 0x000000000014220c\n";
        assert_eq!(parse_resources(text), [0xfebf_0000..0xfebf_4000, 0x8_0000_0000..0x8_0400_0000]);
    }
}
