use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Identity, PciAddress, Sysfs};

/// What every name begins with. Nothing exists at that path; `disk.paths` tells names by it.
pub const NAME_PREFIX: &str = "/dev/libnvm";

const VERSION: u32 = 1;
const FILE: &str = "names.json";
const LOCK: &str = "names.lock";
const LOCK_DEADLINE: Duration = Duration::from_secs(10);

/// A drive that has a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Where it was when it was recorded.
    #[serde(with = "as_text")]
    pub address: PciAddress,
    /// What it is, as far as it was known then.
    #[serde(flatten)]
    pub identity: Identity,
}

/// The names that `gcos bind --as` has recorded, kept in a file.
///
/// The file is `names.json` in `$GCOS_STATE_DIR`, or in `/var/lib/gcos` where that is not set. It is
/// replaced as a whole, so readers need no lock.
#[derive(Debug)]
pub struct Names {
    sysfs: Sysfs,
    folder: PathBuf,
    entries: BTreeMap<String, Named>,
}

/// What is wrong with a name, or with the file of names.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NamesError {
    /// Nobody recorded the name.
    #[error(
        "{name} names no drive; {known}. `gcos devices` lists the drives, \
         `gcos bind ADDRESS --as {name}` records a name"
    )]
    Unknown {
        /// The name.
        name: String,
        /// The names that there are, as a clause.
        known: String,
    },
    /// Nothing, or no NVMe controller, is at the address any more.
    #[error("{name} was recorded for {address} ({identity}), where no NVMe drive is now; {found}")]
    Gone {
        /// The name.
        name: String,
        /// Where the drive was.
        address: PciAddress,
        /// What it was.
        identity: Box<Identity>,
        /// Where it is, as far as can be told, and what to do.
        found: String,
    },
    /// Another device is at the address.
    #[error(
        "{name} was recorded for {address} ({identity}), where another drive is now ({there}): the \
         bus has been renumbered or the drive exchanged; {found}"
    )]
    Exchanged {
        /// The name.
        name: String,
        /// The address.
        address: PciAddress,
        /// What was recorded.
        identity: Box<Identity>,
        /// What is there.
        there: Box<Identity>,
        /// Where the drive is, as far as can be told, and what to do.
        found: String,
    },
    /// The name belongs to another drive.
    #[error(
        "{name} already names {address} ({identity}); choose another name, or release that drive \
         first: gcos unbind {name}"
    )]
    Taken {
        /// The name.
        name: String,
        /// Address of the other drive.
        address: PciAddress,
        /// The other drive.
        identity: Box<Identity>,
    },
    /// The text cannot be a name.
    #[error(
        "{name:?} cannot be a name; expected /dev/libnvm and 1 to 32 letters, digits, `-` or `_`, \
         such as /dev/libnvm0"
    )]
    Invalid {
        /// The text.
        name: String,
    },
    /// The file is no file of names.
    #[error(
        "{path:?} cannot be understood ({reason}); correct it, or remove it and record the names \
         again with `gcos bind ADDRESS --as NAME`"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file could not be read or written.
    #[error("cannot {what} {path:?}{}", hint(source))]
    Io {
        /// What was being done.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Another process keeps the lock.
    #[error(
        "another process has kept {path:?} locked for {} s; wait until it has ended",
        LOCK_DEADLINE.as_secs()
    )]
    Locked {
        /// The lock.
        path: PathBuf,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (run as root, or set GCOS_STATE_DIR)",
        _ => "",
    }
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    names: BTreeMap<String, Named>,
}

impl Names {
    /// Reads the file. A file that does not exist holds no names.
    ///
    /// # Errors
    /// [`NamesError::Io`], [`NamesError::Damaged`].
    pub fn load(sysfs: &Sysfs) -> Result<Self, NamesError> {
        let folder = std::env::var_os("GCOS_STATE_DIR").filter(|folder| !folder.is_empty());
        let folder = folder.map_or_else(|| sysfs.path("var/lib/gcos"), PathBuf::from);
        Self::load_from(sysfs, folder)
    }

