use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::OpenError;

/// Files that were made, so that they can go again when the job fails.
#[derive(Debug, Default)]
pub(super) struct Made(Vec<PathBuf>);

impl Made {
    /// They stay.
    pub(super) fn keep(self) -> Vec<PathBuf> {
        self.0
    }

    /// They go.
    pub(super) fn discard(self) {
        for path in self.0 {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(?path, %error, "a file that was made could not be removed again");
            }
        }
    }
}

/// Makes a sparse image of `bytes` bytes, for its owner alone, unless there is a file already.
pub(super) fn create(path: &Path, bytes: u64, made: &mut Made) -> Result<(), OpenError> {
    let fail = |source| OpenError::Create { path: path.to_owned(), source };
    match new(path, made).map_err(fail)? {
        Some(file) => file.set_len(bytes).map_err(fail),
        None => Ok(()),
    }
}

/// Makes a file of `bytes` bytes, for its owner alone, with room for all of them, unless there is one
/// already: whoever drives a file through the kernel wants to learn now that the disk is full.
pub(super) fn allocate(path: &Path, bytes: u64, made: &mut Made) -> Result<(), OpenError> {
    let fail = |source| OpenError::Create { path: path.to_owned(), source };
    let Some(file) = new(path, made).map_err(fail)? else { return Ok(()) };
    match gcos_hw::allocate(&file, bytes) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            tracing::warn!(
                ?path,
                "the file system cannot set room aside; should it fill up, writes will fail"
            );
            file.set_len(bytes).map_err(fail)
        }
        Err(source) => match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Err(OpenError::Full { path: path.to_owned(), bytes, source })
            }
            _ => Err(fail(source)),
        },
    }
}

/// A file that was not there; `None` where there is one.
fn new(path: &Path, made: &mut Made) -> io::Result<Option<File>> {
    match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => {
            made.0.push(path.to_owned());
            Ok(Some(file))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(error),
    }
}

/// Checks that there is an image, large enough.
pub(super) fn check(path: &Path, expected: u64) -> Result<(), OpenError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() < expected => {
            Err(OpenError::Short { path: path.to_owned(), got: metadata.len(), expected })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(OpenError::NoImage { path: path.to_owned() })
        }
        // Whatever else is wrong with it shows when it is opened.
        _ => Ok(()),
    }
}
