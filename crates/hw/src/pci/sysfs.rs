use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What changes the machine, apart from what only looks at it, so that tests can put a model of the
/// kernel in its place and make any step fail. Paths are real ones, with the root in front.
pub trait Kernel: Send + Sync + fmt::Debug {
    /// Writes `text` to an attribute that exists.
    ///
    /// # Errors
    /// The system's error, which is how the kernel refuses.
    fn write(&self, path: &Path, text: &str) -> io::Result<()>;

    /// Opens a block device and claims it (`O_EXCL`), so that nobody mounts it or builds on it while
    /// the file is open. Nothing is read or written.
    ///
    /// # Errors
    /// The system's error; `EBUSY` means that somebody else has claimed it.
    fn claim(&self, path: &Path) -> io::Result<File>;

    /// Opens the node of an IOMMU group, of which there is one opener at a time.
    ///
    /// # Errors
    /// The system's error; `EBUSY` means that a process holds the group.
    fn open_group(&self, path: &Path) -> io::Result<File>;

    /// Makes `uid` the owner of a device node.
    ///
    /// # Errors
    /// The system's error.
    fn chown(&self, path: &Path, uid: u32) -> io::Result<()>;
}

/// The kernel of this machine.
#[derive(Debug)]
struct Linux;

impl Kernel for Linux {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        // Truncation means nothing in sysfs; in a tree of plain files it gives the same content.
        let mut file = OpenOptions::new().write(true).truncate(true).open(path)?;
        // One write: the kernel takes each as a whole value.
        io::Write::write_all(&mut file, text.as_bytes())
    }

    fn claim(&self, path: &Path) -> io::Result<File> {
        // For reading: closing a block device that was open for writing makes udev look at it anew.
        let flags = libc::O_EXCL | libc::O_NONBLOCK;
        OpenOptions::new().read(true).custom_flags(flags).open(path)
    }

    fn open_group(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
    }

    fn chown(&self, path: &Path, uid: u32) -> io::Result<()> {
        std::os::unix::fs::chown(path, Some(uid), None)
    }
}

/// The trees `/sys`, `/proc` and `/dev` of a machine, below a root that tests may choose.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
    kernel: Arc<dyn Kernel>,
    patience: Duration,
}

/// How long the kernel may take to bind or unbind a driver. A controller may state a shutdown time of
/// a minute.
const PATIENCE: Duration = Duration::from_secs(90);

impl Sysfs {
    /// Name of the variable that [`Sysfs::from_env`] reads. For tests.
    pub const ROOT_VARIABLE: &'static str = "GCOS_SYSROOT";

    /// The trees below `root`; `/` is this machine.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), kernel: Arc::new(Linux), patience: PATIENCE }
    }

    /// This machine, or the tree that `$GCOS_SYSROOT` names.
    #[must_use]
    pub fn from_env() -> Self {
        Self::new(std::env::var_os(Self::ROOT_VARIABLE).unwrap_or_else(|| "/".into()))
    }

    /// The same trees with another kernel behind them.
    #[must_use]
    pub fn with_kernel(self, kernel: Arc<dyn Kernel>) -> Self {
        Self { kernel, ..self }
    }

    /// How long the kernel may take for one step before it is an error.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Whether this is the machine itself, not a tree for tests.
    #[must_use]
    pub fn is_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where `path` (with or without a leading `/`) lies.
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Content of a text file without white space at its ends; `None` if it cannot be read or is
    /// empty.
    #[must_use]
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let bytes = fs::read(self.path(path)).ok()?;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// A text file that holds one number in decimal.
    #[must_use]
    pub fn number<N: std::str::FromStr>(&self, path: impl AsRef<Path>) -> Option<N> {
        self.text(path)?.parse().ok()
    }

    /// A text file that holds one number in hexadecimal, as PCI attributes are.
    #[must_use]
    pub fn hex(&self, path: impl AsRef<Path>) -> Option<u32> {
        let text = self.text(path)?;
        u32::from_str_radix(text.strip_prefix("0x").unwrap_or(&text), 16).ok()
    }

    /// Names in a folder, sorted; none if it cannot be read.
    #[must_use]
    pub fn names(&self, folder: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Last part of what a symbolic link points at, which is how sysfs names a driver or a group.
    #[must_use]
    pub fn link_name(&self, path: impl AsRef<Path>) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// Whether something is there.
    #[must_use]
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// Numbers of the processes that can be seen, with what each has open: `(pid, target of the
    /// link)`. Of processes of others only root sees it.
    pub(crate) fn open_files(&self) -> Vec<(u32, String)> {
        let mut found = Vec::new();
        let processes = self.names("proc").into_iter().filter_map(|name| name.parse::<u32>().ok());
        for pid in processes {
            let folder = self.path(format!("proc/{pid}/fd"));
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if let Ok(target) = fs::read_link(entry.path()) {
                    found.push((pid, target.to_string_lossy().into_owned()));
                }
            }
        }
        found.dedup();
        found
    }

    /// The program that a process runs, as the kernel calls it.
    pub(crate) fn program(&self, pid: u32) -> String {
        self.text(format!("proc/{pid}/comm")).unwrap_or_else(|| "unknown program".to_owned())
    }

    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    pub(crate) fn kernel(&self) -> &Arc<dyn Kernel> {
        &self.kernel
    }
}
