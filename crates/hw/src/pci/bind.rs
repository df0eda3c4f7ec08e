//! Taking a drive from the kernel's driver for VFIO, and giving it back.
//!
//! Each step leaves the machine in a state from which [`bind`] and [`unbind`] both lead on, so it
//! does not matter where a process that does them is killed.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::drive::{KERNEL_DRIVER, VFIO_DRIVER};
use super::usage::{ClaimError, Users};
use super::{Drive, Holder, Obstacle, PciAddress, Sysfs, class_of};

const PROBE: &str = "sys/bus/pci/drivers_probe";
const STEP: Duration = Duration::from_millis(5);

/// Why a drive was not bound, or not given back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Nothing is at the address.
    #[error("{address}: there is no such PCI function; `gcos devices` lists the drives")]
    NoFunction {
        /// The address.
        address: PciAddress,
    },
    /// Something else is at the address.
    #[error(
        "{address}: no NVMe controller (PCI class {class:06x}, expected 010802); \
         `gcos devices` lists the drives"
    )]
    NotNvme {
        /// The address.
        address: PciAddress,
        /// Its class code.
        class: u32,
    },
    /// The drive cannot or must not be taken.
    #[error("{address}: not taken: {}", list(obstacles))]
    Obstacles {
        /// The drive.
        address: PciAddress,
        /// Everything that is in the way.
        obstacles: Vec<Obstacle>,
    },
    /// There is no driver to bind to.
    #[error("the driver vfio-pci is not loaded; run `modprobe vfio-pci` as root")]
    NoVfioDriver,
    /// A step failed.
    #[error("{address}: cannot {what} ({path}){}", hint(source))]
    Step {
        /// The drive.
        address: PciAddress,
        /// The step.
        what: &'static str,
        /// The file.
        path: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The kernel does not come to an end with a step.
    #[error(
        "{address}: the kernel has not managed to {what} within {seconds} s; see dmesg, end the \
         programs that use the drive, and run the command again"
    )]
    Stuck {
        /// The drive.
        address: PciAddress,
        /// The step.
        what: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A probe ended with another driver, or none.
    #[error(
        "{address}: expected the driver {expected} after the probe, found {}; dmesg says why it \
         refused the device",
        found.as_deref().unwrap_or("none")
    )]
    Refused {
        /// The drive.
        address: PciAddress,
        /// The driver that was wanted.
        expected: &'static str,
        /// The one that is there.
        found: Option<String>,
    },
    /// A process holds the IOMMU group.
    #[error("{address}: {node} is in use by {}; end it first", holders_or_unknown(holders))]
    Held {
        /// The drive.
        address: PciAddress,
        /// The node of the group.
        node: String,
        /// The processes, as far as they can be seen.
        holders: Vec<Holder>,
    },
}

fn list(obstacles: &[Obstacle]) -> String {
    obstacles.iter().map(Obstacle::to_string).collect::<Vec<_>>().join("; ")
}

fn holders_or_unknown(holders: &[Holder]) -> String {
    match holders {
        [] => {
            "a process that cannot be seen from here (run as root, outside containers)".to_owned()
        }
        holders => holders.iter().map(Holder::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as root",
        io::ErrorKind::ReadOnlyFilesystem => {
            "; /sys is read-only here: run it on the host, not in a container"
        }
        _ => "",
    }
}

/// What a call did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whether anything had to be done.
    pub changed: bool,
    /// The driver that is bound now.
    pub driver: Option<String>,
}

/// Looks whether the drive can be bound, with `together` of its group bound at the same time.
///
/// # Errors
/// [`BindError::NoFunction`], [`BindError::NotNvme`], [`BindError::Obstacles`].
pub fn check(
    sysfs: &Sysfs,
    address: PciAddress,
    together: &[PciAddress],
) -> Result<Drive, BindError> {
    let drive = look(sysfs, address)?;
    let obstacles = drive.obstacles(together);
    if obstacles.is_empty() { Ok(drive) } else { Err(BindError::Obstacles { address, obstacles }) }
}

fn look(sysfs: &Sysfs, address: PciAddress) -> Result<Drive, BindError> {
    let class = class_of(sysfs, address).ok_or(BindError::NoFunction { address })?;
    Drive::at(sysfs, address).ok_or(BindError::NotNvme { address, class })
}

