use std::sync::atomic::{AtomicU64, Ordering};

/// What a controller's driver has counted since opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CounterValues {
    /// I/O commands posted.
    pub commands: u64,
    /// Bytes that I/O commands were posted for.
    pub bytes: u64,
    /// I/O commands that ended with an error.
    pub errors: u64,
    /// Abort commands sent.
    pub aborts: u64,
    /// Controller resets begun.
    pub resets: u64,
    /// Completions dropped: no such command in flight, or another queue.
    pub spurious_completions: u64,
    /// Commands whose data went through a bounce buffer.
    pub bounces: u64,
    /// Asynchronous events handled.
    pub events: u64,
    /// Doorbell registers rung because a command waited and the shadow doorbell alone had been used.
    pub doorbells_repeated: u64,
    /// Commands that a waiter found complete after some time without an interrupt. A few may be chance;
    /// many mean that interrupts do not arrive.
    pub interrupts_missed: u64,
    /// Commands whose memory was leaked because the controller could not be stopped.
    pub leaked_commands: u64,
}

macro_rules! counters {
    ($($name:ident),*) => {
        /// The same, as they grow.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64),*
        }

        impl Counters {
            /// All but `commands` and `bytes`.
            pub(crate) fn values(&self) -> CounterValues {
                CounterValues {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    // Counted per queue pair, where each command passes anyway.
                    commands: 0,
                    bytes: 0,
                }
            }
        }
    };
}

counters!(
    errors,
    aborts,
    resets,
    spurious_completions,
    bounces,
    events,
    doorbells_repeated,
    interrupts_missed,
    leaked_commands
);

/// Adds to a counter that orders nothing.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
