use serde::Serialize;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Ok,
    /// It works, or will after a step that is named, but not as well as it could.
    Warn,
    Missing,
}

impl Status {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Missing => "MISSING",
        }
    }
}

/// What a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Section {
    Driver,
    Gpu,
    KernelPath,
}

impl Section {
    pub(crate) const ALL: [Self; 3] = [Self::Driver, Self::Gpu, Self::KernelPath];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Driver => "The driver of GCOS, for drives that it owns",
            Self::Gpu => "GPUs",
            Self::KernelPath => "Block devices and files, through the kernel",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// Stable name.
    pub(crate) id: &'static str,
    pub(crate) section: Section,
    pub(crate) status: Status,
    /// Whether the userspace driver needs it.
    pub(crate) required: bool,
    pub(crate) found: String,
    /// What it is for, or what follows from what was found.
    pub(crate) meaning: String,
    pub(crate) cure: Option<String>,
}

impl Check {
    /// Of something that the userspace driver needs.
    pub(crate) fn required(id: &'static str, meaning: impl Into<String>) -> Self {
        let (found, meaning) = (String::new(), meaning.into());
        let (section, status) = (Section::Driver, Status::Ok);
        Self { id, section, status, required: true, found, meaning, cure: None }
    }

    /// Of something that GCOS makes use of where it is.
    pub(crate) fn optional(id: &'static str, meaning: impl Into<String>) -> Self {
        Self { required: false, ..Self::required(id, meaning) }
    }

    pub(crate) fn within(self, section: Section) -> Self {
        Self { section, ..self }
    }

    pub(crate) fn ok(self, found: impl Into<String>) -> Self {
        Self { status: Status::Ok, found: found.into(), ..self }
    }

    pub(crate) fn warn(self, found: impl Into<String>, cure: impl Into<String>) -> Self {
        let (found, cure) = (found.into(), Some(cure.into()));
        Self { status: Status::Warn, found, cure, ..self }
    }

    pub(crate) fn missing(self, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { status: Status::Missing, ..self.warn(found, cure) }
    }

    /// Whether the userspace driver cannot be used because of it.
    pub(crate) fn is_fatal(&self) -> bool {
        self.required && self.status == Status::Missing
    }
}
