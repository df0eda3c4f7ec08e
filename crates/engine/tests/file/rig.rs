//! Targets to test on, and ways to them, with faults in between.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gcos_engine::file::{Carriers, KernelCarriers};
use gcos_engine::{Engine, FileEngine, FileOptions, KernelPath};
use gcos_hw::kernel::{
    Batch, Carrier, Direct, Job, JobOp, Pool, PoolOptions, Ring, RingOptions, Target,
    TargetOptions, host_space,
};
use gcos_hw::{DmaBuffer, DmaSlice};
use parking_lot::Mutex;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const BOTH: [KernelPath; 2] = [KernelPath::IoUring, KernelPath::Posix];

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

pub(crate) fn image(folder: &Path, bytes: u64) -> PathBuf {
    let path = folder.join("image");
    File::create(&path).unwrap().set_len(bytes).unwrap();
    path
}

pub(crate) fn target(path: &Path, direct: Direct) -> Arc<Target> {
    Target::open(path, &TargetOptions { direct, read_only: false }).unwrap()
}

pub(crate) fn by(path: KernelPath) -> FileOptions {
    FileOptions { force: Some(path), ..FileOptions::default() }
}

pub(crate) fn open(target: &Arc<Target>, options: FileOptions) -> Arc<FileEngine> {
    FileEngine::open(Arc::clone(target), host_space().unwrap(), options).unwrap()
}

pub(crate) fn alloc(engine: &FileEngine, len: usize) -> DmaBuffer {
    engine.dma().alloc(len).unwrap()
}

pub(crate) fn bytes(slice: &DmaSlice) -> Vec<u8> {
    let mut out = vec![0; slice.len()];
    slice.read(0, &mut out).unwrap();
    out
}

pub(crate) fn fill(slice: &DmaSlice, seed: u64) -> Vec<u8> {
    let mut data = vec![0; slice.len()];
    fastrand::Rng::with_seed(seed).fill(&mut data);
    slice.write(0, &data).unwrap();
    data
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Undoes something at the end: a command.
pub(crate) struct Undo(pub(crate) &'static str, pub(crate) Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        let arguments: Vec<_> = self.1.iter().map(String::as_str).collect();
        run(self.0, &arguments);
    }
}

/// A loop device over a file: for root, where the machine has them.
pub(crate) fn loop_device(image: &Path) -> Option<(PathBuf, Undo)> {
    let path = run("losetup", &["--find", "--show", image.to_str()?]);
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        eprintln!("no loop devices here: tested with files alone");
        return None;
    };
    let undo = Undo("losetup", vec!["--detach".to_owned(), path.clone()]);
    Some((path.into(), undo))
}

/// Runs a test over every way, on a file with and without direct I/O, and on a block device.
pub(crate) fn everywhere(bytes: u64, test: impl Fn(&Arc<FileEngine>)) {
    let folder = folder();
    for direct in [Direct::Prefer, Direct::Never] {
        for path in BOTH {
            let target = target(&image(folder.path(), bytes), direct);
            let engine = open(&target, by(path));
            assert_eq!((engine.path(), engine.way().name), (path, path.name()));
            test(&engine);
            engine.shutdown(5 * SECOND).unwrap();
        }
    }
    let Some((device, _undo)) = loop_device(&image(folder.path(), bytes)) else { return };
    for path in BOTH {
        let engine = open(&target(&device, Direct::Require), by(path));
        test(&engine);
        engine.shutdown(5 * SECOND).unwrap();
    }
}

/// What happens to a job on its way to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It ends with this error number, and the kernel sees nothing of it.
    Fails(i32),
    /// The kernel takes it and does not answer until it is let go.
    Hold,
    /// It is not taken in its time.
    Refused,
    /// The kernel takes it, and from [`Faults::answer`] on tells of its end whoever looks there.
    Unread,
}

type Rule = (fn(JobOp) -> bool, Fault, usize);

/// Ways to the kernel with faults in between.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Which jobs, what, and how many of them.
    rules: Mutex<Vec<Rule>>,
    held: Mutex<Vec<Job>>,
    answered: AtomicBool,
    /// Why there is no io_uring.
    no_ring: Option<&'static str>,
    /// Most bytes of a call, so that each transfer is a short one.
    most_bytes: Option<usize>,
}

#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn Carrier>,
    unread: Mutex<Vec<Job>>,
    faults: Arc<Faults>,
}

/// As an engine takes them.
#[derive(Debug)]
pub(crate) struct Seam(pub(crate) Arc<Faults>);

