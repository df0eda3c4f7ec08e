//! Finding drives, and binding and unbinding them, on machines made of plain files.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

mod machine;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gcos_hw::pci::{self, BindError, Drive, Kernel, PciAddress, Sysfs};

use machine::Machine;

const EBUSY: i32 = 16;
const BDF: &str = "0000:c1:00.0";
const BUS: &str = "0000:c0:01.0";

fn address(bdf: &str) -> PciAddress {
    bdf.parse().unwrap()
}

/// A spare drive behind a bridge in its group.
fn spare() -> Machine {
    let machine = Machine::new();
    machine.bridge(BUS, Some(12));
    machine.nvme(BDF, 1, Some(12));
    machine
}

/// The machine's kernel, with failures.
#[derive(Debug, Default)]
struct Simulated {
    root: PathBuf,
    /// Calls that change something, so far.
    calls: AtomicUsize,
    /// From this call on, everything fails, as if the process had been killed.
    dies_at: Option<usize>,
    /// This call alone fails.
    fails_at: Option<usize>,
    /// A call that never comes back.
    hangs_at: Option<usize>,
    /// Nodes that somebody has claimed.
    claimed: Vec<&'static str>,
}

impl Simulated {
    fn on(machine: &Machine) -> Self {
        Self { root: machine.root().to_owned(), ..Self::default() }
    }

    fn sysfs(self) -> Sysfs {
        let patience = Duration::from_millis(200);
        Sysfs::new(&self.root).with_kernel(Arc::new(self)).with_patience(patience)
    }

    fn step(&self) -> io::Result<()> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if self.hangs_at == Some(call) {
            std::thread::sleep(Duration::from_secs(2));
        }
        if self.fails_at == Some(call) || self.dies_at.is_some_and(|dies| call >= dies) {
            return Err(io::Error::other("as the test wants it"));
        }
        Ok(())
    }

    fn busy(&self, path: &Path) -> io::Result<File> {
        match self.claimed.iter().any(|node| path == self.root.join(node)) {
            true => Err(io::Error::from_raw_os_error(EBUSY)),
            false => File::open(path),
        }
    }
}

impl Kernel for Simulated {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        self.step()?;
        machine::effect(&self.root, path, text)
    }

    fn claim(&self, path: &Path) -> io::Result<File> {
        self.busy(path)
    }

    fn open_group(&self, path: &Path) -> io::Result<File> {
        self.busy(path)
    }

    fn chown(&self, path: &Path, _uid: u32) -> io::Result<()> {
        self.step()?;
        File::open(path).map(drop)
    }
}

fn sysfs(machine: &Machine) -> Sysfs {
    Simulated::on(machine).sysfs()
}

fn refusal(machine: &Machine, sysfs: &Sysfs) -> String {
    let before = machine.state(BDF);
    let error = pci::bind(sysfs, address(BDF), &[]).unwrap_err();
    assert_eq!(machine.state(BDF), before, "a refusal changes nothing");
    error.to_string()
}

/// Checks that a drive is refused for a reason.
fn refused(machine: &Machine, sysfs: &Sysfs, reason: &str) {
    let said = refusal(machine, sysfs);
    assert!(said.contains(reason), "{said:?} does not say {reason:?}");
}

