//! Bugs that can be planted on purpose, to show that the simulator finds them.
//!
//! Without the feature `canary` [`on`] is the constant `false`, and every hook the code that it stands in.
//! With it a bug is planted for one thread at a time, by a call and by nothing else: no variable of the
//! environment, no option, no file does so.

macro_rules! canaries {
    ($($name:ident $text:literal $about:literal,)*) => {
        /// A bug that can be planted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Canary {
            $(#[doc = $about] $name,)*
        }

        impl Canary {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name on the command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// What is wrong with a store that has it.
            #[must_use]
            pub fn about(self) -> &'static str {
                match self {
                    $(Self::$name => $about,)*
                }
            }
        }
    };
}

canaries! {
    JournalBeforeData "journal-before-data" "A record is written while its data is still on the way.",
    MissingFlush "missing-flush" "The data is not flushed before its record is written.",
    ReuseBeforeDurable "reuse-before-durable" "Space is reused before the record that frees it is durable.",
    ChecksumSkipped "checksum-skipped" "A get does not compare the checksums of grains.",
    HeaderUnchecked "header-unchecked" "A get takes any whole header, not only that of its object.",
    TornCheckpoint "torn-checkpoint" "Recovery takes a checkpoint without its damaged pages.",
    CheckpointHeaderFirst "checkpoint-header-first" "A checkpoint counts before its pages are durable.",
    CheckpointForgetsDoomed "checkpoint-forgets-doomed" "A checkpoint leaves out objects whose end is not durable.",
    FailedPutVisible "failed-put-visible" "A put whose record was given up is visible.",
    FailedPutLeaks "failed-put-leaks" "A put that failed keeps its space.",
    GenerationIgnored "generation-ignored" "Recovery takes the last record of a key, whatever its generation.",
    RemoveIgnored "remove-ignored" "Recovery does not apply removals.",
    HoldReleasedEarly "hold-released-early" "A get lets go of its object before it has read it.",
    DeallocateLive "deallocate-live" "A chunk in use is deallocated.",
    DeallocateRace "deallocate-race" "A chunk may be taken while it is being deallocated.",
    SuperblockQuorumOfOne "superblock-quorum-of-one" "One superblock copy that nobody agrees with is believed.",
    JournalParentUnchecked "journal-parent-unchecked" "A frame counts whatever frame it says was before it.",
    RingOverwritten "ring-overwritten" "Frames that the older checkpoint needs are overwritten.",
    RelaxedAsSync "relaxed-as-sync" "A synchronous operation is acknowledged as a relaxed one is.",
    KeyByHash "key-by-hash" "Keys of one hash are taken for equal.",
    PinsIgnored "pins-ignored" "Pinned objects are evicted.",
    FailedFlushTrusted "failed-flush-trusted" "A flush that failed is taken for one that did not.",
    NoFua "no-fua" "Frames are written without Force Unit Access.",
    FollowForgotten "follow-forgotten" "A drive is not told that its object was replaced on another one.",
    OverlapAccepted "overlap-accepted" "Recovery gives one place to two objects.",
}

#[cfg(feature = "canary")]
mod planted {
    use std::cell::Cell;

    use super::Canary;

    thread_local! {
        static PLANTED: Cell<Option<Canary>> = const { Cell::new(None) };
    }

    /// Plants a bug for what this thread does from now on, or takes it back.
    pub fn plant(canary: Option<Canary>) {
        PLANTED.set(canary);
    }

    pub(crate) fn on(canary: Canary) -> bool {
        PLANTED.get() == Some(canary)
    }
}

#[cfg(feature = "canary")]
pub(crate) use planted::on;
#[cfg(feature = "canary")]
pub use planted::plant;

/// Whether this bug is planted.
#[cfg(not(feature = "canary"))]
pub(crate) const fn on(_: Canary) -> bool {
    false
}

/// The hash that the index knows a key by where [`Canary::KeyByHash`] is planted: few enough that keys
/// meet.
pub(crate) fn weak_hash(key: &[u8]) -> Option<u64> {
    on(Canary::KeyByHash).then(|| key.iter().map(|&byte| u64::from(byte)).sum::<u64>() % 61)
}
