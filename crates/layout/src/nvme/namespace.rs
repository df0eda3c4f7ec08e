use super::bits::{bytes_at, put_at, u16_at, u32_at, u64_at};
use super::{IDENTIFY_BYTES, IdentifyData};

/// LBA format (NVM, Figure 98).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LbaFormat(pub u32);

fields!(pub LbaFormat(u32) {
    /// MS: metadata bytes per block.
    metadata_bytes, with_metadata_bytes: u16 = 15:0;
    /// LBADS: log2 of the block's data bytes; 0 when the format is not available.
    lbads, with_lbads: u8 = 23:16;
    /// RP: relative performance, 0 best.
    relative_performance, with_relative_performance: u8 = 25:24;
});

impl LbaFormat {
    /// Data bytes per block; 0 when the format is not available or absurd.
    #[must_use]
    pub fn lba_bytes(self) -> u32 {
        match self.lbads() {
            lbads @ 9..32 => 1 << lbads,
            _ => 0,
        }
    }
}

/// Identify Namespace, CNS 00h (NVM, Figure 97): the fields that are used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdentifyNamespace {
    /// NSZE: size in logical blocks. 0 for a namespace that is not active.
    pub nsze: u64,
    /// NCAP: blocks that may be allocated.
    pub ncap: u64,
    /// NUSE: blocks in use.
    pub nuse: u64,
    /// NSFEAT: features; bit 0 thin provisioning, bit 4 NPWG and the like are reported.
    pub nsfeat: u8,
    /// FLBAS as stored: bits 3:0 and 6:5 index the current format, bit 4 metadata is interleaved.
    pub flbas: u8,
    /// DPS: end-to-end protection; 0 is none.
    pub dps: u8,
    /// DLFEAT: what deallocated blocks read as.
    pub dlfeat: u8,
    /// NAWUN: blocks written atomically, plain count (stored 0's based); valid with NSFEAT bit 1.
    pub atomic_write_blocks: u32,
    /// NAWUPF: blocks written atomically over power failure, plain count (stored 0's based); valid
    /// with NSFEAT bit 1.
    pub atomic_write_power_fail_blocks: u32,
    /// NOIOB: optimal I/O boundary in blocks, 0 when not reported.
    pub optimal_boundary: u16,
    /// NPWG: preferred write granularity in blocks, plain count (stored 0's based).
    pub preferred_write_blocks: u32,
    /// NPDG: preferred deallocate granularity in blocks, plain count (stored 0's based).
    pub preferred_deallocate_blocks: u32,
    /// NGUID, zeros when not reported.
    pub nguid: [u8; 16],
    /// EUI64, zeros when not reported.
    pub eui64: [u8; 8],
    /// LBA formats, 1..=64 (NLBAF is stored 0's based).
    pub lba_formats: Vec<LbaFormat>,
}

/// Offset of the first LBA format.
const FORMATS: usize = 128;

/// LBA formats that the structure has room for.
const MAX_FORMATS: usize = 64;

impl IdentifyNamespace {
    /// Index of the current LBA format.
    #[must_use]
    pub fn format_index(&self) -> usize {
        usize::from(self.flbas & 0xF | (self.flbas >> 5 & 0x3) << 4)
    }

    /// The current LBA format; `None` when FLBAS names one that the namespace does not list.
    #[must_use]
    pub fn format(&self) -> Option<LbaFormat> {
        self.lba_formats.get(self.format_index()).copied()
    }

    /// Whether the metadata of the current format lies behind each block's data in one buffer (FLBAS
    /// bit 4), rather than in a buffer of its own.
    #[must_use]
    pub fn is_interleaved(&self) -> bool {
        self.flbas & 0x10 != 0
    }

    /// The index of the format to choose for blocks of 512 or 4096 bytes without metadata: 4096
    /// first, then the better relative performance. `None` when there is none.
    #[must_use]
    pub fn plain_format(&self) -> Option<usize> {
        let formats = self.lba_formats.iter().enumerate();
        let plain = formats.filter(|(_, format)| {
            matches!(format.lba_bytes(), 512 | 4096) && format.metadata_bytes() == 0
        });
        let best = |&(index, format): &(usize, &LbaFormat)| {
            (format.lba_bytes() != 4096, format.relative_performance(), index)
        };
        plain.min_by_key(best).map(|(index, _)| index)
    }

    /// NSFEAT bit 1: the namespace's own atomic write units are valid.
    #[must_use]
    pub fn has_own_atomicity(&self) -> bool {
        self.nsfeat & 1 << 1 != 0
    }

    /// NSFEAT bit 4: preferred granularities are valid.
    #[must_use]
    pub fn has_preferences(&self) -> bool {
        self.nsfeat & 1 << 4 != 0
    }

    /// FLBAS for the format of the given index, metadata not interleaved.
    #[must_use]
    pub fn flbas_of(index: u8) -> u8 {
        index & 0xF | (index >> 4 & 0x3) << 5
    }

