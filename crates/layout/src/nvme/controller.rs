use super::bits::{put_at, put_text, text_at, u16_at, u32_at};
use super::{IDENTIFY_BYTES, IdentifyData, Vs};

/// Optional NVM commands (Base, Figure 275, ONCS).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Oncs(pub u16);

fields!(pub Oncs(u16) {
    /// Compare.
    compare, with_compare: bool = 0:0;
    /// Write Uncorrectable.
    write_uncorrectable, with_write_uncorrectable: bool = 1:1;
    /// Dataset Management.
    dataset_management, with_dataset_management: bool = 2:2;
    /// Write Zeroes.
    write_zeroes, with_write_zeroes: bool = 3:3;
});

/// SGL support (Base, Figure 275, SGLS).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SglSupport(pub u32);

fields!(pub SglSupport(u32) {
    /// 0 no SGLs, 1 any alignment, 2 dword alignment and granularity.
    support, with_support: u8 = 1:0;
    /// Bit bucket descriptors.
    bit_bucket, with_bit_bucket: bool = 16:16;
    /// SGL longer than the data is accepted.
    longer, with_longer: bool = 18:18;
});

/// Identify Controller, CNS 01h (Base, Figure 275): the fields that are used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdentifyController {
    /// VID: PCI vendor.
    pub vid: u16,
    /// SSVID: PCI subsystem vendor.
    pub ssvid: u16,
    /// SN: serial number, trimmed, 20 characters.
    pub serial: String,
    /// MN: model number, trimmed, 40 characters.
    pub model: String,
    /// FR: firmware revision, trimmed, 8 characters.
    pub firmware: String,
    /// MDTS as stored: largest transfer is the minimum page size << MDTS; 0 is no limit. See
    /// [`IdentifyController::max_transfer_bytes`].
    pub mdts: u8,
    /// CNTLID: controller identifier.
    pub cntlid: u16,
    /// VER: version.
    pub version: Vs,
    /// RTD3R in microseconds.
    pub rtd3_resume_us: u32,
    /// RTD3E in microseconds: time that a normal shutdown takes at most; 0 when not reported.
    pub rtd3_entry_us: u32,
    /// OAES: optional asynchronous events.
    pub oaes: u32,
    /// CNTRLTYPE: 0 not reported, 1 I/O, 2 discovery, 3 administrative.
    pub controller_type: u8,
    /// OACS: optional admin commands; bit 1 is Format NVM, bit 8 Doorbell Buffer Config.
    pub oacs: u16,
    /// ACL: outstanding Abort commands, plain count (stored 0's based).
    pub abort_limit: u16,
    /// AERL: outstanding Asynchronous Event Requests, plain count (stored 0's based).
    pub async_event_limit: u16,
    /// FRMW: firmware slots.
    pub frmw: u8,
    /// LPA: log page attributes.
    pub lpa: u8,
    /// ELPE: entries of the error log, plain count (stored 0's based).
    pub error_log_entries: u16,
    /// WCTEMP: warning temperature in kelvin, 0 when not reported.
    pub warning_temperature: u16,
    /// CCTEMP: critical temperature in kelvin, 0 when not reported.
    pub critical_temperature: u16,
    /// SQES: log2 of the required (low half) and largest (high half) submission queue entry size.
    pub sqes: u8,
    /// CQES: log2 of the required (low half) and largest (high half) completion queue entry size.
    pub cqes: u8,
    /// NN: largest namespace identifier.
    pub namespaces: u32,
    /// ONCS.
    pub oncs: Oncs,
    /// FNA: Format NVM attributes.
    pub fna: u8,
    /// VWC as stored: bit 0 a volatile write cache is present, bits 2:1 flush of all namespaces.
    pub vwc: u8,
    /// AWUN: blocks written atomically, plain count (stored 0's based).
    pub atomic_write_blocks: u32,
    /// AWUPF: blocks written atomically over power failure, plain count (stored 0's based).
    pub atomic_write_power_fail_blocks: u32,
    /// SGLS.
    pub sgls: SglSupport,
    /// SUBNQN: subsystem name, trimmed, 256 characters.
    pub subnqn: String,
}

impl IdentifyController {
    /// Largest transfer of one command in bytes, for a controller whose smallest memory page is
    /// `page_bytes`; `None` when it does not limit it.
    #[must_use]
    pub fn max_transfer_bytes(&self, page_bytes: u64) -> Option<u64> {
        match self.mdts {
            0 => None,
            mdts => {
                let pages = 1u64.checked_shl(mdts.into()).unwrap_or(u64::MAX);
                Some(page_bytes.saturating_mul(pages))
            }
        }
    }

    /// Whether a volatile write cache is present (VWC bit 0).
    #[must_use]
    pub fn volatile_write_cache(&self) -> bool {
        self.vwc & 1 != 0
    }

    /// Whether shadow doorbells are supported (OACS bit 8).
    #[must_use]
    pub fn doorbell_buffers(&self) -> bool {
        self.oacs & 1 << 8 != 0
    }