#[test]
fn a_drive_is_shown_with_all_that_sysfs_knows() {
    let machine = spare();
    let list = Drive::list(&sysfs(&machine));
    let [drive] = list.as_slice() else { panic!("{list:?}") };
    assert_eq!(drive.address, address(BDF));
    assert_eq!((drive.identity.vendor, drive.identity.device), (0x144d, 0xa80a));
    assert_eq!(drive.identity.model.as_deref(), Some("Fast Drive 9000"));
    assert_eq!(drive.identity.serial.as_deref(), Some("SN-0000:c1:00.0"));
    assert_eq!(drive.driver.as_deref(), Some("nvme"));
    assert_eq!((drive.driver_override.as_ref(), drive.numa_node), (None, Some(1)));
    let group = drive.group.as_ref().unwrap();
    assert_eq!((group.number, group.others.len()), (12, 1));
    assert_eq!(group.others[0].to_string(), "0000:c0:01.0 (pcieport)");
    let link = drive.link.as_ref().unwrap();
    assert_eq!((link.speed.as_str(), link.width), ("16.0 GT/s PCIe", 4));
    let controller = drive.controller.as_ref().unwrap();
    assert_eq!(controller.state.as_deref(), Some("live"));
    assert_eq!(controller.temperature_celsius, Some(41));
    let [namespace] = drive.namespaces.as_slice() else { panic!("{drive:?}") };
    assert_eq!(namespace.name, "nvme1n1");
    assert_eq!((namespace.bytes, namespace.block_bytes), (1 << 30, 512));
    assert!(namespace.uses.is_empty() && drive.obstacles(&[]).is_empty());
}

#[test]
fn a_machine_without_nvme_has_no_drives_and_an_empty_one_neither() {
    let machine = Machine::new();
    machine.function("0000:00:1f.0", 0x06_01_00, Some("lpc_ich"), Some(3));
    assert!(Drive::list(&sysfs(&machine)).is_empty());
    assert!(Drive::list(&Sysfs::new("/nowhere")).is_empty());
}

#[test]
fn disks_behind_the_kernels_multipathing_are_found_by_their_heads() {
    let machine = spare();
    machine.remove(&format!("sys/bus/pci/devices/{BDF}/nvme/nvme1/nvme1n1"));
    machine.folder(&format!("sys/bus/pci/devices/{BDF}/nvme/nvme1/nvme1c4n1"));
    machine.mount("259:16", "/dev/nvme1n1", "/data");
    refused(&machine, &sysfs(&machine), "nvme1n1 is mounted at /data");
}

#[test]
fn binding_and_unbinding_lead_there_and_back_and_twice_does_no_harm() {
    let machine = spare();
    let sysfs = sysfs(&machine);
    for changed in [true, false] {
        assert_eq!(pci::bind(&sysfs, address(BDF), &[]).unwrap().changed, changed);
        assert!(machine.is_bound(BDF));
    }
    assert_eq!(pci::hand_over(&sysfs, address(BDF), 1000).unwrap(), "/dev/vfio/12");
    assert!(Drive::at(&sysfs, address(BDF)).unwrap().namespaces.is_empty());
    for changed in [true, false] {
        assert_eq!(pci::unbind(&sysfs, address(BDF)).unwrap().changed, changed);
        assert!(machine.is_given_back(BDF));
    }
    assert_eq!(Drive::at(&sysfs, address(BDF)).unwrap().namespaces.len(), 1);
}

#[test]
fn whoever_is_killed_between_any_two_steps_can_bind_or_unbind_again() {
    type Job = fn(&Sysfs) -> Result<pci::Change, BindError>;
    let bind: Job = |sysfs| pci::bind(sysfs, address(BDF), &[]);
    let unbind: Job = |sysfs| pci::unbind(sysfs, address(BDF));
    let mut interrupted = 0;
    for (name, first) in [("bind", bind), ("unbind", unbind)] {
        for dies_at in 0..8 {
            for again in [bind, unbind] {
                let machine = spare();
                if name == "unbind" {
                    bind(&sysfs(&machine)).unwrap();
                }
                let dying = Simulated { dies_at: Some(dies_at), ..Simulated::on(&machine) };
                interrupted += usize::from(first(&dying.sysfs()).is_err());
                again(&sysfs(&machine)).unwrap();
                let good = [Machine::is_given_back, Machine::is_bound];
                let good = good[usize::from(std::ptr::fn_addr_eq(again, bind))];
                assert!(good(&machine, BDF), "{name} died at {dies_at}: {:?}", machine.state(BDF));
            }
        }
    }
    assert_eq!(interrupted, 12, "three writes each way, two ways on");
}

