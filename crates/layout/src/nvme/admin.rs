use super::bits::{get, put};
use super::{CommandError, DataPointer, Feature, FeatureId, Sqe};

/// Admin opcodes (Base, Figure 138), those that GCOS uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AdminOpcode {
    /// Delete I/O Submission Queue.
    DeleteSq = 0x00,
    /// Create I/O Submission Queue.
    CreateSq = 0x01,
    /// Get Log Page.
    GetLogPage = 0x02,
    /// Delete I/O Completion Queue.
    DeleteCq = 0x04,
    /// Create I/O Completion Queue.
    CreateCq = 0x05,
    /// Identify.
    Identify = 0x06,
    /// Abort.
    Abort = 0x08,
    /// Set Features.
    SetFeatures = 0x09,
    /// Get Features.
    GetFeatures = 0x0A,
    /// Asynchronous Event Request.
    AsyncEventRequest = 0x0C,
    /// Doorbell Buffer Config.
    DoorbellBufferConfig = 0x7C,
    /// Format NVM.
    FormatNvm = 0x80,
}

impl AdminOpcode {
    /// Name in the specification.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DeleteSq => "Delete I/O Submission Queue",
            Self::CreateSq => "Create I/O Submission Queue",
            Self::GetLogPage => "Get Log Page",
            Self::DeleteCq => "Delete I/O Completion Queue",
            Self::CreateCq => "Create I/O Completion Queue",
            Self::Identify => "Identify",
            Self::Abort => "Abort",
            Self::SetFeatures => "Set Features",
            Self::GetFeatures => "Get Features",
            Self::AsyncEventRequest => "Asynchronous Event Request",
            Self::DoorbellBufferConfig => "Doorbell Buffer Config",
            Self::FormatNvm => "Format NVM",
        }
    }
}

/// Which structure Identify returns (Base, Figure 273).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cns {
    /// 00h: Identify Namespace of the NSID.
    Namespace = 0x00,
    /// 01h: Identify Controller.
    Controller = 0x01,
    /// 02h: active namespaces with identifiers above the NSID.
    ActiveNamespaces = 0x02,
    /// 03h: Namespace Identification Descriptors of the NSID.
    NamespaceDescriptors = 0x03,
}

/// Log page identifier (Base, Figure 202), those that GCOS uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LogPage {
    /// 01h: Error Information.
    Error = 0x01,
    /// 02h: SMART / Health Information.
    Smart = 0x02,
    /// 03h: Firmware Slot Information.
    FirmwareSlot = 0x03,
}

impl LogPage {
    /// From the LID field.
    #[must_use]
    pub fn from_lid(lid: u8) -> Option<Self> {
        [Self::Error, Self::Smart, Self::FirmwareSlot].into_iter().find(|&page| page as u8 == lid)
    }
}

