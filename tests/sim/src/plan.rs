//! What happens in one history: drives, rounds of operations, faults. Everything random is drawn before,
//! in `generate`, so that a plan can be printed, run again and made smaller.

use std::fmt;

/// Keys that each client has to itself.
pub const OWN_KEYS: u8 = 6;
/// Keys that all clients use; they come after those of the clients.
pub const SHARED_KEYS: u8 = 3;
/// Clients at most.
pub const CLIENTS: u8 = 4;

/// The first of the keys that all clients use.
pub const FIRST_SHARED: u8 = CLIENTS * OWN_KEYS;
/// One past the last key.
pub const KEYS: u8 = FIRST_SHARED + SHARED_KEYS;

/// What a drive is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriveKind {
    /// Capacity in bytes.
    pub bytes: u64,
    /// Logical block size.
    pub lba_bytes: u32,
    /// Bytes that are written or lost as one.
    pub atomic_bytes: u32,
    /// Largest transfer of one command.
    pub max_transfer: u64,
    /// Whether it takes SGLs.
    pub sgl: bool,
    /// Whether it has a volatile write cache.
    pub cache: bool,
    /// Whether it takes Deallocate.
    pub deallocate: bool,
}

/// One operation of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Stores a new payload.
    Put {
        /// Key number.
        key: u8,
        /// Payload length.
        len: u32,
        /// Durability.
        sync: bool,
        /// Keeps an object that is there.
        keep: bool,
        /// Pins it.
        pin: bool,
        /// From memory that drives reach.
        direct: bool,
        /// Seconds that it lives; 0: for ever.
        ttl: u8,
    },
    /// Stores several.
    PutMany {
        /// Keys and lengths; no key twice.
        items: Vec<(u8, u32)>,
        /// Durability.
        sync: bool,
    },
    /// Reads an object whole.
    Get {
        /// Key number.
        key: u8,
    },
    /// Reads part of one.
    GetRange {
        /// Key number.
        key: u8,
        /// Where to begin, in thousandths of its length.
        from: u16,
        /// How much of the rest, in thousandths.
        part: u16,
    },
    /// Reads several.
    GetMany {
        /// Key numbers.
        keys: Vec<u8>,
    },
    /// Removes an object.
    Remove {
        /// Key number.
        key: u8,
        /// Durability.
        sync: bool,
    },
    /// Pins an object, if it is there and the key is the client's own.
    Pin {
        /// Key number.
        key: u8,
    },
    /// Takes a pin back.
    Unpin {
        /// Key number.
        key: u8,
    },
    /// Makes everything durable.
    Flush,
    /// Writes checkpoints.
    Checkpoint,
    /// A pass of maintenance.
    Maintain,
    /// Lets so many seconds of wall-clock time pass.
    Wait {
        /// Seconds.
        seconds: u8,
    },
}

/// A part of a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {
    /// Objects.
    Data,
    /// The journal ring.
    Journal,
    /// The checkpoint areas.
    Checkpoints,
}

/// What goes wrong while clients work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// A completion never comes.
    LoseCompletion,
    /// A completion comes twice.
    DuplicateCompletion,
    /// A completion names another command.
    WrongCommand,
    /// A command waits until it is aborted.
    Hold,
    /// A command takes so many microseconds longer.
    Delay(u32),
    /// A write fails; not to a superblock.
    WriteError(Region),
    /// A flush fails.
    FlushError,
    /// The controller stops until it is reset.
    Stick,
    /// The controller reports a fatal status.
    Fatal,
    /// The drive is pulled out.
    Remove,
    /// A read returns wrong bits, once.
    CorruptRead(Region),
    /// Reads of this part of the data fail until the end of the round: from the thousandth of the zone.
    Unreadable(u16),
    /// A write is acknowledged and lost.
    LostWrite(Region),
    /// A write to the data goes so many blocks too far.
    Misdirected(u32),
    /// A bit rots under a write.
    RotsAfterWrite(Region),
    /// Flushes are acknowledged and not done, until the end of the round.
    LyingFlush,
}

