use super::bytes::{get, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};
use super::{FormatError, Location, MAX_KEY_BYTES, MAX_PIECES, Shape};

const WHAT: &str = "record";
const FRONT: usize = 36;
const KIND_PUT: u8 = 1;
const KIND_REMOVE: u8 = 2;

/// An object exists (section 6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutRecord {
    /// Key.
    pub key: Vec<u8>,
    /// Generation of the object.
    pub generation: u64,
    /// CRC-32C of the object header.
    pub root: u32,
    /// Expiry, seconds since 1970, 0 = none.
    pub expiry: u32,
    /// How the payload is cut.
    pub shape: Shape,
    /// Where the head is.
    pub head: Location,
    /// Where the pieces are; as many as the shape says.
    pub pieces: Vec<Location>,
}

/// An object is gone (section 6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoveRecord {
    /// Key.
    pub key: Vec<u8>,
    /// Generation of the object; older ones of the key are gone too.
    pub generation: u64,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An object exists.
    Put(PutRecord),
    /// An object is gone.
    Remove(RemoveRecord),
}

impl Record {
    /// Length of an encoded put record with these parts, in bytes.
    #[must_use]
    pub fn put_len(key_len: usize, pieces: usize) -> usize {
        FRONT + 6 * pieces + key_len
    }

    /// Appends the encoded record.
    ///
    /// # Errors
    /// [`FormatError::Field`] for a key or list of pieces that is too long.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        match self {
            Record::Put(put) => put.encode_into(out),
            Record::Remove(remove) => remove.encode_into(out),
        }
    }

    /// Decodes the record at the start of `bytes` and tells its length. The bytes must come from a
    /// structure whose checksum has been verified.
    ///
    /// # Errors
    /// [`FormatError::Field`] when a field is nonsense.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), FormatError> {
        let (body, _) = split(bytes)?;
        let [kind] = get(body, 2);
        let record = match kind {
            KIND_PUT => Record::Put(PutRecord::decode(body)?),
            KIND_REMOVE => Record::Remove(RemoveRecord::decode(body)?),
            other => return Err(refuse("kind", other.into(), "1 (put) or 2 (remove)")),
        };
        Ok((record, body.len()))
    }
}

/// The record at the start of `bytes`, by the length that it states, and what is behind it.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), FormatError> {
    let len = usize::from(get_u16(bytes, 0));
    bytes
        .split_at_checked(len)
        .filter(|_| len >= FRONT)
        .ok_or_else(|| refuse("length", len as u64, "36 or more, within its frame or page"))
}

fn refuse(field: &'static str, got: u64, expected: &'static str) -> FormatError {
    FormatError::Field { what: WHAT, field, got, expected }
}

/// Appends the part that all records have; the caller fills in the rest.
fn front(
    out: &mut Vec<u8>,
    kind: u8,
    generation: u64,
    key: &[u8],
    pieces: usize,
) -> Result<usize, FormatError> {
    if key.len() > MAX_KEY_BYTES {
        return Err(refuse("key length", key.len() as u64, "at most 1,024"));
    }
    if pieces > MAX_PIECES {
        return Err(refuse("pieces", pieces as u64, "at most 256"));
    }
    let at = out.len();
    let len = Record::put_len(key.len(), pieces);
    out.resize(at + FRONT, 0);
    let b = out.split_at_mut(at).1;
    put_u16(b, 0, u16::try_from(len).unwrap_or(u16::MAX));
    put_u16(b, 2, kind.into());
    put_u64(b, 8, generation);
    put_u16(b, 16, u16::try_from(key.len()).unwrap_or(u16::MAX));
    put_u16(b, 18, u16::try_from(pieces).unwrap_or(u16::MAX));
    Ok(at)
}

/// The key, which ends the record, after `pieces` locations.
fn key_of(body: &[u8], pieces: usize) -> Result<&[u8], FormatError> {
    let key_len = usize::from(get_u16(body, 16));
    if key_len > MAX_KEY_BYTES {
        return Err(refuse("key length", key_len as u64, "at most 1,024"));
    }
    if pieces > MAX_PIECES || body.len() != Record::put_len(key_len, pieces) {
        return Err(refuse("length", body.len() as u64, "36 + 6 × pieces + key length"));
    }
    Ok(body.split_at(body.len() - key_len).1)
}

impl PutRecord {
    fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let count = self.shape.pieces();
        if self.pieces.len() != count {
            return Err(refuse("pieces", self.pieces.len() as u64, "as many as the shape says"));
        }
        let head = self.head.encode()?;
        let at = front(out, KIND_PUT, self.generation, &self.key, count)?;
        let b = out.split_at_mut(at).1;
        put_u32(b, 4, self.root);
        put_u32(b, 20, self.shape.payload_len());
        put_u32(b, 24, self.expiry);
        put_u16(b, 28, self.shape.piece_grains());
        super::bytes::put(b, 30, &head);
        for piece in &self.pieces {
            out.extend_from_slice(&piece.encode()?);
        }
        out.extend_from_slice(&self.key);
        Ok(())
    }

    fn decode(body: &[u8]) -> Result<Self, FormatError> {
        PutView::decode(body).map(|view| view.to_record())
    }
}

