//! Typed access to fields of registers and command dwords, and to fields at offsets of buffers.

/// A value that lives in some bits of a word.
pub(crate) trait Field: Copy {
    fn from_bits(bits: u64) -> Self;
    fn into_bits(self) -> u64;
}

impl Field for bool {
    fn from_bits(bits: u64) -> Self {
        bits != 0
    }
    fn into_bits(self) -> u64 {
        u64::from(self)
    }
}

macro_rules! int_field {
    ($($int:ty),*) => {$(
        impl Field for $int {
            fn from_bits(bits: u64) -> Self {
                bits as $int
            }
            fn into_bits(self) -> u64 {
                u64::from(self)
            }
        }
    )*};
}
int_field!(u8, u16, u32, u64);

/// The bits `lo..=hi` of a word.
#[inline]
pub(crate) fn get<F: Field>(word: u64, hi: u32, lo: u32) -> F {
    F::from_bits((word >> lo) & mask(hi, lo))
}

/// `word` with the bits `lo..=hi` set to `value`, of which bits that do not fit are dropped.
#[inline]
pub(crate) fn put<F: Field>(word: u64, hi: u32, lo: u32, value: F) -> u64 {
    (word & !(mask(hi, lo) << lo)) | ((value.into_bits() & mask(hi, lo)) << lo)
}

const fn mask(hi: u32, lo: u32) -> u64 {
    u64::MAX >> (63 - (hi - lo))
}

/// Getters and builder-style setters for fields of a newtype over a word, written as in the
/// specification: highest bit, lowest bit.
macro_rules! fields {
    ($vis:vis $name:ident($word:ty) {
        $($(#[$doc:meta])* $get:ident, $with:ident: $type:ty = $hi:literal : $lo:literal;)*
    }) => {
        impl $name {
            $(
                $(#[$doc])*
                #[must_use]
                #[inline]
                $vis fn $get(self) -> $type {
                    $crate::nvme::bits::get(u64::from(self.0), $hi, $lo)
                }

                #[doc = concat!("With [`Self::", stringify!($get), "`] set; bits of the value that do not fit are dropped.")]
                #[must_use]
                #[inline]
                $vis fn $with(self, value: $type) -> Self {
                    Self($crate::nvme::bits::put(u64::from(self.0), $hi, $lo, value) as $word)
                }
            )*
        }
    };
}

/// `N` bytes at `offset` of a structure of fixed size.
pub(crate) fn bytes_at<const N: usize>(data: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&data[offset..offset + N]);
    out
}

pub(crate) fn u16_at(data: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(bytes_at(data, offset))
}

pub(crate) fn u32_at(data: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes_at(data, offset))
}

pub(crate) fn u64_at(data: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes_at(data, offset))
}

pub(crate) fn u128_at(data: &[u8], offset: usize) -> u128 {
    u128::from_le_bytes(bytes_at(data, offset))
}

pub(crate) fn put_at(data: &mut [u8], offset: usize, bytes: &[u8]) {
    data[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// The text field at `offset`: ASCII, padded with spaces (Base, section 1.4.2), trimmed.
pub(crate) fn text_at(data: &[u8], offset: usize, len: usize) -> String {
    let text = String::from_utf8_lossy(&data[offset..offset + len]);
    text.trim_matches(|c| c == ' ' || c == '\0').to_owned()
}

/// Puts text into a space-padded field; what does not fit is cut off.
pub(crate) fn put_text(data: &mut [u8], offset: usize, len: usize, text: &str) {
    let field = &mut data[offset..offset + len];
    field.fill(b' ');
    let keep = text.len().min(len);
    field[..keep].copy_from_slice(&text.as_bytes()[..keep]);
}

/// For tests: flips every byte of `covered` in turn and checks that `decode` notices.
#[cfg(test)]
pub(crate) fn each_corrupt_byte_shows<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    covered: impl IntoIterator<Item = usize>,
    decode: impl Fn(&[u8]) -> T,
) {
    let good = decode(bytes);
    for at in covered {
        let mut bad = bytes.to_vec();
        bad[at] ^= 0xFF;
        assert_ne!(decode(&bad), good, "byte {at} does not reach the decoded value");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_changes_its_own_bits_only() {
        assert_eq!(put(u64::MAX, 23, 16, 0u8), 0xFFFF_FFFF_FF00_FFFF);
        assert_eq!(put(0, 63, 0, u64::MAX), u64::MAX);
        assert_eq!(get::<u8>(0x00AB_0000, 23, 16), 0xAB);
        assert!(get::<bool>(1 << 36, 36, 36));
    }

    #[test]
    fn text_is_padded_with_spaces_and_trimmed() {
        let mut data = [0u8; 8];
        put_text(&mut data, 0, 8, "abc");
        assert_eq!(&data, b"abc     ");
        assert_eq!(text_at(&data, 0, 8), "abc");
        put_text(&mut data, 0, 8, "0123456789");
        assert_eq!(text_at(&data, 0, 8), "01234567");
    }
}
