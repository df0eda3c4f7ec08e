//! A machine made of plain files: `/sys`, `/proc` and `/dev` as far as the setup looks at them, and
//! what the kernel does when a driver is unbound or a device probed.
//!
//! Tests of the library put [`effect`] behind `Sysfs`; tests of the command let [`Machine::live`]
//! serve the same attributes through pipes.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

const MOUNTS: &str = "22 27 0:21 / /proc rw,relatime - proc proc rw\n";

pub(crate) struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    /// A machine with the IOMMU on and the drivers nvme, vfio-pci and pcieport loaded.
    pub(crate) fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        for driver in ["nvme", "vfio-pci", "pcieport"] {
            machine.driver(driver);
        }
        machine.write("sys/bus/pci/drivers_probe", "");
        machine.write("dev/vfio/vfio", "");
        machine.write("proc/self/mountinfo", MOUNTS);
        machine.write("proc/swaps", "Filename Type Size Used Priority\n");
        machine.folder("sys/class/block");
        machine.folder("sys/kernel/iommu_groups");
        machine
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    pub(crate) fn folder(&self, path: &str) {
        fs::create_dir_all(self.path(path)).unwrap();
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn append(&self, path: &str, line: &str) {
        let mut file = OpenOptions::new().append(true).open(self.path(path)).unwrap();
        writeln!(file, "{line}").unwrap();
    }

    pub(crate) fn remove(&self, path: &str) {
        let path = self.path(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
    }

    pub(crate) fn driver(&self, name: &str) {
        self.write(&format!("sys/bus/pci/drivers/{name}/unbind"), "");
    }

    /// Unloads a driver that nothing is bound to.
    pub(crate) fn unload(&self, name: &str) {
        self.remove(&format!("sys/bus/pci/drivers/{name}"));
    }

    /// A PCI function, in an IOMMU group if there is one.
    pub(crate) fn function(&self, bdf: &str, class: u32, driver: Option<&str>, group: Option<u32>) {
        let (root, _) = bdf.rsplit_once(':').unwrap();
        let device = format!("sys/devices/pci{root}/{bdf}");
        self.write(&format!("{device}/class"), &format!("{class:#08x}\n"));
        self.write(&format!("{device}/vendor"), "0x144d\n");
        self.write(&format!("{device}/device"), "0xa80a\n");
        self.write(&format!("{device}/subsystem_vendor"), "0x144d\n");
        self.write(&format!("{device}/subsystem_device"), "0xa801\n");
        self.write(&format!("{device}/driver_override"), "(null)\n");
        self.write(&format!("{device}/numa_node"), "1\n");
        self.write(&format!("{device}/current_link_speed"), "16.0 GT/s PCIe\n");
        self.write(&format!("{device}/current_link_width"), "4\n");
        self.write(&format!("{device}/max_link_speed"), "32.0 GT/s PCIe\n");
        self.write(&format!("{device}/max_link_width"), "4\n");
        self.folder("sys/bus/pci/devices");
        let link = self.path(&format!("sys/bus/pci/devices/{bdf}"));
        symlink(format!("../../../devices/pci{root}/{bdf}"), link).unwrap();
        if let Some(driver) = driver {
            self.driver(driver);
            let link = self.path(&format!("{device}/driver"));
            symlink(format!("../../../bus/pci/drivers/{driver}"), link).unwrap();
        }
        if let Some(group) = group {
            let members = format!("sys/kernel/iommu_groups/{group}/devices");
            self.folder(&members);
            let target = format!("../../../../devices/pci{root}/{bdf}");
            symlink(target, self.path(&format!("{members}/{bdf}"))).unwrap();
            let target = format!("../../../kernel/iommu_groups/{group}");
            symlink(target, self.path(&format!("{device}/iommu_group"))).unwrap();
        }
    }

    /// A bridge above a drive, as root ports are.
    pub(crate) fn bridge(&self, bdf: &str, group: Option<u32>) {
        self.function(bdf, 0x06_04_00, Some("pcieport"), group);
    }

    /// An NVMe drive that the kernel drives as `nvmeINDEX`, with one namespace of 1 GiB.
    pub(crate) fn nvme(&self, bdf: &str, index: u32, group: Option<u32>) {
        self.function(bdf, 0x01_08_02, Some("nvme"), group);
        let name = format!("nvme{index}");
        let own = format!("sys/bus/pci/devices/{bdf}/nvme/{name}");
        self.write(&format!("{own}/model"), "Fast Drive 9000   \n");
        self.write(&format!("{own}/serial"), &format!("SN-{bdf}  \n"));
        self.write(&format!("{own}/firmware_rev"), "1.0\n");
        self.write(&format!("{own}/state"), "live\n");
        self.write(&format!("{own}/hwmon{index}/temp1_input"), "41850\n");
        self.disk(&format!("{name}n1"), 2_097_152, &format!("259:{}", index * 16));
        self.folder(&format!("{own}/{name}n1"));
    }

    /// A block device of so many sectors of 512 bytes.
    pub(crate) fn disk(&self, name: &str, sectors: u64, number: &str) {
        let block = format!("sys/class/block/{name}");
        self.write(&format!("{block}/size"), &format!("{sectors}\n"));
        self.write(&format!("{block}/dev"), &format!("{number}\n"));
        self.write(&format!("{block}/queue/logical_block_size"), "512\n");
        self.folder(&format!("{block}/holders"));
        self.write(&format!("dev/{name}"), "");
    }

    pub(crate) fn partition(&self, disk: &str, part: u32, number: &str) -> String {
        let name = format!("{disk}p{part}");
        self.disk(&name, 2048, number);
        self.write(&format!("sys/class/block/{disk}/{name}/partition"), &format!("{part}\n"));
        name
    }

    /// Mounts what has the number `major:minor`, or what `source` says.
    pub(crate) fn mount(&self, number: &str, source: &str, at: &str) {
        let line = format!("36 22 {number} / {at} rw shared:1 - ext4 {source} rw");
        self.append("proc/self/mountinfo", &line);
    }

    pub(crate) fn swap(&self, path: &str) {
        self.append("proc/swaps", &format!("{path} partition 1024 0 -2"));
    }

    /// Builds the device `holder` on `device`. `attributes` are of the holder.
    pub(crate) fn hold(&self, device: &str, holder: &str, attributes: &[(&str, &str)]) {
        self.disk(holder, 2048, &format!("253:{}", holder.len()));
        for (name, text) in attributes {
            self.write(&format!("sys/class/block/{holder}/{name}"), text);
        }
        self.folder(&format!("sys/class/block/{device}/holders/{holder}"));
    }

    /// A process that has a file open.
    pub(crate) fn process(&self, pid: u32, program: &str, open: &str) {
        self.write(&format!("proc/{pid}/comm"), &format!("{program}\n"));
        self.folder(&format!("proc/{pid}/fd"));
        symlink(open, self.path(&format!("proc/{pid}/fd/7"))).unwrap();
    }

    /// Driver and override of a function.
    pub(crate) fn state(&self, bdf: &str) -> (Option<String>, Option<String>) {
        let device = self.path(&format!("sys/bus/pci/devices/{bdf}"));
        (driver_of(&device), override_of(&device))
    }

    /// What the kernel starts with, and a drive that was given back.
    pub(crate) fn is_given_back(&self, bdf: &str) -> bool {
        self.state(bdf) == (Some("nvme".to_owned()), None)
    }

    pub(crate) fn is_bound(&self, bdf: &str) -> bool {
        let vfio = Some("vfio-pci".to_owned());
        self.state(bdf) == (vfio.clone(), vfio)
    }

    /// Serves `unbind` and `drivers_probe` through pipes, for a process that knows no more than their
    /// paths. From the write numbered `stall_at` (from 0) on, nothing is done with what is written.
    pub(crate) fn live(&self, stall_at: usize) -> Live {
        let mut live = Live { pipes: Vec::new(), threads: Vec::new(), writes: Arc::default() };
        let drivers = fs::read_dir(self.path("sys/bus/pci/drivers")).unwrap();
        let mut paths: Vec<_> = drivers.map(|entry| entry.unwrap().path().join("unbind")).collect();
        paths.push(self.path("sys/bus/pci/drivers_probe"));
        let one_at_a_time = Arc::new(Mutex::new(()));
        for path in paths {
            fs::remove_file(&path).unwrap();
            assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
            // Open for both, so that neither side waits for the other to open it.
            let mut pipe = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            live.pipes.push(path.clone());
            let (root, writes) = (self.root().to_owned(), Arc::clone(&live.writes));
            let turn = Arc::clone(&one_at_a_time);
            live.threads.push(std::thread::spawn(move || {
                let mut bytes = [0; 64];
                loop {
                    let len = pipe.read(&mut bytes).unwrap();
                    let text = String::from_utf8(bytes[..len].to_vec()).unwrap();
                    if text == STOP {
                        return;
                    }
                    let _turn = turn.lock().unwrap();
                    if writes.fetch_add(1, Ordering::SeqCst) < stall_at {
                        effect(&root, &path, &text).unwrap();
                    }
                }
            }));
        }
        live
    }
}

const STOP: &str = "stop\n";

/// The kernel of a machine that processes use.
pub(crate) struct Live {
    pipes: Vec<PathBuf>,
    threads: Vec<JoinHandle<()>>,
    writes: Arc<AtomicUsize>,
}

impl Live {
    /// How many writes have come.
    pub(crate) fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        for pipe in &self.pipes {
            OpenOptions::new().write(true).open(pipe).unwrap().write_all(STOP.as_bytes()).unwrap();
        }
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        // Plain files again, for the next kernel.
        for pipe in &self.pipes {
            fs::remove_file(pipe).unwrap();
            fs::write(pipe, "").unwrap();
        }
    }
}

