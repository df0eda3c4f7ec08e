use super::bits::{bytes_at, put_at, u32_at};
use super::{IDENTIFY_BYTES, IdentifyData};

/// The active namespace list, CNS 02h: identifiers in rising order, as many as fit (Base, section
/// 5.17.2.2).
#[must_use]
pub fn encode_active_namespaces(nsids: &[u32]) -> IdentifyData {
    let mut out = [0; IDENTIFY_BYTES];
    for (index, nsid) in nsids.iter().take(IDENTIFY_BYTES / 4).enumerate() {
        put_at(&mut out, index * 4, &nsid.to_le_bytes());
    }
    out
}

/// The identifiers of an active namespace list; a 0 ends it.
#[must_use]
pub fn parse_active_namespaces(data: &IdentifyData) -> Vec<u32> {
    (0..IDENTIFY_BYTES / 4).map(|i| u32_at(data, i * 4)).take_while(|&nsid| nsid != 0).collect()
}

/// One Namespace Identification Descriptor (Base, Figure 277).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NamespaceDescriptor {
    /// NIDT 1h: IEEE extended unique identifier.
    Eui64([u8; 8]),
    /// NIDT 2h: namespace globally unique identifier.
    Nguid([u8; 16]),
    /// NIDT 3h: UUID.
    Uuid([u8; 16]),
    /// NIDT 4h: command set; 0 is the NVM command set.
    CommandSet(u8),
}

/// Length of NIDT, NIDL and reserved bytes before the identifier.
const HEADER: usize = 4;

impl NamespaceDescriptor {
    fn encode(&self) -> (u8, &[u8]) {
        match self {
            Self::Eui64(id) => (1, id),
            Self::Nguid(id) => (2, id),
            Self::Uuid(id) => (3, id),
            Self::CommandSet(csi) => (4, std::slice::from_ref(csi)),
        }
    }

    fn decode(nidt: u8, id: &[u8]) -> Option<Self> {
        match (nidt, id.len()) {
            (1, 8) => Some(Self::Eui64(bytes_at(id, 0))),
            (2, 16) => Some(Self::Nguid(bytes_at(id, 0))),
            (3, 16) => Some(Self::Uuid(bytes_at(id, 0))),
            (4, 1) => Some(Self::CommandSet(id[0])),
            _ => None,
        }
    }
}

/// The descriptor list, CNS 03h (Base, section 5.17.2.3), as many as fit.
#[must_use]
pub fn encode_namespace_descriptors(descriptors: &[NamespaceDescriptor]) -> IdentifyData {
    let mut out = [0; IDENTIFY_BYTES];
    let mut at = 0;
    for descriptor in descriptors {
        let (nidt, id) = descriptor.encode();
        if at + HEADER + id.len() > IDENTIFY_BYTES {
            break;
        }
        out[at] = nidt;
        out[at + 1] = id.len() as u8;
        put_at(&mut out, at + HEADER, id);
        at += HEADER + id.len();
    }
    out
}

/// The descriptors of a list, up to the entry of length 0 that ends it. Types that are not known and
/// known types of another length are skipped.
#[must_use]
pub fn parse_namespace_descriptors(data: &IdentifyData) -> Vec<NamespaceDescriptor> {
    let mut out = Vec::new();
    let mut rest = &data[..];
    while let [nidt, nidl, _, _, tail @ ..] = rest {
        let len = usize::from(*nidl);
        if len == 0 || len > tail.len() {
            break;
        }
        let (id, after) = tail.split_at(len);
        out.extend(NamespaceDescriptor::decode(*nidt, id));
        rest = after;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::bits::each_corrupt_byte_shows;

    const ALL: [NamespaceDescriptor; 4] = [
        NamespaceDescriptor::Eui64([1; 8]),
        NamespaceDescriptor::Nguid([2; 16]),
        NamespaceDescriptor::Uuid([3; 16]),
        NamespaceDescriptor::CommandSet(0),
    ];

    #[test]
    fn lists_round_trip() {
        let data = encode_namespace_descriptors(&ALL);
        assert_eq!(parse_namespace_descriptors(&data), ALL);
        let nsids = [1, 2, 0x0102_0304];
        assert_eq!(parse_active_namespaces(&encode_active_namespaces(&nsids)), nsids);
        let full: Vec<u32> = (1..=1024).collect();
        assert_eq!(parse_active_namespaces(&encode_active_namespaces(&full)), full);
    }

    #[test]
    fn each_byte_but_the_reserved_ones_matters() {
        let covered = (0..57).filter(|at| ![2, 3, 14, 15, 34, 35, 54, 55].contains(at));
        each_corrupt_byte_shows(&encode_namespace_descriptors(&ALL), covered, |b| {
            parse_namespace_descriptors(&bytes_at(b, 0))
        });
        each_corrupt_byte_shows(&encode_active_namespaces(&[1, 2]), 0..8, |b| {
            parse_active_namespaces(&bytes_at(b, 0))
        });
    }

    #[test]
    fn a_length_past_the_end_stops_the_list() {
        let mut data = [0; IDENTIFY_BYTES];
        data.fill(0xFF);
        assert!(parse_namespace_descriptors(&data).is_empty());
    }
}
