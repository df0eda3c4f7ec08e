//! A machine of QEMU's that a test plays the processor of.

use std::fs::{self, File};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use gcos_hw::{DmaSpace, Function};

use crate::qmp::Qmp;
use crate::qtest::{Interrupts, Link, QtestFunction, RAM_BYTES, Ram, bring_up, locked};
use crate::tools::Tools;

/// Longest time for QEMU to start, on a machine that is busy with other tests.
const START: Duration = Duration::from_secs(30);

/// What the processor runs: it halts.
const FIRMWARE_BYTES: usize = 64 << 10;
const RESET_VECTOR: usize = 0xFFF0;
/// `cli; hlt; jmp` to the `hlt`.
const HALT: [u8; 4] = [0xFA, 0xF4, 0xEB, 0xFD];

/// QEMU as a process; killed when the last owner lets go, also when a test panics.
#[derive(Debug)]
struct Process(Mutex<Child>);

impl Process {
    fn kill(&self) {
        let mut child = locked(&self.0);
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A running machine with NVMe controllers.
#[derive(Debug)]
pub struct Machine {
    process: Arc<Process>,
    link: Arc<Link>,
    qmp: Mutex<Qmp>,
    functions: Vec<Arc<QtestFunction>>,
    space: Arc<DmaSpace>,
}

impl Machine {
    /// Starts a machine with these drives and devices: arguments of QEMU.
    ///
    /// # Errors
    /// A message with what QEMU said when it does not start, or has no NVMe controller.
    pub fn start(arguments: &[String]) -> Result<Self, String> {
        let tools = Tools::find()?;
        let folder = tempfile::Builder::new().prefix("gcos-qtest").tempdir().map_err(os("/tmp"))?;
        let shared = tempfile::Builder::new().prefix("gcos-ram").tempfile_in("/dev/shm");
        let shared = shared.map_err(os("/dev/shm"))?;
        shared.as_file().set_len(RAM_BYTES).map_err(os("/dev/shm"))?;
        let [qtest, qmp] = ["qtest", "qmp"].map(|name| folder.path().join(name));
        let qtest_listener = UnixListener::bind(&qtest).map_err(os("qtest socket"))?;
        let qmp_listener = UnixListener::bind(&qmp).map_err(os("QMP socket"))?;
        let errors = folder.path().join("errors");
        let mut command = tools.qemu();
        arrange(&mut command, folder.path(), shared.path()).map_err(os("firmware"))?;
        command.arg("-qtest").arg(format!("unix:{}", qtest.display()));
        command.arg("-qmp").arg(format!("unix:{}", qmp.display()));
        command.args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&errors).map_err(os("errors"))?);
        let child = command.spawn().map_err(os("starting QEMU"))?;
        let process = Arc::new(Process(Mutex::new(child)));
        let failed = |error: String| {
            let said = fs::read_to_string(&errors).unwrap_or_default();
            format!("{error}; QEMU said: {}", said.trim())
        };
        let end = Instant::now() + START;
        let qmp = accept(&qmp_listener, &process, end).and_then(Qmp::new).map_err(failed)?;
        let stream = accept(&qtest_listener, &process, end).map_err(failed)?;
        let link = Arc::new(Link::new(stream).map_err(os("qtest socket"))?);
        let file = shared.reopen().map_err(os("/dev/shm"))?;
        // Both sides have it open: it needs no name any more.
        drop((shared, folder));
        Self::assemble(process, link, qmp, file)
    }

    fn assemble(
        process: Arc<Process>,
        link: Arc<Link>,
        qmp: Qmp,
        file: File,
    ) -> Result<Self, String> {
        let ram = Ram::new(file);
        let space = ram.space().map_err(|error| error.to_string())?;
        let interrupts = Arc::new(Interrupts::default());
        let mut functions = Vec::new();
        for (index, found) in bring_up(&link)?.into_iter().enumerate() {
            let function = QtestFunction::new(index, found, &link, &ram, &space, &interrupts);
            functions.push(function.map_err(|error| error.to_string())?);
        }
        Ok(Self { process, link, qmp: Mutex::new(qmp), functions, space })
    }

    /// The controllers, in the order of their places on the bus.
    #[must_use]
    pub fn functions(&self) -> &[Arc<QtestFunction>] {
        &self.functions
    }

    /// One of the controllers, as the driver takes it.
    ///
    /// # Errors
    /// A message when there are fewer.
    pub fn function(&self, index: usize) -> Result<Arc<dyn Function>, String> {
        let have = self.functions.len();
        let function = self.functions.get(index);
        let function = function.ok_or_else(|| format!("controller {index} of {have}"))?;
        Ok(Arc::<QtestFunction>::clone(function))
    }

    /// The address space that all controllers share.
    #[must_use]
    pub fn space(&self) -> &Arc<DmaSpace> {
        &self.space
    }

    /// The machine's monitor.
    pub fn qmp(&self) -> MutexGuard<'_, Qmp> {
        locked(&self.qmp)
    }

    /// The wire to the machine.
    #[must_use]
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Ends the machine as a power cut does: `kill -9`, at once.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Cuts the power right after so many further writes to registers.
    pub fn kill_after(&self, writes: u64) {
        let process = Arc::clone(&self.process);
        self.link.set_fuse(writes, move || process.kill());
    }

    /// Something that cuts the power from another thread.
    pub fn killer(&self) -> impl Fn() + Send + 'static {
        let process = Arc::clone(&self.process);
        move || process.kill()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Controllers that outlive the machine must find it gone.
        self.process.kill();
    }
}

fn os(what: &str) -> impl FnOnce(std::io::Error) -> String {
    move |error| format!("{what}: {error}")
}

/// The machine itself, before its drives.
fn arrange(command: &mut Command, folder: &Path, ram: &Path) -> std::io::Result<()> {
    let mut firmware = vec![0; FIRMWARE_BYTES];
    firmware[RESET_VECTOR..RESET_VECTOR + HALT.len()].copy_from_slice(&HALT);
    let path: PathBuf = folder.join("halt.bin");
    fs::write(&path, firmware)?;
    let megabytes = RAM_BYTES >> 20;
    let memory =
        format!("memory-backend-file,id=ram,size={megabytes}M,mem-path={},share=on", ram.display());
    command.args(["-machine", "q35,memory-backend=ram", "-accel", "tcg", "-smp", "1"]);
    command.args(["-object", &memory, "-m", &format!("{megabytes}M")]);
    // Root ports answer to native hot-plug, which a test can play the guest's part of.
    command.args(["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]);
    command.arg("-bios").arg(path);
    command.args(["-qtest-log", "/dev/null"]);
    Ok(())
}

/// The connection that QEMU makes, unless it ends first.
fn accept(listener: &UnixListener, process: &Process, end: Instant) -> Result<UnixStream, String> {
    let failed = |error: std::io::Error| format!("waiting for QEMU: {error}");
    listener.set_nonblocking(true).map_err(failed)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).map_err(failed)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(failed(error)),
        }
        if let Ok(Some(status)) = locked(&process.0).try_wait() {
            return Err(format!("QEMU ended with {status}"));
        }
        if Instant::now() > end {
            return Err(format!("QEMU did not connect within {START:?}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
