use std::time::Duration;

/// Controller properties in BAR0 (Base, section 3.1.3, Figure 35).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Register {
    /// Controller Capabilities, 64 bits, read only: [`Cap`].
    Cap = 0x00,
    /// Version, read only: [`Vs`].
    Vs = 0x08,
    /// Interrupt Mask Set; not used with MSI-X.
    Intms = 0x0C,
    /// Interrupt Mask Clear; not used with MSI-X.
    Intmc = 0x10,
    /// Controller Configuration: [`Cc`].
    Cc = 0x14,
    /// Controller Status, read only: [`Csts`].
    Csts = 0x1C,
    /// NVM Subsystem Reset: writing "NVMe" (4E564D65h) resets.
    Nssr = 0x20,
    /// Admin Queue Attributes: [`Aqa`].
    Aqa = 0x24,
    /// Admin Submission Queue Base Address, 64 bits.
    Asq = 0x28,
    /// Admin Completion Queue Base Address, 64 bits.
    Acq = 0x30,
    /// Controller Memory Buffer Location, read only.
    Cmbloc = 0x38,
    /// Controller Memory Buffer Size, read only.
    Cmbsz = 0x3C,
    /// Controller Memory Buffer Memory Space Control, 64 bits.
    Cmbmsc = 0x50,
    /// Controller Memory Buffer Status, read only.
    Cmbsts = 0x58,
    /// Controller Ready Timeouts, read only: [`Crto`].
    Crto = 0x68,
}

impl Register {
    /// Every register that is named here, by rising offset.
    pub const ALL: [Register; 15] = [
        Self::Cap,
        Self::Vs,
        Self::Intms,
        Self::Intmc,
        Self::Cc,
        Self::Csts,
        Self::Nssr,
        Self::Aqa,
        Self::Asq,
        Self::Acq,
        Self::Cmbloc,
        Self::Cmbsz,
        Self::Cmbmsc,
        Self::Cmbsts,
        Self::Crto,
    ];

    /// Offset in BAR0 in bytes.
    #[must_use]
    pub const fn offset(self) -> usize {
        self as usize
    }

    /// Width in bytes: 4 or 8.
    #[must_use]
    pub const fn width(self) -> usize {
        match self {
            Self::Cap | Self::Asq | Self::Acq | Self::Cmbmsc => 8,
            _ => 4,
        }
    }

    /// The register that holds the byte at `offset`, if it is one of these.
    #[must_use]
    pub fn at(offset: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|r| (r.offset()..r.offset() + r.width()).contains(&offset))
    }
}

/// Offset of the first doorbell (Submission Queue 0 Tail) in bytes (Base, section 3.1.3.23; PCIe
/// Transport 1.0, section 3.1.2).
pub const DOORBELLS: usize = 0x1000;

/// Offset in bytes of the Submission Queue `qid` Tail Doorbell, for doorbells `stride` bytes apart
/// ([`Cap::doorbell_stride`]).
#[must_use]
pub const fn sq_tail_doorbell(qid: u16, stride: usize) -> usize {
    DOORBELLS + 2 * qid as usize * stride
}

/// Offset in bytes of the Completion Queue `qid` Head Doorbell, for doorbells `stride` bytes apart.
#[must_use]
pub const fn cq_head_doorbell(qid: u16, stride: usize) -> usize {
    DOORBELLS + (2 * qid as usize + 1) * stride
}

/// Controller Capabilities (Base, Figure 36).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cap(pub u64);

