use super::{BLOCK_BYTES, FormatError, GRAIN_BYTES, MAX_PAYLOAD_BYTES, MAX_PIECES};

/// Below this many bytes per drive, spreading a payload costs more commands than it saves time.
const STRIPE_MIN_BYTES: u32 = 1 << 20;

/// How a payload is cut (section 4). Sizes in bytes unless named otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    payload_len: u32,
    piece_grains: u16,
    pieces: u16,
}

/// A contiguous part of a payload as it lies on one drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadPart {
    /// Which piece, `None` for the tail behind the header.
    pub piece: Option<usize>,
    /// Offset of the part within the payload.
    pub payload_offset: u32,
    /// Offset of the part from the start of its piece, or from the start of the tail.
    pub offset: u32,
    /// Length.
    pub len: u32,
}

impl Shape {
    /// Chooses a shape for a new object: one slot if it fits a chunk, cut over `drives` drives when
    /// each then gets at least 1 MiB, and over chunks when it does not fit one.
    ///
    /// # Errors
    /// [`FormatError::Field`] for a payload that is empty, over [`MAX_PAYLOAD_BYTES`], or would need
    /// more than [`MAX_PIECES`] chunks of this size.
    pub fn choose(
        payload_len: u32,
        key_len: usize,
        chunk_bytes: u32,
        drives: usize,
    ) -> Result<Self, FormatError> {
        let refuse = |expected| FormatError::Field {
            what: "object",
            field: "payload length",
            got: payload_len.into(),
            expected,
        };
        if payload_len == 0 || payload_len > MAX_PAYLOAD_BYTES {
            return Err(refuse("1 byte to 1 GiB"));
        }
        let spread =
            (payload_len / STRIPE_MIN_BYTES).min(u32::try_from(drives).unwrap_or(u32::MAX));
        if spread < 2 {
            let whole = Self { payload_len, piece_grains: 0, pieces: 0 };
            if whole.head_bytes(key_len) <= u64::from(chunk_bytes) {
                return Ok(whole);
            }
        }
        let piece =
            payload_len.div_ceil(spread.max(1)).next_multiple_of(GRAIN_BYTES).min(chunk_bytes);
        let piece_grains = u16::try_from(piece / GRAIN_BYTES)
            .map_err(|_| refuse("pieces of fewer than 65,536 grains"))?;
        // The remainder goes behind the header, unless it does not fit there.
        let with = |pieces: u32| {
            u16::try_from(pieces)
                .ok()
                .filter(|&pieces| usize::from(pieces) <= MAX_PIECES)
                .map(|pieces| Self { payload_len, piece_grains, pieces })
                .ok_or_else(|| refuse("at most 256 chunks; use a larger data chunk"))
        };
        let down = with(payload_len / piece)?;
        if down.pieces > 0 && down.head_bytes(key_len) <= u64::from(chunk_bytes) {
            return Ok(down);
        }
        let up = with(payload_len.div_ceil(piece))?;
        if up.head_bytes(key_len) <= u64::from(chunk_bytes) {
            Ok(up)
        } else {
            Err(refuse("a header that fits one chunk; use a larger data chunk"))
        }
    }

    /// The shape that a record or header states.
    ///
    /// # Errors
    /// [`FormatError::Field`] when the numbers cannot be a shape.
    pub fn from_fields(
        payload_len: u32,
        pieces: u16,
        piece_grains: u16,
    ) -> Result<Self, FormatError> {
        let refuse = |field, got: u64, expected| {
            Err(FormatError::Field { what: "object", field, got, expected })
        };
        if payload_len == 0 || payload_len > MAX_PAYLOAD_BYTES {
            return refuse("payload length", payload_len.into(), "1 byte to 1 GiB");
        }
        if usize::from(pieces) > MAX_PIECES {
            return refuse("pieces", pieces.into(), "at most 256");
        }
        if (pieces == 0) != (piece_grains == 0) {
            return refuse("piece length", piece_grains.into(), "0 exactly if there are no pieces");
        }
        let shape = Self { payload_len, piece_grains, pieces };
        if pieces > 0 && u64::from(pieces - 1) * shape.piece_bytes() >= u64::from(payload_len) {
            return refuse("pieces", pieces.into(), "no empty piece");
        }
        Ok(shape)
    }

