//! What [`crate::wake`] is built of. `tests/loom` builds the same source of loom's parts.

pub(crate) use std::sync::OnceLock;
pub(crate) use std::sync::atomic::{AtomicBool, Ordering, fence};
pub(crate) use std::thread::{Thread, park, park_timeout};
