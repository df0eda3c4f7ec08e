use super::SglDescriptor;

/// Where the data of a command is (Base, Figure 87: PSDT and DPTR).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataPointer {
    /// PSDT = 00b: PRP entries. Both 0 when the command has no data.
    Prp {
        /// PRP Entry 1: address of the first byte.
        prp1: u64,
        /// PRP Entry 2: the second page, or the PRP list.
        prp2: u64,
    },
    /// PSDT = 01b: the first SGL descriptor.
    Sgl(SglDescriptor),
}

impl DataPointer {
    /// No data.
    pub const NONE: Self = Self::Prp { prp1: 0, prp2: 0 };
}