/// A command of the admin command set. NSID, CID and data pointer stay in the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdminCommand {
    /// Delete I/O Submission Queue (Base, section 5.7). QID in CDW10.
    DeleteSq {
        /// QID.
        qid: u16,
    },
    /// Create I/O Submission Queue (Base, section 5.5). Base address in PRP1.
    CreateSq {
        /// QID.
        qid: u16,
        /// QSIZE: entries, 2..=65536.
        entries: u32,
        /// CQID: completion queue to use.
        cqid: u16,
        /// QPRIO: 0 urgent to 3 low; only for weighted round robin.
        priority: u8,
        /// PC: physically contiguous.
        contiguous: bool,
    },
    /// Get Log Page (Base, section 5.16).
    GetLogPage {
        /// LID: see [`LogPage`].
        lid: u8,
        /// NUMD: bytes to transfer, a multiple of 4 and at least 4.
        bytes: u64,
        /// LPO: offset in the log page in bytes.
        offset: u64,
        /// RAE: keep the asynchronous event that refers to the page pending.
        retain_event: bool,
    },
    /// Delete I/O Completion Queue (Base, section 5.6).
    DeleteCq {
        /// QID.
        qid: u16,
    },
    /// Create I/O Completion Queue (Base, section 5.4). Base address in PRP1.
    CreateCq {
        /// QID.
        qid: u16,
        /// QSIZE: entries, 2..=65536.
        entries: u32,
        /// IV, when interrupts are enabled (IEN).
        vector: Option<u16>,
        /// PC: physically contiguous.
        contiguous: bool,
    },
    /// Identify (Base, section 5.17).
    Identify {
        /// CNS.
        cns: Cns,
    },
    /// Abort (Base, section 5.1).
    Abort {
        /// SQID of the command to abort.
        sqid: u16,
        /// CID of the command to abort.
        cid: u16,
    },
    /// Set Features (Base, section 5.27).
    SetFeatures {
        /// FID and CDW11.
        feature: Feature,
        /// SV: keep over power cycles.
        save: bool,
    },
    /// Get Features (Base, section 5.15).
    GetFeatures {
        /// FID.
        id: FeatureId,
        /// SEL: 0 current, 1 default, 2 saved, 3 supported capabilities.
        select: u8,
        /// CDW11, which selects the sensor of a temperature threshold.
        cdw11: u32,
    },
    /// Asynchronous Event Request (Base, section 5.2).
    AsyncEventRequest,
    /// Doorbell Buffer Config (Base, section 5.8). Shadow doorbells in PRP1, event indexes in PRP2, a
    /// page each.
    DoorbellBufferConfig,
    /// Format NVM (Base, section 5.14).
    FormatNvm {
        /// LBAF: index of the LBA format, 0..=63 (LBAFL and LBAFU).
        lbaf: u8,
        /// SES: 0 no secure erase, 1 user data erase, 2 cryptographic erase.
        secure_erase: u8,
    },
}

impl AdminCommand {
    /// The command's opcode.
    #[must_use]
    pub fn opcode(&self) -> AdminOpcode {
        match self {
            Self::DeleteSq { .. } => AdminOpcode::DeleteSq,
            Self::CreateSq { .. } => AdminOpcode::CreateSq,
            Self::GetLogPage { .. } => AdminOpcode::GetLogPage,
            Self::DeleteCq { .. } => AdminOpcode::DeleteCq,
            Self::CreateCq { .. } => AdminOpcode::CreateCq,
            Self::Identify { .. } => AdminOpcode::Identify,
            Self::Abort { .. } => AdminOpcode::Abort,
            Self::SetFeatures { .. } => AdminOpcode::SetFeatures,
            Self::GetFeatures { .. } => AdminOpcode::GetFeatures,
            Self::AsyncEventRequest => AdminOpcode::AsyncEventRequest,
            Self::DoorbellBufferConfig => AdminOpcode::DoorbellBufferConfig,
            Self::FormatNvm { .. } => AdminOpcode::FormatNvm,
        }
    }

    /// The entry for this command.
    #[must_use]
    pub fn encode(&self, cid: u16, nsid: u32, data: DataPointer) -> Sqe {
        let sqe = Sqe::new(self.opcode() as u8, cid).with_nsid(nsid).with_data_pointer(data);
        match *self {
            Self::DeleteSq { qid } | Self::DeleteCq { qid } => sqe.with_cdw(10, qid.into()),
            Self::CreateSq { qid, entries, cqid, priority, contiguous } => {
                let flags = put(contiguous.into(), 2, 1, priority);
                sqe.with_cdw(10, queue_dword(qid, entries))
                    .with_cdw(11, put(flags, 31, 16, cqid) as u32)
            }
            Self::CreateCq { qid, entries, vector, contiguous } => {
                let flags = put(contiguous.into(), 1, 1, vector.is_some());
                sqe.with_cdw(10, queue_dword(qid, entries))
                    .with_cdw(11, put(flags, 31, 16, vector.unwrap_or(0)) as u32)
            }
            Self::GetLogPage { lid, bytes, offset, retain_event } => {
                let numd = (bytes / 4).saturating_sub(1);
                let dw10 = put(put(lid.into(), 15, 15, retain_event), 31, 16, numd as u16);
                sqe.with_cdw(10, dw10 as u32)
                    .with_cdw(11, (numd >> 16) as u32 & 0xFFFF)
                    .with_cdw(12, offset as u32)
                    .with_cdw(13, (offset >> 32) as u32)
            }
            Self::Identify { cns } => sqe.with_cdw(10, cns as u32),
            Self::Abort { sqid, cid } => sqe.with_cdw(10, u32::from(cid) << 16 | u32::from(sqid)),
            Self::SetFeatures { feature, save } => sqe
                .with_cdw(10, feature.id() as u32 | u32::from(save) << 31)
                .with_cdw(11, feature.to_dword()),
            Self::GetFeatures { id, select, cdw11 } => {
                sqe.with_cdw(10, put(id as u64, 10, 8, select) as u32).with_cdw(11, cdw11)
            }
            Self::AsyncEventRequest | Self::DoorbellBufferConfig => sqe,
            Self::FormatNvm { lbaf, secure_erase } => {
                let low = put(put(0, 3, 0, lbaf), 11, 9, secure_erase);
                sqe.with_cdw(10, put(low, 13, 12, lbaf >> 4) as u32)
            }
        }
    }

