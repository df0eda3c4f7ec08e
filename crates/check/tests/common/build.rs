use std::collections::BTreeMap;
use std::sync::Arc;

use gcos_layout::checksum::crc32c;
use gcos_layout::media::*;

use super::Memory;

const CAPACITY: u64 = 12 << 20;

pub fn chunks() -> ZoneChunks {
    ZoneChunks { superblock: 8192, meta: 131_072, data: 512 << 10 }
}

/// An object as written: record, header and payload lie on the drives.
#[derive(Debug, Clone)]
pub struct Object {
    pub record: PutRecord,
}

/// A frame as written.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    pub block: u64,
    pub blocks: u64,
    pub sequence: u64,
}

/// Writes a pool the way the format says, with a simple allocator.
#[derive(Debug)]
pub struct Builder {
    pub drives: Vec<Arc<Memory>>,
    pub superblocks: Vec<Superblock>,
    pub generation: u64,
    /// Next journal place of each drive: sequence, block, previous.
    pub journal: Vec<(u64, u64, u32)>,
    pub frames: Vec<Vec<Frame>>,
    next_chunk: Vec<u32>,
    open: BTreeMap<(usize, SlotClass), (u32, u32)>,
}

impl Builder {
    pub fn new(count: usize) -> Self {
        Self::with(count, 1, 1)
    }

    /// A formatted pool: superblocks at sequence 2, checkpoint 1 empty, epoch 1.
    pub fn with(count: usize, pool: u8, meta_percent: u32) -> Self {
        let zones = ZoneMap::plan(CAPACITY, chunks(), meta_percent).unwrap();
        let members: Vec<Uuid> =
            (0..count).map(|i| [pool.wrapping_mul(16) + 1 + i as u8; 16]).collect();
        let mut builder = Self {
            drives: Vec::new(),
            superblocks: Vec::new(),
            generation: 1 << 40,
            journal: vec![(1, 0, 0); count],
            frames: vec![Vec::new(); count],
            next_chunk: vec![0; count],
            open: BTreeMap::new(),
        };
        for index in 0..count {
            let name = format!("pool{pool}drive{index}");
            builder.drives.push(Memory::new(&name, vec![0; CAPACITY as usize]));
            let first = Superblock {
                version: (VERSION_MAJOR, VERSION_MINOR),
                sequence: 1,
                parent: 0,
                pool_uuid: [pool; 16],
                drive_index: index as u16,
                members: members.clone(),
                state: DriveState::Formatting,
                clean: true,
                lba_bytes: 512,
                epoch: 1,
                created: 1_700_000_000,
                zones,
            };
            let ready = Superblock { state: DriveState::Ready, ..first.successor() };
            builder.superblocks.push(ready);
            builder.write_superblock(index);
            builder.checkpoint(index, 1, &[]);
        }
        builder
    }

    pub fn zones(&self) -> ZoneMap {
        self.superblocks[0].zones
    }

    pub fn write_superblock(&self, drive: usize) {
        let superblock = &self.superblocks[drive];
        for offset in superblock.zones.superblock_offsets() {
            self.drives[drive].put(offset, &superblock.encode());
        }
    }

    fn take(&mut self, drive: usize, blocks: u32) -> Location {
        let chunk_blocks = self.zones().chunk_blocks();
        let class = SlotClass::for_blocks(blocks, chunk_blocks).unwrap();
        let (chunk, slot) = self.open.get(&(drive, class)).copied().unwrap_or_else(|| {
            self.next_chunk[drive] += 1;
            (self.next_chunk[drive] - 1, 0)
        });
        assert!(chunk < self.zones().data_chunks(), "test pool full");
        if slot + 1 < class.slots() {
            self.open.insert((drive, class), (chunk, slot + 1));
        } else {
            self.open.remove(&(drive, class));
        }
        let block = (slot * class.slot_blocks(chunk_blocks)) as u16;
        Location { drive: drive as u8, chunk, block }
    }

    /// Allocates and writes an object's data; no record yet. Pieces go to the drives in turn.
    pub fn object(&mut self, key: &[u8], len: u32, head: usize) -> Object {
        let drives = self.drives.len();
        let shape = Shape::choose(len, key.len(), self.zones().chunks.data, drives).unwrap();
        let at = self.take(head, shape.head_blocks(key.len()));
        let pieces = (0..shape.pieces())
            .map(|i| self.take((head + i) % drives, shape.piece_blocks(i)))
            .collect();
        self.generation += 1;
        self.object_at(key, shape, at, pieces, self.generation)
    }

