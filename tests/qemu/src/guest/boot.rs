//! One boot: QEMU's arguments, the running guest, its end.

use std::env;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::{NamedTempFile, TempDir};

use super::drive::{Drive, backend};
use super::{Report, initrd, kernel_complaints};
use crate::qmp::Qmp;
use crate::tools::Tools;

/// Size of the peer device's memory BAR.
pub const PEER_BYTES: u64 = 64 << 20;

/// How often files and processes are looked at.
const TICK: Duration = Duration::from_millis(20);

/// How long a controller that was unplugged may take to be gone from QEMU.
const PLUG: Duration = Duration::from_secs(10);

/// As many guests at a time as there are test threads, but for those that want to be alone.
static TURNS: RwLock<()> = RwLock::new(());

/// A guest's place among them, held until it has ended.
#[derive(Debug)]
enum Turn {
    Alone { _guard: RwLockWriteGuard<'static, ()> },
    Shared { _guard: RwLockReadGuard<'static, ()> },
}

impl Turn {
    fn wait(alone: bool) -> Self {
        // A test that failed has poisoned nothing.
        match alone {
            true => Self::Alone { _guard: TURNS.write().unwrap_or_else(PoisonError::into_inner) },
            false => Self::Shared { _guard: TURNS.read().unwrap_or_else(PoisonError::into_inner) },
        }
    }
}

/// A boot to be made.
#[derive(Debug, Clone)]
pub struct Boot {
    scenario: String,
    drives: Vec<Drive>,
    peers: usize,
    deadline: Duration,
    alone: bool,
}

impl Boot {
    /// A boot that runs a scenario of the program `guest`.
    #[must_use]
    pub fn of(scenario: &str) -> Self {
        let deadline = Duration::from_secs(120);
        Self { scenario: scenario.to_owned(), drives: Vec::new(), peers: 0, deadline, alone: false }
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

    /// Without other guests of this process beside it: for figures.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// The longest time from start to power-off; two minutes if not said.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Starts QEMU, when it is its turn.
    ///
    /// # Errors
    /// A message that says what is missing.
    pub fn start(&self) -> Result<Guest, String> {
        let turn = Turn::wait(self.alone);
        let folder = tempfile::tempdir().map_err(|e| format!("a folder for the guest: {e}"))?;
        let peers = (0..self.peers).map(|_| peer_memory()).collect::<Result<Vec<_>, _>>()?;
        let console = format!("file:{}", folder.path().join(CONSOLE).display());
        let mut qemu = self.qemu(folder.path(), &peers, &console)?;
        let errors = File::create(folder.path().join(ERRORS)).map_err(|e| format!("a log: {e}"))?;
        qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        let child = qemu.spawn().map_err(|error| format!("QEMU does not start: {error}"))?;
        let (boot, started) = (self.clone(), Instant::now());
        Ok(Guest { child, folder, peers, boot, started, plugs: 0, _turn: turn })
    }

    /// Runs QEMU with the guest's console on this terminal, until it powers off; without a deadline.
    ///
    /// # Errors
    /// A message that says what is missing.
    pub fn interactive(&self) -> Result<(), String> {
        let folder = tempfile::tempdir().map_err(|e| format!("a folder for the guest: {e}"))?;
        let peers = (0..self.peers).map(|_| peer_memory()).collect::<Result<Vec<_>, _>>()?;
        let mut qemu = self.qemu(folder.path(), &peers, "mon:stdio")?;
        let status = qemu.status().map_err(|error| format!("QEMU does not start: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("QEMU: {status}")) }
    }

    /// The command, with the guest's console there.
    fn qemu(
        &self,
        folder: &Path,
        peers: &[NamedTempFile],
        console: &str,
    ) -> Result<Command, String> {
        let tools = Tools::find()?;
        let initrd = folder.join("initrd");
        fs::write(&initrd, initrd::build(&tools)?).map_err(|e| format!("the initrd: {e}"))?;
        let mut qemu = tools.qemu();
        qemu.args(["-machine", "q35,kernel-irqchip=split", "-accel", "tcg,thread=multi"]);
        qemu.args(["-cpu", "max", "-smp", "2", "-m", "1024", "-device", "intel-iommu,intremap=on"]);
        qemu.arg("-kernel").arg(tools.kernel()?).arg("-initrd").arg(&initrd);
        qemu.arg("-append").arg(self.words());
        qemu.arg("-serial").arg(console);
        for port in [REPORT, KERNEL] {
            qemu.arg("-serial").arg(format!("file:{}", folder.join(port).display()));
        }
        let socket = folder.join(MONITOR);
        qemu.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
        for (index, drive) in self.drives.iter().enumerate() {
            qemu.args(backend(drive, index, folder)?);
            if drive.root_port {
                let slot = index + 1;
                let port = format!("pcie-root-port,id=rp{index},chassis={slot},slot={slot}");
                qemu.args(["-device", &port]);
            }
            qemu.args(["-device", &drive.device(index, &format!("d{index}"))]);
        }
        for (index, memory) in peers.iter().enumerate() {
            let (id, path) = (format!("peer{index}"), memory.path().display());
            let backend = "memory-backend-file,share=on";
            let size = PEER_BYTES;
            qemu.args(["-object", &format!("{backend},id={id},size={size},mem-path={path}")]);
            qemu.args(["-device", &format!("ivshmem-plain,memdev={id}")]);
        }
        Ok(qemu)
    }

    /// The kernel's command line. The clock of software emulation is steady, whatever its frequency:
    /// without `tsc=reliable` the kernel falls back to one that costs microseconds a look.
    fn words(&self) -> String {
        let kernel = "console=ttyS0 quiet panic=-1 intel_iommu=on random.trust_cpu=on tsc=reliable";
        let log = env::var("GCOS_GUEST_LOG").map(|filter| format!(" gcos.log={filter}"));
        format!("{kernel} gcos.scenario={}{}", self.scenario, log.unwrap_or_default())
    }

    /// Starts it, waits for its end and judges it; see [`Guest::finish`]. Started once more where QEMU died before
    /// anything of ours ran in it: seen once, in its software emulation, while the kernel booted.
    ///
    /// # Errors
    /// As [`Boot::start`] and [`Guest::finish`].
    pub fn run(&self) -> Result<Report, String> {
        let mut guest = self.start()?;
        if guest.died_booting()? {
            drop(guest);
            guest = self.start()?;
        }
        guest.finish(&[])
    }
}

/// Files of the guest's serial ports: its console, its report, its kernel's log.
const CONSOLE: &str = "console";
const REPORT: &str = "report";
const KERNEL: &str = "kernel";
/// QEMU's monitor.
const MONITOR: &str = "monitor";
/// What QEMU itself says.
const ERRORS: &str = "qemu";

fn peer_memory() -> Result<NamedTempFile, String> {
    let fail = |error| format!("memory of the peer device in /dev/shm: {error}");
    let file =
        tempfile::Builder::new().prefix("gcos-peer-").tempfile_in("/dev/shm").map_err(fail)?;
    file.as_file().set_len(PEER_BYTES).map_err(fail)?;
    Ok(file)
}

/// A guest that runs. QEMU is killed when it is dropped.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    folder: TempDir,
    peers: Vec<NamedTempFile>,
    boot: Boot,
    started: Instant,
    plugs: usize,
    _turn: Turn,
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

    /// A connection to QEMU's monitor, as soon as QEMU listens. There can be one at a time.
    ///
    /// # Errors
    /// A message when QEMU does not answer.
    pub fn monitor(&mut self) -> Result<Qmp, String> {
        let socket = self.folder.path().join(MONITOR);
        while !socket.exists() && !self.ended()? {
            thread::sleep(TICK);
        }
        let stream = UnixStream::connect(&socket);
        Qmp::new(stream.map_err(|error| format!("QEMU's monitor, {}: {error}", socket.display()))?)
    }

    /// The file behind a peer device's BAR.
    #[must_use]
    pub fn peer(&self, index: usize) -> Option<&Path> {
        self.peers.get(index).map(NamedTempFile::path)
    }

    /// Plugs a controller in again that was unplugged, as soon as it has gone, over the same file.
    ///
    /// # Errors
    /// What QEMU says when it still refuses after ten seconds.
    pub fn plug(&mut self, monitor: &mut Qmp, index: usize) -> Result<(), String> {
        let Some(drive) = self.boot.drives.get(index) else {
            return Err(format!("this guest has no drive {index}"));
        };
        // QEMU keeps the old controller's hold on its node, so the file gets a new one.
        self.plugs += 1;
        let node = format!("d{index}p{}", self.plugs);
        let path = self.folder.path().join(format!("drive{index}"));
        let file = json!({ "driver": "file", "filename": path, "locking": "off" });
        let mut block = json!({ "driver": "raw", "file": file });
        if drive.pace.is_some() {
            let group = format!("t{index}");
            block = json!({ "driver": "throttle", "throttle-group": group, "file": block });
        }
        block["node-name"] = node.clone().into();
        monitor.execute("blockdev-add", block)?;
        let mut device = serde_json::Map::new();
        for part in drive.device(index, &node).split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or(("driver", part));
            device.insert(key.to_owned(), value.into());
        }
        let end = Instant::now() + PLUG;
        loop {
            match monitor.execute("device_add", device.clone().into()) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => thread::sleep(TICK),
            }
        }
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
        let status = self.child.wait().map_err(|error| format!("waiting for QEMU: {error}"))?;
        let report = Report::parse(&self.text(REPORT));
        let kernel = self.text(KERNEL);
        let mut faults = report.faults(may_lack);
        faults.extend(kernel_complaints(&kernel));
        if kernel.lines().next_back().map(str::trim_end) != Some("end") {
            // A kernel that ended early says why on its console.
            faults.extend(kernel_complaints(&self.text(CONSOLE)));
            faults.push(format!("the guest did not power off in order; QEMU: {status}"));
        }
        match faults.is_empty() {
            true => Ok(report),
            false => Err(self.complaint(&faults.join("\n"))),
        }
    }

    /// Whether a signal ended QEMU before the guest said a word. Waits for either.
    fn died_booting(&mut self) -> Result<bool, String> {
        while [CONSOLE, KERNEL, REPORT].iter().all(|port| self.text(port).is_empty()) {
            if self.ended()? {
                let status = self.child.wait().map_err(|e| format!("waiting for QEMU: {e}"))?;
                return Ok(status.signal().is_some());
            }
            thread::sleep(TICK);
        }
        Ok(false)
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
        let mut text = String::new();
        for port in [ERRORS, KERNEL, CONSOLE, REPORT] {
            let said = self.text(port);
            let skipped = said.lines().count().saturating_sub(MOST_LINES);
            text.push_str(&format!("---- {port} (the first {skipped} lines left out)\n"));
            for line in said.lines().skip(skipped) {
                text.push_str(&format!("{}\n", line.trim_end()));
            }
        }
        // What is wrong stands last, where one looks first.
        format!("{text}---- scenario {}:\n{what}\n", self.boot.scenario)
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