impl Faults {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    pub(crate) fn without_ring(reason: &'static str) -> Arc<Self> {
        Arc::new(Self { no_ring: Some(reason), ..Self::default() })
    }

    pub(crate) fn short(most_bytes: usize) -> Arc<Self> {
        Arc::new(Self { most_bytes: Some(most_bytes), ..Self::default() })
    }

    pub(crate) fn add(&self, which: fn(JobOp) -> bool, fault: Fault, times: usize) {
        self.rules.lock().push((which, fault, times));
    }

    pub(crate) fn open(
        self: &Arc<Self>,
        target: &Arc<Target>,
        options: FileOptions,
    ) -> Arc<FileEngine> {
        let space = host_space().unwrap();
        FileEngine::open_with(Arc::clone(target), space, options, &Seam(Arc::clone(self))).unwrap()
    }

    /// The kernel has done what nobody has looked for yet.
    pub(crate) fn answer(&self) {
        self.answered.store(true, Ordering::Release);
    }

    fn between(self: &Arc<Self>, inner: Arc<dyn Carrier>) -> Arc<dyn Carrier> {
        Arc::new(Faulty { inner, unread: Mutex::default(), faults: Arc::clone(self) })
    }

    pub(crate) fn held(&self) -> usize {
        self.held.lock().len()
    }

    /// The kernel carries out what it has held, at last.
    pub(crate) fn let_go(&self, target: &Arc<Target>) {
        for job in std::mem::take(&mut *self.held.lock()) {
            let pool = Pool::open(Arc::clone(target), PoolOptions::default());
            pool.start(job, Instant::now() + SECOND).unwrap();
            assert!(pool.drain(Instant::now() + 10 * SECOND));
        }
    }

    fn strike(&self, op: JobOp) -> Option<Fault> {
        let mut rules = self.rules.lock();
        let rule = rules.iter_mut().find(|(which, _, times)| *times > 0 && which(op))?;
        rule.2 -= 1;
        Some(rule.1)
    }
}

impl Carriers for Seam {
    fn ring(&self, target: &Arc<Target>, depth: u32) -> Result<Arc<dyn Carrier>, String> {
        if let Some(reason) = self.0.no_ring {
            return Err(reason.to_owned());
        }
        let inner: Arc<dyn Carrier> = match self.0.most_bytes {
            Some(most_bytes) => {
                Arc::new(Ring::open(Arc::clone(target), RingOptions { depth, most_bytes })?)
            }
            None => KernelCarriers.ring(target, depth)?,
        };
        Ok(self.0.between(inner))
    }

    fn pool(&self, target: &Arc<Target>, workers: usize, depth: u32) -> Arc<dyn Carrier> {
        let inner: Arc<dyn Carrier> = match self.0.most_bytes {
            Some(most_bytes) => {
                let options = PoolOptions { workers, depth: depth as usize, most_bytes };
                Arc::new(Pool::open(Arc::clone(target), options))
            }
            None => KernelCarriers.pool(target, workers, depth),
        };
        self.0.between(inner)
    }
}

impl Carrier for Faulty {
    fn start(&self, job: Job, until: Instant) -> io::Result<()> {
        match self.faults.strike(job.op) {
            Some(Fault::Fails(errno)) => {
                job.batch.end(job.op, Err(io::Error::from_raw_os_error(errno)));
            }
            Some(Fault::Hold) => self.faults.held.lock().push(job),
            Some(Fault::Refused) => return Err(io::ErrorKind::TimedOut.into()),
            Some(Fault::Unread) => self.unread.lock().push(job),
            None => return self.inner.start(job, until),
        }
        Ok(())
    }

    fn go(&self) {
        self.inner.go();
    }

    fn poll(&self) {
        if self.faults.answered.load(Ordering::Acquire) {
            for job in std::mem::take(&mut *self.unread.lock()) {
                self.inner.start(job, Instant::now() + SECOND).unwrap();
            }
            self.inner.go();
            assert!(self.inner.drain(Instant::now() + 10 * SECOND));
        }
        self.inner.poll();
    }

    fn wait(&self, batch: &Arc<Batch>, until: Instant) -> bool {
        self.inner.wait(batch, until)
    }

    fn cancel(&self, batch: &Arc<Batch>) {
        self.inner.cancel(batch);
    }

    fn drain(&self, until: Instant) -> bool {
        self.faults.held() == 0 && self.inner.drain(until)
    }
}
