use super::{VERSION_MAJOR, VERSION_MINOR};

/// Why bytes from a drive are not the structure that they were expected to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Fewer bytes than the structure needs.
    #[error("{what} needs {expected} bytes, got {got}")]
    Short {
        /// Structure.
        what: &'static str,
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// The magic number is not there: something else, or nothing, was written here.
    #[error("no {what} here (magic number missing)")]
    Magic {
        /// Structure.
        what: &'static str,
    },
    /// The checksum does not fit the content.
    #[error("{what} is damaged: checksum {stored:#010x} stored, {computed:#010x} computed")]
    Checksum {
        /// Structure.
        what: &'static str,
        /// Checksum stored with it.
        stored: u32,
        /// Checksum of the content.
        computed: u32,
    },
    /// A newer format.
    #[error(
        "format version {major}.{minor} is newer than {VERSION_MAJOR}.{VERSION_MINOR}, the newest \
         that this build knows; use the release that wrote it, or a later one"
    )]
    Version {
        /// Major version found.
        major: u16,
        /// Minor version found.
        minor: u16,
    },
    /// The checksum is right and a field is not: written by a faulty program.
    #[error("{what}: field {field} is {got}, expected {expected}")]
    Field {
        /// Structure.
        what: &'static str,
        /// Field.
        field: &'static str,
        /// Value found.
        got: u64,
        /// What is accepted.
        expected: &'static str,
    },
    /// Sizes that cannot be laid out on a drive.
    #[error("{0}")]
    Sizes(String),
}
