use std::sync::Arc;

use gcos_layout::nvme::{IdentifyNamespace, NamespaceDescriptor, Status};

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
    /// Why it cannot be read and written, and what to do about it; `None` when it can.
    pub unusable: Option<Arc<str>>,
    /// NOIOB: a transfer that crosses a multiple of so many blocks may be slower; `None` when not
    /// reported.
    pub optimal_boundary_blocks: Option<u32>,
    /// NPWG: writes are best made in so many blocks; `None` when not reported.
    pub preferred_write_blocks: Option<u32>,
    /// NPDG: deallocations are best made in so many blocks; `None` when not reported.
    pub preferred_deallocate_blocks: Option<u32>,
    /// Blocks that a write changes wholly or not at all when power fails: the namespace's NAWUPF, or
    /// the controller's AWUPF. At least 1.
    pub power_fail_atomic_blocks: u32,
    /// Everything that Identify Namespace says; all zero where it failed.
    pub identify: IdentifyNamespace,
    /// Unique identifiers, empty where the controller gives none.
    pub descriptors: Vec<NamespaceDescriptor>,
}

impl Namespace {
    /// A namespace on a controller that moves `max_transfer` bytes with one command and writes
    /// `power_fail_atomic_blocks` (AWUPF) atomically.
    pub(crate) fn new(
        nsid: u32,
        identify: IdentifyNamespace,
        descriptors: Vec<NamespaceDescriptor>,
        max_transfer: usize,
        power_fail_atomic_blocks: u32,
    ) -> Self {
        let format = identify.format().unwrap_or_default();
        let unusable = unusable(&identify, &descriptors, max_transfer);
        let preferred = |blocks| identify.has_preferences().then_some(blocks);
        let atomic = match identify.has_own_atomicity() {
            true => identify.atomic_write_power_fail_blocks,
            false => power_fail_atomic_blocks,
        };
        Self {
            nsid,
            blocks: identify.nsze,
            lba_bytes: format.lba_bytes(),
            metadata_bytes: format.metadata_bytes(),
            unusable: unusable.map(Arc::from),
            optimal_boundary_blocks: Some(u32::from(identify.optimal_boundary)).filter(|&n| n > 0),
            preferred_write_blocks: preferred(identify.preferred_write_blocks),
            preferred_deallocate_blocks: preferred(identify.preferred_deallocate_blocks),
            power_fail_atomic_blocks: atomic,
            identify,
            descriptors,
        }
    }

    /// A namespace that the controller lists as active and does not describe.
    pub(crate) fn unidentified(nsid: u32, status: Status) -> Self {
        let identify = IdentifyNamespace::default();
        let unusable = format!("Identify Namespace ended with {status}");
        let unusable = Some(Arc::from(unusable));
        Self { unusable, ..Self::new(nsid, identify, Vec::new(), usize::MAX, 1) }
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.lba_bytes.into())
    }

    /// Whether it is the same piece of medium in the same format as `before`: what a reset must not
    /// change under its users.
    pub(crate) fn is_same(&self, before: &Self) -> bool {
        self.blocks == before.blocks
            && self.lba_bytes == before.lba_bytes
            && self.metadata_bytes == before.metadata_bytes
            && self.identify.nguid == before.identify.nguid
            && self.identify.eui64 == before.identify.eui64
            && self.descriptors == before.descriptors
    }
}