fields!(pub Cap(u64) {
    /// MQES as stored: largest I/O queue size, 0's based. Use [`Cap::max_queue_entries`].
    mqes, with_mqes: u16 = 15:0;
    /// CQR: I/O queues must be physically contiguous.
    cqr, with_cqr: bool = 16:16;
    /// AMS: arbitration mechanisms beyond round robin.
    ams, with_ams: u8 = 18:17;
    /// TO as stored: units of 500 ms. Use [`Cap::timeout`].
    to, with_to: u8 = 31:24;
    /// DSTRD: doorbell stride is 4 << DSTRD bytes. Use [`Cap::doorbell_stride`].
    dstrd, with_dstrd: u8 = 35:32;
    /// NSSRS: NVM subsystem reset is supported.
    nssrs, with_nssrs: bool = 36:36;
    /// CSS: command sets; bit 0 is the NVM command set.
    css, with_css: u8 = 44:37;
    /// MPSMIN: smallest memory page is 4 KiB << MPSMIN.
    mpsmin, with_mpsmin: u8 = 51:48;
    /// MPSMAX: largest memory page is 4 KiB << MPSMAX.
    mpsmax, with_mpsmax: u8 = 55:52;
    /// PMRS: a persistent memory region is present.
    pmrs, with_pmrs: bool = 56:56;
    /// CMBS: a controller memory buffer is present.
    cmbs, with_cmbs: bool = 57:57;
    /// CRMS: ready modes; not 0 when CRTO is there.
    crms, with_crms: u8 = 60:59;
});

/// Controller Ready Timeouts (Base, Figure 60).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Crto(pub u32);

fields!(pub Crto(u32) {
    /// CRWMT: units of 500 ms until the controller is ready with its media.
    crwmt, with_crwmt: u16 = 15:0;
    /// CRIMT: units of 500 ms until it is ready without.
    crimt, with_crimt: u16 = 31:16;
});

/// Controller Memory Buffer Location (Base, Figure 50).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cmbloc(pub u32);

fields!(pub Cmbloc(u32) {
    /// BIR: the base address register that it lies behind.
    bir, with_bir: u8 = 2:0;
    /// OFST: offset behind that, in units of [`Cmbsz::unit_bytes`].
    ofst, with_ofst: u32 = 31:12;
});

/// Controller Memory Buffer Size (Base, Figure 51).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cmbsz(pub u32);

fields!(pub Cmbsz(u32) {
    /// SQS: submission queues may lie in it.
    sqs, with_sqs: bool = 0:0;
    /// CQS: completion queues may.
    cqs, with_cqs: bool = 1:1;
    /// LISTS: PRP lists and SGL segments may.
    lists, with_lists: bool = 2:2;
    /// RDS: data of commands that move it to the host may.
    rds, with_rds: bool = 3:3;
    /// WDS: data of commands that move it from the host may.
    wds, with_wds: bool = 4:4;
    /// SZU as stored. Use [`Cmbsz::unit_bytes`].
    szu, with_szu: u8 = 11:8;
    /// SZ: size in units.
    sz, with_sz: u32 = 31:12;
});

impl Cmbsz {
    /// Unit of sizes and offsets in bytes: 4 KiB, 64 KiB, 1 MiB and so on.
    #[must_use]
    pub fn unit_bytes(self) -> u64 {
        4096 << (4 * u32::from(self.szu()))
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.unit_bytes().saturating_mul(self.sz().into())
    }
}

/// Controller Memory Buffer Memory Space Control (Base, Figure 55).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cmbmsc(pub u64);

fields!(pub Cmbmsc(u64) {
    /// CRE: CMBLOC and CMBSZ say where it is.
    cre, with_cre: bool = 0:0;
    /// CMSE: the controller takes addresses from CBA on for it.
    cmse, with_cmse: bool = 1:1;
});

impl Cmbmsc {
    /// CBA: the address at which the controller finds it, a multiple of 4096.
    #[must_use]
    pub fn cba(self) -> u64 {
        self.0 & !0xFFF
    }

    /// With CBA set; bits below 4096 are dropped.
    #[must_use]
    pub fn with_cba(self, cba: u64) -> Self {
        Self(self.0 & 0xFFF | cba & !0xFFF)
    }
}

impl Cap {
    /// Largest I/O queue in entries (MQES + 1).
    #[must_use]
    pub fn max_queue_entries(self) -> u32 {
        u32::from(self.mqes()) + 1
    }

    /// With [`Cap::max_queue_entries`] set, 2..=65536.
    #[must_use]
    pub fn with_max_queue_entries(self, entries: u32) -> Self {
        self.with_mqes(entries.saturating_sub(1) as u16)
    }

    /// Longest time that CSTS.RDY takes to follow CC.EN (TO).
    #[must_use]
    pub fn timeout(self) -> Duration {
        Duration::from_millis(500) * u32::from(self.to())
    }

