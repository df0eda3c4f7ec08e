use super::{BLOCK_BYTES, CHECKPOINT_PAGE_BYTES, FormatError, GRAIN_BYTES};

/// Chunk numbers are 24 bits wide.
pub const MAX_CHUNKS: u32 = 1 << 24;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Interior superblock copies start at multiples of this.
const COPY_ALIGN: u64 = 65_536;
const JOURNAL_MAX: u64 = 256 << 20;

/// Chunk sizes of the three zones in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneChunks {
    /// Reserved around each superblock copy.
    pub superblock: u32,
    /// Unit of the meta zone's areas.
    pub meta: u32,
    /// Data chunk.
    pub data: u32,
}

impl Default for ZoneChunks {
    fn default() -> Self {
        Self { superblock: 128 << 10, meta: 512 << 10, data: 8 << 20 }
    }
}

impl ZoneChunks {
    /// Checks the sizes by themselves.
    ///
    /// # Errors
    /// [`FormatError::Sizes`], naming the rule that is broken.
    pub fn check(&self) -> Result<(), FormatError> {
        let rule = |ok: bool, text: &str| {
            if ok { Ok(()) } else { Err(FormatError::Sizes(text.to_owned())) }
        };
        let block = BLOCK_BYTES as u32;
        rule(
            self.superblock >= block
                && self.superblock <= 1 << 20
                && self.superblock.is_multiple_of(block),
            "the superblock chunk must be a multiple of 4 KiB, from 4 KiB to 1 MiB",
        )?;
        rule(
            self.meta >= 65_536 && self.meta <= 64 << 20 && self.meta.is_multiple_of(65_536),
            "the meta chunk must be a multiple of 64 KiB, from 64 KiB to 64 MiB",
        )?;
        rule(
            self.data >= 4 * GRAIN_BYTES
                && self.data <= 128 << 20
                && self.data.is_multiple_of(GRAIN_BYTES),
            "the data chunk must be a multiple of 64 KiB, from 256 KiB to 128 MiB",
        )
    }
}

/// Where everything is on a drive (section 1). All values in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneMap {
    /// Chunk sizes.
    pub chunks: ZoneChunks,
    /// Capacity in use, whole blocks.
    pub capacity: u64,
    /// Length of each of the two checkpoint areas.
    pub checkpoint_bytes: u64,
    /// Length of the journal ring.
    pub journal_bytes: u64,
}

impl ZoneMap {
    /// Lays out a drive of `capacity` bytes, with `meta_percent` of it for metadata.
    ///
    /// # Errors
    /// [`FormatError::Sizes`] when the sizes do not go together, for example a drive too small to
    /// hold the metadata and one data chunk.
    pub fn plan(capacity: u64, chunks: ZoneChunks, meta_percent: u32) -> Result<Self, FormatError> {
        chunks.check()?;
        let capacity = capacity / BLOCK * BLOCK;
        let meta_chunk = u64::from(chunks.meta);
        let meta = (capacity / 100).saturating_mul(meta_percent.into()).max(4 * meta_chunk);
        let round = |bytes: u64| (bytes / meta_chunk * meta_chunk).max(meta_chunk);
        let journal_bytes = round((meta / 4).min(JOURNAL_MAX)).max(Self::journal_min(meta_chunk));
        let checkpoint_bytes =
            round(meta.saturating_sub(journal_bytes) / 2).max(Self::checkpoint_min(meta_chunk));
        let map = Self { chunks, capacity, checkpoint_bytes, journal_bytes };
        map.check()?;
        Ok(map)
    }

    /// A ring must hold a few frames of the largest size for each of the three parts that it is
    /// used in (see `docs/design.md`): 1 MiB, in whole meta chunks.
    fn journal_min(meta_chunk: u64) -> u64 {
        (1u64 << 20).next_multiple_of(meta_chunk)
    }

