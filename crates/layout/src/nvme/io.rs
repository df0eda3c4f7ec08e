use super::bits::{get, put};
use super::{CommandError, DataPointer, Sqe};

/// I/O opcodes (NVM, Figure 12), those that GCOS uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum IoOpcode {
    /// Flush.
    Flush = 0x00,
    /// Write.
    Write = 0x01,
    /// Read.
    Read = 0x02,
    /// Compare.
    Compare = 0x05,
    /// Write Zeroes.
    WriteZeroes = 0x08,
    /// Dataset Management.
    DatasetManagement = 0x09,
}

impl IoOpcode {
    /// Name in the specification.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Flush => "Flush",
            Self::Write => "Write",
            Self::Read => "Read",
            Self::Compare => "Compare",
            Self::WriteZeroes => "Write Zeroes",
            Self::DatasetManagement => "Dataset Management",
        }
    }
}

/// A command of the NVM command set. NSID, CID and data pointer stay in the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IoCommand {
    /// Flush (Base, section 7.1).
    Flush,
    /// Write (NVM, section 3.2.6).
    Write {
        /// Starting LBA.
        slba: u64,
        /// Logical blocks, 1..=65536.
        nlb: u32,
        /// Force Unit Access: on the medium when it completes.
        fua: bool,
    },
    /// Read (NVM, section 3.2.4).
    Read {
        /// Starting LBA.
        slba: u64,
        /// Logical blocks, 1..=65536.
        nlb: u32,
        /// Force Unit Access: from the medium.
        fua: bool,
    },
    /// Compare (NVM, section 3.2.1).
    Compare {
        /// Starting LBA.
        slba: u64,
        /// Logical blocks, 1..=65536.
        nlb: u32,
        /// Force Unit Access: with the medium.
        fua: bool,
    },
    /// Write Zeroes (NVM, section 3.2.8). No data.
    WriteZeroes {
        /// Starting LBA.
        slba: u64,
        /// Logical blocks, 1..=65536.
        nlb: u32,
        /// Force Unit Access.
        fua: bool,
        /// DEAC: the blocks should be deallocated.
        deallocate: bool,
    },
    /// Dataset Management (NVM, section 3.2.3). The data are [`super::DsmRange`]s.
    DatasetManagement {
        /// NR: ranges, 1..=256.
        ranges: u32,
        /// AD: the ranges may be deallocated.
        deallocate: bool,
    },
}

const FUA: u32 = 1 << 30;
const DEAC: u32 = 1 << 25;
const AD: u32 = 1 << 2;

impl IoCommand {
    /// The command's opcode.
    #[must_use]
    #[inline]
    pub fn opcode(&self) -> IoOpcode {
        match self {
            Self::Flush => IoOpcode::Flush,
            Self::Write { .. } => IoOpcode::Write,
            Self::Read { .. } => IoOpcode::Read,
            Self::Compare { .. } => IoOpcode::Compare,
            Self::WriteZeroes { .. } => IoOpcode::WriteZeroes,
            Self::DatasetManagement { .. } => IoOpcode::DatasetManagement,
        }
    }

    /// The entry for this command.
    #[must_use]
    #[inline]
    pub fn encode(&self, cid: u16, nsid: u32, data: DataPointer) -> Sqe {
        let sqe = Sqe::new(self.opcode() as u8, cid).with_nsid(nsid).with_data_pointer(data);
        match *self {
            Self::Flush => sqe,
            Self::Write { slba, nlb, fua }
            | Self::Read { slba, nlb, fua }
            | Self::Compare { slba, nlb, fua } => {
                sqe.with_cdw10_11(slba).with_cdw(12, block_dword(nlb, fua))
            }
            Self::WriteZeroes { slba, nlb, fua, deallocate } => {
                let deac = if deallocate { DEAC } else { 0 };
                sqe.with_cdw10_11(slba).with_cdw(12, block_dword(nlb, fua) | deac)
            }
            Self::DatasetManagement { ranges, deallocate } => sqe
                .with_cdw(10, put(0, 7, 0, ranges.saturating_sub(1)) as u32)
                .with_cdw(11, if deallocate { AD } else { 0 }),
        }
    }

    /// The command in an entry.
    ///
    /// # Errors
    /// [`CommandError`] for an opcode that is not supported.
    pub fn parse(sqe: &Sqe) -> Result<Self, CommandError> {
        let dw12 = u64::from(sqe.cdw(12));
        let (slba, nlb, fua) = (sqe.cdw10_11(), get::<u32>(dw12, 15, 0) + 1, get(dw12, 30, 30));
        Ok(match sqe.opcode() {
            0x00 => Self::Flush,
            0x01 => Self::Write { slba, nlb, fua },
            0x02 => Self::Read { slba, nlb, fua },
            0x05 => Self::Compare { slba, nlb, fua },
            0x08 => Self::WriteZeroes { slba, nlb, fua, deallocate: get(dw12, 25, 25) },
            0x09 => Self::DatasetManagement {
                ranges: get::<u32>(sqe.cdw(10).into(), 7, 0) + 1,
                deallocate: sqe.cdw(11) & AD != 0,
            },
            opcode => return Err(CommandError::Opcode { opcode, set: "NVM" }),
        })
    }
}

#[inline]
fn block_dword(nlb: u32, fua: bool) -> u32 {
    nlb.wrapping_sub(1) & 0xFFFF | if fua { FUA } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::bits::{bytes_at, each_corrupt_byte_shows};

    /// Every command with the bytes of its dwords that carry fields.
    fn all() -> Vec<(IoCommand, Vec<usize>)> {
        let slba = 0x0102_0304_0506_0708;
        let blocks: Vec<usize> = (40..50).chain([51]).collect();
        vec![
            (IoCommand::Flush, vec![]),
            (IoCommand::Write { slba, nlb: 1, fua: true }, blocks.clone()),
            (IoCommand::Read { slba, nlb: 65_536, fua: false }, blocks.clone()),
            (IoCommand::Compare { slba, nlb: 256, fua: false }, blocks.clone()),
            (IoCommand::WriteZeroes { slba, nlb: 8, fua: false, deallocate: true }, blocks),
            (IoCommand::DatasetManagement { ranges: 256, deallocate: true }, vec![40, 44]),
        ]
    }

    #[test]
    fn commands_round_trip() {
        for (command, _) in all() {
            let sqe = command.encode(3, 2, DataPointer::Prp { prp1: 0x3000, prp2: 0x4000 });
            assert_eq!(IoCommand::parse(&sqe), Ok(command));
            assert_eq!((sqe.cid(), sqe.nsid(), sqe.prp2()), (3, 2, 0x4000));
            assert!(!command.opcode().name().is_empty());
        }
    }

    #[test]
    fn a_corrupt_opcode_or_field_is_another_command_or_an_error() {
        for (command, covered) in all() {
            let bytes = command.encode(1, 1, DataPointer::NONE).to_bytes();
            each_corrupt_byte_shows(&bytes, covered.into_iter().chain([0]), |b| {
                IoCommand::parse(&Sqe::from_bytes(&bytes_at(b, 0)))
            });
        }
    }

    #[test]
    fn block_counts_are_stored_zeroes_based() {
        let sqe = IoCommand::Read { slba: 0, nlb: 8, fua: true }.encode(0, 1, DataPointer::NONE);
        assert_eq!(sqe.cdw(12), 0x4000_0007);
        let sqe = IoCommand::DatasetManagement { ranges: 1, deallocate: true };
        assert_eq!(sqe.encode(0, 1, DataPointer::NONE).cdw(10), 0);
    }
}
