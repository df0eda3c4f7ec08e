use gcos_layout::media::{Superblock, Uuid, VERSION_MINOR, ZoneMap};

use crate::disk::Disk;
use crate::superblock::Quorum;

/// A member of the pool that can be read.
#[derive(Debug)]
pub(crate) struct Drive<'a> {
    /// Place among the drives given.
    pub(crate) position: usize,
    pub(crate) disk: Disk<'a>,
    pub(crate) quorum: Quorum,
    /// Why a repair does not write to it.
    pub(crate) frozen: Option<String>,
}

impl<'a> Drive<'a> {
    pub(crate) fn new(position: usize, disk: Disk<'a>, quorum: Quorum) -> Self {
        let frozen = if quorum.superblock.version.1 > VERSION_MINOR {
            Some("its minor format version is newer than this release writes".to_owned())
        } else if disk.engine().geometry().capacity < quorum.superblock.zones.capacity {
            Some("it is smaller than the pool on it".to_owned())
        } else {
            None
        };
        Self { position, disk, quorum, frozen }
    }

    pub(crate) fn name(&self) -> &'a str {
        self.disk.name()
    }

    pub(crate) fn superblock(&self) -> &Superblock {
        &self.quorum.superblock
    }

    /// Index in the pool. A pool has at most 64 drives.
    pub(crate) fn index(&self) -> u8 {
        u8::try_from(self.superblock().drive_index).unwrap_or(u8::MAX)
    }

    pub(crate) fn uuid(&self) -> Uuid {
        self.superblock().drive_uuid()
    }

    pub(crate) fn zones(&self) -> &ZoneMap {
        &self.superblock().zones
    }
}

/// The usual hyphenated form.
pub(crate) fn uuid_text(uuid: &Uuid) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in uuid.iter().enumerate() {
        if [4, 6, 8, 10].contains(&i) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or('?'));
        }
    }
    text
}
