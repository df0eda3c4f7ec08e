use super::Status;
use super::bits::{put_at, put_text, text_at, u16_at, u32_at, u64_at};

/// Error Information log entry, 64 bytes (Base, section 5.16.1.2, Figure 206).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ErrorLogEntry {
    /// Error count over the controller's life; 0 for an entry that is not used.
    pub count: u64,
    /// SQID of the command.
    pub sqid: u16,
    /// CID of the command.
    pub cid: u16,
    /// Status of the command.
    pub status: Status,
    /// Parameter error location: byte in bits 7:0, bit in 10:8.
    pub parameter: u16,
    /// First LBA that failed.
    pub lba: u64,
    /// NSID of the command.
    pub nsid: u32,
}

impl ErrorLogEntry {
    /// Size in bytes.
    pub const BYTES: usize = 64;

    /// As transferred.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        put_at(&mut out, 0, &self.count.to_le_bytes());
        put_at(&mut out, 8, &self.sqid.to_le_bytes());
        put_at(&mut out, 10, &self.cid.to_le_bytes());
        // Bits 15:1 as in the completion; bit 0 is where the phase tag was.
        put_at(&mut out, 12, &(self.status.0 << 1).to_le_bytes());
        put_at(&mut out, 14, &self.parameter.to_le_bytes());
        put_at(&mut out, 16, &self.lba.to_le_bytes());
        put_at(&mut out, 24, &self.nsid.to_le_bytes());
        out
    }

    /// From what was transferred.
    #[must_use]
    pub fn decode(data: &[u8; Self::BYTES]) -> Self {
        Self {
            count: u64_at(data, 0),
            sqid: u16_at(data, 8),
            cid: u16_at(data, 10),
            status: Status(u16_at(data, 12) >> 1),
            parameter: u16_at(data, 14),
            lba: u64_at(data, 16),
            nsid: u32_at(data, 24),
        }
    }
}

/// Firmware Slot Information log, 512 bytes (Base, section 5.16.1.4, Figure 209).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FirmwareSlotLog {
    /// AFI bits 2:0: slot that runs, 1..=7.
    pub active_slot: u8,
    /// AFI bits 6:4: slot that will run after the next reset, 0 when not decided.
    pub next_slot: u8,
    /// FRS1 to FRS7: revisions, empty for empty slots.
    pub revisions: [String; 7],
}

impl FirmwareSlotLog {
    /// Size in bytes.
    pub const BYTES: usize = 512;

    /// As transferred.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0] = self.active_slot & 0x7 | (self.next_slot & 0x7) << 4;
        for (index, revision) in self.revisions.iter().enumerate() {
            // Empty slots are zeros, not spaces.
            if !revision.is_empty() {
                put_text(&mut out, 8 + index * 8, 8, revision);
            }
        }
        out
    }

    /// From what was transferred.
    #[must_use]
    pub fn decode(data: &[u8; Self::BYTES]) -> Self {
        Self {
            active_slot: data[0] & 0x7,
            next_slot: data[0] >> 4 & 0x7,
            revisions: std::array::from_fn(|i| text_at(data, 8 + i * 8, 8)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::bits::{bytes_at, each_corrupt_byte_shows};

    #[test]
    fn error_entries_round_trip_and_each_used_byte_matters() {
        let entry = ErrorLogEntry {
            count: 5,
            sqid: 1,
            cid: 0xABCD,
            status: Status::UNRECOVERED_READ_ERROR.with_dnr(true),
            parameter: 0x0728,
            lba: 0x1122_3344_5566,
            nsid: 1,
        };
        assert_eq!(ErrorLogEntry::decode(&entry.encode()), entry);
        each_corrupt_byte_shows(&entry.encode(), 0..28, |b| ErrorLogEntry::decode(&bytes_at(b, 0)));
    }

    #[test]
    fn firmware_slots_round_trip_and_each_used_byte_matters() {
        let mut log = FirmwareSlotLog { active_slot: 1, next_slot: 2, ..Default::default() };
        log.revisions[0] = "1.0".into();
        log.revisions[6] = "12345678".into();
        assert_eq!(FirmwareSlotLog::decode(&log.encode()), log);
        each_corrupt_byte_shows(&log.encode(), [0].into_iter().chain(8..64), |b| {
            FirmwareSlotLog::decode(&bytes_at(b, 0))
        });
    }
}