    /// Reads the file in `folder`.
    ///
    /// # Errors
    /// As [`Names::load`].
    pub fn load_from(sysfs: &Sysfs, folder: impl Into<PathBuf>) -> Result<Self, NamesError> {
        let folder = folder.into();
        let entries = read(&folder.join(FILE))?;
        Ok(Self { sysfs: sysfs.clone(), folder, entries })
    }

    /// Where the drive of that name is, after a look at what is there now.
    ///
    /// Serial numbers can be compared only where they can be read (the kernel's NVMe driver shows
    /// one, root reads the other). Whoever opens the drive should compare the serial number of its
    /// Identify data with that of [`Names::get`] too.
    ///
    /// # Errors
    /// [`NamesError::Unknown`] lists the known names; [`NamesError::Gone`] and
    /// [`NamesError::Exchanged`] say where the drive is now, if that can be told.
    pub fn resolve(&self, name: &str) -> Result<PciAddress, NamesError> {
        let named = self.get(name).ok_or_else(|| self.unknown(name))?;
        let address = named.address;
        let name = || name.to_owned();
        let identity = || Box::new(named.identity.clone());
        let is_nvme = super::class_of(&self.sysfs, address) == Some(super::NVME_CLASS);
        match Identity::read(&self.sysfs, address).filter(|_| is_nvme) {
            Some(there) if there.agrees_with(&named.identity) => Ok(address),
            Some(there) => Err(NamesError::Exchanged {
                name: name(),
                address,
                identity: identity(),
                there: Box::new(there),
                found: self.whereabouts(&name(), named),
            }),
            None => Err(NamesError::Gone {
                name: name(),
                address,
                identity: identity(),
                found: self.whereabouts(&name(), named),
            }),
        }
    }

