use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use gcos_hw::{FileIo, PAGE_BYTES};

use super::FileIoError;

/// What to do with the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Read,
    Write,
}

impl Purpose {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "reading",
            Self::Write => "writing",
        }
    }
}

/// A file that is open twice: through the page cache, and round it where the file system can.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) plain: FileIo,
    pub(super) direct: Option<FileIo>,
    block_device: bool,
}

impl Opened {
    /// Opens it. For writing it is made if it is not there, and not shortened.
    pub(super) fn open(path: &Path, purpose: Purpose) -> Result<Self, FileIoError> {
        let failed =
            |source| FileIoError::Open { path: path.to_owned(), purpose: purpose.name(), source };
        let mut options = OpenOptions::new();
        options.read(true);
        if purpose == Purpose::Write {
            options.write(true).create(true).truncate(false);
        }
        if path.is_dir() {
            return Err(FileIoError::NotAFile { path: path.to_owned() });
        }
        let file = options.open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        let block_device = meta.file_type().is_block_device();
        if !meta.is_file() && !block_device {
            return Err(FileIoError::NotAFile { path: path.to_owned() });
        }
        let direct = direct(path, &options).map_err(failed)?;
        Ok(Self {
            plain: FileIo::of(file, false),
            direct: direct.map(|file| FileIo::of(file, true)),
            block_device,
        })
    }

    /// Whether it has bytes up to `end`. A block device says so itself, when they are read.
    pub(super) fn ends_after(&self, path: &Path, end: u64) -> Result<(), FileIoError> {
        let failed = |source| FileIoError::Open {
            path: path.to_owned(),
            purpose: Purpose::Read.name(),
            source,
        };
        let len = self.plain.file().metadata().map_err(failed)?.len();
        match self.block_device || end <= len {
            true => Ok(()),
            false => Err(FileIoError::PastEnd { path: path.to_owned(), len, end }),
        }
    }

    /// The best of the two for a range. Round the page cache only whole pages go.
    pub(super) fn fit(&self, offset: u64, len: usize) -> &FileIo {
        match &self.direct {
            Some(direct) if is_whole(offset, len) => direct,
            _ => &self.plain,
        }
    }
}

/// Whether a range of a file consists of whole pages.
pub(super) fn is_whole(offset: u64, len: usize) -> bool {
    offset.is_multiple_of(PAGE_BYTES as u64) && len.is_multiple_of(PAGE_BYTES)
}

/// The file once more, round the page cache; `None` where the file system cannot.
fn direct(path: &Path, options: &OpenOptions) -> io::Result<Option<File>> {
    match gcos_hw::open_direct(path, options) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(error),
    }
}