    /// The command in an entry.
    ///
    /// # Errors
    /// [`CommandError`] for an opcode or a field value that is not supported.
    pub fn parse(sqe: &Sqe) -> Result<Self, CommandError> {
        let (dw10, dw11) = (u64::from(sqe.cdw(10)), u64::from(sqe.cdw(11)));
        Ok(match sqe.opcode() {
            0x00 => Self::DeleteSq { qid: get(dw10, 15, 0) },
            0x01 => Self::CreateSq {
                qid: get(dw10, 15, 0),
                entries: queue_entries(dw10),
                cqid: get(dw11, 31, 16),
                priority: get(dw11, 2, 1),
                contiguous: get(dw11, 0, 0),
            },
            0x02 => Self::GetLogPage {
                lid: get(dw10, 7, 0),
                bytes: (get::<u64>(dw10, 31, 16) + (get::<u64>(dw11, 15, 0) << 16) + 1) * 4,
                offset: u64::from(sqe.cdw(12)) | u64::from(sqe.cdw(13)) << 32,
                retain_event: get(dw10, 15, 15),
            },
            0x04 => Self::DeleteCq { qid: get(dw10, 15, 0) },
            0x05 => Self::CreateCq {
                qid: get(dw10, 15, 0),
                entries: queue_entries(dw10),
                vector: get::<bool>(dw11, 1, 1).then(|| get(dw11, 31, 16)),
                contiguous: get(dw11, 0, 0),
            },
            0x06 => Self::Identify { cns: parse_cns(get(dw10, 7, 0))? },
            0x08 => Self::Abort { sqid: get(dw10, 15, 0), cid: get(dw10, 31, 16) },
            0x09 => Self::SetFeatures {
                feature: Feature::from_dword(FeatureId::from_fid(get(dw10, 7, 0))?, dw11 as u32),
                save: get(dw10, 31, 31),
            },
            0x0A => Self::GetFeatures {
                id: FeatureId::from_fid(get(dw10, 7, 0))?,
                select: get(dw10, 10, 8),
                cdw11: dw11 as u32,
            },
            0x0C => Self::AsyncEventRequest,
            0x7C => Self::DoorbellBufferConfig,
            0x80 => Self::FormatNvm {
                lbaf: get::<u8>(dw10, 3, 0) | get::<u8>(dw10, 13, 12) << 4,
                secure_erase: get(dw10, 11, 9),
            },
            opcode => return Err(CommandError::Opcode { opcode, set: "admin" }),
        })
    }
}

fn queue_dword(qid: u16, entries: u32) -> u32 {
    u32::from(qid) | entries.saturating_sub(1) << 16
}

fn queue_entries(dw10: u64) -> u32 {
    get::<u32>(dw10, 31, 16) + 1
}

