use super::bytes::{get, get_u16, get_u32, get_u64, put, put_u16, put_u32, put_u64};
use super::{BLOCK_BYTES, FormatError, GRAIN_BYTES, Location, MAX_KEY_BYTES, Shape, Uuid};
use crate::checksum::crc32c;

const MAGIC: &[u8; 8] = b"GCOSOBJ1";
const WHAT: &str = "object header";
const FRONT: usize = 72;

/// What stands in front of an object's tail and describes the whole object (section 5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectHeader {
    /// Pool that the object belongs to.
    pub pool_uuid: Uuid,
    /// Generation of the object.
    pub generation: u64,
    /// Expiry, seconds since 1970, 0 = none.
    pub expiry: u32,
    /// How the payload is cut.
    pub shape: Shape,
    /// Where this header is.
    pub head: Location,
    /// Where the pieces are.
    pub pieces: Vec<Location>,
    /// Key.
    pub key: Vec<u8>,
    /// CRC-32C of each grain of the payload.
    pub grains: Vec<u32>,
}

impl ObjectHeader {
    /// The encoded header, whole blocks, and its root.
    ///
    /// # Errors
    /// [`FormatError::Field`] when lists and shape disagree or the key is too long.
    pub fn encode(&self) -> Result<(Vec<u8>, u32), FormatError> {
        let refuse = |field, got: usize, expected| {
            Err(FormatError::Field { what: WHAT, field, got: got as u64, expected })
        };
        if self.key.len() > MAX_KEY_BYTES {
            return refuse("key length", self.key.len(), "at most 1,024");
        }
        if self.pieces.len() != self.shape.pieces() {
            return refuse("pieces", self.pieces.len(), "as many as the shape says");
        }
        if self.grains.len() != self.shape.grains() as usize {
            return refuse("grains", self.grains.len(), "as many as the shape says");
        }
        let blocks = self.shape.header_blocks(self.key.len());
        let mut b = vec![0; blocks as usize * BLOCK_BYTES];
        put(&mut b, 0, MAGIC);
        put_u16(&mut b, 12, u16::try_from(blocks).unwrap_or(u16::MAX));
        put_u16(&mut b, 14, u16::try_from(self.key.len()).unwrap_or(u16::MAX));
        put(&mut b, 16, &self.pool_uuid);
        put_u64(&mut b, 32, self.generation);
        put_u32(&mut b, 40, self.shape.payload_len());
        put_u32(&mut b, 44, GRAIN_BYTES);
        put_u32(&mut b, 48, self.shape.grains());
        put_u16(&mut b, 52, u16::try_from(self.shape.pieces()).unwrap_or(u16::MAX));
        put_u16(&mut b, 54, self.shape.piece_grains());
        put(&mut b, 56, &self.head.encode()?);
        put_u32(&mut b, 64, self.expiry);
        for (i, piece) in self.pieces.iter().enumerate() {
            put(&mut b, FRONT + Location::BYTES * i, &piece.encode()?);
        }
        let key_at = FRONT + Location::BYTES * self.pieces.len();
        put(&mut b, key_at, &self.key);
        let grains_at = (key_at + self.key.len()).next_multiple_of(4);
        for (i, crc) in self.grains.iter().enumerate() {
            put_u32(&mut b, grains_at + 4 * i, *crc);
        }
        let root = crc32c(b.split_at(12).1);
        put_u32(&mut b, 8, root);
        Ok((b, root))
    }

    /// Number of blocks that the header starting with `first_block` says it has, for a reader that
    /// does not know. Not verified: read that many and decode them.
    ///
    /// # Errors
    /// [`FormatError::Magic`] when no header starts here.
    pub fn peek_blocks(first_block: &[u8]) -> Result<u16, FormatError> {
        match get::<8>(first_block, 0) == *MAGIC {
            true => Ok(get_u16(first_block, 12)),
            false => Err(FormatError::Magic { what: WHAT }),
        }
    }

    /// Decodes and verifies a header; tells its root. `bytes` begins with the header and holds all
    /// its blocks; what follows them is ignored.
    ///
    /// # Errors
    /// [`FormatError`]: no header, damaged, or nonsense.
    pub fn decode(bytes: &[u8]) -> Result<(Self, u32), FormatError> {
        let expected = usize::from(Self::peek_blocks(bytes)?) * BLOCK_BYTES;
        let b = match bytes.get(..expected) {
            Some(b) if expected > 0 => b,
            _ => return Err(FormatError::Short { what: WHAT, expected, got: bytes.len() }),
        };
        let (stored, computed) = (get_u32(b, 8), crc32c(b.split_at(12).1));
        if stored != computed {
            return Err(FormatError::Checksum { what: WHAT, stored, computed });
        }
        Self::decode_fields(b).map(|header| (header, stored))
    }

