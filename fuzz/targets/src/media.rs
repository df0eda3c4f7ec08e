//! Structures of the format, each by itself: as given, and with its checksum put right, so that what
//! lies behind the checksum is reached too. What decodes must encode to something that decodes alike.

use gcos_layout::checksum::crc32c;
use gcos_layout::media::{
    BLOCK_BYTES, CHECKPOINT_PAGE_BYTES, CheckpointHeader, CheckpointPage, FrameBuilder,
    JournalFrame, MAX_FRAME_BLOCKS, ObjectHeader, PageBuilder, Record, SlotClass, Superblock, Uuid,
};

/// Drive to which frames and checkpoints belong.
pub(crate) const DRIVE: Uuid = *b"a drive of tests";

/// Stores the checksum of the bytes from `from` on at `at`.
pub(crate) fn seal(bytes: &mut [u8], at: usize, from: usize) {
    if bytes.len() >= from {
        let crc = crc32c(&bytes[from..]).to_le_bytes();
        bytes[at..at + 4].copy_from_slice(&crc);
    }
}

/// `data` in `len` bytes with `magic` in front.
fn structure(data: &[u8], len: usize, magic: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.resize(len, 0);
    bytes[..magic.len()].copy_from_slice(magic);
    bytes
}

/// A superblock copy.
pub(crate) fn superblock(data: &[u8]) {
    let _ = Superblock::decode(data);
    let mut block = structure(data, BLOCK_BYTES, b"GCOSPOOL");
    seal(&mut block, 8, 12);
    let Ok(superblock) = Superblock::decode(&block) else { return };
    let again = Superblock::decode(&superblock.encode());
    assert_eq!(again.as_ref(), Ok(&superblock));
    let next = superblock.successor();
    assert!(next.sequence > superblock.sequence && next.parent == superblock.identity());
    let zones = superblock.zones;
    let (chunks, blocks) = (zones.data_chunks(), zones.chunk_blocks());
    let end = |at: Option<u64>| at.map(|at| at + BLOCK_BYTES as u64);
    for chunk in [0, 1, chunks / 3, chunks / 2, chunks - 1] {
        let Some(end) = end(zones.data_offset(chunk, blocks - 1)) else {
            assert!(chunk >= chunks, "chunk {chunk} of {chunks} has no place");
            continue;
        };
        assert!(end <= zones.capacity);
        for copy in zones.superblock_offsets() {
            let start = end - u64::from(zones.chunks.data);
            let apart = copy + BLOCK_BYTES as u64 <= start || end <= copy;
            assert!(apart, "chunk {chunk} lies over a superblock copy");
        }
    }
    assert_eq!(zones.data_offset(chunks, 0), None);
    assert_eq!(zones.data_offset(u32::MAX, u32::MAX), None);
}

/// Header and page of a checkpoint. The first byte says which.
pub(crate) fn checkpoint(data: &[u8]) {
    let Some((&which, data)) = data.split_first() else { return };
    if which % 2 == 0 {
        let _ = CheckpointHeader::decode(data, &DRIVE);
        let mut block = structure(data, BLOCK_BYTES, b"GCOSCKPT");
        block[16..32].copy_from_slice(&DRIVE);
        seal(&mut block, 8, 12);
        if let Ok(header) = CheckpointHeader::decode(&block, &DRIVE) {
            assert_eq!(CheckpointHeader::decode(&header.encode(), &DRIVE), Ok(header));
        }
        return;
    }
    let _ = CheckpointPage::decode(data, 1, 0);
    let mut page = structure(data, CHECKPOINT_PAGE_BYTES, b"GCKP");
    let (number, index) = (1u64, 0u32);
    page[8..16].copy_from_slice(&number.to_le_bytes());
    page[16..20].copy_from_slice(&index.to_le_bytes());
    seal(&mut page, 4, 8);
    let Ok(decoded) = CheckpointPage::decode(&page, number, index) else { return };
    let mut builder = PageBuilder::default();
    for record in &decoded.records {
        assert_eq!(builder.push(&Record::Put(record.clone())), Ok(true));
    }
    let (page, _) = builder.finish(number, index);
    let again = CheckpointPage::decode(&page, number, index);
    assert_eq!(again.map(|page| page.records), Ok(decoded.records));
}

