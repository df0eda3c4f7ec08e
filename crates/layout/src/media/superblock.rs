use super::bytes::{get, get_u16, get_u32, get_u64, put, put_u16, put_u32, put_u64};
use super::{
    BLOCK_BYTES, FormatError, GRAIN_BYTES, MAX_DRIVES, MAX_EPOCH, MAX_SEQUENCE, Uuid, ZoneChunks,
    ZoneMap,
};
use crate::checksum::{crc32c, crc64};

/// Major version that this build reads and writes.
pub const VERSION_MAJOR: u16 = 1;
/// Newest minor version that this build writes.
pub const VERSION_MINOR: u16 = 0;

const MAGIC: &[u8; 8] = b"GCOSPOOL";
const WHAT: &str = "superblock";
const MEMBERS_AT: usize = 160;

/// How far formatting has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriveState {
    /// Format has begun; the pool counts only if another of its drives is ready.
    Formatting,
    /// Format has ended.
    Ready,
}

/// What a drive says of itself and its pool (section 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Format version found, or to write: major, minor.
    pub version: (u16, u16),
    /// Number of this update, from 1.
    pub sequence: u64,
    /// Identity of the update before: see [`Superblock::identity`].
    pub parent: u64,
    /// Pool.
    pub pool_uuid: Uuid,
    /// This drive's index in `members`.
    pub drive_index: u16,
    /// All drives of the pool, in order; 1 to 64.
    pub members: Vec<Uuid>,
    /// How far formatting has come.
    pub state: DriveState,
    /// Whether the pool was closed in order.
    pub clean: bool,
    /// Logical block size of the drive at format, in bytes.
    pub lba_bytes: u32,
    /// How many times the pool was opened for writing.
    pub epoch: u64,
    /// Time of format, seconds since 1970.
    pub created: u64,
    /// Where everything is.
    pub zones: ZoneMap,
}

impl Superblock {
    /// Identity of this drive.
    #[must_use]
    pub fn drive_uuid(&self) -> Uuid {
        self.members.get(usize::from(self.drive_index)).copied().unwrap_or_default()
    }

    /// What the next update names as its parent: CRC-64 of the encoded block.
    #[must_use]
    pub fn identity(&self) -> u64 {
        crc64(&self.encode())
    }

    /// The superblock that follows this one, equal but for sequence and parent.
    #[must_use]
    pub fn successor(&self) -> Self {
        Self { sequence: self.sequence + 1, parent: self.identity(), ..self.clone() }
    }