/// Why a namespace cannot be read and written.
fn unusable(
    identify: &IdentifyNamespace,
    descriptors: &[NamespaceDescriptor],
    max_transfer: usize,
) -> Option<String> {
    let command_set = descriptors.iter().find_map(|descriptor| match descriptor {
        NamespaceDescriptor::CommandSet(csi) if *csi != 0 => Some(*csi),
        _ => None,
    });
    if let Some(csi) = command_set {
        let name = match csi {
            1 => "Key Value",
            2 => "Zoned Namespace",
            _ => "unknown",
        };
        return Some(format!(
            "it belongs to the {name} command set (CSI {csi:02X}h); expected the NVM command set \
             (CSI 00h): use another namespace"
        ));
    }
    if identify.nsze == 0 {
        return Some("its size is 0 blocks (NSZE); expected an active namespace".to_owned());
    }
    let index = identify.format_index();
    let format = identify.format().unwrap_or_default();
    let cure = || match identify.plain_format() {
        Some(plain) => {
            format!("format it with `nvme format --lbaf={plain}`, which erases everything on it")
        }
        None => "the controller offers no such format: use another drive".to_owned(),
    };
    let (data, metadata) = (format.lba_bytes(), format.metadata_bytes());
    if data == 0 {
        return Some(format!(
            "its LBA format {index} (LBADS {}) is none; expected blocks of 512 or 4096 bytes; {}",
            format.lbads(),
            cure()
        ));
    }
    if metadata != 0 {
        let place = if identify.is_interleaved() { "interleaved" } else { "in a separate buffer" };
        let protected = if identify.dps & 7 != 0 { ", with protection information" } else { "" };
        return Some(format!(
            "its LBA format {index} has {data} bytes of data and {metadata} bytes of metadata in \
             each block ({place}{protected}); expected blocks without metadata; {}",
            cure()
        ));
    }
    if data as usize > max_transfer {
        return Some(format!(
            "its blocks of {data} bytes are larger than the largest transfer of {max_transfer} \
             bytes; raise the largest transfer, if the controller allows (MDTS), or {}",
            cure()
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use gcos_layout::nvme::LbaFormat;

    fn format(lbads: u8, metadata: u16) -> LbaFormat {
        LbaFormat::default().with_lbads(lbads).with_metadata_bytes(metadata)
    }

    fn namespace(current: u8, formats: &[LbaFormat]) -> IdentifyNamespace {
        let flbas = IdentifyNamespace::flbas_of(current);
        IdentifyNamespace { nsze: 100, flbas, lba_formats: formats.to_vec(), ..Default::default() }
    }

    fn reason(identify: IdentifyNamespace) -> String {
        let namespace = Namespace::new(1, identify, Vec::new(), 1 << 20, 1);
        namespace.unusable.unwrap().to_string()
    }

    #[test]
    fn a_plain_namespace_is_usable_and_says_what_it_prefers() {
        let plain = namespace(1, &[format(9, 8), format(12, 0)]);
        let hinting = IdentifyNamespace {
            nsfeat: 1 << 4 | 1 << 1,
            optimal_boundary: 256,
            preferred_write_blocks: 8,
            preferred_deallocate_blocks: 16,
            atomic_write_power_fail_blocks: 4,
            ..plain.clone()
        };
        let namespace = Namespace::new(1, hinting, Vec::new(), 1 << 20, 2);
        assert_eq!(namespace.unusable, None);
        assert_eq!(namespace.optimal_boundary_blocks, Some(256));
        assert_eq!(namespace.preferred_write_blocks, Some(8));
        assert_eq!(namespace.preferred_deallocate_blocks, Some(16));
        assert_eq!(namespace.power_fail_atomic_blocks, 4);
        let silent = Namespace::new(1, plain, Vec::new(), 1 << 20, 2);
        assert_eq!(silent.optimal_boundary_blocks, None);
        assert_eq!((silent.preferred_write_blocks, silent.power_fail_atomic_blocks), (None, 2));
    }

    #[test]
    fn metadata_is_refused_with_the_format_to_choose() {
        let text = reason(namespace(0, &[format(9, 8), format(9, 0), format(12, 0)]));
        assert!(text.contains("format 0 has 512 bytes of data and 8 bytes of metadata"), "{text}");
        assert!(text.contains("--lbaf=2"), "{text}");
        let text = reason(IdentifyNamespace { dps: 1, ..namespace(0, &[format(12, 8)]) });
        assert!(text.contains("protection information"), "{text}");
        assert!(text.contains("no such format"), "{text}");
    }

    #[test]
    fn formats_that_cannot_be_are_refused() {
        let text = reason(namespace(3, &[format(12, 0)]));
        assert!(text.contains("LBA format 3 (LBADS 0)"), "{text}");
        assert!(text.contains("--lbaf=0"), "{text}");
        let text = reason(namespace(0, &[format(21, 0), format(9, 0)]));
        assert!(text.contains("blocks of 2097152 bytes are larger than"), "{text}");
        let text = reason(IdentifyNamespace { nsze: 0, ..namespace(0, &[format(12, 0)]) });
        assert!(text.contains("NSZE"), "{text}");
    }

    #[test]
    fn other_command_sets_are_refused_by_name() {
        let zoned = [NamespaceDescriptor::Nguid([1; 16]), NamespaceDescriptor::CommandSet(2)];
        let plain = namespace(0, &[format(12, 0)]);
        let namespace = Namespace::new(1, plain, zoned.to_vec(), 1 << 20, 1);
        let text = namespace.unusable.unwrap();
        assert!(text.contains("Zoned Namespace command set (CSI 02h)"), "{text}");
    }
}
