use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::OpenError;

/// Makes a sparse image of `bytes` bytes, for its owner alone, unless there is a file already.
pub(super) fn create(path: &Path, bytes: u64) -> Result<(), OpenError> {
    let fail = |source| OpenError::Create { path: path.to_owned(), source };
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file.set_len(bytes).map_err(fail),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(fail(error)),
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
