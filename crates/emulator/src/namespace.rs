//! Namespaces as parts of the medium.

use std::sync::atomic::{AtomicU32, Ordering};

use gcos_layout::nvme::{
    IdentifyData, IdentifyNamespace, LbaFormat, NSID_ALL, NamespaceDescriptor, Status,
    encode_namespace_descriptors,
};

use crate::config::{Config, Oddity};
use crate::medium::fnv1a;

/// Log2 of the block sizes of the LBA formats, by index.
pub(crate) const FORMATS: [u8; 2] = [9, 12];

/// A namespace: where it lies on the medium, and how it is formatted.
#[derive(Debug)]
pub(crate) struct NamespaceState {
    pub(crate) nsid: u32,
    /// Tells controllers apart.
    identity: u64,
    /// Offset on the medium in bytes.
    pub(crate) start: u64,
    pub(crate) bytes: u64,
    lba_shift: AtomicU32,
    /// CSI of the descriptor list.
    command_set: u8,
    /// Metadata bytes of the format that it claims to have; 0 for none.
    metadata_bytes: u16,
}

impl NamespaceState {
    /// Lays the namespaces out one after the other. The serial number makes their identifiers differ
    /// from those of other controllers.
    pub(crate) fn lay_out(config: &Config) -> Vec<Self> {
        let identity = fnv1a(config.serial().as_bytes());
        let namespaces = config.namespaces();
        let mut start = 0;
        let mut out = Vec::with_capacity(namespaces.len());
        for (namespace, nsid) in namespaces.iter().zip(1..) {
            let lba_shift = AtomicU32::new(namespace.lba_bytes.trailing_zeros());
            let bytes = namespace.bytes;
            let (mut command_set, mut metadata_bytes) = (0, 0);
            for (_, oddity) in config.oddities.iter().filter(|(odd, _)| *odd == nsid) {
                match *oddity {
                    Oddity::CommandSet(csi) => command_set = csi,
                    Oddity::Metadata(bytes) => metadata_bytes = bytes,
                }
            }
            out.push(Self { nsid, identity, start, bytes, lba_shift, command_set, metadata_bytes });
            start += namespace.bytes;
        }
        out
    }

    pub(crate) fn lba_shift(&self) -> u32 {
        self.lba_shift.load(Ordering::Relaxed)
    }

    /// Size in logical blocks (NSZE).
    pub(crate) fn blocks(&self) -> u64 {
        self.bytes >> self.lba_shift()
    }

    /// Uses the LBA format of the given index from now on.
    pub(crate) fn set_format(&self, lbaf: u8) -> Result<(), Status> {
        match FORMATS.get(usize::from(lbaf)) {
            Some(&shift) => {
                self.lba_shift.store(shift.into(), Ordering::Relaxed);
                Ok(())
            }
            None => Err(Status::INVALID_FORMAT.with_dnr(true)),
        }
    }

    /// Offset on the medium and length in bytes of a range of blocks.
    pub(crate) fn locate(&self, slba: u64, nlb: u64) -> Result<(u64, u64), Status> {
        match slba.checked_add(nlb) {
            Some(end) if end <= self.blocks() => {
                let shift = self.lba_shift();
                Ok((self.start + (slba << shift), nlb << shift))
            }
            _ => Err(Status::LBA_OUT_OF_RANGE.with_dnr(true)),
        }
    }

    pub(crate) fn identify(&self) -> IdentifyData {
        let shift = self.lba_shift();
        let current = FORMATS.iter().position(|&format| u32::from(format) == shift).unwrap_or(0);
        let format = |&lbads: &u8| LbaFormat::default().with_lbads(lbads);
        let mut lba_formats: Vec<_> = FORMATS.iter().map(format).collect();
        let mut current = current;
        if self.metadata_bytes != 0 {
            current = lba_formats.len();
            lba_formats.push(format(&(shift as u8)).with_metadata_bytes(self.metadata_bytes));
        }
        IdentifyNamespace {
            nsze: self.blocks(),
            ncap: self.blocks(),
            nuse: self.blocks(),
            flbas: IdentifyNamespace::flbas_of(current as u8),
            // Deallocated blocks read as zeros, and Write Zeroes may deallocate.
            dlfeat: 0b1001,
            preferred_write_blocks: 1,
            preferred_deallocate_blocks: 1,
            nguid: self.nguid(),
            lba_formats,
            ..IdentifyNamespace::default()
        }
        .encode()
    }

    pub(crate) fn descriptors(&self) -> IdentifyData {
        encode_namespace_descriptors(&[
            NamespaceDescriptor::Nguid(self.nguid()),
            NamespaceDescriptor::CommandSet(self.command_set),
        ])
    }

    fn nguid(&self) -> [u8; 16] {
        let both = u128::from(self.identity) << 64 | u128::from(self.nsid);
        both.to_be_bytes()
    }
}

/// The namespace of that identifier.
pub(crate) fn find(namespaces: &[NamespaceState], nsid: u32) -> Result<&NamespaceState, Status> {
    let index = (nsid as usize).wrapping_sub(1);
    namespaces.get(index).ok_or(Status::INVALID_NAMESPACE.with_dnr(true))
}

/// The namespaces that an identifier stands for: one, or all.
pub(crate) fn select(
    namespaces: &[NamespaceState],
    nsid: u32,
) -> Result<&[NamespaceState], Status> {
    if nsid == NSID_ALL {
        return Ok(namespaces);
    }
    find(namespaces, nsid).map(std::slice::from_ref)
}
