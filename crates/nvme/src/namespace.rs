use gcos_layout::nvme::{IdentifyNamespace, NamespaceDescriptor};

/// An active namespace of a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Namespace identifier.
    pub nsid: u32,
    /// Size in logical blocks.
    pub blocks: u64,
    /// Data bytes per logical block; 0 when the namespace's format is not usable.
    pub lba_bytes: u32,
    /// Metadata bytes per logical block. Only namespaces without metadata can be read and written.
    pub metadata_bytes: u16,
    /// Everything that Identify Namespace says.
    pub identify: IdentifyNamespace,
    /// Unique identifiers, empty where the controller gives none.
    pub descriptors: Vec<NamespaceDescriptor>,
}

impl Namespace {
    pub(crate) fn new(
        nsid: u32,
        identify: IdentifyNamespace,
        descriptors: Vec<NamespaceDescriptor>,
    ) -> Self {
        let format = identify.format().unwrap_or_default();
        Self {
            nsid,
            blocks: identify.nsze,
            lba_bytes: format.lba_bytes(),
            metadata_bytes: format.metadata_bytes(),
            identify,
            descriptors,
        }
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.lba_bytes.into())
    }
}
