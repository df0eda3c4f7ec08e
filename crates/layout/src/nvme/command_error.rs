use super::Status;

/// Why a submission queue entry is not a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The opcode is not one of this command set.
    #[error("opcode {opcode:#04x}: expected an opcode of the {set} command set")]
    Opcode {
        /// OPC.
        opcode: u8,
        /// "admin" or "NVM".
        set: &'static str,
    },
    /// A field holds a value that is not supported.
    #[error("{field} is {value:#x}: expected {expected}")]
    Field {
        /// The field's name in the specification.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What is accepted.
        expected: &'static str,
    },
}

impl CommandError {
    /// The status that a controller gives to such an entry.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Opcode { .. } => Status::INVALID_OPCODE,
            Self::Field { .. } => Status::INVALID_FIELD,
        }
        .with_dnr(true)
    }
}
