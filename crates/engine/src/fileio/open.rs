use std::fs::{self, File, Metadata, OpenOptions};
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
        let write = purpose == Purpose::Write;
        let mut options = OpenOptions::new();
        options.read(true).write(write).create(write).truncate(false);
        // Looked at before it is opened: opening a tape or a console does things.
        match fs::metadata(path) {
            Ok(found) => expect_storage(path, &found)?,
            Err(error) if write && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let file = gcos_hw::open_at_once(path, &options).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        expect_storage(path, &found)?;
        let block_device = found.file_type().is_block_device();
        let plain = FileIo::of(file);
        let direct = plain.direct(write).map_err(failed)?;
        Ok(Self { plain, direct, block_device })
    }

    /// Makes what was written durable, and that the file is there: it may have been made just now.
    pub(super) fn make_durable(&self, path: &Path) -> io::Result<()> {
        self.plain.sync()?;
        if self.block_device {
            return Ok(());
        }
        // The folder that holds the file, not one that holds a link to it.
        let path = fs::canonicalize(path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
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

fn expect_storage(path: &Path, found: &Metadata) -> Result<(), FileIoError> {
    match found.is_file() || found.file_type().is_block_device() {
        true => Ok(()),
        false => Err(FileIoError::NotAFile { path: path.to_owned() }),
    }
}