#[test]
fn a_step_of_binding_that_fails_gives_the_drive_back() {
    for fails_at in 0..3 {
        let machine = spare();
        let failing = Simulated { fails_at: Some(fails_at), ..Simulated::on(&machine) };
        let error = pci::bind(&failing.sysfs(), address(BDF), &[]).unwrap_err();
        assert!(matches!(error, BindError::Step { .. }), "{error}");
        assert!(machine.is_given_back(BDF), "step {fails_at}: {:?}", machine.state(BDF));
    }
}

#[test]
fn a_step_of_unbinding_that_fails_is_said_and_can_be_repeated() {
    for fails_at in 0..3 {
        let machine = spare();
        pci::bind(&sysfs(&machine), address(BDF), &[]).unwrap();
        let failing = Simulated { fails_at: Some(fails_at), ..Simulated::on(&machine) };
        assert!(pci::unbind(&failing.sysfs(), address(BDF)).is_err());
        pci::unbind(&sysfs(&machine), address(BDF)).unwrap();
        assert!(machine.is_given_back(BDF));
    }
}

#[test]
fn a_kernel_that_does_not_come_back_is_not_waited_for_for_ever() {
    for hangs_at in 0..3 {
        let machine = spare();
        let hanging = Simulated { hangs_at: Some(hangs_at), ..Simulated::on(&machine) };
        let error = pci::bind(&hanging.sysfs(), address(BDF), &[]).unwrap_err();
        assert!(matches!(error, BindError::Stuck { .. }), "{error}");
    }
}

#[test]
fn a_driver_that_refuses_the_drive_leaves_it_with_the_kernel() {
    let machine = spare();
    machine.write("sys/bus/pci/drivers/vfio-pci/refuses", "");
    refused(&machine, &sysfs(&machine), "expected the driver vfio-pci after the probe, found none");
}

#[test]
fn a_missing_driver_is_named_with_its_cure() {
    let machine = spare();
    machine.unload("vfio-pci");
    refused(&machine, &sysfs(&machine), "modprobe vfio-pci");
}

#[test]
fn a_drive_without_the_kernels_driver_loaded_is_left_alone_by_unbind() {
    let machine = spare();
    pci::bind(&sysfs(&machine), address(BDF), &[]).unwrap();
    machine.unload("nvme");
    let change = pci::unbind(&sysfs(&machine), address(BDF)).unwrap();
    assert_eq!((change.changed, change.driver), (true, None));
    assert_eq!(machine.state(BDF), (None, None));
}

#[test]
fn mounted_drives_are_refused_however_the_mount_names_them() {
    for (number, source) in
        [("259:17", "/dev/root"), ("0:44", "/dev/nvme1n1p1"), ("0:44", "/dev/disk/by-uuid/ab")]
    {
        let machine = spare();
        let partition = machine.partition("nvme1n1", 1, "259:17");
        machine.folder("dev/disk/by-uuid");
        let link = machine.path("dev/disk/by-uuid/ab");
        std::os::unix::fs::symlink(format!("../../{partition}"), link).unwrap();
        machine.mount(number, source, "/srv/with\\040space");
        refused(&machine, &sysfs(&machine), "nvme1n1p1 is mounted at /srv/with space; umount");
    }
}

#[test]
fn the_drive_that_the_system_runs_from_is_called_that() {
    let machine = spare();
    machine.partition("nvme1n1", 2, "259:18");
    machine.hold("nvme1n1p2", "dm-0", &[("dm/name", "vg-root"), ("dm/uuid", "LVM-abc")]);
    machine.mount("253:4", "/dev/mapper/vg-root", "/");
    let sysfs = sysfs(&machine);
    refused(&machine, &sysfs, "the running system is on this drive: dm-0 is mounted at /");
    refused(&machine, &sysfs, "nvme1n1p2 is part of dm-0 (LVM volume vg-root)");
}

