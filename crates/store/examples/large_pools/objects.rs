//! The objects of a full pool on one drive, each known by its number alone.

use gcos_layout::media::{
    CHECKPOINT_PAGE_BYTES, Location, PageBuilder, PutRecord, Record, Shape, SlotClass, ZoneMap,
};

/// The first epoch, in which all objects were put.
const EPOCH: u64 = 1 << 40;
/// An odd number: its multiples are all numbers of 32 bits, in no order.
const SCATTER: u32 = 0x9E37_79B1;

/// As many objects of one size as a drive holds.
#[derive(Debug, Clone)]
pub(crate) struct Objects {
    shape: Shape,
    key_bytes: usize,
    /// Slots in a chunk, and blocks of one, for pieces and for heads.
    piece: (u32, u32),
    head: (u32, u32),
    /// First chunk of heads.
    heads: u32,
    pub(crate) count: u32,
    per_page: u32,
}

impl Objects {
    pub(crate) fn fill(zones: &ZoneMap, bytes: u32, key_bytes: usize) -> Self {
        let chunk_blocks = zones.chunk_blocks();
        let shape = Shape::choose(bytes, key_bytes, zones.chunks.data, 1).unwrap();
        let slots = |blocks: u32| {
            let class = SlotClass::for_blocks(blocks, chunk_blocks).unwrap();
            (class.slots(), class.slot_blocks(chunk_blocks))
        };
        let pieces = shape.pieces() as u32;
        let piece = if pieces > 0 { slots(shape.piece_blocks(0)) } else { (1, 0) };
        for index in 1..shape.pieces() {
            assert_eq!(shape.piece_blocks(index), shape.piece_blocks(0), "pieces of one size");
        }
        let head = slots(shape.head_blocks(key_bytes));
        let chunks = zones.data_chunks();
        let piece_chunks =
            |count: u32| (u64::from(count) * u64::from(pieces)).div_ceil(piece.0.into());
        let fits = |count: u32| {
            piece_chunks(count) + u64::from(count).div_ceil(head.0.into()) <= chunks.into()
        };
        let (mut count, mut step) = (0u32, 1 << 31);
        while step > 0 {
            count += if fits(count.saturating_add(step)) { step } else { 0 };
            step /= 2;
        }
        let heads = piece_chunks(count) as u32;
        let per_page =
            ((CHECKPOINT_PAGE_BYTES - 32) / Record::put_len(key_bytes, shape.pieces())) as u32;
        Self { shape, key_bytes, piece, head, heads, count, per_page }
    }

    /// The key of an object.
    pub(crate) fn key(&self, number: u32) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(number.into());
        let mut key: Vec<u8> =
            (0..self.key_bytes.div_ceil(8)).flat_map(|_| rng.u64(..).to_le_bytes()).collect();
        key.truncate(self.key_bytes);
        key
    }

    /// The record of an object. Their order of age is none on the drive, as in a pool that has long been full.
    fn record(&self, number: u32) -> PutRecord {
        let place = |slot: u32, first: u32, (slots, blocks): (u32, u32)| {
            let block = u16::try_from(slot % slots * blocks).unwrap();
            Location { drive: 0, chunk: first + slot / slots, block }
        };
        let pieces = self.shape.pieces() as u32;
        PutRecord {
            key: self.key(number),
            generation: EPOCH | u64::from(number.wrapping_mul(SCATTER)),
            root: number,
            expiry: 0,
            shape: self.shape,
            head: place(number, self.heads, self.head),
            pieces: (0..pieces).map(|i| place(number * pieces + i, 0, self.piece)).collect(),
        }
    }

    pub(crate) fn pages(&self) -> u32 {
        self.count.div_ceil(self.per_page)
    }

    /// A page of a checkpoint that has all of them, and its checksum.
    pub(crate) fn page(&self, checkpoint: u64, page: u32) -> (Vec<u8>, u32) {
        let mut builder = PageBuilder::default();
        let first = page * self.per_page;
        for number in first..self.count.min(first + self.per_page) {
            assert!(builder.push(&Record::Put(self.record(number))).unwrap(), "a page holds them");
        }
        builder.finish(checkpoint, page)
    }
}
