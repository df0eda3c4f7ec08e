use super::bits::{put_at, u32_at, u64_at};

/// Dataset Management range, 16 bytes (NVM, section 3.2.3, Figure 40).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct DsmRange {
    /// Context attributes; hints only.
    pub cattr: u32,
    /// Length in logical blocks. A plain count, unlike NLB of other commands.
    pub nlb: u32,
    /// Starting LBA.
    pub slba: u64,
}

impl DsmRange {
    /// Size in bytes.
    pub const BYTES: usize = 16;

    /// As transferred.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        put_at(&mut out, 0, &self.cattr.to_le_bytes());
        put_at(&mut out, 4, &self.nlb.to_le_bytes());
        put_at(&mut out, 8, &self.slba.to_le_bytes());
        out
    }

    /// From what was transferred.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        Self { cattr: u32_at(bytes, 0), nlb: u32_at(bytes, 4), slba: u64_at(bytes, 8) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::bits::{bytes_at, each_corrupt_byte_shows};

    #[test]
    fn ranges_round_trip_and_every_byte_matters() {
        let range = DsmRange { cattr: 1, nlb: 0x0203_0405, slba: 0x0607_0809_0A0B_0C0D };
        let bytes = range.to_bytes();
        assert_eq!(DsmRange::from_bytes(&bytes), range);
        each_corrupt_byte_shows(&bytes, 0..DsmRange::BYTES, |b| {
            DsmRange::from_bytes(&bytes_at(b, 0))
        });
    }
}
