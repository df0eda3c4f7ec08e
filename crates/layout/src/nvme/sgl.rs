use super::bits::{bytes_at, put_at, u32_at, u64_at};

/// What an SGL descriptor points at (Base, Figure 114).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SglKind {
    /// 0h: data.
    DataBlock,
    /// 1h: data that a read discards.
    BitBucket,
    /// 2h: the next segment of descriptors, with another one after it.
    Segment,
    /// 3h: the last segment of descriptors.
    LastSegment,
    /// Another type, as stored.
    Other(u8),
}

/// SGL descriptor, 16 bytes (Base, section 4.1.2, Figure 113).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SglDescriptor {
    /// What is at the address.
    pub kind: SglKind,
    /// I/O virtual address.
    pub address: u64,
    /// Length in bytes; of a segment, a multiple of 16.
    pub length: u32,
    /// Sub type; 0 is an absolute address.
    pub subtype: u8,
}

impl SglDescriptor {
    /// Size in bytes.
    pub const BYTES: usize = 16;

    /// `length` bytes of data.
    #[must_use]
    pub fn data(address: u64, length: u32) -> Self {
        Self { kind: SglKind::DataBlock, address, length, subtype: 0 }
    }

    /// A segment of `count` descriptors; `last` when its last descriptor is not a segment itself.
    #[must_use]
    pub fn segment(address: u64, count: u32, last: bool) -> Self {
        let kind = if last { SglKind::LastSegment } else { SglKind::Segment };
        Self { kind, address, length: count * Self::BYTES as u32, subtype: 0 }
    }

    /// As transferred.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let kind = match self.kind {
            SglKind::DataBlock => 0,
            SglKind::BitBucket => 1,
            SglKind::Segment => 2,
            SglKind::LastSegment => 3,
            SglKind::Other(kind) => kind & 0xF,
        };
        let mut out = [0; Self::BYTES];
        put_at(&mut out, 0, &self.address.to_le_bytes());
        put_at(&mut out, 8, &self.length.to_le_bytes());
        out[15] = kind << 4 | self.subtype & 0xF;
        out
    }

    /// From what was transferred.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let kind = match bytes[15] >> 4 {
            0 => SglKind::DataBlock,
            1 => SglKind::BitBucket,
            2 => SglKind::Segment,
            3 => SglKind::LastSegment,
            kind => SglKind::Other(kind),
        };
        let (address, length) = (u64_at(bytes, 0), u32_at(bytes, 8));
        Self { kind, address, length, subtype: bytes[15] & 0xF }
    }

    /// From two 64-bit words, as they lie in a submission queue entry.
    #[must_use]
    pub fn from_words(low: u64, high: u64) -> Self {
        let mut bytes = [0; Self::BYTES];
        put_at(&mut bytes, 0, &low.to_le_bytes());
        put_at(&mut bytes, 8, &high.to_le_bytes());
        Self::from_bytes(&bytes)
    }

    /// As two 64-bit words.
    #[must_use]
    pub fn to_words(self) -> (u64, u64) {
        let bytes = self.to_bytes();
        (u64::from_le_bytes(bytes_at(&bytes, 0)), u64::from_le_bytes(bytes_at(&bytes, 8)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::bits::each_corrupt_byte_shows;

    #[test]
    fn descriptors_round_trip() {
        let all = [
            SglDescriptor::data(0x1234_5678_9ABC_DEF0, 4096),
            SglDescriptor::segment(0x1000, 256, false),
            SglDescriptor::segment(0x2000, 3, true),
            SglDescriptor { kind: SglKind::BitBucket, address: 0, length: 8, subtype: 0 },
            SglDescriptor { kind: SglKind::Other(9), address: 1, length: 2, subtype: 3 },
        ];
        for descriptor in all {
            assert_eq!(SglDescriptor::from_bytes(&descriptor.to_bytes()), descriptor);
            let (low, high) = descriptor.to_words();
            assert_eq!(SglDescriptor::from_words(low, high), descriptor);
        }
        assert_eq!(
            SglDescriptor::segment(0, 2, true).to_bytes()[8..],
            [32, 0, 0, 0, 0, 0, 0, 0x30]
        );
    }

    #[test]
    fn each_byte_but_the_reserved_ones_matters() {
        let bytes = SglDescriptor::data(0x1000, 512).to_bytes();
        each_corrupt_byte_shows(&bytes, (0..12).chain([15]), |b| {
            SglDescriptor::from_bytes(&bytes_at(b, 0))
        });
    }
}