    /// An area must hold its header block and a few pages.
    fn checkpoint_min(meta_chunk: u64) -> u64 {
        (BLOCK + 4 * CHECKPOINT_PAGE_BYTES as u64).next_multiple_of(meta_chunk)
    }

    /// Checks a map, planned or read from a superblock: nothing overlaps, everything fits.
    ///
    /// # Errors
    /// [`FormatError::Sizes`], naming what does not fit.
    pub fn check(&self) -> Result<(), FormatError> {
        self.chunks.check()?;
        let sizes = |text: String| Err(FormatError::Sizes(text));
        let (capacity, meta) = (self.capacity, u64::from(self.chunks.meta));
        if capacity > i64::MAX as u64 || capacity % BLOCK != 0 {
            return sizes(format!("capacity {capacity}: expected whole 4 KiB blocks below 2^63"));
        }
        if self.checkpoint_bytes < Self::checkpoint_min(meta)
            || !self.checkpoint_bytes.is_multiple_of(meta)
            || self.checkpoint_bytes > capacity
            || self.journal_bytes < Self::journal_min(meta)
            || !self.journal_bytes.is_multiple_of(meta)
            || self.journal_bytes > capacity
        {
            return sizes(format!(
                "checkpoint areas of {} and a journal of {} bytes: expected multiples of the meta \
                 chunk ({meta}), an area at least 260 KiB, the journal at least 1 MiB",
                self.checkpoint_bytes, self.journal_bytes
            ));
        }
        let [_, first_copy, _, last_copy] = self.superblock_offsets();
        if self.meta_end() > first_copy {
            return sizes(format!(
                "{capacity} bytes are too few: the metadata needs {} bytes before a third of the \
                 drive; use a larger drive, a smaller meta chunk or a smaller meta percentage",
                self.meta_end()
            ));
        }
        if first_copy.saturating_mul(3) > last_copy.saturating_add(BLOCK) || self.data_chunks() == 0
        {
            return sizes(format!(
                "{capacity} bytes are too few to hold one data chunk of {} bytes between the \
                 superblock copies; use a larger drive or a smaller data chunk",
                self.chunks.data
            ));
        }
        if self.data_chunks_wide() > u64::from(MAX_CHUNKS) {
            return sizes(format!(
                "{} data chunks are more than 2^24; use a larger data chunk",
                self.data_chunks_wide()
            ));
        }
        Ok(())
    }

    /// Offsets of the four superblock copies on a drive of `capacity` bytes, whatever its chunk
    /// sizes are.
    #[must_use]
    pub fn copies(capacity: u64) -> [u64; 4] {
        let capacity = capacity / BLOCK * BLOCK;
        let third = capacity / 3 / COPY_ALIGN * COPY_ALIGN;
        let two_thirds = (u128::from(capacity) * 2 / 3) as u64 / COPY_ALIGN * COPY_ALIGN;
        [0, third, two_thirds, capacity.saturating_sub(BLOCK)]
    }

    /// Offsets of the four superblock copies.
    #[must_use]
    pub fn superblock_offsets(&self) -> [u64; 4] {
        Self::copies(self.capacity)
    }

    /// Offset of checkpoint area 0 or 1.
    #[must_use]
    pub fn checkpoint_offset(&self, area: u64) -> u64 {
        u64::from(self.chunks.superblock) + (area & 1) * self.checkpoint_bytes
    }

    /// Offset of the journal ring.
    #[must_use]
    pub fn journal_offset(&self) -> u64 {
        u64::from(self.chunks.superblock) + 2 * self.checkpoint_bytes
    }

    /// Length of the journal ring in blocks.
    #[must_use]
    pub fn journal_blocks(&self) -> u64 {
        self.journal_bytes / BLOCK
    }

    fn meta_end(&self) -> u64 {
        self.journal_offset().saturating_add(self.journal_bytes)
    }

