use std::sync::Arc;
use std::time::Duration;

use gcos_hw::Function;
use gcos_nvme::Options;

/// Blocks that the suite may overwrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First logical block.
    pub slba: u64,
    /// Number of logical blocks.
    pub blocks: u64,
}

/// What is tested, and how far the tests may go.
#[derive(Debug, Clone)]
pub struct Target {
    /// The controller. Each case takes it through bring-up and leaves it disabled.
    pub function: Arc<dyn Function>,
    /// How cases open the controller; some change what they are about.
    pub options: Options,
    /// Namespace.
    pub nsid: u32,
    /// The blocks whose content may be lost; `None` for cases that only read. It must begin and end
    /// at multiples of 4 KiB; some cases need 32 MiB.
    pub window: Option<Window>,
    /// Deadline of each request. Software emulation needs more than a drive.
    pub timeout: Duration,
    /// Seed of what is random, so that a failure can be repeated.
    pub seed: u64,
}

impl Target {
    /// A target of which nothing may be overwritten: namespace 1, ten seconds for each request.
    #[must_use]
    pub fn read_only(function: Arc<dyn Function>) -> Self {
        Self {
            function,
            options: Options { queue_depth: 64, ..Options::default() },
            nsid: 1,
            window: None,
            timeout: Duration::from_secs(10),
            seed: 1,
        }
    }
}