    /// Length of the payload.
    #[must_use]
    pub fn payload_len(&self) -> u32 {
        self.payload_len
    }

    /// Number of pieces.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.pieces.into()
    }

    /// Length of a piece in grains, 0 if there are none.
    #[must_use]
    pub fn piece_grains(&self) -> u16 {
        self.piece_grains
    }

    fn piece_bytes(&self) -> u64 {
        u64::from(self.piece_grains) * u64::from(GRAIN_BYTES)
    }

    /// Length of piece `index`: shorter for the last one if the payload ends in it.
    #[must_use]
    pub fn piece_len(&self, index: usize) -> u32 {
        let start = index as u64 * self.piece_bytes();
        let left = u64::from(self.payload_len).saturating_sub(start);
        u32::try_from(left.min(self.piece_bytes())).unwrap_or(u32::MAX)
    }

    /// Bytes of payload behind the header.
    #[must_use]
    pub fn tail_len(&self) -> u32 {
        let cut = u64::from(self.pieces) * self.piece_bytes();
        u32::try_from(u64::from(self.payload_len).saturating_sub(cut)).unwrap_or(u32::MAX)
    }

    /// Number of grains of the payload.
    #[must_use]
    pub fn grains(&self) -> u32 {
        self.payload_len.div_ceil(GRAIN_BYTES)
    }

    /// Length of the object header in blocks for a key of this length.
    #[must_use]
    pub fn header_blocks(&self, key_len: usize) -> u32 {
        let front = (72 + 6 * self.pieces() + key_len).next_multiple_of(4);
        let bytes = front + 4 * self.grains() as usize;
        u32::try_from(bytes.div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX)
    }

    /// Bytes of a slot for the head: header and tail, whole blocks.
    #[must_use]
    pub fn head_bytes(&self, key_len: usize) -> u64 {
        let block = BLOCK_BYTES as u64;
        u64::from(self.header_blocks(key_len)) * block
            + u64::from(self.tail_len()).next_multiple_of(block)
    }

    /// Blocks of a slot for the head.
    #[must_use]
    pub fn head_blocks(&self, key_len: usize) -> u32 {
        u32::try_from(self.head_bytes(key_len) / BLOCK_BYTES as u64).unwrap_or(u32::MAX)
    }

    /// Blocks of a slot for piece `index`.
    #[must_use]
    pub fn piece_blocks(&self, index: usize) -> u32 {
        self.piece_len(index).div_ceil(BLOCK_BYTES as u32)
    }

    /// The parts that `len` bytes of payload at `offset` lie in, in order. What lies past the payload
    /// is left out.
    pub fn parts(&self, offset: u32, len: u32) -> impl Iterator<Item = PayloadPart> + use<> {
        let shape = *self;
        let end = offset.saturating_add(len).min(self.payload_len);
        let cut = u32::try_from(u64::from(self.pieces) * self.piece_bytes()).unwrap_or(u32::MAX);
        let mut at = offset;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (piece, start, limit) = if at < cut {
                let piece = u32::try_from(shape.piece_bytes()).unwrap_or(u32::MAX);
                let start = at / piece * piece;
                (Some((at / piece) as usize), start, start.saturating_add(piece))
            } else {
                (None, cut, u32::MAX)
            };
            let stop = end.min(limit);
            let part =
                PayloadPart { piece, payload_offset: at, offset: at - start, len: stop - at };
            at = stop;
            Some(part)
        })
    }
}

/// Slot sizes: how many slots a chunk is divided into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotClass(u16);

impl SlotClass {
    /// The class with the smallest slots that hold `blocks` blocks in a chunk of `chunk_blocks`.
    /// `None` when they do not fit a chunk, or for 0 blocks.
    #[must_use]
    pub fn for_blocks(blocks: u32, chunk_blocks: u32) -> Option<Self> {
        let most = chunk_blocks.checked_div(blocks).filter(|&n| n > 0)?;
        u16::try_from(round_down(most)).ok().map(Self)
    }

    /// Slots in a chunk.
    #[must_use]
    pub fn slots(self) -> u32 {
        self.0.into()
    }

    /// Blocks in a slot.
    #[must_use]
    pub fn slot_blocks(self, chunk_blocks: u32) -> u32 {
        chunk_blocks / self.slots()
    }
}

