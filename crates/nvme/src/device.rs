//! The controller's registers: enabling, disabling and shutting down, each with a deadline.

use std::sync::Arc;
use std::time::Duration;

use gcos_hw::Function;
use gcos_layout::nvme::{
    Aqa, Cap, Cc, Crto, Csts, Register, ShutdownNotification, ShutdownStatus, Vs, cq_head_doorbell,
    sq_tail_doorbell,
};

use crate::NvmeError;

/// Time that every register wait has at least: some controllers report a CAP.TO of 0.
const LEAST_TIMEOUT: Duration = Duration::from_millis(500);

/// Time that a register wait has at most, whatever CRTO says (it has room for nine hours).
const LONGEST_TIMEOUT: Duration = Duration::from_secs(300);

/// How often whoever waits for the controller looks whether it has failed or gone.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Why a controller is gone that answers like that.
pub(crate) const ALL_ONES: &str = "it was removed: registers read as all ones";

/// CC.CSS that selects every I/O command set, for controllers that offer nothing else.
const ALL_COMMAND_SETS: u8 = 6;

/// How an attempt to disable the controller ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disabled {
    /// CSTS.RDY is 0: the controller touches no memory.
    Stopped,
    /// Registers read as all ones: there is no controller that could touch memory.
    Removed,
    /// CSTS.RDY did not become 0: the controller may still touch memory.
    Stuck,
}

/// A function with what its capabilities say.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) function: Arc<dyn Function>,
    pub(crate) name: Arc<str>,
    pub(crate) cap: Cap,
    pub(crate) version: Vs,
    ready_timeout: Duration,
}

impl Device {
    /// Reads the capabilities and checks that this is a controller that we can drive.
    pub(crate) fn probe(function: Arc<dyn Function>) -> Result<Self, NvmeError> {
        let name: Arc<str> = Arc::from(function.name());
        let cap = Cap(function.read64(Register::Cap.offset()));
        if cap.0 == u64::MAX || cap.0 == 0 {
            let reads = if cap.0 == 0 { "zeros" } else { "all ones" };
            return Err(gone(&name, &format!("its registers read as {reads}; was it removed?")));
        }
        let unsupported = |what, expected: &str, got| NvmeError::Unsupported {
            device: Arc::clone(&name),
            what,
            expected: expected.to_owned(),
            got,
        };
        if !cap.nvm_command_set() && !cap.io_command_sets() {
            let expected = "the NVM command set (bit 0) or I/O command sets (bit 6)";
            return Err(unsupported("CAP.CSS", expected, cap.css().into()));
        }
        if cap.mpsmin() != 0 {
            let expected = "0: memory pages of 4 KiB, the only ones that the driver uses";
            return Err(unsupported("CAP.MPSMIN", expected, cap.mpsmin().into()));
        }
        if cap.mqes() == 0 {
            let expected = "1 or more: queues of at least 2 entries, as the specification has it";
            return Err(unsupported("CAP.MQES", expected, 0));
        }
        let version = Vs(function.read32(Register::Vs.offset()));
        let ready_timeout = ready_timeout(&*function, cap);
        Ok(Self { function, name, cap, version, ready_timeout })
    }

    /// Whether the capabilities are what they were at opening, as far as the driver has built on them:
    /// they place doorbells and bound queues.
    pub(crate) fn check_same(&self) -> Result<(), NvmeError> {
        let now = Cap(self.function.read64(Register::Cap.offset()));
        if now.0 == u64::MAX || now.0 == 0 {
            return Err(gone(&self.name, "its registers read as nothing but ones or zeros"));
        }
        // How long it takes to become ready may change with its firmware.
        if now.with_to(0) == self.cap.with_to(0) {
            return Ok(());
        }
        Err(gone(
            &self.name,
            &format!(
                "its capabilities changed: expected CAP {:#x}, found {:#x}; open it again",
                self.cap.0, now.0
            ),
        ))
    }

    /// For tests: whatever the registers say.
    #[cfg(test)]
    pub(crate) fn of_registers(function: Arc<dyn Function>) -> Self {
        let (name, ready_timeout) = (Arc::from(function.name()), LEAST_TIMEOUT);
        Self { function, name, cap: Cap::default(), version: Vs::default(), ready_timeout }
    }

    pub(crate) fn csts(&self) -> Csts {
        Csts(self.function.read32(Register::Csts.offset()))
    }

    fn cc(&self) -> Cc {
        Cc(self.function.read32(Register::Cc.offset()))
    }

    fn set_cc(&self, cc: Cc) {
        self.function.write32(Register::Cc.offset(), cc.0);
    }

    /// Offsets of a queue pair's doorbells: submission tail, completion head.
    pub(crate) fn doorbells(&self, qid: u16) -> (usize, usize) {
        let stride = self.cap.doorbell_stride();
        (sq_tail_doorbell(qid, stride), cq_head_doorbell(qid, stride))
    }

    /// The longest time that CSTS.RDY may take to follow CC.EN.
    pub(crate) fn ready_timeout(&self) -> Duration {
        self.ready_timeout
    }