    pub fn object_at(
        &mut self,
        key: &[u8],
        shape: Shape,
        head: Location,
        pieces: Vec<Location>,
        generation: u64,
    ) -> Object {
        let mut rng = fastrand::Rng::with_seed(generation);
        let payload: Vec<u8> = (0..shape.payload_len()).map(|_| rng.u8(..)).collect();
        let header = ObjectHeader {
            pool_uuid: self.superblocks[0].pool_uuid,
            generation,
            expiry: 0,
            shape,
            head,
            pieces: pieces.clone(),
            key: key.to_vec(),
            grains: payload.chunks(GRAIN_BYTES as usize).map(crc32c).collect(),
        };
        let (mut front, root) = header.encode().unwrap();
        let cut = (shape.payload_len() - shape.tail_len()) as usize;
        front.extend_from_slice(&payload[cut..]);
        self.drives[usize::from(head.drive)].put(self.offset(head), &front);
        let mut at = 0;
        for (i, &piece) in pieces.iter().enumerate() {
            let len = shape.piece_len(i) as usize;
            self.drives[usize::from(piece.drive)].put(self.offset(piece), &payload[at..at + len]);
            at += len;
        }
        let key = key.to_vec();
        Object { record: PutRecord { key, generation, root, expiry: 0, shape, head, pieces } }
    }

    pub fn offset(&self, at: Location) -> u64 {
        self.zones().data_offset(at.chunk, at.block.into()).unwrap()
    }

    /// Appends a frame.
    pub fn frame(&mut self, drive: usize, records: &[Record]) -> Frame {
        let mut builder = FrameBuilder::default();
        for record in records {
            assert!(builder.push(record).unwrap());
        }
        let (sequence, mut block, previous) = self.journal[drive];
        let blocks = builder.blocks() as u64;
        if block + blocks > self.zones().journal_blocks() {
            block = 0;
        }
        let superblock = &self.superblocks[drive];
        let (bytes, crc) =
            builder.finish(sequence, superblock.epoch, previous, &superblock.drive_uuid());
        self.drives[drive].put(self.ring(block), &bytes);
        self.journal[drive] = (sequence + 1, block + blocks, crc);
        let frame = Frame { block, blocks, sequence };
        self.frames[drive].push(frame);
        frame
    }

    /// Offset of a block of the ring.
    pub fn ring(&self, block: u64) -> u64 {
        self.zones().journal_offset() + block * 4096
    }

    /// Writes a checkpoint whose journal start is the present end.
    pub fn checkpoint(&mut self, drive: usize, number: u64, records: &[PutRecord]) {
        let area = self.zones().checkpoint_offset(number % 2);
        let (mut builder, mut sums) = (PageBuilder::default(), Vec::new());
        let memory = Arc::clone(&self.drives[drive]);
        let mut flush = |builder: &mut PageBuilder| {
            let (bytes, sum) = builder.finish(number, sums.len() as u32);
            memory.put(area + 4096 + sums.len() as u64 * 65_536, &bytes);
            sums.push(sum);
        };
        for put in records {
            if !builder.push(&Record::Put(put.clone())).unwrap() {
                flush(&mut builder);
                assert!(builder.push(&Record::Put(put.clone())).unwrap());
            }
        }
        if !builder.is_empty() {
            flush(&mut builder);
        }
        let (journal_sequence, journal_block, journal_previous) = self.journal[drive];
        let header = CheckpointHeader {
            drive_uuid: self.superblocks[drive].drive_uuid(),
            number,
            journal_sequence,
            journal_block,
            journal_previous,
            pages: sums.len() as u32,
            records: records.len() as u64,
            pages_checksum: CheckpointHeader::sum_pages(sums.iter().copied()),
        };
        self.drives[drive].put(area, &header.encode());
    }

    /// Writes an object and its record in a frame of its own.
    pub fn put(&mut self, key: &[u8], len: u32, head: usize) -> Object {
        let object = self.object(key, len, head);
        self.frame(head, &[Record::Put(object.record.clone())]);
        object
    }

    pub fn remove(&mut self, object: &Object) {
        let record = &object.record;
        let (key, generation) = (record.key.clone(), record.generation);
        let drive = record.head.drive.into();
        self.frame(drive, &[Record::Remove(RemoveRecord { key, generation })]);
    }

    /// Two drives with objects in both checkpoints and in the journal, and a removed one.
    pub fn sample() -> (Self, Vec<Object>) {
        let mut b = Self::new(2);
        let mut live = Vec::new();
        let gone = b.put(b"gone", 5000, 0);
        live.push(b.put(b"small", 1, 0));
        live.push(b.put(b"medium", 100_000, 1));
        for (drive, number) in [(0, 2), (1, 2), (0, 3), (1, 3)] {
            let mut records: Vec<_> = live.iter().map(|o| o.record.clone()).collect();
            records.retain(|r| usize::from(r.head.drive) == drive);
            if drive == 0 {
                records.push(gone.record.clone());
            }
            b.checkpoint(drive, number, &records);
        }
        b.remove(&gone);
        live.push(b.put(b"large", 2_500_000, 0));
        live.push(b.put(b"", 70_000, 1));
        live.push(b.put(&[0xff; 1024], 4096, 1));
        (b, live)
    }

    /// Appends frames of many removes of nothing, so that the ring turns.
    pub fn turn(&mut self, drive: usize, blocks: u64) {
        let mut written = 0;
        while written < blocks {
            let records: Vec<_> = (0..50u8)
                .map(|i| Record::Remove(RemoveRecord { key: vec![i; 1024], generation: 1 }))
                .collect();
            written += self.frame(drive, &records).blocks;
        }
    }
}