    /// The three runs of data chunks: (offset of the first, number).
    fn segments(&self) -> [(u64, u64); 3] {
        let sb = u64::from(self.chunks.superblock);
        let data = u64::from(self.chunks.data);
        let [_, one, two, last] = self.superblock_offsets();
        let end = (last + BLOCK).saturating_sub(sb);
        let starts = [self.meta_end(), one + sb, two + sb];
        let ends = [one, two, end];
        let mut out = [(0, 0); 3];
        for ((segment, start), end) in out.iter_mut().zip(starts).zip(ends) {
            *segment = (start, end.saturating_sub(start) / data);
        }
        out
    }

    fn data_chunks_wide(&self) -> u64 {
        self.segments().iter().map(|&(_, count)| count).sum()
    }

    /// Number of data chunks.
    #[must_use]
    pub fn data_chunks(&self) -> u32 {
        u32::try_from(self.data_chunks_wide()).unwrap_or(u32::MAX)
    }

    /// Blocks in a data chunk.
    #[must_use]
    pub fn chunk_blocks(&self) -> u32 {
        self.chunks.data / BLOCK_BYTES as u32
    }

    /// Offset of `block` in chunk `chunk`, `None` when there is no such chunk or block.
    #[must_use]
    pub fn data_offset(&self, chunk: u32, block: u32) -> Option<u64> {
        if block >= self.chunk_blocks() {
            return None;
        }
        let mut index = u64::from(chunk);
        for (start, count) in self.segments() {
            if index < count {
                let offset = start + index * u64::from(self.chunks.data);
                return Some(offset + u64::from(block) * BLOCK);
            }
            index -= count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_default_terabyte_is_laid_out_as_documented() {
        let map = ZoneMap::plan(1 << 40, ZoneChunks::default(), 1).unwrap();
        assert_eq!(map.journal_bytes, 256 << 20);
        assert_eq!(map.checkpoint_offset(0), 128 << 10);
        assert_eq!(map.data_offset(0, 0), Some(map.journal_offset() + map.journal_bytes));
        assert_eq!(map.superblock_offsets()[3], (1 << 40) - 4096);
        assert!(map.data_chunks() > 129_000);
    }

    #[test]
    fn too_small_a_drive_says_so() {
        let error = ZoneMap::plan(8 << 20, ZoneChunks::default(), 1).unwrap_err();
        assert!(error.to_string().contains("larger drive"), "{error}");
        assert!(ZoneMap::plan(0, ZoneChunks::default(), 1).is_err());
        assert!(ZoneMap::plan(u64::MAX, ZoneChunks::default(), 100).is_err());
    }

    proptest! {
        #[test]
        fn nothing_overlaps(
            capacity in 1u64 << 20..1 << 36,
            sb in 1u32..256, meta in 1u32..40, data in 4u32..256, percent in 0u32..30,
        ) {
            let chunks = ZoneChunks { superblock: sb * 4096, meta: meta * 65_536, data: data * 65_536 };
            let Ok(map) = ZoneMap::plan(capacity, chunks, percent) else { return Ok(()) };
            let mut used = vec![
                (map.checkpoint_offset(0), map.checkpoint_bytes),
                (map.checkpoint_offset(1), map.checkpoint_bytes),
                (map.journal_offset(), map.journal_bytes),
            ];
            let [first, second, third, last] = map.superblock_offsets();
            let sb = u64::from(chunks.superblock);
            used.extend([(first, sb), (second, sb), (third, sb), (last + 4096 - sb, sb)]);
            let step = (map.data_chunks() / 500).max(1) as usize;
            for chunk in (0..map.data_chunks()).step_by(step) {
                used.push((map.data_offset(chunk, 0).unwrap(), chunks.data.into()));
            }
            used.sort_unstable();
            for pair in used.windows(2) {
                prop_assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{:?}", pair);
            }
            let end = used.last().unwrap();
            prop_assert!(end.0 + end.1 <= capacity);
            prop_assert_eq!(map.data_offset(map.data_chunks(), 0), None);
            prop_assert_eq!(map.data_offset(0, map.chunk_blocks()), None);
        }
    }
}
