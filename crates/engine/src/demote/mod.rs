//! An engine that watches the way that blocks go and leaves it when it fails: [`DemotingEngine`].
//!
//! The ways are engines that reach the same data, the best one first: the NVMe driver, and the kernel's
//! block device of the same drive, say. A way is left for the next one when a rule says so
//! ([`DemotionRules`]); where there is no next one the drive takes nothing any more. It comes back by a
//! call alone ([`crate::Engine::promote`]).
//!
//! # What happens to requests
//!
//! A request that was under way and failed is carried out once more on the next way. For reads that is
//! always right. So it is for writes: the extents of a request are its sender's until it has ended, its
//! memory is lent for as long, and a way has ended a request only when its device is done with it. The
//! second write puts the same bytes where the first one put none, some, or all of them. With FUA it is
//! durable when the second one completes, whatever became of the first. A request that the way had not
//! taken is carried out on the next one from the start. One that failed before the way was left stays
//! failed.
//!
//! # What is durable
//!
//! A write that completed without FUA may lie in a cache of the way it went. For each way it is counted
//! whether something completed on it after the last flush that succeeded there. A flush goes to the way
//! in use and to every earlier one of which that is so, and succeeds only if all of them do. If such a
//! flush fails, nobody knows what is lost: from then on every flush fails, and the engine cannot be
//! promoted. It is not durable, and that is what the caller hears.
//!
//! # What the ways must be
//!
//! What was completed on one way is what the others read: no way keeps a cache of its own that the others
//! do not see (the kernel's is passed by O_DIRECT). A way is opened only once commands that were sent
//! another way can no longer arrive: a drive that changes its driver is reset in between.
//!
//! A write that was given up on one way must not land behind one that went another way later. What ended
//! with [`crate::IoErrorKind::Timeout`] on the NVMe driver is over: it was aborted, or a reset ended it.
//! On a controller that is [`crate::IoErrorKind::Gone`] nothing is over by itself, hence the reset before
//! another driver takes it. The kernel may still carry out what a [`crate::FileEngine`] has given up; all
//! that are open on one [`gcos_hw::kernel::Target`] know of it, and refuse to write until it is over. So
//! two ways through the kernel share one target.
//!
//! A controller that times out ends the command in question with `Timeout`, and shows only afterwards that it
//! does not come back from its reset: that is an error of its own, below the budget. So are flushes and writes
//! into a cache that the reset ended ([`crate::HostQueueEngine`]).

mod device;
mod engine;
mod errors;
mod flush;
mod gone;
mod latency;
mod rules;
mod shared;
mod stats;
mod ticket;
mod way;

pub use engine::DemotingEngine;
pub use rules::DemotionRules;
pub use stats::{DemotionReason, Demotions};
