//! Models of what goes without locks. Each is a test of its own in `tests/`: it holds for the orderings
//! that the code has, and is shown to fail for a weaker one, so that it is known to look.

/// How strong the orderings of a model are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// As in the code.
    AsWritten,
    /// One of them weaker, which must be noticed.
    Weakened,
}

impl Strength {
    /// `strong` as written, relaxed otherwise.
    #[must_use]
    pub fn or_relaxed(self, strong: loom::sync::atomic::Ordering) -> loom::sync::atomic::Ordering {
        match self {
            Self::AsWritten => strong,
            Self::Weakened => loom::sync::atomic::Ordering::Relaxed,
        }
    }

    /// A fence as written, none otherwise.
    pub fn fence(self) {
        if self == Self::AsWritten {
            loom::sync::atomic::fence(loom::sync::atomic::Ordering::SeqCst);
        }
    }
}
