//! Queue pairs and what is done with them.

/// Bytes of memory that [`QueuePair::tickets`] points to: two lines of 128 bytes for the counters, then
/// 16 bytes for each of `entries` slots.
#[must_use]
pub const fn ticket_bytes(entries: u32) -> u64 {
    256 + 16 * entries as u64
}

records! {
    /// A queue pair that kernels drive, in device memory. The host fills it in when the pair is made; the
    /// fields from `sq_tail` on belong to the kernels from then on.
    pub struct QueuePair {
        /// Device address of the submission queue, entries of 64 bytes.
        sq: u64,
        /// Device address of the completion queue, entries of 16 bytes.
        cq: u64,
        /// Device address of the word to ring: submission queue tail.
        sq_doorbell: u64,
        /// Device address of the word to ring: completion queue head.
        cq_doorbell: u64,
        /// Device address of the list pages: `list_pages` of 4 KiB for each submission queue slot.
        lists: u64,
        /// I/O virtual address of the same.
        lists_iova: u64,
        /// Device address of the state of `gcos_io_shared`: [`ticket_bytes`] of zeros when the pair is made,
        /// aligned to 128 bytes, kept by the kernels. 0 for a pair that only `gcos_io` uses.
        tickets: u64,
        /// Entries of each queue: 2 to [`super::MAX_QUEUE_ENTRIES`].
        entries: u32,
        /// List pages of each slot.
        list_pages: u32,
        /// Namespace of the commands.
        nsid: u32,
        /// Base-2 logarithm of the bytes of a logical block.
        lba_shift: u32,
        /// Bits: SGLs are taken.
        flags: u32,
        /// Most bytes of one command.
        max_transfer: u32,
        /// Next submission queue slot to fill.
        sq_tail: u32,
        /// Next completion queue entry to read.
        cq_head: u32,
        /// Phase tag of new completion entries: 1 after the queue was made.
        phase: u32,
        /// Not 0: the pair is out of use until the host has made it anew; the kind of the outcome that
        /// broke it.
        broken: u32,
    }

    /// One NVMe command to be.
    pub struct Command {
        /// First logical block.
        lba: u64,
        /// Without segments, the I/O virtual address of the data; with segments, the index of the first.
        data: u64,
        /// Bytes to transfer, a multiple of the logical block.
        bytes: u32,
        /// Number of segments of the batch's list that make up the data; 0 when the data is one run.
        segments: u32,
        /// NVM opcode: 01h write, 02h read.
        opcode: u32,
        /// Bits: Force Unit Access.
        flags: u32,
    }

    /// A run of memory that the controller reaches.
    pub struct Segment {
        /// I/O virtual address.
        iova: u64,
        /// Bytes.
        bytes: u64,
    }

    /// The part of a batch that one block of threads carries out on a queue pair of its own.
    pub struct Share {
        /// Device address of the queue pair.
        queue_pair: u64,
        /// Index of the first command.
        first: u32,
        /// Number of commands.
        count: u32,
    }

    /// Parameter of the kernel `gcos_io`: commands for several queue pairs.
    pub struct Batch {
        /// Device address of the shares, one for each block of threads.
        shares: u64,
        /// Device address of the commands, aligned to 16 bytes.
        commands: u64,
        /// Device address of the segments.
        segments: u64,
        /// Device address of the status words of 32 bits, one for each command, 0 at the start.
        statuses: u64,
        /// Device address of a word of 32 bits; not 0 means: give up.
        abort: u64,
        /// Device address of a counter of 32 bits: shares whose status words are all final.
        done: u64,
        /// Nanoseconds from the start of the kernel after which it gives up.
        budget_ns: u64,
        /// Number of shares.
        share_count: u32,
        /// Number of commands.
        command_count: u32,
        /// Number of segments.
        segment_count: u32,
        /// 0.
        reserved: u32,
    }
}