    /// The encoded block.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut b = [0; BLOCK_BYTES];
        put(&mut b, 0, MAGIC);
        put_u16(&mut b, 12, self.version.0);
        put_u16(&mut b, 14, self.version.1);
        put_u64(&mut b, 16, self.sequence);
        put_u64(&mut b, 24, self.parent);
        put(&mut b, 32, &self.pool_uuid);
        put(&mut b, 48, &self.drive_uuid());
        put_u16(&mut b, 64, self.drive_index);
        put_u16(&mut b, 66, u16::try_from(self.members.len()).unwrap_or(u16::MAX));
        let state = match self.state {
            DriveState::Formatting => 1,
            DriveState::Ready => 2,
        };
        put(&mut b, 68, &[state, u8::from(self.clean)]);
        put_u32(&mut b, 72, GRAIN_BYTES);
        put_u32(&mut b, 76, self.lba_bytes);
        put_u64(&mut b, 80, self.epoch);
        put_u64(&mut b, 88, self.created);
        put_u64(&mut b, 96, self.zones.capacity);
        put_u32(&mut b, 104, self.zones.chunks.superblock);
        put_u32(&mut b, 108, self.zones.chunks.meta);
        put_u32(&mut b, 112, self.zones.chunks.data);
        put_u64(&mut b, 120, self.zones.checkpoint_bytes);
        put_u64(&mut b, 128, self.zones.journal_bytes);
        for (i, member) in self.members.iter().take(MAX_DRIVES).enumerate() {
            put(&mut b, MEMBERS_AT + 16 * i, member);
        }
        let crc = crc32c(b.split_at(12).1);
        put_u32(&mut b, 8, crc);
        b
    }

    /// Decodes and verifies a block.
    ///
    /// # Errors
    /// [`FormatError`]: not a superblock, damaged, of a newer format, or nonsense.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let Some(b) = bytes.get(..BLOCK_BYTES) else {
            let (expected, got) = (BLOCK_BYTES, bytes.len());
            return Err(FormatError::Short { what: WHAT, expected, got });
        };
        if get::<8>(b, 0) != *MAGIC {
            return Err(FormatError::Magic { what: WHAT });
        }
        let (stored, computed) = (get_u32(b, 8), crc32c(b.split_at(12).1));
        if stored != computed {
            return Err(FormatError::Checksum { what: WHAT, stored, computed });
        }
        // The version comes before everything that it may change the meaning of.
        let version = (get_u16(b, 12), get_u16(b, 14));
        if version.0 != VERSION_MAJOR {
            return Err(FormatError::Version { major: version.0, minor: version.1 });
        }
        Self::decode_fields(b, version)
    }

    fn decode_fields(b: &[u8], version: (u16, u16)) -> Result<Self, FormatError> {
        let field = |field, got: u64, expected| {
            Err(FormatError::Field { what: WHAT, field, got, expected })
        };
        let state = match get::<1>(b, 68) {
            [1] => DriveState::Formatting,
            [2] => DriveState::Ready,
            [other] => return field("state", other.into(), "1 or 2"),
        };
        let [clean] = get::<1>(b, 69);
        if clean > 1 {
            return field("clean", clean.into(), "0 or 1");
        }
        if get_u32(b, 72) != GRAIN_BYTES {
            return field("grain", get_u32(b, 72).into(), "65,536");
        }
        let lba_bytes = get_u32(b, 76);
        if ![512, 4096].contains(&lba_bytes) {
            return field("logical block size", lba_bytes.into(), "512 or 4,096");
        }
        let (index, count) = (get_u16(b, 64), usize::from(get_u16(b, 66)));
        if count == 0 || count > MAX_DRIVES {
            return field("number of drives", count as u64, "1 to 64");
        }
        let members: Vec<Uuid> = (0..count).map(|i| get(b, MEMBERS_AT + 16 * i)).collect();
        if members.get(usize::from(index)) != Some(&get(b, 48)) {
            return field("drive index", index.into(), "the place of the drive UUID in the list");
        }
        if get_u64(b, 16) > MAX_SEQUENCE {
            return field("sequence", get_u64(b, 16), "at most 2^56");
        }
        if get_u64(b, 80) > MAX_EPOCH {
            return field("epoch", get_u64(b, 80), "at most 2^23 - 2");
        }
        let chunks = ZoneChunks {
            superblock: get_u32(b, 104),
            meta: get_u32(b, 108),
            data: get_u32(b, 112),
        };
        let zones = ZoneMap {
            chunks,
            capacity: get_u64(b, 96),
            checkpoint_bytes: get_u64(b, 120),
            journal_bytes: get_u64(b, 128),
        };
        zones.check()?;
        Ok(Self {
            version,
            sequence: get_u64(b, 16),
            parent: get_u64(b, 24),
            pool_uuid: get(b, 32),
            drive_index: index,
            members,
            state,
            clean: clean == 1,
            lba_bytes,
            epoch: get_u64(b, 80),
            created: get_u64(b, 88),
            zones,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Superblock {
        Superblock {
            version: (VERSION_MAJOR, VERSION_MINOR),
            sequence: 7,
            parent: 0x1122_3344_5566_7788,
            pool_uuid: [1; 16],
            drive_index: 1,
            members: vec![[2; 16], [3; 16], [4; 16]],
            state: DriveState::Ready,
            clean: true,
            lba_bytes: 512,
            epoch: 9,
            created: 1_700_000_000,
            zones: ZoneMap::plan(1 << 30, ZoneChunks::default(), 1).unwrap(),
        }
    }

    #[test]
    fn round_trip_at_the_documented_offsets() {
        let block = sample().encode();
        assert_eq!(Superblock::decode(&block).unwrap(), sample());
        assert_eq!(&block[..8], b"GCOSPOOL");
        assert_eq!(get_u64(&block, 16), 7);
        assert_eq!(block[32..48], [1; 16]);
        assert_eq!(block[48..64], [3; 16]);
        assert_eq!(get_u64(&block, 96), 1 << 30);
        assert_eq!(block[160 + 32..160 + 48], [4; 16]);
    }

    #[test]
    fn one_changed_byte_anywhere_is_found() {
        let block = sample().encode();
        for i in 0..BLOCK_BYTES {
            let mut changed = block;
            changed[i] ^= 0x40;
            assert!(Superblock::decode(&changed).is_err(), "byte {i}");
        }
    }

    #[test]
    fn a_newer_major_version_is_refused_politely_and_a_newer_minor_is_read() {
        let newer = Superblock { version: (VERSION_MAJOR + 1, 0), ..sample() };
        let error = Superblock::decode(&newer.encode()).unwrap_err();
        assert!(matches!(error, FormatError::Version { .. }));
        assert!(error.to_string().contains("newer"));
        let minor = Superblock { version: (VERSION_MAJOR, VERSION_MINOR + 1), ..sample() };
        assert_eq!(Superblock::decode(&minor.encode()).unwrap(), minor);
    }

    #[test]
    fn nonsense_with_a_right_checksum_is_refused() {
        for bad in [
            Superblock { drive_index: 3, ..sample() },
            Superblock { members: vec![], ..sample() },
            Superblock { lba_bytes: 520, ..sample() },
            Superblock { zones: ZoneMap { capacity: 4096, ..sample().zones }, ..sample() },
            Superblock { zones: ZoneMap { journal_bytes: 1 << 50, ..sample().zones }, ..sample() },
        ] {
            assert!(Superblock::decode(&bad.encode()).is_err(), "{bad:?}");
        }
        assert!(Superblock::decode(&[0; 100]).is_err());
    }

    #[test]
    fn a_successor_names_its_parent() {
        let next = sample().successor();
        assert_eq!(next.sequence, 8);
        assert_eq!(next.parent, crc64(&sample().encode()));
    }
}
