//! Names of drives: recorded, resolved, kept over renumbering, and never lost.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

mod machine;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use gcos_hw::pci::{self, Identity, Names, NamesError, PciAddress, Sysfs};

use machine::Machine;

const BDF: &str = "0000:c1:00.0";
const OTHER: &str = "0000:c2:00.0";
const NAME: &str = "/dev/libnvm0";

fn address(bdf: &str) -> PciAddress {
    bdf.parse().unwrap()
}

fn two() -> Machine {
    let machine = Machine::new();
    machine.nvme(BDF, 1, Some(12));
    machine.nvme(OTHER, 2, Some(13));
    machine
}

fn names(machine: &Machine) -> Names {
    Names::load_from(&Sysfs::new(machine.root()), machine.path("state")).unwrap()
}

fn record(machine: &Machine, name: &str, bdf: &str) -> Result<Option<String>, NamesError> {
    let identity = Identity::read(&Sysfs::new(machine.root()), address(bdf)).unwrap();
    names(machine).record(name, address(bdf), identity)
}

/// As after a bind: the kernel's driver shows nothing any more.
fn hide(machine: &Machine, bdf: &str) {
    machine.remove(&format!("sys/bus/pci/devices/{bdf}/nvme"));
}

fn extended_config(serial: u64) -> Vec<u8> {
    let mut config = vec![0; 4096];
    config[0x100..0x104].copy_from_slice(&0x0001_0003u32.to_le_bytes());
    config[0x104..0x10c].copy_from_slice(&serial.to_le_bytes());
    config
}

#[test]
fn a_recorded_name_resolves_also_after_the_kernels_driver_is_gone() {
    let machine = two();
    assert_eq!(record(&machine, NAME, BDF).unwrap(), None);
    assert_eq!(names(&machine).resolve(NAME).unwrap(), address(BDF));
    hide(&machine, BDF);
    assert_eq!(names(&machine).resolve(NAME).unwrap(), address(BDF));
    let names = names(&machine);
    assert_eq!(names.name_of(address(BDF)), Some(NAME));
    assert_eq!(names.get(NAME).unwrap().identity.serial.as_deref(), Some("SN-0000:c1:00.0"));
    assert_eq!(names.iter().count(), 1);
}

#[test]
fn recording_again_keeps_the_serial_number_that_does_not_show_any_more() {
    let machine = two();
    record(&machine, NAME, BDF).unwrap();
    hide(&machine, BDF);
    record(&machine, NAME, BDF).unwrap();
    assert_eq!(record(&machine, "/dev/libnvm7", BDF).unwrap().as_deref(), Some(NAME));
    let names = names(&machine);
    let serial = names.get("/dev/libnvm7").unwrap().identity.serial.as_deref();
    assert_eq!(serial, Some("SN-0000:c1:00.0"));
    assert!(names.get(NAME).is_none(), "a drive has one name");
}

#[test]
fn unknown_names_are_answered_with_the_known_ones() {
    let machine = two();
    let none = names(&machine).resolve(NAME).unwrap_err().to_string();
    assert!(none.contains("no name is recorded") && none.contains("--as"), "{none}");
    record(&machine, NAME, BDF).unwrap();
    record(&machine, "/dev/libnvm-b", OTHER).unwrap();
    let some = names(&machine).resolve("/dev/libnvm9").unwrap_err().to_string();
    let known = "known names are /dev/libnvm-b (0000:c2:00.0), /dev/libnvm0 (0000:c1:00.0)";
    assert!(some.contains(known), "{some}");
}

#[test]
fn a_name_belongs_to_one_drive_until_it_is_forgotten() {
    let machine = two();
    record(&machine, NAME, BDF).unwrap();
    let taken = record(&machine, NAME, OTHER).unwrap_err();
    assert!(matches!(taken, NamesError::Taken { .. }), "{taken}");
    let mut all = names(&machine);
    all.forget(NAME).unwrap();
    all.forget(NAME).unwrap();
    assert!(all.get(NAME).is_none() && names(&machine).get(NAME).is_none());
    record(&machine, NAME, OTHER).unwrap();
    assert_eq!(names(&machine).resolve(NAME).unwrap(), address(OTHER));
}

#[test]
fn texts_that_cannot_be_names_are_refused() {
    let machine = two();
    for bad in ["", "libnvm0", "/dev/libnvm", "/dev/libnvm/0", "/dev/libnvm0 ", "/dev/nvme0"] {
        let error = record(&machine, bad, BDF).unwrap_err();
        assert!(matches!(error, NamesError::Invalid { .. }), "{error}");
    }
    assert!(record(&machine, &format!("/dev/libnvm{}", "x".repeat(33)), BDF).is_err());
    assert!(!machine.path("state").exists(), "nothing was written");
}