#[test]
fn swap_md_multipath_and_crypt_members_are_refused() {
    let machine = spare();
    machine.partition("nvme1n1", 1, "259:17");
    machine.swap("/dev/nvme1n1p1");
    refused(&machine, &sysfs(&machine), "nvme1n1p1 is swap space; swapoff /dev/nvme1n1p1");
    for (holder, attributes, said) in [
        ("md127", [("md/level", "raid1"), ("x", "")], "md127 (md raid1)"),
        ("dm-1", [("dm/name", "m"), ("dm/uuid", "mpath-1")], "dm-1 (multipath device m)"),
        ("dm-2", [("dm/name", "c"), ("dm/uuid", "CRYPT-1")], "dm-2 (encrypted device c)"),
        ("bcache0", [("x", ""), ("y", "")], "nvme1n1 is part of bcache0"),
    ] {
        let machine = spare();
        machine.hold("nvme1n1", holder, &attributes);
        refused(&machine, &sysfs(&machine), said);
    }
}

#[test]
fn swap_on_a_volume_on_a_partition_is_found() {
    let machine = spare();
    machine.partition("nvme1n1", 1, "259:17");
    machine.hold("nvme1n1p1", "md0", &[("md/level", "raid0")]);
    machine.hold("md0", "dm-3", &[("dm/name", "swap"), ("dm/uuid", "LVM-x")]);
    machine.swap("/dev/dm-3");
    refused(&machine, &sysfs(&machine), "dm-3 is swap space");
}

#[test]
fn what_the_kernel_says_is_claimed_is_refused_even_if_nothing_else_shows_it() {
    for node in ["dev/nvme1n1", "dev/nvme1n1p1"] {
        let machine = spare();
        machine.partition("nvme1n1", 1, "259:17");
        let claimed = || Simulated { claimed: vec![node], ..Simulated::on(&machine) }.sysfs();
        refused(&machine, &claimed(), "is claimed exclusively");
        let drive = Drive::at(&claimed(), address(BDF)).unwrap();
        assert_eq!(drive.obstacles(&[]).len(), 1, "the list of drives says it too");
    }
}

#[test]
fn a_disk_that_a_process_has_open_is_refused_with_its_name() {
    let machine = spare();
    machine.process(4711, "qemu", "/dev/nvme1n1");
    refused(&machine, &sysfs(&machine), "nvme1n1 is open in process 4711 (qemu)");
}

#[test]
fn a_group_with_others_in_use_is_refused_unless_all_are_taken_together() {
    let machine = spare();
    machine.nvme("0000:c2:00.0", 2, Some(12));
    let sysfs = sysfs(&machine);
    refused(&machine, &sysfs, "its IOMMU group holds other devices in use: 0000:c2:00.0 (nvme)");
    let both = [address(BDF), address("0000:c2:00.0")];
    for one in both {
        pci::bind(&sysfs, one, &both).unwrap();
    }
    assert!(machine.is_bound(BDF) && machine.is_bound("0000:c2:00.0"));
    // Now that nobody is in the way, each can be bound alone.
    assert!(!pci::bind(&sysfs, address(BDF), &[]).unwrap().changed);
}

#[test]
fn a_sound_card_in_the_group_is_refused_even_together() {
    let machine = spare();
    machine.function("0000:c1:00.1", 0x04_03_00, Some("snd_hda_intel"), Some(12));
    refused(&machine, &sysfs(&machine), "0000:c1:00.1 (snd_hda_intel)");
}

#[test]
fn without_an_iommu_a_drive_is_refused_with_what_to_switch_on() {
    let machine = Machine::new();
    machine.nvme(BDF, 1, None);
    refused(&machine, &sysfs(&machine), "intel_iommu=on");
    let machine = spare();
    machine.write("sys/kernel/iommu_groups/12/name", "vfio-noiommu\n");
    refused(&machine, &sysfs(&machine), "enable_unsafe_noiommu_mode");
}