    /// As transferred.
    #[must_use]
    pub fn encode(&self) -> IdentifyData {
        let mut out = [0; IDENTIFY_BYTES];
        put_at(&mut out, 0, &self.nsze.to_le_bytes());
        put_at(&mut out, 8, &self.ncap.to_le_bytes());
        put_at(&mut out, 16, &self.nuse.to_le_bytes());
        out[24] = self.nsfeat;
        out[25] = self.lba_formats.len().clamp(1, MAX_FORMATS) as u8 - 1;
        out[26] = self.flbas;
        out[29] = self.dps;
        out[33] = self.dlfeat;
        put_at(&mut out, 34, &(self.atomic_write_blocks.wrapping_sub(1) as u16).to_le_bytes());
        let power_fail = self.atomic_write_power_fail_blocks.wrapping_sub(1) as u16;
        put_at(&mut out, 36, &power_fail.to_le_bytes());
        put_at(&mut out, 46, &self.optimal_boundary.to_le_bytes());
        put_at(&mut out, 64, &(self.preferred_write_blocks.wrapping_sub(1) as u16).to_le_bytes());
        let deallocate = self.preferred_deallocate_blocks.wrapping_sub(1) as u16;
        put_at(&mut out, 68, &deallocate.to_le_bytes());
        put_at(&mut out, 104, &self.nguid);
        put_at(&mut out, 120, &self.eui64);
        for (index, format) in self.lba_formats.iter().take(MAX_FORMATS).enumerate() {
            put_at(&mut out, FORMATS + index * 4, &format.0.to_le_bytes());
        }
        out
    }

    /// From what was transferred.
    #[must_use]
    pub fn decode(data: &IdentifyData) -> Self {
        let formats = (usize::from(data[25]) + 1).min(MAX_FORMATS);
        Self {
            nsze: u64_at(data, 0),
            ncap: u64_at(data, 8),
            nuse: u64_at(data, 16),
            nsfeat: data[24],
            flbas: data[26],
            dps: data[29],
            dlfeat: data[33],
            atomic_write_blocks: u32::from(u16_at(data, 34)) + 1,
            atomic_write_power_fail_blocks: u32::from(u16_at(data, 36)) + 1,
            optimal_boundary: u16_at(data, 46),
            preferred_write_blocks: u32::from(u16_at(data, 64)) + 1,
            preferred_deallocate_blocks: u32::from(u16_at(data, 68)) + 1,
            nguid: bytes_at(data, 104),
            eui64: bytes_at(data, 120),
            lba_formats: (0..formats).map(|i| LbaFormat(u32_at(data, FORMATS + i * 4))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::bits::each_corrupt_byte_shows;

    fn full() -> IdentifyNamespace {
        IdentifyNamespace {
            nsze: 0x0102_0304_0506_0708,
            ncap: 2,
            nuse: 3,
            nsfeat: 0x10,
            flbas: 1,
            dps: 0,
            dlfeat: 1,
            atomic_write_blocks: 16,
            atomic_write_power_fail_blocks: 8,
            optimal_boundary: 256,
            preferred_write_blocks: 8,
            preferred_deallocate_blocks: 65_536,
            nguid: [7; 16],
            eui64: [9; 8],
            lba_formats: vec![
                LbaFormat::default().with_lbads(9).with_relative_performance(2),
                LbaFormat::default().with_lbads(12).with_metadata_bytes(8),
            ],
        }
    }

    #[test]
    fn structure_round_trips() {
        let back = IdentifyNamespace::decode(&full().encode());
        assert_eq!(back, full());
        let format = back.format().unwrap();
        assert_eq!((format.lba_bytes(), format.metadata_bytes()), (4096, 8));
    }

    #[test]
    fn each_byte_of_a_used_field_matters() {
        let covered =
            (0..27).chain([29]).chain(33..38).chain([46, 47, 64, 65, 68, 69]).chain(104..136);
        each_corrupt_byte_shows(&full().encode(), covered, |b| {
            IdentifyNamespace::decode(&bytes_at(b, 0))
        });
    }

    #[test]
    fn the_format_to_choose_has_no_metadata_and_large_blocks_where_there_are_some() {
        let format = |lbads, metadata, performance| {
            LbaFormat::default()
                .with_lbads(lbads)
                .with_metadata_bytes(metadata)
                .with_relative_performance(performance)
        };
        let choose = |lba_formats| {
            IdentifyNamespace { lba_formats, ..IdentifyNamespace::default() }.plain_format()
        };
        assert_eq!(choose(vec![format(9, 8, 0), format(12, 8, 0), format(14, 0, 0)]), None);
        assert_eq!(choose(vec![format(12, 8, 0), format(9, 0, 0), format(12, 0, 2)]), Some(2));
        assert_eq!(choose(vec![format(9, 0, 2), format(9, 0, 1)]), Some(1));
        assert_eq!(choose(vec![format(0, 0, 0), format(12, 0, 1), format(12, 0, 1)]), Some(1));
    }

    #[test]
    fn formats_beyond_the_sixteenth_use_the_upper_bits() {
        assert_eq!(IdentifyNamespace::flbas_of(0x21), 0x41);
        let namespace = IdentifyNamespace { flbas: 0x41, ..IdentifyNamespace::default() };
        assert_eq!(namespace.format_index(), 0x21);
        assert_eq!(namespace.format(), None);
    }
}