/// The largest slot count not above `most`: eight steps for each doubling.
fn round_down(most: u32) -> u32 {
    if most <= 8 {
        return most;
    }
    let step = 1 << (most.ilog2() - 3);
    most / step * step
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u32 = 1 << 20;
    const CHUNK: u32 = 8 * MIB;

    fn cut(len: u32, drives: usize) -> (usize, u32, u32) {
        let shape = Shape::choose(len, 20, CHUNK, drives).unwrap();
        (shape.pieces(), shape.piece_len(0), shape.tail_len())
    }

    #[test]
    fn shapes_of_typical_objects() {
        assert_eq!(cut(4096, 1), (0, 0, 4096));
        assert_eq!(cut(32 * MIB, 1), (4, 8 * MIB, 0));
        assert_eq!(cut(33 * MIB, 1), (4, 8 * MIB, MIB));
        assert_eq!(cut(CHUNK, 1), (1, CHUNK, 0));
        assert_eq!(cut(CHUNK - 1, 1), (1, CHUNK - 1, 0));
        assert_eq!(cut(32 * MIB, 8), (8, 4 * MIB, 0));
        assert_eq!(cut(MIB, 8), (0, 0, MIB));
        assert_eq!(cut(2 * MIB, 8), (2, MIB, 0));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        assert!(Shape::choose(0, 0, CHUNK, 1).is_err());
        assert!(Shape::choose(MAX_PAYLOAD_BYTES + 1, 0, CHUNK, 1).is_err());
        assert!(Shape::choose(MAX_PAYLOAD_BYTES, 0, 256 << 10, 1).is_err());
        assert!(Shape::from_fields(65_536, 2, 1).is_err());
        assert!(Shape::from_fields(65_536, 1, 0).is_err());
        assert!(Shape::from_fields(1, 257, 1).is_err());
    }

    #[test]
    fn slot_counts_are_eight_to_a_doubling_and_hold_what_they_promise() {
        let chunk = 2048;
        for blocks in 1..=chunk {
            let class = SlotClass::for_blocks(blocks, chunk).unwrap();
            let slot = class.slot_blocks(chunk);
            assert!(slot >= blocks, "{blocks}");
            assert!(slot * class.slots() <= chunk);
            if class.slots() > 8 {
                assert!(f64::from(class.slots()) > 0.88 * f64::from(chunk / blocks));
            }
        }
        assert_eq!(SlotClass::for_blocks(0, chunk), None);
        assert_eq!(SlotClass::for_blocks(chunk + 1, chunk), None);
    }

    proptest! {
        #[test]
        fn any_shape_covers_its_payload_and_fits_its_chunks(
            len in 1u32..=MAX_PAYLOAD_BYTES, key in 0usize..=1024,
            chunk in 4u32..400, drives in 1usize..=64,
        ) {
            let chunk = chunk * GRAIN_BYTES;
            let Ok(shape) = Shape::choose(len, key, chunk, drives) else { return Ok(()) };
            prop_assert!(shape.head_bytes(key) <= u64::from(chunk));
            let pieces: u64 = (0..shape.pieces()).map(|i| u64::from(shape.piece_len(i))).sum();
            prop_assert_eq!(pieces + u64::from(shape.tail_len()), u64::from(len));
            for i in 0..shape.pieces() {
                prop_assert!(shape.piece_len(i) > 0 && shape.piece_len(i) <= chunk);
            }
            let pieces = u16::try_from(shape.pieces()).unwrap();
            prop_assert_eq!(Shape::from_fields(len, pieces, shape.piece_grains()).unwrap(), shape);
        }

        #[test]
        fn parts_are_contiguous_and_inside(
            len in 1u32..100 * MIB, drives in 1usize..=8, a: u32, b: u32,
        ) {
            let shape = Shape::choose(len, 9, CHUNK, drives).unwrap();
            let (from, take) = (a % len, b % (len + 5));
            let mut at = from;
            for part in shape.parts(from, take) {
                prop_assert_eq!(part.payload_offset, at);
                prop_assert!(part.len > 0);
                let room = part.piece.map_or(shape.tail_len(), |i| shape.piece_len(i));
                prop_assert!(part.offset + part.len <= room);
                at += part.len;
            }
            prop_assert_eq!(at, (from.saturating_add(take)).min(len));
        }
    }
}
