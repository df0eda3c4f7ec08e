use gcos_engine::Engine;
use serde::Serialize;

/// Which way one drive is driven, and why that one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DriveChoice {
    /// Entry of `disk.paths`, or `fallback.path`.
    pub path: String,
    /// What the drive calls itself in messages, and among [`gcos_store::Store::drives`]: where it was found.
    pub name: String,
    /// The way: "NVMe driver", "io_uring", "POSIX".
    pub way: &'static str,
    /// What was found and what decided, in words.
    pub reason: String,
    /// How each GPU reaches it, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
}

impl DriveChoice {
    pub(super) fn new(path: &str, engine: &dyn Engine, reason: impl Into<String>) -> Self {
        let (name, way) = (engine.geometry().name.clone(), engine.way().name);
        Self { path: path.to_owned(), name, way, reason: reason.into(), gpus: Vec::new() }
    }

    /// Says it once, when the drive has been opened.
    pub(super) fn say(&self) {
        tracing::info!(drive = self.path, way = self.way, reason = self.reason, "drive opened");
    }
}