/// A put record where it lies, in a structure that has been verified: for those who look at very many and keep
/// few of their parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutView<'a> {
    /// Key.
    pub key: &'a [u8],
    /// Generation of the object.
    pub generation: u64,
    /// CRC-32C of the object header.
    pub root: u32,
    /// Expiry, seconds since 1970, 0 = none.
    pub expiry: u32,
    /// How the payload is cut.
    pub shape: Shape,
    /// Where the head is.
    pub head: Location,
    pieces: &'a [[u8; Location::BYTES]],
}

impl<'a> PutView<'a> {
    /// Where the pieces are; as many as the shape says.
    pub fn pieces(&self) -> impl ExactSizeIterator<Item = Location> + use<'a> {
        self.pieces.iter().map(|bytes| Location::decode(*bytes))
    }

    /// The record.
    #[must_use]
    pub fn to_record(&self) -> PutRecord {
        let Self { key, generation, root, expiry, shape, head, .. } = *self;
        let pieces = self.pieces().collect();
        PutRecord { key: key.to_vec(), generation, root, expiry, shape, head, pieces }
    }

    /// Decodes a record of the length that it states.
    pub(super) fn decode(body: &'a [u8]) -> Result<Self, FormatError> {
        let count = get_u16(body, 18);
        let generation = get_u64(body, 8);
        if generation >> 63 != 0 {
            return Err(refuse("generation", generation, "below 2^63"));
        }
        let key = key_of(body, count.into())?;
        let pieces = body.get(FRONT..body.len() - key.len()).unwrap_or_default().as_chunks().0;
        Ok(Self {
            key,
            generation,
            root: get_u32(body, 4),
            expiry: get_u32(body, 24),
            shape: Shape::from_fields(get_u32(body, 20), count, get_u16(body, 28))?,
            head: Location::decode(get(body, 30)),
            pieces,
        })
    }

    /// The put record at the start of `bytes`, and what is behind it.
    pub(super) fn next(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), FormatError> {
        let (body, rest) = split(bytes)?;
        match get(body, 2) {
            [KIND_PUT] => Ok((Self::decode(body)?, rest)),
            [other] => Err(refuse("kind", other.into(), "1 (put)")),
        }
    }
}

impl RemoveRecord {
    fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        front(out, KIND_REMOVE, self.generation, &self.key, 0)?;
        out.extend_from_slice(&self.key);
        Ok(())
    }

    fn decode(body: &[u8]) -> Result<Self, FormatError> {
        if get_u16(body, 18) != 0 {
            return Err(refuse("pieces", get_u16(body, 18).into(), "0 in a remove"));
        }
        Ok(Self { key: key_of(body, 0)?.to_vec(), generation: get_u64(body, 8) })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn put(key: &[u8], len: u32, drives: usize) -> PutRecord {
        let shape = Shape::choose(len, key.len(), 8 << 20, drives).unwrap();
        let at = |i: usize| Location { drive: 1, chunk: 500 + i as u32, block: 3 };
        PutRecord {
            key: key.to_vec(),
            generation: 0x0102_0304_0506_0708,
            root: 0xdead_beef,
            expiry: 77,
            shape,
            head: Location { drive: 2, chunk: 9, block: 16 },
            pieces: (0..shape.pieces()).map(at).collect(),
        }
    }

    fn encoded(record: &Record) -> Vec<u8> {
        let mut out = Vec::new();
        record.encode_into(&mut out).unwrap();
        out
    }

    #[test]
    fn round_trip_of_small_and_large_records() {
        for record in [
            Record::Put(put(b"", 1, 1)),
            Record::Put(put(b"key", 4096, 1)),
            Record::Put(put(&[9; 1024], 1 << 30, 64)),
            Record::Remove(RemoveRecord { key: b"key".to_vec(), generation: 5 }),
        ] {
            let mut bytes = encoded(&record);
            let len = bytes.len();
            bytes.extend_from_slice(&[0xff; 10]);
            assert_eq!(Record::decode(&bytes).unwrap(), (record, len));
        }
    }

    #[test]
    fn fields_are_where_the_document_says() {
        let bytes = encoded(&Record::Put(put(b"key", 9 << 20, 1)));
        assert_eq!(usize::from(get_u16(&bytes, 0)), bytes.len());
        assert_eq!(bytes[2], 1);
        assert_eq!(get_u32(&bytes, 4), 0xdead_beef);
        assert_eq!(get_u32(&bytes, 20), 9 << 20);
        assert_eq!(bytes[30], 2);
        assert_eq!(&bytes[bytes.len() - 3..], b"key");
    }

    #[test]
    fn a_changed_byte_changes_the_record_or_is_refused() {
        // Records carry no checksum of their own (their frame or page does), so a changed byte
        // either gives another record or none; byte 3 is reserved and not read.
        let record = Record::Put(put(b"some key", 9 << 20, 1));
        let bytes = encoded(&record);
        for i in (0..bytes.len()).filter(|&i| i != 3) {
            let mut changed = bytes.clone();
            changed[i] ^= 0x20;
            match Record::decode(&changed) {
                Ok((other, _)) => assert_ne!(other, record, "byte {i}"),
                Err(FormatError::Field { .. }) => {}
                Err(other) => panic!("byte {i}: {other}"),
            }
        }
    }

    #[test]
    fn truncated_records_are_refused() {
        let bytes = encoded(&Record::Put(put(b"some key", 9 << 20, 1)));
        for len in 0..bytes.len() {
            assert!(Record::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn too_long_a_key_is_refused() {
        let remove = RemoveRecord { key: vec![0; 1025], generation: 1 };
        assert!(Record::Remove(remove).encode_into(&mut Vec::new()).is_err());
    }
}
