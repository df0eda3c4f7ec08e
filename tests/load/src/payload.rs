/// What an object holds: its key's number and its version in front, then bytes that follow from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload {
    /// Number of the key.
    pub key: u64,
    /// Number of the put, unique over all keys.
    pub version: u64,
}

const STAMP: usize = 16;

impl Payload {
    /// Length in bytes: mostly some kilobytes, now and then a megabyte.
    #[must_use]
    pub fn len(&self) -> usize {
        let mut rng = fastrand::Rng::with_seed(self.version);
        STAMP
            + match rng.u8(..100) {
                0..40 => rng.usize(0..4000),
                40..80 => rng.usize(4000..70_000),
                80..98 => rng.usize(70_000..400_000),
                _ => rng.usize(400_000..1_400_000),
            }
    }

    /// Never: the stamp is always there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; self.len()];
        out[..8].copy_from_slice(&self.key.to_le_bytes());
        out[8..STAMP].copy_from_slice(&self.version.to_le_bytes());
        fastrand::Rng::with_seed(self.version ^ 0x6763_6f73).fill(&mut out[STAMP..]);
        out
    }

    /// What these bytes are, if they are one of these to the last byte.
    #[must_use]
    pub fn recognise(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let payload = Self { key: word(0)?, version: word(8)? };
        (payload.len() == bytes.len() && payload.bytes() == bytes).then_some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_changed_byte_or_a_missing_one_is_noticed() {
        let payload = Payload { key: 7, version: 9 };
        let mut bytes = payload.bytes();
        assert_eq!(Payload::recognise(&bytes), Some(payload));
        assert_eq!(Payload::recognise(&bytes[..bytes.len() - 1]), None);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_eq!(Payload::recognise(&bytes), None);
        assert_eq!(Payload::recognise(&[0; 3]), None);
    }
}
