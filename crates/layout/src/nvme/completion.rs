use super::bits::bytes_at;
use super::{CQE_BYTES, Status};

/// Completion queue entry: 4 dwords (Base, section 4.2, Figure 89).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cqe(pub [u32; 4]);

fields!(Dword2(u32) {
    /// SQHD.
    sqhd, with_sqhd: u16 = 15:0;
    /// SQID.
    sqid, with_sqid: u16 = 31:16;
});

fields!(Dword3(u32) {
    /// CID.
    cid, with_cid: u16 = 15:0;
    /// P.
    phase, with_phase: bool = 16:16;
    /// STATUS.
    status, with_status: u16 = 31:17;
});

#[derive(Clone, Copy)]
struct Dword2(u32);

#[derive(Clone, Copy)]
struct Dword3(u32);

impl Cqe {
    /// DW0: command-specific result.
    #[must_use]
    pub fn dw0(&self) -> u32 {
        self.0[0]
    }

    /// With DW0 set.
    #[must_use]
    pub fn with_dw0(mut self, dw0: u32) -> Self {
        self.0[0] = dw0;
        self
    }

    /// SQHD: submission queue head; entries before it have been taken and may be reused.
    #[must_use]
    #[inline]
    pub fn sqhd(&self) -> u16 {
        Dword2(self.0[2]).sqhd()
    }

    /// With SQHD set.
    #[must_use]
    pub fn with_sqhd(mut self, sqhd: u16) -> Self {
        self.0[2] = Dword2(self.0[2]).with_sqhd(sqhd).0;
        self
    }

    /// SQID: submission queue of the command.
    #[must_use]
    #[inline]
    pub fn sqid(&self) -> u16 {
        Dword2(self.0[2]).sqid()
    }

    /// With SQID set.
    #[must_use]
    pub fn with_sqid(mut self, sqid: u16) -> Self {
        self.0[2] = Dword2(self.0[2]).with_sqid(sqid).0;
        self
    }

    /// CID: identifier of the command that ended.
    #[must_use]
    #[inline]
    pub fn cid(&self) -> u16 {
        Dword3(self.0[3]).cid()
    }

    /// With CID set.
    #[must_use]
    pub fn with_cid(mut self, cid: u16) -> Self {
        self.0[3] = Dword3(self.0[3]).with_cid(cid).0;
        self
    }

    /// P: phase tag; inverted on each pass over the queue.
    #[must_use]
    #[inline]
    pub fn phase(&self) -> bool {
        Dword3(self.0[3]).phase()
    }

    /// With P set.
    #[must_use]
    pub fn with_phase(mut self, phase: bool) -> Self {
        self.0[3] = Dword3(self.0[3]).with_phase(phase).0;
        self
    }

    /// STATUS: how the command ended.
    #[must_use]
    #[inline]
    pub fn status(&self) -> Status {
        Status(Dword3(self.0[3]).status())
    }

    /// With STATUS set.
    #[must_use]
    pub fn with_status(mut self, status: Status) -> Self {
        self.0[3] = Dword3(self.0[3]).with_status(status.0).0;
        self
    }

    /// As transferred.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; CQE_BYTES] {
        let mut out = [0; CQE_BYTES];
        for (to, dword) in out.chunks_exact_mut(4).zip(self.0) {
            to.copy_from_slice(&dword.to_le_bytes());
        }
        out
    }

    /// From what was transferred.
    #[must_use]
    #[inline]
    pub fn from_bytes(bytes: &[u8; CQE_BYTES]) -> Self {
        Self(std::array::from_fn(|i| u32::from_le_bytes(bytes_at(bytes, i * 4))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::bits::each_corrupt_byte_shows;

    fn full() -> Cqe {
        Cqe::default()
            .with_dw0(0xDEAD_BEEF)
            .with_sqhd(513)
            .with_sqid(3)
            .with_cid(0x8001)
            .with_phase(true)
            .with_status(Status::LBA_OUT_OF_RANGE.with_dnr(true))
    }

    #[test]
    fn entries_round_trip_and_keep_fields_apart() {
        let back = Cqe::from_bytes(&full().to_bytes());
        assert_eq!(back, full());
        assert_eq!((back.dw0(), back.sqhd(), back.sqid()), (0xDEAD_BEEF, 513, 3));
        assert_eq!((back.cid(), back.phase()), (0x8001, true));
        assert_eq!(back.status(), Status::LBA_OUT_OF_RANGE.with_dnr(true));
        assert_eq!(full().to_bytes()[14..], [0x01, 0x81]);
    }

    #[test]
    fn every_byte_matters() {
        each_corrupt_byte_shows(&full().to_bytes(), 0..CQE_BYTES, |b| {
            Cqe::from_bytes(&bytes_at(b, 0))
        });
    }
}
