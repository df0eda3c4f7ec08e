use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A legal state worth knowing, for example after a crash.
    Info,
    /// Redundancy or order is lost, nothing that was stored.
    Warning,
    /// Something that was stored is lost or in danger.
    Error,
}

/// What was found. The serialised name is stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FindingCode {
    /// No superblock copy is on the drive at all.
    SuperblockMissing,
    /// A superblock copy could not be read.
    SuperblockUnreadable,
    /// A superblock copy is damaged.
    SuperblockDamaged,
    /// A superblock copy is older than those that count.
    SuperblockStale,
    /// A superblock copy is newer than those that count: an update was interrupted.
    SuperblockAhead,
    /// Superblock copies of one sequence differ.
    SuperblockConflict,
    /// A superblock does not name the one before it, or one copy's successor names another.
    SuperblockParent,
    /// No two superblock copies agree. If one is newest beyond doubt a repair goes by it, else the drive
    /// is not used.
    SuperblockNoQuorum,
    /// The drive was written by a release with a newer minor format version: read, never written.
    NewerMinorVersion,
    /// The drive is smaller than the pool on it: a truncated image, or another drive.
    CapacityShrunk,
    /// The drive is larger than the part of it in use.
    CapacityGrown,
    /// The logical block size is not the one that the drive was formatted with.
    BlockSizeDiffers,
    /// The drive belongs to another pool than the others.
    MixedPools,
    /// The same member of the pool was given twice.
    DuplicateDrive,
    /// The drive lists other members than the others.
    MembersDiffer,
    /// A member of the pool was not given or cannot be used.
    DriveMissing,
    /// The pool was never formatted to the end.
    FormatInProgress,
    /// One drive of a ready pool is still marked as being formatted.
    DriveFormatting,
    /// The pool was not closed in order.
    NotClosed,
    /// Something was written in a later epoch than any superblock knows.
    EpochBehind,
    /// A checkpoint header or page could not be read.
    CheckpointUnreadable,
    /// A checkpoint header is damaged or states nonsense.
    CheckpointDamaged,
    /// A checkpoint page is damaged.
    CheckpointPageDamaged,
    /// The checkpoint's sum over its pages or its counts are wrong.
    CheckpointSumWrong,
    /// A checkpoint lies in the area of the other parity.
    CheckpointWrongArea,
    /// A checkpoint area holds another drive's checkpoint: left from an earlier pool.
    CheckpointForeign,
    /// No checkpoint is valid: the metadata of the drive is lost, as far as the journal does not tell it.
    CheckpointNone,
    /// Part of the journal could not be read.
    JournalUnreadable,
    /// Frames before the end of the journal are damaged; what lies behind does not count.
    JournalHole,
    /// The frame at the end of the journal is torn or damaged.
    JournalTail,
    /// The journal does not lead from the older checkpoint to the newer one.
    JournalOlderBroken,
    /// A record lies on another drive than its object's head.
    HeadWrongDrive,
    /// A location is outside the pool, or crosses a chunk.
    LocationOutOfRange,
    /// A head or piece does not start at a slot of its size.
    SlotMisplaced,
    /// Slots of several sizes lie in one chunk.
    SlotSizesMixed,
    /// An object holds blocks of a newer one.
    Overlap,
    /// Two objects have one generation.
    GenerationDuplicate,
    /// Part of an object lies on a missing drive.
    ObjectIncomplete,
    /// An object header is damaged or another object's.
    HeaderDamaged,
    /// An object header and its record disagree.
    HeaderMismatch,
    /// Payload does not fit its checksum.
    GrainDamaged,
    /// Part of an object could not be read.
    DataUnreadable,
    /// Objects of which only the headers are left: whether they were removed cannot be known.
    ObjectsUnproven,
    /// An object of which a newer one may have been on a drive that has lost its metadata.
    ObjectOutdated,
    /// Something that the repair left alone, and why.
    RepairSkipped,
}

impl FindingCode {
    /// How bad it is.
    #[must_use]
    pub fn severity(self) -> Severity {
        use FindingCode as C;
        match self {
            C::CapacityGrown
            | C::BlockSizeDiffers
            | C::NewerMinorVersion
            | C::NotClosed
            | C::CheckpointForeign
            | C::ObjectIncomplete
            | C::RepairSkipped => Severity::Info,
            C::SuperblockUnreadable
            | C::SuperblockDamaged
            | C::SuperblockStale
            | C::SuperblockAhead
            | C::SuperblockParent
            | C::DriveMissing
            | C::DriveFormatting
            | C::JournalOlderBroken
            | C::ObjectsUnproven
            | C::Overlap => Severity::Warning,
            _ => Severity::Error,
        }
    }
}