#[test]
fn drives_that_have_changed_places_are_noticed_and_found_by_their_serial_numbers() {
    let machine = two();
    let second = "/dev/libnvm1";
    record(&machine, NAME, BDF).unwrap();
    record(&machine, second, OTHER).unwrap();
    for (bdf, serial) in [(BDF, "SN-0000:c2:00.0"), (OTHER, "SN-0000:c1:00.0")] {
        let controller = if bdf == BDF { "nvme1" } else { "nvme2" };
        machine.write(&format!("sys/bus/pci/devices/{bdf}/nvme/{controller}/serial"), serial);
    }
    let error = names(&machine).resolve(NAME).unwrap_err();
    assert!(matches!(error, NamesError::Exchanged { .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("it is at 0000:c2:00.0 now: gcos bind 0000:c2:00.0 --as"), "{said}");
    assert_eq!(names(&machine).name_of(address(BDF)), None, "the name is of another drive");
    // The cure that was named works, and leaves the other name alone until it is cured too.
    assert_eq!(record(&machine, NAME, OTHER).unwrap(), None);
    assert_eq!(names(&machine).resolve(NAME).unwrap(), address(OTHER));
    assert!(matches!(names(&machine).resolve(second), Err(NamesError::Exchanged { .. })));
    assert_eq!(names(&machine).name_of(address(OTHER)), Some(NAME));
    record(&machine, second, BDF).unwrap();
    assert_eq!(names(&machine).resolve(second).unwrap(), address(BDF));
    assert_eq!(names(&machine).iter().count(), 2);
}

#[test]
fn bound_drives_are_told_apart_by_the_serial_number_of_the_bus() {
    let machine = two();
    let config = |bdf: &str, serial| {
        let path = machine.path(&format!("sys/bus/pci/devices/{bdf}/config"));
        fs::write(path, extended_config(serial)).unwrap();
    };
    config(BDF, 1);
    config(OTHER, 2);
    record(&machine, NAME, BDF).unwrap();
    hide(&machine, BDF);
    hide(&machine, OTHER);
    config(BDF, 2);
    config(OTHER, 1);
    let said = names(&machine).resolve(NAME).unwrap_err().to_string();
    assert!(said.contains("it is at 0000:c2:00.0 now"), "{said}");
}

#[test]
fn a_drive_that_is_gone_or_of_another_model_is_noticed_without_serial_numbers() {
    let machine = two();
    record(&machine, NAME, BDF).unwrap();
    hide(&machine, BDF);
    machine.write(&format!("sys/bus/pci/devices/{BDF}/device"), "0xb00b\n");
    let error = names(&machine).resolve(NAME).unwrap_err();
    assert!(matches!(error, NamesError::Exchanged { .. }), "{error}");
    machine.write(&format!("sys/bus/pci/devices/{BDF}/class"), "0x020000\n");
    let error = names(&machine).resolve(NAME).unwrap_err();
    assert!(matches!(error, NamesError::Gone { .. }), "{error}");
    assert!(error.to_string().contains("gcos unbind /dev/libnvm0"), "{error}");
}

#[test]
fn the_file_is_readable_by_all_and_a_damaged_one_is_an_error() {
    let machine = two();
    record(&machine, NAME, BDF).unwrap();
    let file = machine.path("state/names.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    let sysfs = Sysfs::new(machine.root());
    for bad in ["", "{", r#"{"version": 2, "names": {}}"#, r#"{"version": 1}"#] {
        fs::write(&file, bad).unwrap();
        let error = Names::load_from(&sysfs, machine.path("state")).unwrap_err();
        assert!(matches!(error, NamesError::Damaged { .. }), "{error}");
    }
}

#[test]
fn writers_at_the_same_time_lose_nothing() {
    let machine = Machine::new();
    let addresses: Vec<_> = (0..16).map(|bus| format!("0000:{bus:02x}:00.0")).collect();
    for (index, bdf) in (0..).zip(&addresses) {
        machine.nvme(bdf, index, Some(index));
    }
    std::thread::scope(|scope| {
        for (index, bdf) in addresses.iter().enumerate() {
            let machine = &machine;
            scope.spawn(move || record(machine, &format!("/dev/libnvm{index}"), bdf).unwrap());
        }
    });
    assert_eq!(names(&machine).iter().count(), 16);
    for (index, bdf) in addresses.iter().enumerate() {
        let resolved = names(&machine).resolve(&format!("/dev/libnvm{index}")).unwrap();
        assert_eq!(resolved, address(bdf));
    }
}

#[test]
fn what_a_killed_writer_left_is_no_obstacle() {
    let machine = two();
    machine.write("state/names.json.new", "{\"vers");
    machine.write("state/names.lock", "");
    record(&machine, NAME, BDF).unwrap();
    assert_eq!(names(&machine).resolve(NAME).unwrap(), address(BDF));
    assert!(pci::nvme_addresses(&Sysfs::new(machine.root())).contains(&address(OTHER)));
}
