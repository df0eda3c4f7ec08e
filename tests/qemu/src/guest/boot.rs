//! One boot: QEMU's arguments, the running guest, its end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::{NamedTempFile, TempDir};

use super::monitor::Monitor;
use super::{Report, initrd, kernel_complaints};
use crate::tools::Tools;

/// Size of the peer device's memory BAR.
pub const PEER_BYTES: u64 = 64 << 20;

/// How often files and processes are looked at.
const TICK: Duration = Duration::from_millis(20);

/// One guest at a time: emulation takes every processor that a small machine has, and the deadlines
/// in the guest are by its clock.
static ONE: Mutex<()> = Mutex::new(());

/// What is behind one controller.
#[derive(Debug, Clone, Default)]
pub struct Drive {
    bytes: u64,
    null: bool,
    options: String,
    root_port: bool,
}

impl Drive {
    /// A sparse raw file.
    #[must_use]
    pub fn file(bytes: u64) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// A backend that does nothing at once, for figures.
    #[must_use]
    pub fn null(bytes: u64) -> Self {
        Self { bytes, null: true, ..Self::default() }
    }

    /// Options of QEMU's `nvme` device, such as `mdts=5`.
    #[must_use]
    pub fn with(mut self, options: &str) -> Self {
        self.options = format!("{},{options}", self.options);
        self
    }

    /// Behind a root port, so that it can be unplugged.
    #[must_use]
    pub fn behind_root_port(mut self) -> Self {
        self.root_port = true;
        self
    }

    /// The controller's device of QEMU, `nvme0` for the first drive.
    fn device(&self, index: usize) -> String {
        let bus = if self.root_port { format!("rp{index}") } else { "pcie.0".to_owned() };
        let options = &self.options;
        format!("nvme,id=nvme{index},serial=GUEST{index},drive=d{index},bus={bus}{options}")
    }
}

/// A boot to be made.
#[derive(Debug, Clone)]
pub struct Boot {
    scenario: String,
    drives: Vec<Drive>,
    peers: usize,
    deadline: Duration,
}

impl Boot {
    /// A boot that runs a scenario of the program `guest`.
    #[must_use]
    pub fn of(scenario: &str) -> Self {
        let deadline = Duration::from_secs(120);
        Self { scenario: scenario.to_owned(), drives: Vec::new(), peers: 0, deadline }
    }

    /// Adds a controller. The first has the first PCI address.
    #[must_use]
    pub fn drive(mut self, drive: Drive) -> Self {
        self.drives.push(drive);
        self
    }

    /// Adds a device that has nothing but a BAR of [`PEER_BYTES`] of memory, visible to the host too.
    #[must_use]
    pub fn peer(mut self) -> Self {
        self.peers += 1;
        self
    }

    /// The longest time from start to power-off; two minutes if not said.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Starts QEMU. Waits for other guests of this process to end first.
    ///
    /// # Errors
    /// A message that says what is missing.
    pub fn start(&self) -> Result<Guest, String> {
        let turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let tools = Tools::find()?;
        let folder = tempfile::tempdir().map_err(|e| format!("a folder for the guest: {e}"))?;
        let initrd = folder.path().join("initrd");
        fs::write(&initrd, initrd::build(&tools)?).map_err(|e| format!("the initrd: {e}"))?;
        let peers = (0..self.peers).map(|_| peer_memory()).collect::<Result<Vec<_>, _>>()?;

        let mut qemu = tools.qemu();
        qemu.args(["-machine", "q35,kernel-irqchip=split", "-accel", "tcg,thread=multi"]);
        qemu.args(["-cpu", "max", "-smp", "2", "-m", "1024", "-device", "intel-iommu,intremap=on"]);
        qemu.arg("-kernel").arg(tools.kernel()?).arg("-initrd").arg(&initrd);
        let words = "console=ttyS0 quiet panic=-1 intel_iommu=on random.trust_cpu=on";
        qemu.args(["-append", &format!("{words} gcos.scenario={}", self.scenario)]);
        for port in PORTS {
            let file = folder.path().join(port);
            qemu.arg("-serial").arg(format!("file:{}", file.display()));
        }
        let socket = folder.path().join("monitor");
        qemu.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
        for (index, drive) in self.drives.iter().enumerate() {
            qemu.arg("-drive").arg(backend(drive, index, folder.path())?);
            if drive.root_port {
                let slot = index + 1;
                qemu.args(["-device", &format!("pcie-root-port,id=rp{index},chassis={slot},slot={slot}")]);
            }
            qemu.args(["-device", &drive.device(index)]);
        }
        for (index, memory) in peers.iter().enumerate() {
            let path = memory.path().display();
            let backend = format!("memory-backend-file,id=peer{index},size={PEER_BYTES},mem-path={path},share=on");
            qemu.args(["-object", &backend]);
            qemu.args(["-device", &format!("ivshmem-plain,memdev=peer{index}")]);
        }
        let errors = File::create(folder.path().join(ERRORS)).map_err(|e| format!("a log: {e}"))?;
        qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        let child = qemu.spawn().map_err(|error| format!("QEMU does not start: {error}"))?;
        Ok(Guest {
            child,
            folder,
            peers,
            boot: self.clone(),
            started: Instant::now(),
            _turn: turn,
        })
    }

    /// Starts it, waits for its end and judges it; see [`Guest::finish`].
    ///
    /// # Errors
    /// As [`Boot::start`] and [`Guest::finish`].
    pub fn run(&self) -> Result<Report, String> {
        self.start()?.finish(&[])
    }
}

