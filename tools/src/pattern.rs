//! Bytes that follow from an id, so that what was read back can be compared without keeping it.

/// Bytes derived from an id. Position `i` of the pattern depends on the id and `i` alone, so that a
/// part of it can be checked without the rest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pattern {
    base: u64,
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const MULTIPLIER: u64 = 0xd6e8_feb8_6659_fd93;

impl Pattern {
    pub(crate) fn new(seed: u64, id: u64) -> Self {
        let mixed = word(seed.wrapping_mul(GOLDEN) ^ word(id.wrapping_add(GOLDEN)));
        Self { base: word(mixed) }
    }

    fn words(self, offset: u64) -> impl Iterator<Item = [u8; 8]> {
        let mut state = self.base.wrapping_add((offset / 8).wrapping_mul(GOLDEN));
        std::iter::repeat_with(move || {
            let bytes = word(state).to_le_bytes();
            state = state.wrapping_add(GOLDEN);
            bytes
        })
    }

    /// Writes the pattern from its start over `bytes`.
    pub(crate) fn fill(self, bytes: &mut [u8]) {
        let (whole, rest) = bytes.as_chunks_mut::<8>();
        let mut words = self.words(0);
        for (chunk, word) in whole.iter_mut().zip(&mut words) {
            *chunk = word;
        }
        for (byte, value) in rest.iter_mut().zip(words.next().unwrap_or_default()) {
            *byte = value;
        }
    }

    /// Whether `bytes` are the pattern from `offset` on, a multiple of 8.
    pub(crate) fn matches(self, offset: u64, bytes: &[u8]) -> bool {
        let (whole, rest) = bytes.as_chunks::<8>();
        let mut words = self.words(offset);
        // Without an early end the loop runs over many words at a time.
        let mut differences = 0u64;
        for (chunk, word) in whole.iter().zip(&mut words) {
            differences |= u64::from_le_bytes(*chunk) ^ u64::from_le_bytes(word);
        }
        let last = words.next().unwrap_or_default();
        differences == 0 && rest.iter().zip(last).all(|(byte, value)| *byte == value)
    }
}

fn word(state: u64) -> u64 {
    let mixed = (state ^ (state >> 32)).wrapping_mul(MULTIPLIER);
    mixed ^ (mixed >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_filled_matches_whole_and_in_part() {
        let pattern = Pattern::new(1, 42);
        let mut bytes = vec![0; 1003];
        pattern.fill(&mut bytes);
        assert!(pattern.matches(0, &bytes));
        assert!(pattern.matches(64, &bytes[64..]));
        assert!(!pattern.matches(56, &bytes[64..]));
    }

    #[test]
    fn one_changed_bit_is_found_anywhere() {
        let pattern = Pattern::new(0, 7);
        let mut bytes = vec![0; 67];
        pattern.fill(&mut bytes);
        for at in 0..bytes.len() {
            bytes[at] ^= 0x10;
            assert!(!pattern.matches(0, &bytes), "byte {at}");
            bytes[at] ^= 0x10;
        }
    }

    #[test]
    fn ids_and_seeds_give_different_bytes() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..20 {
            for id in 0..200 {
                let mut bytes = [0; 16];
                Pattern::new(seed, id).fill(&mut bytes);
                assert!(seen.insert(bytes), "seed {seed}, id {id}");
            }
        }
    }
}