    /// As transferred.
    #[must_use]
    pub fn encode(&self) -> IdentifyData {
        let mut out = [0; IDENTIFY_BYTES];
        put_at(&mut out, 0, &self.vid.to_le_bytes());
        put_at(&mut out, 2, &self.ssvid.to_le_bytes());
        put_text(&mut out, 4, 20, &self.serial);
        put_text(&mut out, 24, 40, &self.model);
        put_text(&mut out, 64, 8, &self.firmware);
        out[77] = self.mdts;
        put_at(&mut out, 78, &self.cntlid.to_le_bytes());
        put_at(&mut out, 80, &self.version.0.to_le_bytes());
        put_at(&mut out, 84, &self.rtd3_resume_us.to_le_bytes());
        put_at(&mut out, 88, &self.rtd3_entry_us.to_le_bytes());
        put_at(&mut out, 92, &self.oaes.to_le_bytes());
        out[111] = self.controller_type;
        put_at(&mut out, 256, &self.oacs.to_le_bytes());
        out[258] = self.abort_limit.saturating_sub(1) as u8;
        out[259] = self.async_event_limit.saturating_sub(1) as u8;
        out[260] = self.frmw;
        out[261] = self.lpa;
        out[262] = self.error_log_entries.saturating_sub(1) as u8;
        put_at(&mut out, 266, &self.warning_temperature.to_le_bytes());
        put_at(&mut out, 268, &self.critical_temperature.to_le_bytes());
        out[512] = self.sqes;
        out[513] = self.cqes;
        put_at(&mut out, 516, &self.namespaces.to_le_bytes());
        put_at(&mut out, 520, &self.oncs.0.to_le_bytes());
        out[524] = self.fna;
        out[525] = self.vwc;
        put_at(&mut out, 526, &(self.atomic_write_blocks.wrapping_sub(1) as u16).to_le_bytes());
        let power_fail = self.atomic_write_power_fail_blocks.wrapping_sub(1) as u16;
        put_at(&mut out, 528, &power_fail.to_le_bytes());
        put_at(&mut out, 536, &self.sgls.0.to_le_bytes());
        let subnqn = self.subnqn.as_bytes();
        put_at(&mut out, 768, &subnqn[..subnqn.len().min(256)]);
        out
    }

    /// From what was transferred.
    #[must_use]
    pub fn decode(data: &IdentifyData) -> Self {
        Self {
            vid: u16_at(data, 0),
            ssvid: u16_at(data, 2),
            serial: text_at(data, 4, 20),
            model: text_at(data, 24, 40),
            firmware: text_at(data, 64, 8),
            mdts: data[77],
            cntlid: u16_at(data, 78),
            version: Vs(u32_at(data, 80)),
            rtd3_resume_us: u32_at(data, 84),
            rtd3_entry_us: u32_at(data, 88),
            oaes: u32_at(data, 92),
            controller_type: data[111],
            oacs: u16_at(data, 256),
            abort_limit: u16::from(data[258]) + 1,
            async_event_limit: u16::from(data[259]) + 1,
            frmw: data[260],
            lpa: data[261],
            error_log_entries: u16::from(data[262]) + 1,
            warning_temperature: u16_at(data, 266),
            critical_temperature: u16_at(data, 268),
            sqes: data[512],
            cqes: data[513],
            namespaces: u32_at(data, 516),
            oncs: Oncs(u16_at(data, 520)),
            fna: data[524],
            vwc: data[525],
            atomic_write_blocks: u32::from(u16_at(data, 526)) + 1,
            atomic_write_power_fail_blocks: u32::from(u16_at(data, 528)) + 1,
            sgls: SglSupport(u32_at(data, 536)),
            subnqn: text_at(data, 768, 256),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::bits::{bytes_at, each_corrupt_byte_shows};

    fn full() -> IdentifyController {
        IdentifyController {
            vid: 0x1B36,
            ssvid: 0x1AF4,
            serial: "12345678901234567890".into(),
            model: "M".repeat(40),
            firmware: "fw-1.2.3".into(),
            mdts: 5,
            cntlid: 7,
            version: Vs(0x0002_0000),
            rtd3_resume_us: 1,
            rtd3_entry_us: 5_000_000,
            oaes: 0x100,
            controller_type: 1,
            oacs: 2,
            abort_limit: 4,
            async_event_limit: 256,
            frmw: 3,
            lpa: 4,
            error_log_entries: 64,
            warning_temperature: 343,
            critical_temperature: 353,
            sqes: 0x66,
            cqes: 0x44,
            namespaces: 32,
            oncs: Oncs::default().with_dataset_management(true).with_compare(true),
            fna: 1,
            vwc: 7,
            atomic_write_blocks: 65_536,
            atomic_write_power_fail_blocks: 1,
            sgls: SglSupport::default().with_support(1),
            subnqn: "n".repeat(256),
        }
    }

    #[test]
    fn structure_round_trips() {
        assert_eq!(IdentifyController::decode(&full().encode()), full());
        assert_eq!(full().max_transfer_bytes(4096), Some(131_072));
        assert!(full().volatile_write_cache());
    }

    #[test]
    fn a_transfer_limit_beyond_64_bits_is_none_that_binds() {
        for (mdts, expected) in [(0, None), (51, Some(1 << 63)), (52, Some(u64::MAX))] {
            let identity = IdentifyController { mdts, ..full() };
            assert_eq!(identity.max_transfer_bytes(4096), expected, "MDTS {mdts}");
        }
        for mdts in 53..=u8::MAX {
            let identity = IdentifyController { mdts, ..full() };
            assert_eq!(identity.max_transfer_bytes(4096), Some(u64::MAX), "MDTS {mdts}");
        }
    }

    #[test]
    fn each_byte_of_a_used_field_matters() {
        let covered = (0..72)
            .chain(77..96)
            .chain([111])
            .chain(256..263)
            .chain(266..270)
            .chain([512, 513])
            .chain(516..522)
            .chain(524..530)
            .chain(536..540)
            .chain(768..1024);
        each_corrupt_byte_shows(&full().encode(), covered, |b| {
            IdentifyController::decode(&bytes_at(b, 0))
        });
    }
}
