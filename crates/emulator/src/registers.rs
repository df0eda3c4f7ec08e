//! Controller properties: what the host reads and writes in BAR0 below the doorbells.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use gcos_hw::{DmaMapper, PAGE_BYTES, SharedMemory};
use gcos_layout::nvme::{
    Aqa, Cap, Cc, Cmbloc, Cmbmsc, Cmbsz, Csts, Register, ShutdownNotification, ShutdownStatus, Vs,
};

use crate::IovaTable;
use crate::config::Config;

/// What NSSR must be written with ("NVMe").
const SUBSYSTEM_RESET: u32 = 0x4E56_4D65;
/// The base address register behind which the controller memory buffer lies.
pub(crate) const CMB_BAR: u8 = 2;

/// A change of CC that the controller has to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transition {
    Enable,
    Reset,
    Shutdown { orderly: bool },
    SubsystemReset,
}

/// The optional controller memory buffer.
#[derive(Debug)]
struct Cmb {
    memory: Arc<SharedMemory>,
    /// Address at which it is mapped, once the host has placed it.
    mapped: Option<u64>,
    cmbmsc: u64,
}

/// Register contents. CSTS.CFS is kept apart, since any thread may have to set it.
#[derive(Debug)]
pub(crate) struct Registers {
    cap: Cap,
    pub(crate) cc: Cc,
    pub(crate) csts: Csts,
    pub(crate) aqa: Aqa,
    pub(crate) asq: u64,
    pub(crate) acq: u64,
    pub(crate) transitions: VecDeque<Transition>,
    /// When CSTS.RDY becomes 1.
    pub(crate) ready_at: Option<Duration>,
    cmb: Option<Cmb>,
}

impl Registers {
    pub(crate) fn new(config: &Config, cmb: Option<Arc<SharedMemory>>) -> Self {
        // TO counts 500 ms; one more than the delay needs, so that the host does not give up early.
        let to = config.ready_delay.as_millis() / 500 + 1;
        let cap = Cap::default()
            .with_max_queue_entries(config.mqes)
            .with_cqr(true)
            .with_to(u8::try_from(to).unwrap_or(u8::MAX))
            .with_dstrd((config.doorbell_stride / 4).trailing_zeros() as u8)
            .with_nssrs(true)
            .with_css(config.command_sets)
            .with_mpsmax(4)
            .with_cmbs(cmb.is_some());
        Self {
            cap,
            cc: Cc::default(),
            csts: Csts::default(),
            aqa: Aqa::default(),
            asq: 0,
            acq: 0,
            transitions: VecDeque::new(),
            ready_at: None,
            cmb: cmb.map(|memory| Cmb { memory, mapped: None, cmbmsc: 0 }),
        }
    }

    /// As after power on.
    pub(crate) fn power_on(&mut self, table: &IovaTable) {
        self.cc = Cc::default();
        self.csts = Csts::default();
        self.aqa = Aqa::default();
        (self.asq, self.acq) = (0, 0);
        self.transitions.clear();
        self.ready_at = None;
        self.set_cmbmsc(0, table);
    }

    /// Memory page size in bytes (CC.MPS).
    pub(crate) fn page_bytes(&self) -> u64 {
        4096 << self.cc.mps()
    }

    /// A 32-bit read below the doorbells. Registers that are not there read as 0.
    pub(crate) fn read(&self, offset: usize, masked: u32) -> u32 {
        let Some(register) = Register::at(offset) else { return 0 };
        let high = offset != register.offset();
        let half = |value: u64| if high { (value >> 32) as u32 } else { value as u32 };
        match register {
            Register::Cap => half(self.cap.0),
            Register::Vs => Vs::default().with_major(2).0,
            Register::Intms | Register::Intmc => masked,
            Register::Cc => self.cc.0,
            Register::Csts => self.csts.0,
            Register::Nssr => 0,
            Register::Aqa => self.aqa.0,
            Register::Asq => half(self.asq),
            Register::Acq => half(self.acq),
            Register::Cmbloc => {
                self.cmb_enabled().map_or(0, |_| Cmbloc::default().with_bir(CMB_BAR).0)
            }
            Register::Cmbsz => self.cmb_enabled().map_or(0, |cmb| {
                let pages = (cmb.memory.len() / PAGE_BYTES) as u32;
                let size = Cmbsz::default().with_sz(pages).with_sqs(true).with_cqs(true);
                size.with_lists(true).with_rds(true).with_wds(true).0
            }),
            Register::Cmbmsc => self.cmb.as_ref().map_or(0, |cmb| half(cmb.cmbmsc)),
            // CBAI: the address that the host chose for the buffer cannot be.
            Register::Cmbsts => self.cmb_enabled().map_or(0, |cmb| {
                let refused = Cmbmsc(cmb.cmbmsc).cmse() && cmb.mapped.is_none();
                refused.into()
            }),
            Register::Crto => 0,
        }
    }

