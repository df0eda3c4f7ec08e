use crate::nvme::{CQE_BYTES, SQE_BYTES};

/// A number that the host and the kernels share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Constant {
    /// Its name in the kernels.
    pub name: &'static str,
    /// Its value, of 32 bits.
    pub value: u32,
    /// What it means.
    pub doc: &'static str,
}

/// Most entries of a queue that kernels drive: they keep a word for each in the memory of a block.
pub const MAX_QUEUE_ENTRIES: u32 = 4096;

/// Status word of a command: how the kernel ended it. Bits 0 to 14 are the status field of the completion
/// entry without its phase tag (Base, section 4.2.3), when a completion came.
pub mod outcome {
    /// The word is final. A word without it: the command has not ended yet.
    pub const DONE: u32 = 1 << 31;
    /// Where the kind is: bits 28 to 30.
    pub const KIND_SHIFT: u32 = 28;
    /// Kind 0: the controller completed the command, with the status in bits 0 to 14.
    pub const COMPLETED: u32 = 0;
    /// Kind 1: no completion came within the budget. The controller may still touch the memory.
    pub const TIMED_OUT: u32 = 1;
    /// Kind 2: the host raised the abort flag. The controller may still touch the memory.
    pub const ABORTED: u32 = 2;
    /// Kind 3: the queue's completions made no sense (unknown or repeated command identifier). The
    /// controller may still touch the memory.
    pub const BAD_COMPLETION: u32 = 3;
    /// Kind 4: never given to the controller, since the queue pair was broken or the flag was raised.
    pub const NOT_STARTED: u32 = 4;
    /// Kind 5: never given to the controller, since the descriptor made no sense.
    pub const BAD_COMMAND: u32 = 5;
}

/// Bits of the `flags` of records.
pub mod flag {
    /// [`super::super::QueuePair`]: the controller takes SGLs for data.
    pub const QUEUE_SGL: u32 = 1;
    /// [`super::super::Command`]: Force Unit Access.
    pub const COMMAND_FUA: u32 = 1;
    /// [`super::super::PagedBatch`]: from the object to the cache; without it, from the cache to the object.
    pub const PAGED_SCATTER: u32 = 1;
    /// [`super::super::PagedBatch`]: the table holds a slot for each token; without it, blocks.
    pub const PAGED_SLOTS: u32 = 2;
}

/// All numbers that the header defines.
pub const CONSTANTS: &[Constant] = &[
    Constant {
        name: "kSqeBytes",
        value: SQE_BYTES as u32,
        doc: "Bytes of a submission queue entry.",
    },
    Constant {
        name: "kCqeBytes",
        value: CQE_BYTES as u32,
        doc: "Bytes of a completion queue entry.",
    },
    Constant { name: "kPageBytes", value: 4096, doc: "Bytes of a memory page of the controller." },
    Constant {
        name: "kMaxQueueEntries",
        value: MAX_QUEUE_ENTRIES,
        doc: "Most entries of a queue that kernels drive.",
    },
    Constant { name: "kOutcomeDone", value: outcome::DONE, doc: "The status word is final." },
    Constant { name: "kOutcomeKindShift", value: outcome::KIND_SHIFT, doc: "Where the kind is." },
    Constant { name: "kCompleted", value: outcome::COMPLETED, doc: "The controller completed it." },
    Constant {
        name: "kTimedOut",
        value: outcome::TIMED_OUT,
        doc: "No completion within the budget.",
    },
    Constant { name: "kAborted", value: outcome::ABORTED, doc: "The host raised the abort flag." },
    Constant {
        name: "kBadCompletion",
        value: outcome::BAD_COMPLETION,
        doc: "The queue's completions made no sense.",
    },
    Constant { name: "kNotStarted", value: outcome::NOT_STARTED, doc: "Never submitted." },
    Constant {
        name: "kBadCommand",
        value: outcome::BAD_COMMAND,
        doc: "A descriptor without sense.",
    },
    Constant { name: "kQueueSgl", value: flag::QUEUE_SGL, doc: "The controller takes SGLs." },
    Constant { name: "kCommandFua", value: flag::COMMAND_FUA, doc: "Force Unit Access." },
    Constant {
        name: "kPagedScatter",
        value: flag::PAGED_SCATTER,
        doc: "From the object to the cache.",
    },
    Constant {
        name: "kPagedSlots",
        value: flag::PAGED_SLOTS,
        doc: "The table holds a slot for each token.",
    },
];
