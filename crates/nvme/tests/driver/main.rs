//! The driver on the software controller.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

mod bring_up;
mod common;
mod hostile;
mod interrupts;
mod io;
mod namespaces;
mod placement;
mod races;
mod recovery;
mod removal;
mod shadow;
mod stuck;
