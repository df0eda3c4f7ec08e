//! What the kernel says of a mapping of this process.

use std::fs;
use std::io;

/// A mapping as `/proc/self/smaps` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Its first line: addresses, rights, what is mapped.
    pub line: String,
    /// Its flags, such as `pf` (no pages of the system behind it) and `io` (a device).
    pub flags: Vec<String>,
}

/// The mapping that holds an address, if there is one.
///
/// # Errors
/// Those of reading the file.
pub fn mapping_of(address: usize) -> io::Result<Option<Mapping>> {
    Ok(find(&fs::read_to_string("/proc/self/smaps")?, address))
}

fn find(smaps: &str, address: usize) -> Option<Mapping> {
    let mut inside = None;
    for line in smaps.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let bound = |text: &str| usize::from_str_radix(text, 16).ok();
        if let Some((start, end)) = range
            && let (Some(start), Some(end)) = (bound(start), bound(end))
        {
            inside = (start..end).contains(&address).then(|| line.to_owned());
        } else if let (Some(line), Some(flags)) = (&inside, line.strip_prefix("VmFlags:")) {
            let flags = flags.split_whitespace().map(str::to_owned).collect();
            return Some(Mapping { line: line.clone(), flags });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_its_mapping_alone() {
        let smaps = "1000-3000 rw-s 0 00:01 5 /dev/nvidia0\nSize: 8 kB\nVmFlags: rd wr pf io \n\
                     5000-6000 rw-p 0 00:00 0 \nVmFlags: rd wr\n";
        let mapping = find(smaps, 0x2fff).unwrap();
        assert!(mapping.line.ends_with("/dev/nvidia0"));
        assert_eq!(mapping.flags, ["rd", "wr", "pf", "io"]);
        assert_eq!(find(smaps, 0x5000).unwrap().flags, ["rd", "wr"]);
        assert_eq!(find(smaps, 0x3000), None);
        let here = mapping_of(find as *const () as usize).unwrap().unwrap();
        assert!(here.line.contains("r-x"), "{here:?}");
    }
}