/// Binds the drive to vfio-pci. No data on it is touched. If the kernel refuses, the drive is given
/// back to its driver.
///
/// # Errors
/// Those of [`check`], and what the steps themselves say.
pub fn bind(
    sysfs: &Sysfs,
    address: PciAddress,
    together: &[PciAddress],
) -> Result<Change, BindError> {
    let drive = check(sysfs, address, together)?;
    if drive.is_bound() && drive.driver_override.as_deref() == Some(VFIO_DRIVER) {
        return Ok(Change { changed: false, driver: drive.driver });
    }
    if !sysfs.exists(format!("sys/bus/pci/drivers/{VFIO_DRIVER}")) {
        return Err(BindError::NoVfioDriver);
    }
    // Held until the driver has let go, so that nobody mounts the drive meanwhile.
    let claims = claim(sysfs, &drive)?;
    let steps = Steps { sysfs, address };
    let result = steps.take(drive.driver.as_deref());
    drop(claims);
    if let Err(error) = result {
        // A kernel that is stuck in a step would be stuck in this too.
        if !matches!(error, BindError::Stuck { .. })
            && let Err(second) = steps.give_back()
        {
            tracing::warn!(%address, error = %second, "the drive could not be given back either");
        }
        return Err(error);
    }
    Ok(Change { changed: true, driver: steps.driver() })
}

fn claim(sysfs: &Sysfs, drive: &Drive) -> Result<Vec<File>, BindError> {
    let users = Users::read(sysfs);
    let mut claims = Vec::new();
    for namespace in &drive.namespaces {
        match users.claim(&namespace.name) {
            Ok(claim) => claims.extend(claim),
            Err(ClaimError::Claimed(one)) => {
                let obstacles = vec![Obstacle::Used(one)];
                return Err(BindError::Obstacles { address: drive.address, obstacles });
            }
            Err(ClaimError::Io { device, error }) => {
                return Err(BindError::Step {
                    address: drive.address,
                    what: "see whether the drive is in use",
                    path: format!("/dev/{device}"),
                    source: error,
                });
            }
        }
    }
    Ok(claims)
}

/// Gives the drive back to the kernel's NVMe driver. Where that is not loaded, the drive is left
/// without a driver.
///
/// # Errors
/// [`BindError::Held`] while a process has its group; [`BindError::Obstacles`] if another driver than
/// VFIO's has it; what the steps themselves say.
pub fn unbind(sysfs: &Sysfs, address: PciAddress) -> Result<Change, BindError> {
    let drive = look(sysfs, address)?;
    match drive.driver.as_deref() {
        Some(KERNEL_DRIVER) if drive.driver_override.is_none() => {
            return Ok(Change { changed: false, driver: drive.driver });
        }
        None | Some(KERNEL_DRIVER) => {}
        Some(VFIO_DRIVER) => not_held(sysfs, &drive)?,
        Some(other) => {
            let obstacles = vec![Obstacle::OtherDriver(other.to_owned())];
            return Err(BindError::Obstacles { address, obstacles });
        }
    }
    let steps = Steps { sysfs, address };
    steps.give_back()?;
    Ok(Change { changed: true, driver: steps.driver() })
}

/// Makes sure that no process holds the drive's group: its nodes among the open files that can be
/// seen, and the kernel's own word, which also counts those that cannot.
fn not_held(sysfs: &Sysfs, drive: &Drive) -> Result<(), BindError> {
    let Some(group) = &drive.group else { return Ok(()) };
    let holders = group.holders(sysfs, drive.address);
    let opened = sysfs.kernel().open_group(&sysfs.path(group.node()));
    let busy = opened.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY));
    if holders.is_empty() && !busy {
        return Ok(());
    }
    Err(BindError::Held { address: drive.address, node: group.node(), holders })
}

