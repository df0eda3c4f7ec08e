use std::time::Duration;

use crate::QueueMemory;

/// Entries of the admin queues: enough for events, aborts and a few callers.
pub(crate) const ADMIN_ENTRIES: u32 = 32;

/// How a waiting caller learns of completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Completion {
    /// It looks at the completion queue in a loop. Lowest latency.
    #[default]
    Polled,
    /// It sleeps until the queue's interrupt vector signals. Queue pairs share vectors where the
    /// function has fewer than one for each and one for the admin queue.
    Interrupt,
}

/// How commands describe memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PointerChoice {
    /// PRP entries where they can express the memory, else SGLs if the controller supports them,
    /// else a bounce buffer.
    #[default]
    Auto,
    /// PRP entries, else a bounce buffer.
    Prp,
    /// SGLs. Opening fails where the controller does not support them.
    Sgl,
}

/// What to do with the volatile write cache, if the controller has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WriteCache {
    /// Leave it as it is.
    #[default]
    Keep,
    /// Enable it.
    Enable,
    /// Disable it.
    Disable,
}

/// What to use of a controller memory buffer (CMB).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cmb {
    /// Nothing.
    #[default]
    Off,
    /// The I/O submission queues lie in it, so that the controller fetches commands without reading
    /// memory over the bus. Opening fails where there is none, or it is too small. Needs a platform
    /// that maps its BAR ([`gcos_hw::Function::bar`]) and writes 64-bit registers with one store.
    SubmissionQueues,
}

/// Whether to use shadow doorbells (Doorbell Buffer Config), which spare most writes to doorbell
/// registers on controllers in software. Hardware does not offer them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ShadowDoorbells {
    /// No.
    #[default]
    Off,
    /// Where the controller offers them and no queue pair is lent.
    Auto,
    /// Yes. Opening fails where they cannot be used.
    On,
}

/// How to open a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// I/O queue pairs that the host drives, at least 1.
    pub io_queue_pairs: u16,
    /// I/O queue pairs to reserve for others (a GPU): see [`crate::Controller::lend_queue_pair`].
    pub lent_queue_pairs: u16,
    /// Entries of each I/O queue, 2..=4096 and at most what the controller supports (CAP.MQES). One
    /// less can be in flight.
    pub queue_depth: u32,
    /// How waiting callers learn of completions.
    pub completion: Completion,
    /// How commands describe memory.
    pub data_pointer: PointerChoice,
    /// Largest transfer of one command in bytes, a multiple of 4096. The controller's own limit
    /// (MDTS) applies too.
    pub max_transfer: usize,
    /// What to do with the volatile write cache.
    pub write_cache: WriteCache,
    /// Where queues and PRP lists lie.
    pub queue_memory: QueueMemory,
    /// What to use of a controller memory buffer.
    pub cmb: Cmb,
    /// Whether to use shadow doorbells.
    pub shadow_doorbells: ShadowDoorbells,
    /// Deadline of each admin command.
    pub admin_timeout: Duration,
    /// How long an abort may take before the controller is reset.
    pub abort_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            io_queue_pairs: 1,
            lent_queue_pairs: 0,
            queue_depth: 256,
            completion: Completion::Polled,
            data_pointer: PointerChoice::Auto,
            // One page of PRP list describes exactly this much from any offset.
            max_transfer: 2 << 20,
            write_cache: WriteCache::Keep,
            queue_memory: QueueMemory::Host,
            cmb: Cmb::Off,
            shadow_doorbells: ShadowDoorbells::Off,
            admin_timeout: Duration::from_secs(5),
            abort_timeout: Duration::from_secs(1),
        }
    }
}