fn parse_cns(cns: u8) -> Result<Cns, CommandError> {
    let known = [Cns::Namespace, Cns::Controller, Cns::ActiveNamespaces, Cns::NamespaceDescriptors];
    known.into_iter().find(|&known| known as u8 == cns).ok_or(CommandError::Field {
        field: "CNS",
        value: cns.into(),
        expected: "00h to 03h",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::bits::{bytes_at, each_corrupt_byte_shows};
    use crate::nvme::{AsyncEventConfig, QueueCounts};

    /// Every command with the bytes of its dwords that carry fields.
    fn all() -> Vec<(AdminCommand, Vec<usize>)> {
        let sq = AdminCommand::CreateSq {
            qid: 5,
            entries: 65_536,
            cqid: 0x1234,
            priority: 2,
            contiguous: true,
        };
        let cq = AdminCommand::CreateCq { qid: 5, entries: 2, vector: Some(9), contiguous: true };
        let log = AdminCommand::GetLogPage {
            lid: LogPage::Smart as u8,
            bytes: 4 * 0x1_0002,
            offset: 0x0102_0304_0506_0708,
            retain_event: true,
        };
        let counts = QueueCounts { sq: 8, cq: 4 };
        let queues =
            AdminCommand::SetFeatures { feature: Feature::NumberOfQueues(counts), save: false };
        let events = AsyncEventConfig::default().with_critical_warnings(0x1F);
        let events =
            AdminCommand::SetFeatures { feature: Feature::AsyncEventConfig(events), save: true };
        let threshold = FeatureId::TemperatureThreshold;
        vec![
            (AdminCommand::DeleteSq { qid: 0x0102 }, vec![40, 41]),
            (sq, vec![40, 41, 42, 43, 44, 46, 47]),
            (log, (40..46).chain(48..56).collect()),
            (AdminCommand::DeleteCq { qid: 3 }, vec![40, 41]),
            (cq, vec![40, 41, 42, 43, 44, 46, 47]),
            (AdminCommand::Identify { cns: Cns::Controller }, vec![40]),
            (AdminCommand::Abort { sqid: 1, cid: 0xFEDC }, vec![40, 41, 42, 43]),
            (queues, vec![40, 43, 44, 45, 46, 47]),
            (events, vec![40, 43, 44, 45]),
            (AdminCommand::GetFeatures { id: threshold, select: 1, cdw11: 7 }, vec![40, 41, 44]),
            (AdminCommand::AsyncEventRequest, vec![]),
            (AdminCommand::DoorbellBufferConfig, vec![]),
            (AdminCommand::FormatNvm { lbaf: 0x21, secure_erase: 1 }, vec![40, 41]),
        ]
    }

    #[test]
    fn commands_round_trip() {
        for (command, _) in all() {
            let sqe = command.encode(77, 1, DataPointer::Prp { prp1: 0x1000, prp2: 0 });
            assert_eq!(AdminCommand::parse(&sqe), Ok(command), "{command:?}");
            assert_eq!((sqe.cid(), sqe.nsid(), sqe.prp1()), (77, 1, 0x1000));
            assert!(!command.opcode().name().is_empty());
        }
    }

    #[test]
    fn a_corrupt_opcode_or_field_is_another_command_or_an_error() {
        for (command, covered) in all() {
            let bytes = command.encode(1, 1, DataPointer::NONE).to_bytes();
            each_corrupt_byte_shows(&bytes, covered.into_iter().chain([0]), |b| {
                AdminCommand::parse(&Sqe::from_bytes(&bytes_at(b, 0)))
            });
        }
    }

    #[test]
    fn counts_are_stored_zeroes_based() {
        let cq = AdminCommand::CreateCq { qid: 1, entries: 64, vector: None, contiguous: true };
        assert_eq!(cq.encode(0, 0, DataPointer::NONE).cdw(10), 0x003F_0001);
        let log = AdminCommand::GetLogPage { lid: 2, bytes: 512, offset: 0, retain_event: false };
        assert_eq!(log.encode(0, 0, DataPointer::NONE).cdw(10), 0x007F_0002);
    }

    #[test]
    fn unknown_opcodes_and_structures_are_refused_with_their_status() {
        let error = AdminCommand::parse(&Sqe::new(0x7F, 0)).unwrap_err();
        assert_eq!(error.status().code(), crate::nvme::Status::INVALID_OPCODE);
        let error = AdminCommand::parse(&Sqe::new(0x06, 0).with_cdw(10, 0x1C)).unwrap_err();
        assert_eq!(error.status().code(), crate::nvme::Status::INVALID_FIELD);
    }
}
