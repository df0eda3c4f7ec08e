use super::bits::{bytes_at, get, put};
use super::{DataPointer, SQE_BYTES, SglDescriptor};

/// Submission queue entry: 16 dwords (Base, section 4.1, Figure 87).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sqe(pub [u32; 16]);

impl Sqe {
    /// An entry of the given opcode and command identifier, all else 0.
    #[must_use]
    #[inline]
    pub fn new(opcode: u8, cid: u16) -> Self {
        let mut sqe = Self::default();
        sqe.0[0] = u32::from(cid) << 16 | u32::from(opcode);
        sqe
    }

    /// OPC: opcode.
    #[must_use]
    #[inline]
    pub fn opcode(&self) -> u8 {
        get(self.0[0].into(), 7, 0)
    }

    /// FUSE: 0 is a normal command.
    #[must_use]
    #[inline]
    pub fn fuse(&self) -> u8 {
        get(self.0[0].into(), 9, 8)
    }

    /// With FUSE set.
    #[must_use]
    #[inline]
    pub fn with_fuse(mut self, fuse: u8) -> Self {
        self.0[0] = put(self.0[0].into(), 9, 8, fuse) as u32;
        self
    }

    /// PSDT: 0 for PRPs, 1 for SGLs, 2 for SGLs with an SGL for metadata, 3 reserved.
    #[must_use]
    #[inline]
    pub fn psdt(&self) -> u8 {
        get(self.0[0].into(), 15, 14)
    }

    /// With PSDT set.
    #[must_use]
    #[inline]
    pub fn with_psdt(mut self, psdt: u8) -> Self {
        self.0[0] = put(self.0[0].into(), 15, 14, psdt) as u32;
        self
    }

    /// CID: command identifier.
    #[must_use]
    #[inline]
    pub fn cid(&self) -> u16 {
        get(self.0[0].into(), 31, 16)
    }

    /// With CID set.
    #[must_use]
    #[inline]
    pub fn with_cid(mut self, cid: u16) -> Self {
        self.0[0] = self.0[0] & 0xFFFF | u32::from(cid) << 16;
        self
    }

    /// NSID: namespace identifier.
    #[must_use]
    #[inline]
    pub fn nsid(&self) -> u32 {
        self.0[1]
    }

    /// With NSID set.
    #[must_use]
    #[inline]
    pub fn with_nsid(mut self, nsid: u32) -> Self {
        self.0[1] = nsid;
        self
    }

    /// MPTR: metadata pointer.
    #[must_use]
    #[inline]
    pub fn mptr(&self) -> u64 {
        self.pair(4)
    }

    /// With MPTR set.
    #[must_use]
    #[inline]
    pub fn with_mptr(mut self, mptr: u64) -> Self {
        self.set_pair(4, mptr);
        self
    }

    /// PRP1: first PRP entry.
    #[must_use]
    #[inline]
    pub fn prp1(&self) -> u64 {
        self.pair(6)
    }

    /// PRP2: second PRP entry.
    #[must_use]
    #[inline]
    pub fn prp2(&self) -> u64 {
        self.pair(8)
    }

    /// The SGL descriptor that lies in the data pointer.
    #[must_use]
    #[inline]
    pub fn sgl(&self) -> SglDescriptor {
        SglDescriptor::from_words(self.pair(6), self.pair(8))
    }

    /// The data pointer, by PSDT; `None` for the reserved PSDT value. SGLs whose metadata is an SGL
    /// too (PSDT = 10b) give the data's descriptor.
    #[must_use]
    #[inline]
    pub fn data_pointer(&self) -> Option<DataPointer> {
        match self.psdt() {
            0 => Some(DataPointer::Prp { prp1: self.prp1(), prp2: self.prp2() }),
            1 | 2 => Some(DataPointer::Sgl(self.sgl())),
            _ => None,
        }
    }

    /// With the data pointer and PSDT set.
    #[must_use]
    #[inline]
    pub fn with_data_pointer(mut self, data: DataPointer) -> Self {
        let (psdt, low, high) = match data {
            DataPointer::Prp { prp1, prp2 } => (0, prp1, prp2),
            DataPointer::Sgl(descriptor) => {
                let (low, high) = descriptor.to_words();
                (1, low, high)
            }
        };
        self.set_pair(6, low);
        self.set_pair(8, high);
        self.with_psdt(psdt)
    }