impl FaultKind {
    /// Whether operations may fail because of it.
    #[must_use]
    pub fn disturbs(self) -> bool {
        match self {
            // Well within every deadline.
            FaultKind::Delay(micros) => micros > 20_000,
            FaultKind::DuplicateCompletion => false,
            // What comes back wrong once is read once more.
            FaultKind::CorruptRead(_) => false,
            _ => true,
        }
    }
}

/// A fault of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The drive.
    pub drive: u8,
    /// Operations begun in the round before it takes effect.
    pub after: u32,
    /// What goes wrong.
    pub kind: FaultKind,
}

/// What goes wrong with media while nothing runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decay {
    /// Bits of a region flip; so many, by the seed.
    Rot(Region, u8),
    /// One of the two checkpoints rots: a bit of its header or pages, by the seed.
    OneCheckpoint,
    /// So many of the four superblock copies rot.
    Superblocks(u8),
    /// Some of the blocks of a region that were written in the round are what they were before.
    Stale(Region, u8),
    /// The whole drive is as it was at the beginning of the round.
    Rollback,
    /// The last frame of the journal is replaced by one that names another frame before it.
    Splice,
}

/// How a round ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The store is closed.
    Close,
    /// The store is dropped after the last operation.
    Drop,
    /// The process ends at this step, or after the last operation. The drives lose nothing.
    Kill(u32),
    /// The power goes at this step, or after the last operation.
    PowerAtStep(u32),
    /// The power goes in this write to a drive, which is torn, or after the last operation.
    PowerAtWrite(u8, u32),
}

/// From one open to the end of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// Seconds of wall-clock time that pass before it.
    pub asleep: u8,
    /// What happens to media before: drive and fault.
    pub decay: Vec<(u8, Decay)>,
    /// Drives (bit mask) that are not there.
    pub missing: u8,
    /// Rotates the order in which the drives are given.
    pub rotate: u8,
    /// Cuts the power while the pool opens for the first time, at this step.
    pub cut_open: Option<u32>,
    /// Operations of each client.
    pub clients: Vec<Vec<Op>>,
    /// What goes wrong meanwhile.
    pub faults: Vec<Fault>,
    /// How it ends.
    pub end: End,
}

/// One history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Decides everything that the plan does not say: order of steps and of clients, what survives a cut.
    pub seed: u64,
    /// The drives.
    pub drives: Vec<DriveKind>,
    /// Data chunk size in bytes.
    pub chunk: u32,
    /// One in so many steps may hand over to another client.
    pub patience: u8,
    /// Cuts the power while the pool is formatted for the first time, at this step.
    pub cut_format: Option<u32>,
    /// What happens.
    pub rounds: Vec<Round>,
}

impl Plan {
    /// Operations of all clients in all rounds.
    #[must_use]
    pub fn ops(&self) -> usize {
        self.rounds.iter().flat_map(|round| &round.clients).map(Vec::len).sum()
    }

    /// Faults of all kinds.
    #[must_use]
    pub fn faults(&self) -> usize {
        self.rounds.iter().map(|round| round.faults.len() + round.decay.len()).sum()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, chunk {}, patience {}", self.seed, self.chunk, self.patience)?;
        for (at, drive) in self.drives.iter().enumerate() {
            writeln!(f, "drive {at}: {drive:?}")?;
        }
        if let Some(step) = self.cut_format {
            writeln!(f, "the first format is cut at step {step}")?;
        }
        for (at, round) in self.rounds.iter().enumerate() {
            writeln!(f, "round {at}, {} s later", round.asleep)?;
            for (drive, decay) in &round.decay {
                writeln!(f, "  before: drive {drive} {decay:?}")?;
            }
            if round.missing != 0 || round.rotate != 0 || round.cut_open.is_some() {
                let Round { missing, rotate, cut_open, .. } = round;
                writeln!(f, "  open: missing {missing:#b}, rotated {rotate}, cut {cut_open:?}")?;
            }
            for fault in &round.faults {
                let Fault { drive, after, kind } = fault;
                writeln!(f, "  after {after} operations: drive {drive} {kind:?}")?;
            }
            for (client, ops) in round.clients.iter().enumerate() {
                for op in ops {
                    writeln!(f, "  client {client}: {op:?}")?;
                }
            }
            writeln!(f, "  end: {:?}", round.end)?;
        }
        Ok(())
    }
}
