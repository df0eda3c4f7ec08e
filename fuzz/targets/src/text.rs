//! What people and other programs write: the configuration, sizes and durations, the file of names.

use std::fs;

use gcos::Config;
use gcos::units;
use gcos_hw::pci::{Names, PciAddress, Sysfs};

/// A configuration: what is accepted is accepted again as it is written back, and means the same.
pub(crate) fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse(text, "fuzz") {
        Ok(config) => {
            let written = serde_json::to_string(&config).unwrap();
            let again = Config::parse(&written, "again");
            assert_eq!(again.ok().as_ref(), Some(&config), "{written}");
            let zones = config.zone_chunks();
            assert_eq!(zones.data >> 10, config.zone_chunk_size_kb.data);
            let (_, _) = (config.format_options(false), config.open_options());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A size and a duration.
pub(crate) fn sizes(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(bytes) = units::parse_size(text) {
        assert_eq!(units::parse_size(&units::size(bytes)), Ok(bytes));
        assert_eq!(units::parse_size(&units::exact(bytes)), Ok(bytes));
        assert!(!units::about(bytes).is_empty());
    }
    let _ = units::parse_duration(text);
    if let Ok(address) = text.parse::<PciAddress>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
}

/// The file of names, and a name that is looked up in it.
pub(crate) fn names(data: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("names.json"), data).unwrap();
    let sysfs = Sysfs::new(folder.path());
    let Ok(mut names) = Names::load_from(&sysfs, folder.path()) else { return };
    let known: Vec<_> =
        names.iter().map(|(name, named)| (name.to_owned(), named.clone())).collect();
    for (name, _) in &known {
        // No device is there at all.
        assert!(names.resolve(name).is_err());
    }
    assert!(names.resolve("/dev/libnvm0").is_err());
    // What was read can be written and read again.
    if let Some((name, _)) = known.first() {
        assert!(names.forget(name).is_ok());
        let left = Names::load_from(&sysfs, folder.path()).unwrap();
        let left: Vec<_> =
            left.iter().map(|(name, named)| (name.to_owned(), named.clone())).collect();
        assert_eq!(left, known[1..]);
    }
}