    /// What was recorded for a name, without a look at the machine.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Named> {
        self.entries.get(name)
    }

    /// The name of the drive at an address, if it has one. A name that was recorded for that address
    /// and another drive is none.
    #[must_use]
    pub fn name_of(&self, address: PciAddress) -> Option<&str> {
        let mut at_address = self.iter().filter(|(_, named)| named.address == address);
        at_address.find(|(name, _)| self.resolve(name).is_ok()).map(|(name, _)| name)
    }

    /// All names, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Named)> {
        self.entries.iter().map(|(name, named)| (name.as_str(), named))
    }

    /// Records `name` for the drive at `address`, durably. A drive has one name: an earlier one is
    /// dropped, and returned. Serial numbers that are not shown any more are kept from an earlier
    /// record of the same drive.
    ///
    /// # Errors
    /// [`NamesError::Invalid`], [`NamesError::Taken`] if the name belongs to a drive that is not
    /// surely this one, or what reading and writing the file says.
    pub fn record(
        &mut self,
        name: &str,
        address: PciAddress,
        identity: Identity,
    ) -> Result<Option<String>, NamesError> {
        check(name)?;
        let _lock = self.lock()?;
        let mut entries = read(&self.file())?;
        let mut identity = identity;
        if let Some(named) = entries.get(name) {
            let same = named.address == address && identity.agrees_with(&named.identity);
            if !same && !identity.is_surely(&named.identity) {
                let (name, identity) = (name.to_owned(), Box::new(named.identity.clone()));
                return Err(NamesError::Taken { name, address: named.address, identity });
            }
        }
        let mut earlier = None;
        entries.retain(|other, named| {
            // What was recorded for this address and another drive is about a drive that has moved.
            if named.address != address || !identity.agrees_with(&named.identity) {
                return true;
            }
            identity = identity.clone().or(&named.identity);
            if other != name {
                earlier = Some(other.clone());
            }
            false
        });
        entries.insert(name.to_owned(), Named { address, identity });
        self.write(entries)?;
        Ok(earlier)
    }

    /// Forgets a name, durably. One that is not known is forgotten already.
    ///
    /// # Errors
    /// What reading and writing the file says.
    pub fn forget(&mut self, name: &str) -> Result<(), NamesError> {
        // Without the name there is nothing to write, and no folder has to be there.
        if self.get(name).is_none() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let mut entries = read(&self.file())?;
        entries.remove(name);
        self.write(entries)
    }

    fn file(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    fn unknown(&self, name: &str) -> NamesError {
        let known: Vec<_> =
            self.iter().map(|(name, named)| format!("{name} ({})", named.address)).collect();
        let file = self.file();
        let known = match known.as_slice() {
            [] => format!("no name is recorded in {}", file.display()),
            names => format!("known names are {}", names.join(", ")),
        };
        NamesError::Unknown { name: name.to_owned(), known }
    }

    /// Where a drive went, and what to do.
    fn whereabouts(&self, name: &str, named: &Named) -> String {
        let mut moved = super::nvme_addresses(&self.sysfs).into_iter().filter(|&address| {
            let identity = Identity::read(&self.sysfs, address);
            identity.is_some_and(|identity| identity.is_surely(&named.identity))
        });
        match moved.next() {
            Some(to) => format!("it is at {to} now: gcos bind {to} --as {name}"),
            None => format!(
                "if it sits elsewhere now (gcos devices, as root, shows serial numbers), run \
                 gcos unbind {name} and then gcos bind ADDRESS --as {name}"
            ),
        }
    }

    fn lock(&self) -> Result<File, NamesError> {
        let fail =
            |what, path: &Path, source| NamesError::Io { what, path: path.to_owned(), source };
        fs::create_dir_all(&self.folder).map_err(|e| fail("create", &self.folder, e))?;
        let path = self.folder.join(LOCK);
        let mut options = fs::OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.map_err(|e| fail("open", &path, e))?;
        let end = Instant::now() + LOCK_DEADLINE;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(fs::TryLockError::Error(source)) => return Err(fail("lock", &path, source)),
                Err(fs::TryLockError::WouldBlock) if Instant::now() >= end => {
                    return Err(NamesError::Locked { path });
                }
                Err(fs::TryLockError::WouldBlock) => {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }

    /// Replaces the file as a whole. The caller holds the lock.
    fn write(&mut self, entries: BTreeMap<String, Named>) -> Result<(), NamesError> {
        let path = self.file();
        let fail = |source| NamesError::Io { what: "write", path: path.clone(), source };
        let document = Document { version: VERSION, names: entries };
        let mut text = serde_json::to_string_pretty(&document).map_err(|e| fail(e.into()))?;
        text.push('\n');
        let staged = self.folder.join(format!("{FILE}.new"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&staged)?;
            file.write_all(text.as_bytes())?;
            // Users who may not write it resolve names from it.
            file.set_permissions(Permissions::from_mode(0o644))?;
            file.sync_all()?;
            fs::rename(&staged, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(fail)?;
        self.entries = document.names;
        Ok(())
    }
}

/// Whether `name` can be a name.
///
/// # Errors
/// [`NamesError::Invalid`].
fn check(name: &str) -> Result<(), NamesError> {
    let good = name.strip_prefix(NAME_PREFIX).is_some_and(|rest| {
        let letter = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        (1..=32).contains(&rest.len()) && rest.bytes().all(letter)
    });
    if good { Ok(()) } else { Err(NamesError::Invalid { name: name.to_owned() }) }
}

fn read(path: &Path) -> Result<BTreeMap<String, Named>, NamesError> {
    let damaged = |reason: String| NamesError::Damaged { path: path.to_owned(), reason };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => return Err(NamesError::Io { what: "read", path: path.to_owned(), source }),
    };
    let document: Document =
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if document.version != VERSION {
        let found = document.version;
        return Err(damaged(format!("version {found}, expected {VERSION}")));
    }
    Ok(document.names)
}

/// PCI addresses as text in JSON.
mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::pci::PciAddress;

    pub(super) fn serialize<S: Serializer>(
        address: &PciAddress,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(address)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<PciAddress, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