    /// Waits until `done` holds for CSTS; `None` when `timeout` passed first.
    pub(crate) fn wait_csts(
        &self,
        timeout: Duration,
        done: impl Fn(Csts) -> bool,
    ) -> Result<Csts, Csts> {
        let end = self.function.now().saturating_add(timeout);
        let mut spins = 0;
        loop {
            let late = self.function.now() >= end;
            let csts = self.csts();
            if done(csts) {
                return Ok(csts);
            }
            if late {
                return Err(csts);
            }
            self.function.relax(spins);
            spins = spins.saturating_add(1);
        }
    }

    /// Resets the controller by clearing CC.EN (Base, section 3.7.2).
    pub(crate) fn disable(&self) -> Disabled {
        let timeout = self.ready_timeout();
        let cc = self.cc();
        if cc.en() {
            // EN must not fall while a rising EN is still being answered (Base, Figure 46).
            let settled = |csts: Csts| csts.rdy() || csts.cfs() || csts.is_removed();
            let _ = self.wait_csts(timeout, settled);
            self.set_cc(cc.with_en(false).with_shutdown(ShutdownNotification::None));
        }
        match self.wait_csts(timeout, |csts| !csts.rdy() || csts.is_removed()) {
            Ok(csts) if csts.is_removed() => Disabled::Removed,
            Ok(_) => Disabled::Stopped,
            Err(_) => Disabled::Stuck,
        }
    }

    /// Enables the controller with the given admin queues (Base, section 3.5.1).
    pub(crate) fn enable(&self, asq: u64, acq: u64, entries: u32) -> Result<(), NvmeError> {
        let function = &self.function;
        function.write32(Register::Aqa.offset(), Aqa::new(entries, entries).0);
        function.write64(Register::Asq.offset(), asq);
        function.write64(Register::Acq.offset(), acq);
        // Page size 4 KiB, round robin: all 0. The NVM command set is 0, too, and suffices: namespaces
        // of other command sets are not used.
        let css = if self.cap.nvm_command_set() { 0 } else { ALL_COMMAND_SETS };
        let cc = Cc::default().with_css(css).with_iosqes(6).with_iocqes(4).with_en(true);
        self.set_cc(cc);
        if !self.cc().en() && !self.csts().cfs() {
            return Err(gone(
                &self.name,
                "its registers do not keep what is written; was it removed?",
            ));
        }
        let waited = self.ready_timeout();
        let what = "becoming ready (CSTS.RDY = 1)";
        match self.wait_csts(waited, |csts| csts.rdy() || csts.cfs()) {
            Ok(csts) if csts.is_removed() => Err(gone(&self.name, "it was removed")),
            Ok(csts) if !csts.cfs() => Ok(()),
            Ok(csts) | Err(csts) => Err(self.not_ready(what, waited, csts)),
        }
    }

    /// Announces a normal shutdown and waits until the controller has done it (Base, section 3.6.1).
    pub(crate) fn shut_down(&self, timeout: Duration) -> Result<(), NvmeError> {
        let cc = self.cc();
        if !cc.en() {
            return Err(gone(&self.name, "it is not enabled any more; was it removed?"));
        }
        self.set_cc(cc.with_shutdown(ShutdownNotification::Normal));
        let complete = |csts: Csts| csts.shutdown() == ShutdownStatus::Complete;
        match self.wait_csts(timeout, |csts| csts.is_removed() || complete(csts)) {
            Ok(csts) if csts.is_removed() => Err(gone(&self.name, "it was removed")),
            Ok(_) => Ok(()),
            Err(csts) => {
                let what = "completing the shutdown (CSTS.SHST = 10b)";
                Err(self.not_ready(what, timeout, csts))
            }
        }
    }

    pub(crate) fn not_ready(&self, what: &'static str, waited: Duration, csts: Csts) -> NvmeError {
        NvmeError::NotReady { device: Arc::clone(&self.name), what, waited, csts: csts.0 }
    }
}

/// CAP.TO, or what CRTO says where it is there: CAP.TO has room for two minutes only.
fn ready_timeout(function: &dyn Function, cap: Cap) -> Duration {
    let media = match cap.crms() {
        0 => 0,
        _ => Crto(function.read32(Register::Crto.offset())).crwmt(),
    };
    let media = (Duration::from_millis(500) * u32::from(media)).min(LONGEST_TIMEOUT);
    cap.timeout().max(media).max(LEAST_TIMEOUT)
}

pub(crate) fn gone(device: &Arc<str>, reason: &str) -> NvmeError {
    NvmeError::Gone { device: Arc::clone(device), reason: Arc::from(reason) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_device::{Registers, space};

    #[test]
    fn the_time_to_become_ready_is_neither_nothing_nor_hours() {
        let half_seconds = |to, crms, crwmt| {
            let cap = Cap::default().with_to(to).with_crms(crms);
            let crto = Crto::default().with_crwmt(crwmt).0;
            let registers = Registers::with(space(), Register::Crto.offset(), crto);
            ready_timeout(&registers, cap).as_millis() / 500
        };
        assert_eq!(half_seconds(0, 0, 0), 1, "some controllers say 0");
        assert_eq!(half_seconds(20, 0, 0), 20);
        assert_eq!(half_seconds(20, 0, 300), 20, "CRTO is not there");
        assert_eq!(half_seconds(255, 1, 300), 300);
        assert_eq!(half_seconds(20, 1, 3), 20);
        assert_eq!(half_seconds(20, 1, u16::MAX), 600);
    }
}