    /// Distance of neighbouring doorbells in bytes.
    #[must_use]
    pub fn doorbell_stride(self) -> usize {
        4 << self.dstrd()
    }

    /// Whether the controller has I/O command sets beside the NVM command set's own selection (CSS
    /// bit 6): CC.CSS = 6 selects all of them.
    #[must_use]
    pub fn io_command_sets(self) -> bool {
        self.css() & 1 << 6 != 0
    }

    /// Whether the NVM command set is supported (CSS bit 0).
    #[must_use]
    pub fn nvm_command_set(self) -> bool {
        self.css() & 1 != 0
    }
}

/// Version (Base, Figure 37).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Vs(pub u32);

fields!(pub Vs(u32) {
    /// MJR: major version.
    major, with_major: u16 = 31:16;
    /// MNR: minor version.
    minor, with_minor: u8 = 15:8;
    /// TER: tertiary version.
    tertiary, with_tertiary: u8 = 7:0;
});

/// Controller Configuration (Base, Figure 46).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cc(pub u32);

fields!(pub Cc(u32) {
    /// EN: the controller processes commands. 1 to 0 is a controller reset.
    en, with_en: bool = 0:0;
    /// CSS: command set selected; 0 is the NVM command set.
    css, with_css: u8 = 6:4;
    /// MPS: memory page is 4 KiB << MPS.
    mps, with_mps: u8 = 10:7;
    /// AMS: arbitration selected; 0 is round robin.
    ams, with_ams: u8 = 13:11;
    /// SHN as stored. See [`Cc::shutdown`].
    shn, with_shn: u8 = 15:14;
    /// IOSQES: I/O submission queue entries are 1 << IOSQES bytes.
    iosqes, with_iosqes: u8 = 19:16;
    /// IOCQES: I/O completion queue entries are 1 << IOCQES bytes.
    iocqes, with_iocqes: u8 = 23:20;
});

/// What CC.SHN asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownNotification {
    /// 00b: nothing.
    None,
    /// 01b: normal shutdown.
    Normal,
    /// 10b: abrupt shutdown.
    Abrupt,
}

impl Cc {
    /// SHN; the reserved value reads as none.
    #[must_use]
    pub fn shutdown(self) -> ShutdownNotification {
        match self.shn() {
            1 => ShutdownNotification::Normal,
            2 => ShutdownNotification::Abrupt,
            _ => ShutdownNotification::None,
        }
    }

    /// With SHN set.
    #[must_use]
    pub fn with_shutdown(self, shutdown: ShutdownNotification) -> Self {
        self.with_shn(match shutdown {
            ShutdownNotification::None => 0,
            ShutdownNotification::Normal => 1,
            ShutdownNotification::Abrupt => 2,
        })
    }
}

/// Controller Status (Base, Figure 47).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Csts(pub u32);

fields!(pub Csts(u32) {
    /// RDY: ready to process commands; follows CC.EN.
    rdy, with_rdy: bool = 0:0;
    /// CFS: a fatal error that the controller could not report otherwise.
    cfs, with_cfs: bool = 1:1;
    /// SHST as stored. See [`Csts::shutdown`].
    shst, with_shst: u8 = 3:2;
    /// NSSRO: a subsystem reset has happened.
    nssro, with_nssro: bool = 4:4;
    /// PP: processing is paused.
    pp, with_pp: bool = 5:5;
});

/// How far a shutdown is (CSTS.SHST).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownStatus {
    /// 00b: normal operation.
    Normal,
    /// 01b: shutdown processing.
    Processing,
    /// 10b: shutdown complete.
    Complete,
    /// 11b: reserved.
    Reserved,
}

impl Csts {
    /// SHST.
    #[must_use]
    pub fn shutdown(self) -> ShutdownStatus {
        match self.shst() {
            0 => ShutdownStatus::Normal,
            1 => ShutdownStatus::Processing,
            2 => ShutdownStatus::Complete,
            _ => ShutdownStatus::Reserved,
        }
    }

    /// With SHST set.
    #[must_use]
    pub fn with_shutdown(self, shutdown: ShutdownStatus) -> Self {
        self.with_shst(match shutdown {
            ShutdownStatus::Normal => 0,
            ShutdownStatus::Processing => 1,
            ShutdownStatus::Complete => 2,
            ShutdownStatus::Reserved => 3,
        })
    }