/// Makes `uid` the owner of the node of the drive's IOMMU group, and returns the node.
///
/// # Errors
/// [`BindError::Step`] with the system's error; [`BindError::Stuck`] if the node does not appear.
pub fn hand_over(sysfs: &Sysfs, address: PciAddress, uid: u32) -> Result<String, BindError> {
    let drive = look(sysfs, address)?;
    let Some(group) = drive.group else {
        return Err(BindError::Obstacles { address, obstacles: vec![Obstacle::NoIommu] });
    };
    let node = group.node();
    let steps = Steps { sysfs, address };
    steps.wait("make the node of the IOMMU group", || sysfs.exists(&node))?;
    match sysfs.kernel().chown(&sysfs.path(&node), uid) {
        Ok(()) => Ok(node),
        Err(source) => {
            Err(BindError::Step { address, what: "hand the group over", path: node, source })
        }
    }
}

/// The single steps for one function.
struct Steps<'a> {
    sysfs: &'a Sysfs,
    address: PciAddress,
}

impl Steps<'_> {
    fn driver(&self) -> Option<String> {
        self.sysfs.link_name(format!("sys/bus/pci/devices/{}/driver", self.address))
    }

    fn take(&self, from: Option<&str>) -> Result<(), BindError> {
        self.set_override(VFIO_DRIVER)?;
        if from == Some(VFIO_DRIVER) {
            return Ok(());
        }
        if let Some(driver) = from {
            self.detach(driver)?;
        }
        self.probe(VFIO_DRIVER)
    }

    fn give_back(&self) -> Result<(), BindError> {
        // An empty line clears it.
        self.set_override("")?;
        match self.driver().as_deref() {
            Some(KERNEL_DRIVER) => return Ok(()),
            Some(VFIO_DRIVER) => self.detach(VFIO_DRIVER)?,
            _ => {}
        }
        if !self.sysfs.exists(format!("sys/bus/pci/drivers/{KERNEL_DRIVER}")) {
            return Ok(());
        }
        self.probe(KERNEL_DRIVER)
    }

    fn set_override(&self, driver: &str) -> Result<(), BindError> {
        let path = format!("sys/bus/pci/devices/{}/driver_override", self.address);
        self.write("set which driver may have it", path, format!("{driver}\n"))
    }

    fn detach(&self, driver: &str) -> Result<(), BindError> {
        let what = "take it from its driver";
        let path = format!("sys/bus/pci/drivers/{driver}/unbind");
        self.write(what, path, self.address.to_string())?;
        self.wait(what, || self.driver().is_none())
    }

    fn probe(&self, expected: &'static str) -> Result<(), BindError> {
        self.write("have a driver bound to it", PROBE.to_owned(), self.address.to_string())?;
        // The write returns when the probe has ended; a little patience costs nothing.
        let end = Instant::now() + self.sysfs.patience().min(Duration::from_secs(5));
        loop {
            match self.driver() {
                Some(driver) if driver == expected => return Ok(()),
                found if found.is_some() || Instant::now() >= end => {
                    return Err(BindError::Refused { address: self.address, expected, found });
                }
                _ => std::thread::sleep(STEP),
            }
        }
    }

    /// Writes in a thread of its own: unbinding blocks as long as somebody holds the device.
    fn write(&self, what: &'static str, path: String, text: String) -> Result<(), BindError> {
        let (kernel, file) = (Arc::clone(self.sysfs.kernel()), self.sysfs.path(&path));
        let (sender, receiver) = channel();
        let name = "gcos-sysfs".to_owned();
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            // Nobody listens any more once the deadline has passed.
            let _late = sender.send(kernel.write(&file, &text));
        });
        let failed = |source| BindError::Step { address: self.address, what, path, source };
        match thread.map(|_| receiver.recv_timeout(self.sysfs.patience())) {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(source))) | Err(source) => Err(failed(source)),
            Ok(Err(RecvTimeoutError::Timeout)) => Err(self.stuck(what)),
            Ok(Err(RecvTimeoutError::Disconnected)) => {
                Err(failed(io::Error::other("the thread that wrote has died")))
            }
        }
    }

    fn wait(&self, what: &'static str, done: impl Fn() -> bool) -> Result<(), BindError> {
        let end = Instant::now() + self.sysfs.patience();
        while !done() {
            if Instant::now() >= end {
                return Err(self.stuck(what));
            }
            std::thread::sleep(STEP);
        }
        Ok(())
    }

    fn stuck(&self, what: &'static str) -> BindError {
        let seconds = self.sysfs.patience().as_secs();
        BindError::Stuck { address: self.address, what, seconds }
    }
}