/// Files of the guest's serial ports: its console, its report, its kernel's log.
const PORTS: [&str; 3] = [CONSOLE, REPORT, KERNEL];
const CONSOLE: &str = "console";
const REPORT: &str = "report";
const KERNEL: &str = "kernel";
/// What QEMU itself says.
const ERRORS: &str = "qemu";

fn peer_memory() -> Result<NamedTempFile, String> {
    let fail = |error| format!("memory of the peer device in /dev/shm: {error}");
    let file = tempfile::Builder::new().prefix("gcos-peer-").tempfile_in("/dev/shm").map_err(fail)?;
    file.as_file().set_len(PEER_BYTES).map_err(fail)?;
    Ok(file)
}

fn backend(drive: &Drive, index: usize, folder: &Path) -> Result<String, String> {
    let Drive { bytes, .. } = drive;
    if drive.null {
        return Ok(format!("driver=null-co,if=none,id=d{index},size={bytes},read-zeroes=on"));
    }
    let path = folder.join(format!("drive{index}"));
    let created = File::create(&path).and_then(|file| file.set_len(*bytes));
    created.map_err(|error| format!("{}: {error}", path.display()))?;
    let path = path.display();
    Ok(format!("file={path},format=raw,if=none,id=d{index},cache=writeback,discard=unmap"))
}

/// A guest that runs. QEMU is killed when it is dropped.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    folder: TempDir,
    peers: Vec<NamedTempFile>,
    boot: Boot,
    started: Instant,
    _turn: MutexGuard<'static, ()>,
}

impl Guest {
    /// Waits until the scenario asks the host for something with the line `ask TEXT`.
    ///
    /// # Errors
    /// A message with the console when the guest ends or the time is over before.
    pub fn wait_for(&mut self, text: &str) -> Result<(), String> {
        let line = format!("ask {text}");
        loop {
            let asked = self.text(REPORT).lines().any(|found| found.trim_end() == line);
            if asked {
                return Ok(());
            }
            if self.ended()? {
                return Err(self.complaint(&format!("the guest ended before it said {line:?}")));
            }
            thread::sleep(TICK);
        }
    }

    /// A connection to QEMU's monitor. There can be one at a time.
    ///
    /// # Errors
    /// A message when QEMU does not answer.
    pub fn monitor(&self) -> Result<Monitor, String> {
        Monitor::connect(&self.folder.path().join("monitor"))
    }

    /// The file behind a peer device's BAR.
    #[must_use]
    pub fn peer(&self, index: usize) -> Option<&Path> {
        self.peers.get(index).map(NamedTempFile::path)
    }

    /// Arguments of the monitor's `device_add` that plug a controller in again.
    #[must_use]
    pub fn plug(&self, index: usize) -> Option<serde_json::Value> {
        let device = self.boot.drives.get(index)?.device(index);
        let mut arguments = serde_json::Map::new();
        for (at, part) in device.split(',').filter(|part| !part.is_empty()).enumerate() {
            let (key, value) = part.split_once('=').unwrap_or(("driver", part));
            debug_assert_eq!(at == 0, key == "driver");
            arguments.insert(key.to_owned(), value.into());
        }
        Some(arguments.into())
    }

    /// Waits for the power-off and judges what was said. Passed are whole reports without failures,
    /// with a kernel's log that has no unexpected fault; cases may be left out as not offered if
    /// their name contains one of `may_lack`.
    ///
    /// # Errors
    /// A message that says what is wrong, with the console.
    pub fn finish(mut self, may_lack: &[&str]) -> Result<Report, String> {
        while !self.ended()? {
            thread::sleep(TICK);
        }
        let report = Report::parse(&self.text(REPORT));
        let kernel = self.text(KERNEL);
        let mut faults = report.faults(may_lack);
        faults.extend(kernel_complaints(&kernel));
        faults.extend(kernel_complaints(&self.text(CONSOLE)));
        if kernel.lines().next_back().map(str::trim_end) != Some("end") {
            faults.push("the guest did not power off in order".to_owned());
        }
        match faults.is_empty() {
            true => Ok(report),
            false => Err(self.complaint(&faults.join("\n"))),
        }
    }

    /// Whether QEMU has ended.
    ///
    /// # Errors
    /// A message with the console when the time is over.
    fn ended(&mut self) -> Result<bool, String> {
        let ended = self.child.try_wait().map_err(|error| format!("waiting for QEMU: {error}"))?;
        if ended.is_none() && self.started.elapsed() > self.boot.deadline {
            let text = format!("the guest still ran after {:?}", self.boot.deadline);
            return Err(self.complaint(&text));
        }
        Ok(ended.is_some())
    }

    fn text(&self, port: &str) -> String {
        let path: PathBuf = self.folder.path().join(port);
        fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// A message with everything that was said.
    fn complaint(&self, what: &str) -> String {
        let mut text = format!("scenario {}: {what}\n", self.boot.scenario);
        for port in [ERRORS, CONSOLE, REPORT, KERNEL] {
            let said = self.text(port);
            let skipped = said.lines().count().saturating_sub(MOST_LINES);
            text.push_str(&format!("---- {port} (the first {skipped} lines left out)\n"));
            for line in said.lines().skip(skipped) {
                text.push_str(&format!("{}\n", line.trim_end()));
            }
        }
        text
    }
}

/// Most lines that a message quotes from one port.
const MOST_LINES: usize = 150;

impl Drop for Guest {
    fn drop(&mut self) {
        // Fails for one that has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