/// A journal frame with its records.
pub(crate) fn journal(data: &[u8]) {
    let _ = JournalFrame::decode(data, &DRIVE);
    let blocks = data.len().div_ceil(BLOCK_BYTES).clamp(1, MAX_FRAME_BLOCKS);
    let mut frame = structure(data, blocks * BLOCK_BYTES, b"GJFR");
    frame[28..30].copy_from_slice(&(blocks as u16).to_le_bytes());
    frame[40..48].copy_from_slice(&DRIVE[..8]);
    seal(&mut frame, 4, 8);
    let Ok(decoded) = JournalFrame::decode(&frame, &DRIVE) else { return };
    let mut builder = FrameBuilder::default();
    for record in &decoded.records {
        assert_eq!(builder.push(record), Ok(true));
    }
    let JournalFrame { sequence, epoch, previous, .. } = decoded;
    let (bytes, checksum) = builder.finish(sequence, epoch, previous, &DRIVE);
    let again = JournalFrame::decode(&bytes, &DRIVE);
    let again = again.map(|frame| (frame.sequence, frame.epoch, frame.previous, frame.records));
    assert_eq!(again, Ok((sequence, epoch, previous, decoded.records)));
    assert_eq!(checksum, crc32c(&bytes[8..]));
}

/// Records without a structure around them.
pub(crate) fn records(data: &[u8]) {
    let mut left = data;
    while let Ok((record, len)) = Record::decode(left) {
        assert!((36..=left.len()).contains(&len));
        let mut bytes = Vec::new();
        assert_eq!(record.encode_into(&mut bytes), Ok(()));
        assert_eq!(Record::decode(&bytes), Ok((record.clone(), bytes.len())));
        if let Record::Put(put) = &record {
            shape(&put.shape, put.key.len());
        }
        left = &left[len..];
    }
}

/// What readers compute from a shape that a record or header states.
fn shape(shape: &gcos_layout::media::Shape, key_len: usize) {
    let total: u64 = (0..shape.pieces()).map(|i| u64::from(shape.piece_len(i))).sum();
    assert_eq!(total + u64::from(shape.tail_len()), u64::from(shape.payload_len()));
    let head = shape.head_blocks(key_len);
    assert_eq!(u64::from(head) * BLOCK_BYTES as u64, shape.head_bytes(key_len));
    for blocks in (0..shape.pieces()).map(|i| shape.piece_blocks(i)).chain([head]) {
        for chunk_blocks in [64, 2048, 32_768] {
            if let Some(class) = SlotClass::for_blocks(blocks, chunk_blocks) {
                assert!(class.slot_blocks(chunk_blocks) >= blocks);
            }
        }
    }
    for (offset, len) in [(0, u32::MAX), (shape.payload_len() - 1, 2), (65_536, 1), (u32::MAX, 9)] {
        let end = offset.saturating_add(len).min(shape.payload_len());
        let covered: u64 = shape.parts(offset, len).map(|part| u64::from(part.len)).sum();
        assert_eq!(covered, u64::from(end.saturating_sub(offset)));
    }
}

/// An object header.
pub(crate) fn object_header(data: &[u8]) {
    let _ = ObjectHeader::peek_blocks(data);
    let _ = ObjectHeader::decode(data);
    let blocks = data.len().div_ceil(BLOCK_BYTES).max(1);
    let mut header = structure(data, blocks * BLOCK_BYTES, b"GCOSOBJ1");
    if let Ok(blocks) = u16::try_from(blocks) {
        header[12..14].copy_from_slice(&blocks.to_le_bytes());
    }
    seal(&mut header, 8, 12);
    let Ok((decoded, root)) = ObjectHeader::decode(&header) else { return };
    assert_eq!(root, crc32c(&header[12..]));
    shape(&decoded.shape, decoded.key.len());
    let (bytes, root) = decoded.encode().unwrap();
    assert_eq!(ObjectHeader::decode(&bytes), Ok((decoded, root)));
}
