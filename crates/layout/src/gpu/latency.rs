//! Measuring how long a doorbell takes to be answered.

records! {
    /// Parameter of the kernel `gcos_round_trip`, of which one thread works: rings, waits for the answer, and
    /// does so again.
    pub struct RoundTrip {
        /// Device address of a queue pair, which nobody else drives: an entry is posted, and answered by a
        /// completion. 0: a bare word is stored and answered by a word.
        queue_pair: u64,
        /// Without a queue pair: device address of the word of 32 bits that is rung. Rings are 1, 2, 3 and so
        /// on.
        bell: u64,
        /// Without a queue pair: device address of the word of 32 bits that answers with what was rung.
        answer: u64,
        /// Device address of a word of 32 bits for each round: nanoseconds.
        times: u64,
        /// Device address of a word of 32 bits; not 0 means: give up.
        abort: u64,
        /// Nanoseconds from the start of the kernel after which it gives up.
        budget_ns: u64,
        /// Device address of a word of 32 bits: rounds that ended well, stored at the end.
        ended: u64,
        /// PRP entry 1 of the commands; 0 where they have no data.
        data: u64,
        /// Dword 0 of the commands without the identifier: the opcode.
        opcode: u32,
        /// Rounds.
        rounds: u32,
    }
}