    /// A 32-bit write below the doorbells, interrupt masks excepted. Writes to read-only and absent
    /// registers go nowhere.
    pub(crate) fn write(&mut self, offset: usize, value: u32, table: &IovaTable) {
        let Some(register) = Register::at(offset) else { return };
        let high = offset != register.offset();
        let half = |old: u64| match high {
            true => old & 0xFFFF_FFFF | u64::from(value) << 32,
            false => old & !0xFFFF_FFFF | u64::from(value),
        };
        match register {
            Register::Cc => self.write_cc(Cc(value)),
            // NSSRO is cleared by writing 1.
            Register::Csts if Csts(value).nssro() => self.csts = self.csts.with_nssro(false),
            Register::Nssr if value == SUBSYSTEM_RESET => {
                self.transitions.push_back(Transition::SubsystemReset);
            }
            // Queue addresses are fixed while the controller is enabled.
            Register::Aqa if !self.cc.en() => self.aqa = Aqa(value & 0x0FFF_0FFF),
            Register::Asq if !self.cc.en() => self.asq = half(self.asq) & !0xFFF,
            Register::Acq if !self.cc.en() => self.acq = half(self.acq) & !0xFFF,
            Register::Cmbmsc => {
                let cmbmsc = self.cmb.as_ref().map_or(0, |cmb| half(cmb.cmbmsc));
                self.set_cmbmsc(cmbmsc, table);
            }
            _ => {}
        }
    }

    /// A 64-bit write of CMBMSC, which takes effect at once: written in halves it would move the
    /// buffer twice.
    pub(crate) fn write_cmbmsc(&mut self, value: u64, table: &IovaTable) {
        self.set_cmbmsc(value, table);
    }

    fn write_cc(&mut self, new: Cc) {
        let old = std::mem::replace(&mut self.cc, new);
        match (old.en(), new.en()) {
            (false, true) => self.transitions.push_back(Transition::Enable),
            (true, false) => self.transitions.push_back(Transition::Reset),
            _ => {}
        }
        if old.shutdown() != new.shutdown() && new.shutdown() != ShutdownNotification::None {
            self.csts = self.csts.with_shutdown(ShutdownStatus::Processing);
            let orderly = new.shutdown() == ShutdownNotification::Normal;
            self.transitions.push_back(Transition::Shutdown { orderly });
        }
    }

    /// Whether CC and the admin queue registers allow the controller to start (Base, section 3.5.1).
    pub(crate) fn can_start(&self) -> bool {
        let entries = 2..=4096;
        self.cap.css() & 1 << self.cc.css() != 0
            && self.cc.ams() == 0
            && self.cc.mps() <= self.cap.mpsmax()
            && entries.contains(&self.aqa.sq_entries())
            && entries.contains(&self.aqa.cq_entries())
    }

    fn cmb_enabled(&self) -> Option<&Cmb> {
        self.cmb.as_ref().filter(|cmb| Cmbmsc(cmb.cmbmsc).cre())
    }

    /// Places the controller memory buffer where the host wants it among the device's addresses.
    fn set_cmbmsc(&mut self, cmbmsc: u64, table: &IovaTable) {
        let Some(cmb) = &mut self.cmb else { return };
        cmb.cmbmsc = cmbmsc;
        let control = Cmbmsc(cmbmsc);
        let base = (control.cre() && control.cmse()).then_some(control.cba());
        if cmb.mapped == base {
            return;
        }
        if let Some(old) = cmb.mapped.take()
            && let Err(error) = table.unmap(old, cmb.memory.len())
        {
            tracing::error!(%error, "controller memory buffer could not be moved");
        }
        if let Some(base) = base {
            match table.map(base, &cmb.memory) {
                Ok(()) => cmb.mapped = Some(base),
                Err(error) => {
                    tracing::warn!(%error, "controller memory buffer address refused");
                }
            }
        }
    }
}