fn driver_of(device: &Path) -> Option<String> {
    let target = fs::read_link(device.join("driver")).ok()?;
    Some(target.file_name().unwrap().to_string_lossy().into_owned())
}

fn override_of(device: &Path) -> Option<String> {
    let text = fs::read_to_string(device.join("driver_override")).unwrap();
    let text = text.trim();
    (!text.is_empty() && text != "(null)").then(|| text.to_owned())
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

const ENODEV: i32 = 19;

/// What the kernel does when `text` is written to the attribute at `path`.
pub(crate) fn effect(root: &Path, path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().unwrap().to_string_lossy();
    let text = text.trim_end();
    let device = |bdf: &str| root.join("sys/bus/pci/devices").join(bdf);
    match name.as_ref() {
        "driver_override" => {
            let text = if text.is_empty() { "(null)" } else { text };
            fs::write(path, format!("{text}\n"))
        }
        "unbind" => {
            let driver = path.parent().unwrap().file_name().unwrap().to_string_lossy();
            let device = device(text);
            if driver_of(&device).as_deref() != Some(&*driver) {
                return Err(errno(ENODEV));
            }
            fs::remove_file(device.join("driver"))?;
            match &*driver {
                "nvme" => show_controller(root, &device, false),
                "vfio-pci" => show_group(root, &device, false),
                other => panic!("nothing unbinds {other}"),
            }
        }
        "drivers_probe" => probe(root, &device(text)),
        other => panic!("nothing writes to {other}"),
    }
}

fn probe(root: &Path, device: &Path) -> io::Result<()> {
    if !device.exists() {
        return Err(errno(ENODEV));
    }
    let wanted = override_of(device).unwrap_or_else(|| "nvme".to_owned());
    let loaded = root.join("sys/bus/pci/drivers").join(&wanted);
    // A file of this name stands for a driver that refuses the device.
    if driver_of(device).is_some() || !loaded.exists() || loaded.join("refuses").exists() {
        return Ok(());
    }
    symlink(format!("../../../bus/pci/drivers/{wanted}"), device.join("driver"))?;
    match wanted.as_str() {
        "nvme" => show_controller(root, device, true),
        "vfio-pci" => show_group(root, device, true),
        other => panic!("nothing probes {other}"),
    }
}

/// The controller and its disks come and go with the driver.
fn show_controller(root: &Path, device: &Path, show: bool) -> io::Result<()> {
    let gone = root.join("gone");
    fs::create_dir_all(&gone)?;
    let (there, away) = (device.join("nvme"), device.join("no-nvme"));
    let (from, to) = if show { (&away, &there) } else { (&there, &away) };
    if !from.exists() {
        return Ok(());
    }
    fs::rename(from, to)?;
    let controller = fs::read_dir(to)?.next().unwrap()?.path();
    let name = controller.file_name().unwrap().to_string_lossy().into_owned();
    let prefix = format!("{name}n");
    let (from, to) = (root.join("sys/class/block"), gone);
    let (from, to) = if show { (to, from) } else { (from, to) };
    for entry in fs::read_dir(&from)? {
        let entry = entry?.file_name();
        if entry.to_string_lossy().starts_with(&prefix) {
            fs::rename(from.join(&entry), to.join(&entry))?;
        }
    }
    Ok(())
}

/// The node of a group is there while one of the group is bound to vfio-pci.
fn show_group(root: &Path, device: &Path, show: bool) -> io::Result<()> {
    let Ok(group) = fs::read_link(device.join("iommu_group")) else { return Ok(()) };
    let node = root.join("dev/vfio").join(group.file_name().unwrap());
    if show {
        return fs::write(node, "");
    }
    let members = fs::read_dir(device.join("iommu_group/devices"))?;
    let bound = members.flatten().any(|m| driver_of(&m.path()).as_deref() == Some("vfio-pci"));
    if bound { Ok(()) } else { fs::remove_file(node) }
}