    /// Whether the read came back as all ones: the function is gone.
    #[must_use]
    pub fn is_removed(self) -> bool {
        self.0 == u32::MAX
    }
}

/// Admin Queue Attributes (Base, Figure 49).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Aqa(pub u32);

fields!(pub Aqa(u32) {
    /// ASQS as stored, 0's based. Use [`Aqa::sq_entries`].
    asqs, with_asqs: u16 = 11:0;
    /// ACQS as stored, 0's based. Use [`Aqa::cq_entries`].
    acqs, with_acqs: u16 = 27:16;
});

impl Aqa {
    /// Admin queues of the given numbers of entries, 2..=4096 each.
    #[must_use]
    pub fn new(sq_entries: u32, cq_entries: u32) -> Self {
        Self::default()
            .with_asqs(sq_entries.saturating_sub(1) as u16)
            .with_acqs(cq_entries.saturating_sub(1) as u16)
    }

    /// Admin submission queue entries.
    #[must_use]
    pub fn sq_entries(self) -> u32 {
        u32::from(self.asqs()) + 1
    }

    /// Admin completion queue entries.
    #[must_use]
    pub fn cq_entries(self) -> u32 {
        u32::from(self.acqs()) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_round_trip_and_convert_units() {
        let cap = Cap::default()
            .with_max_queue_entries(65_536)
            .with_to(20)
            .with_dstrd(1)
            .with_css(1)
            .with_cqr(true)
            .with_mpsmax(4);
        assert_eq!(cap.0, 0x0040_0021_1401_FFFF);
        assert_eq!(cap.max_queue_entries(), 65_536);
        assert_eq!(cap.timeout(), Duration::from_secs(10));
        assert_eq!(cap.doorbell_stride(), 8);
        assert!(cap.nvm_command_set());
    }

    #[test]
    fn doorbells_follow_the_stride() {
        assert_eq!(sq_tail_doorbell(0, 4), 0x1000);
        assert_eq!(cq_head_doorbell(0, 4), 0x1004);
        assert_eq!(sq_tail_doorbell(3, 8), 0x1030);
        assert_eq!(cq_head_doorbell(3, 8), 0x1038);
    }

    #[test]
    fn registers_are_found_by_any_of_their_bytes() {
        assert_eq!(Register::at(4), Some(Register::Cap));
        assert_eq!(Register::at(0x14), Some(Register::Cc));
        assert_eq!(Register::at(0x18), None);
    }

    #[test]
    fn the_memory_buffer_registers_convert_units() {
        let size = Cmbsz::default().with_sz(2).with_szu(2).with_sqs(true);
        assert_eq!((size.0, size.unit_bytes(), size.bytes()), (0x2201, 1 << 20, 2 << 20));
        let huge = Cmbsz::default().with_sz(0xF_FFFF).with_szu(15);
        assert_eq!((huge.unit_bytes(), huge.bytes()), (0, 0), "no such unit, no such buffer");
        let place = Cmbloc(0x0000_3072);
        assert_eq!((place.bir(), place.ofst()), (2, 3));
        let control = Cmbmsc::default().with_cre(true).with_cmse(true).with_cba(0x12_3456_7FFF);
        assert_eq!(control.0, 0x12_3456_7003);
        assert_eq!(control.cba(), 0x12_3456_7000);
        assert_eq!(Crto(0x0002_0028).crwmt(), 40);
    }

    #[test]
    fn configuration_and_status_bits_are_where_the_figures_say() {
        let cc = Cc::default().with_en(true).with_iosqes(6).with_iocqes(4);
        assert_eq!(cc.0, 0x0046_0001);
        assert_eq!(cc.with_shutdown(ShutdownNotification::Normal).0, 0x0046_4001);
        assert_eq!(Csts(0b1001).shutdown(), ShutdownStatus::Complete);
        assert_eq!(Aqa::new(32, 64).0, 0x003F_001F);
        assert_eq!(Vs::default().with_major(2).with_minor(1).0, 0x0002_0100);
    }
}