    /// Command Dword `index`, 10..=15; 0 for other indices.
    #[must_use]
    #[inline]
    pub fn cdw(&self, index: usize) -> u32 {
        self.0.get(index).copied().filter(|_| index >= 10).unwrap_or(0)
    }

    /// With Command Dword `index` set, 10..=15; other indices change nothing.
    #[must_use]
    #[inline]
    pub fn with_cdw(mut self, index: usize, value: u32) -> Self {
        if let Some(dword) = self.0.get_mut(index).filter(|_| index >= 10) {
            *dword = value;
        }
        self
    }

    /// CDW10 and CDW11 as one 64-bit number (SLBA of block commands).
    #[must_use]
    #[inline]
    pub fn cdw10_11(&self) -> u64 {
        self.pair(10)
    }

    /// With CDW10 and CDW11 set.
    #[must_use]
    #[inline]
    pub fn with_cdw10_11(mut self, value: u64) -> Self {
        self.set_pair(10, value);
        self
    }

    /// As transferred.
    #[must_use]
    #[inline]
    pub fn to_bytes(&self) -> [u8; SQE_BYTES] {
        let mut out = [0; SQE_BYTES];
        for (to, dword) in out.chunks_exact_mut(4).zip(self.0) {
            to.copy_from_slice(&dword.to_le_bytes());
        }
        out
    }

    /// From what was transferred.
    #[must_use]
    #[inline]
    pub fn from_bytes(bytes: &[u8; SQE_BYTES]) -> Self {
        Self(std::array::from_fn(|i| u32::from_le_bytes(bytes_at(bytes, i * 4))))
    }

    #[inline]
    fn pair(&self, index: usize) -> u64 {
        u64::from(self.0[index]) | u64::from(self.0[index + 1]) << 32
    }

    #[inline]
    fn set_pair(&mut self, index: usize, value: u64) {
        self.0[index] = value as u32;
        self.0[index + 1] = (value >> 32) as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::bits::each_corrupt_byte_shows;

    fn full() -> Sqe {
        Sqe::new(0x02, 0xBEEF)
            .with_fuse(1)
            .with_nsid(7)
            .with_mptr(0x1122_3344_5566_7788)
            .with_data_pointer(DataPointer::Prp { prp1: 0x1000, prp2: 0xABCD_0000_2000 })
            .with_cdw10_11(0x0102_0304_0506_0708)
            .with_cdw(12, 12)
            .with_cdw(15, 15)
    }

    #[test]
    fn entries_round_trip_and_keep_fields_apart() {
        let sqe = full();
        let back = Sqe::from_bytes(&sqe.to_bytes());
        assert_eq!(back, sqe);
        assert_eq!((back.opcode(), back.cid(), back.fuse(), back.psdt()), (2, 0xBEEF, 1, 0));
        assert_eq!((back.nsid(), back.mptr()), (7, 0x1122_3344_5566_7788));
        assert_eq!((back.prp1(), back.prp2()), (0x1000, 0xABCD_0000_2000));
        assert_eq!((back.cdw10_11(), back.cdw(11)), (0x0102_0304_0506_0708, 0x0102_0304));
        assert_eq!((back.cdw(12), back.cdw(13), back.cdw(15), back.cdw(3)), (12, 0, 15, 0));
    }

    #[test]
    fn an_sgl_sets_psdt() {
        let descriptor = SglDescriptor::data(0x5000, 8192);
        let sqe = Sqe::new(1, 1).with_data_pointer(DataPointer::Sgl(descriptor));
        assert_eq!(sqe.psdt(), 1);
        assert_eq!(sqe.data_pointer(), Some(DataPointer::Sgl(descriptor)));
        assert_eq!(sqe.with_psdt(3).data_pointer(), None);
    }

    #[test]
    fn every_byte_matters() {
        each_corrupt_byte_shows(&full().to_bytes(), 0..SQE_BYTES, |b| {
            Sqe::from_bytes(&bytes_at(b, 0))
        });
    }
}
