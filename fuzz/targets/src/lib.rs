//! What is fuzzed: one function for each target, from bytes to a panic or none.
//!
//! libFuzzer drives them through the programs in `fuzz/fuzz_targets`, and `tests/replay.rs` with the
//! committed corpus on every run of the tests. A target asserts what must hold whatever the bytes are;
//! that nothing panics, ends the process or runs without end is what the driver adds.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a step that fails fails its target; nothing but tests uses this"
)]

pub mod controller;
pub mod drive;
mod host;
pub mod image;
mod input;
mod media;
mod seeds;
mod text;

pub use input::Input;
pub use seeds::seeds;

/// One target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name, also of its program and of its folder of inputs.
    pub name: &'static str,
    /// Takes one input; a panic is a finding.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "superblock", run: media::superblock },
    Target { name: "checkpoint", run: media::checkpoint },
    Target { name: "journal", run: media::journal },
    Target { name: "records", run: media::records },
    Target { name: "object_header", run: media::object_header },
    Target { name: "image", run: image::image },
    Target { name: "config", run: text::config },
    Target { name: "sizes", run: text::sizes },
    Target { name: "names", run: text::names },
    Target { name: "controller", run: controller::controller },
    Target { name: "host", run: host::host },
    Target { name: "capi", run: gcos_capi::play::play },
];

/// The target of that name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|target| target.name == name).copied()
}
