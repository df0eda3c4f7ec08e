use super::FormatError;
use super::zones::MAX_CHUNKS;

/// Where a head or piece starts (section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Location {
    /// Index of the drive in the pool.
    pub drive: u8,
    /// Chunk number on the drive, below 2^24.
    pub chunk: u32,
    /// Block within the chunk.
    pub block: u16,
}

impl Location {
    /// Encoded length in bytes.
    pub const BYTES: usize = 6;

    /// The encoded location.
    ///
    /// # Errors
    /// [`FormatError::Field`] for a chunk number of 2^24 or more.
    pub fn encode(self) -> Result<[u8; Self::BYTES], FormatError> {
        if self.chunk >= MAX_CHUNKS {
            let got = self.chunk.into();
            let (what, field, expected) = ("location", "chunk", "below 2^24");
            return Err(FormatError::Field { what, field, got, expected });
        }
        let [c0, c1, c2, _] = self.chunk.to_le_bytes();
        let [b0, b1] = self.block.to_le_bytes();
        Ok([self.drive, c0, c1, c2, b0, b1])
    }

    /// The location in `bytes`; any six bytes are one.
    #[must_use]
    pub fn decode([drive, c0, c1, c2, b0, b1]: [u8; Self::BYTES]) -> Self {
        let chunk = u32::from_le_bytes([c0, c1, c2, 0]);
        Self { drive, chunk, block: u16::from_le_bytes([b0, b1]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let location = Location { drive: 63, chunk: 0xab_cdef, block: 0x1234 };
        let bytes = location.encode().unwrap();
        assert_eq!(bytes, [63, 0xef, 0xcd, 0xab, 0x34, 0x12]);
        assert_eq!(Location::decode(bytes), location);
        assert!(Location { chunk: 1 << 24, ..location }.encode().is_err());
    }

    #[test]
    fn every_byte_matters() {
        let bytes = Location { drive: 1, chunk: 2, block: 3 }.encode().unwrap();
        for i in 0..bytes.len() {
            let mut changed = bytes;
            changed[i] ^= 0x10;
            assert_ne!(Location::decode(changed), Location::decode(bytes), "byte {i}");
        }
    }
}