#[test]
fn drives_behind_vmd_are_refused_with_what_to_switch_off() {
    let vmd = "10000:e1:00.0";
    for group in [None, Some(5)] {
        let machine = Machine::new();
        machine.function("0000:64:00.5", 0x01_04_00, Some("vmd"), Some(5));
        machine.nvme(vmd, 0, group);
        let error = pci::bind(&sysfs(&machine), address(vmd), &[]).unwrap_err().to_string();
        assert!(error.contains("switch VMD off"), "{error}");
        assert!(machine.is_given_back(vmd));
    }
}

#[test]
fn what_is_no_nvme_drive_is_refused() {
    let machine = spare();
    let bind = |bdf| pci::bind(&sysfs(&machine), address(bdf), &[]).unwrap_err();
    assert!(matches!(bind(BUS), BindError::NotNvme { class: 0x06_04_00, .. }));
    assert!(matches!(bind("0000:99:00.0"), BindError::NoFunction { .. }));
    let unbind = |bdf| pci::unbind(&sysfs(&machine), address(bdf)).unwrap_err();
    assert!(matches!(unbind(BUS), BindError::NotNvme { .. }));
}

#[test]
fn a_drive_of_another_userspace_driver_is_left_alone() {
    let machine = Machine::new();
    machine.function(BDF, 0x01_08_02, Some("uio_pci_generic"), Some(12));
    refused(&machine, &sysfs(&machine), "the driver uio_pci_generic is bound to it");
    let error = pci::unbind(&sysfs(&machine), address(BDF)).unwrap_err();
    assert!(matches!(error, BindError::Obstacles { .. }), "{error}");
}

#[test]
fn a_drive_in_use_is_not_given_back_and_its_user_is_named() {
    let machine = spare();
    let plain = sysfs(&machine);
    pci::bind(&plain, address(BDF), &[]).unwrap();
    let held = Simulated { claimed: vec!["dev/vfio/12"], ..Simulated::on(&machine) }.sysfs();
    let error = pci::unbind(&held, address(BDF)).unwrap_err().to_string();
    assert!(error.contains("a process that cannot be seen from here"), "{error}");
    machine.process(4711, "server", "/dev/vfio/12");
    let error = pci::unbind(&plain, address(BDF)).unwrap_err().to_string();
    assert!(error.contains("/dev/vfio/12 is in use by process 4711 (server)"), "{error}");
    assert!(machine.is_bound(BDF));
}

#[test]
fn a_drive_open_by_its_own_node_counts_as_in_use_too() {
    let machine = spare();
    pci::bind(&sysfs(&machine), address(BDF), &[]).unwrap();
    machine.folder(&format!("sys/bus/pci/devices/{BDF}/vfio-dev/vfio3"));
    machine.process(4712, "server", "/dev/vfio/devices/vfio3");
    let error = pci::unbind(&sysfs(&machine), address(BDF)).unwrap_err();
    assert!(matches!(error, BindError::Held { .. }), "{error}");
}

#[test]
fn errors_of_permission_say_who_may() {
    let machine = spare();
    #[derive(Debug)]
    struct Nobody;
    impl Kernel for Nobody {
        fn write(&self, _: &Path, _: &str) -> io::Result<()> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
        fn claim(&self, path: &Path) -> io::Result<File> {
            File::open(path)
        }
        fn open_group(&self, _: &Path) -> io::Result<File> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
        fn chown(&self, _: &Path, _: u32) -> io::Result<()> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }
    let nobody = Sysfs::new(machine.root()).with_kernel(Arc::new(Nobody));
    refused(&machine, &nobody, "run as root");
    assert!(matches!(
        pci::hand_over(&nobody.with_patience(Duration::ZERO), address(BDF), 1),
        Err(BindError::Stuck { .. })
    ));
}