    fn decode_fields(b: &[u8]) -> Result<Self, FormatError> {
        let field = |field, got: u64, expected| {
            Err(FormatError::Field { what: WHAT, field, got, expected })
        };
        let shape = Shape::from_fields(get_u32(b, 40), get_u16(b, 52), get_u16(b, 54))?;
        let key_len = usize::from(get_u16(b, 14));
        if key_len > MAX_KEY_BYTES {
            return field("key length", key_len as u64, "at most 1,024");
        }
        if get_u32(b, 44) != GRAIN_BYTES || get_u32(b, 48) != shape.grains() {
            return field("grains", get_u32(b, 48).into(), "payload length / 65,536, rounded up");
        }
        if shape.header_blocks(key_len) as usize * BLOCK_BYTES != b.len() {
            return field("length", b.len() as u64, "what key, pieces and grains need");
        }
        let key_at = FRONT + Location::BYTES * shape.pieces();
        let grains_at = (key_at + key_len).next_multiple_of(4);
        let piece = |i| Location::decode(get(b, FRONT + Location::BYTES * i));
        Ok(Self {
            pool_uuid: get(b, 16),
            generation: get_u64(b, 32),
            expiry: get_u32(b, 64),
            shape,
            head: Location::decode(get(b, 56)),
            pieces: (0..shape.pieces()).map(piece).collect(),
            key: b.get(key_at..key_at + key_len).unwrap_or_default().to_vec(),
            grains: (0..shape.grains() as usize).map(|i| get_u32(b, grains_at + 4 * i)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(len: u32, key: &[u8]) -> ObjectHeader {
        let shape = Shape::choose(len, key.len(), 8 << 20, 1).unwrap();
        ObjectHeader {
            pool_uuid: [5; 16],
            generation: 42,
            expiry: 0x5555,
            shape,
            head: Location { drive: 1, chunk: 2, block: 3 },
            pieces: (0..shape.pieces() as u32)
                .map(|chunk| Location { drive: 0, chunk, block: 0 })
                .collect(),
            key: key.to_vec(),
            grains: (0..shape.grains()).map(|i| i.wrapping_mul(0x9e37_79b9)).collect(),
        }
    }

    #[test]
    fn round_trip_of_one_and_many_blocks() {
        for (len, key, blocks) in [
            (1, &b""[..], 1),
            (32 << 20, b"key", 1),
            (32 << 20, &[7; 1024], 1),
            (1 << 30, b"k", 17),
        ] {
            let header = sample(len, key);
            let (bytes, root) = header.encode().unwrap();
            assert_eq!(bytes.len(), blocks * BLOCK_BYTES);
            let mut longer = bytes.clone();
            longer.extend_from_slice(&[0xee; 100]);
            assert_eq!(ObjectHeader::decode(&longer).unwrap(), (header, root));
        }
    }

    #[test]
    fn fields_are_where_the_document_says() {
        let (b, root) = sample(9 << 20, b"abcde").encode().unwrap();
        assert_eq!(get_u32(&b, 8), root);
        assert_eq!(get_u64(&b, 32), 42);
        assert_eq!(get_u32(&b, 48), 144);
        assert_eq!(get_u16(&b, 52), 1);
        assert_eq!(&b[78..83], b"abcde");
        assert_eq!(get_u32(&b, 84 + 4), 0x9e37_79b9);
    }

    #[test]
    fn one_changed_byte_anywhere_is_found() {
        let (bytes, _) = sample(9 << 20, b"abcde").encode().unwrap();
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 1;
            assert!(ObjectHeader::decode(&changed).is_err(), "byte {i}");
        }
    }

    #[test]
    fn lists_that_disagree_with_the_shape_are_refused() {
        let mut header = sample(9 << 20, b"abcde");
        header.grains.pop();
        assert!(header.encode().is_err());
        let mut header = sample(9 << 20, b"abcde");
        header.pieces.clear();
        assert!(header.encode().is_err());
        assert!(sample(1, &[0; 1025]).encode().is_err());
    }
}
