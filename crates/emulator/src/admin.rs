//! The admin command set.

use std::sync::atomic::Ordering;

use gcos_layout::nvme::{
    AdminCommand, Cns, FirmwareSlotLog, IdentifyController, LogPage, NSID_ALL, Oncs, SglSupport,
    Status, Vs, encode_active_namespaces,
};

use crate::controller::{Controller, Outcome};
use crate::fault::Action;
use crate::health::{AER_LIMIT, CRITICAL_KELVIN, ERROR_LOG_ENTRIES, WARNING_KELVIN};
use crate::io::planned_status;
use crate::medium::Scratch;
use crate::namespace::{find, select};
use crate::queue::Command;

/// Outstanding Abort commands (ACL).
const ABORT_LIMIT: usize = 4;
/// Firmware revision.
const FIRMWARE: &str = "1.0";

type Answer = Result<u32, Status>;

fn invalid_field() -> Status {
    Status::INVALID_FIELD.with_dnr(true)
}

impl Controller {
    /// Carries out an admin command; `None` when it waits for an event.
    pub(crate) fn execute_admin(
        &self,
        command: Command,
        scratch: &mut Scratch,
    ) -> Option<(Command, Outcome)> {
        let effects = command.effects.as_deref();
        let answer = if let Some(status) = effects.and_then(planned_status) {
            Err(status)
        } else if effects.is_some_and(|effects| effects.has(Action::Lie)) {
            Ok(0)
        } else {
            match AdminCommand::parse(&command.sqe) {
                Ok(AdminCommand::AsyncEventRequest) => return self.event_request(command),
                Ok(parsed) => self.admin(parsed, &command, scratch),
                Err(error) => Err(error.status()),
            }
        };
        let outcome = match answer {
            Ok(dw0) => Outcome { status: Status::SUCCESS, dw0 },
            Err(status) => status.into(),
        };
        Some((command, outcome))
    }

    fn event_request(&self, command: Command) -> Option<(Command, Outcome)> {
        let refused = self.health.lock().request(command).err();
        if let Some(command) = refused {
            return Some((command, Status::AER_LIMIT_EXCEEDED.with_dnr(true).into()));
        }
        self.report();
        None
    }

    fn admin(&self, parsed: AdminCommand, command: &Command, scratch: &mut Scratch) -> Answer {
        // SGLs and fused commands do not exist on the admin queue over PCIe.
        if command.sqe.psdt() != 0 || command.sqe.fuse() != 0 {
            return Err(invalid_field());
        }
        let base = command.sqe.prp1();
        match parsed {
            AdminCommand::CreateCq { qid, entries, vector, contiguous } => {
                self.create_cq(qid, entries, vector, contiguous, base)
            }
            AdminCommand::CreateSq { qid, entries, cqid, contiguous, .. } => {
                self.create_sq(qid, entries, cqid, contiguous, base)
            }
            AdminCommand::DeleteSq { qid } => self.delete_sq(qid),
            AdminCommand::DeleteCq { qid } => self.delete_cq(qid),
            AdminCommand::Identify { cns } => self.identify(cns, command, scratch),
            AdminCommand::GetLogPage { lid, bytes, offset, retain_event } => {
                self.log_page(lid, bytes, offset, retain_event, command, scratch)
            }
            AdminCommand::SetFeatures { feature, save } => {
                self.set_feature(feature, save, command.sqe.cdw(11))
            }
            AdminCommand::GetFeatures { id, select, cdw11 } => self.get_feature(id, select, cdw11),
            AdminCommand::Abort { sqid, cid } => self.abort(sqid, cid),
            AdminCommand::FormatNvm { lbaf, secure_erase } => {
                self.format(command.sqe.nsid(), lbaf, secure_erase)
            }
            AdminCommand::DoorbellBufferConfig => {
                self.configure_doorbells(base, command.sqe.prp2())
            }
            AdminCommand::AsyncEventRequest => Err(Status::INTERNAL_ERROR),
        }
    }

    /// Sends `data` to the command's memory.
    fn send(&self, data: &[u8], command: &Command, scratch: &mut Scratch) -> Answer {
        self.walk().map(&command.sqe, data.len(), &mut scratch.transfer)?;
        scratch.transfer.scatter(0, data).map_err(|_| Status::INTERNAL_ERROR)?;
        Ok(0)
    }

    fn identify(&self, cns: Cns, command: &Command, scratch: &mut Scratch) -> Answer {
        let nsid = command.sqe.nsid();
        let mut data = match cns {
            Cns::Controller => self.identify_controller().encode(),
            // Format and limits common to all namespaces are those of the first.
            Cns::Namespace if nsid == NSID_ALL => find(&self.namespaces, 1)?.identify(),
            Cns::Namespace => find(&self.namespaces, nsid)?.identify(),
            Cns::ActiveNamespaces => {
                // FFFFFFFEh and FFFFFFFFh are not allowed here (Base, section 5.17.2.2).
                if nsid >= NSID_ALL - 1 {
                    return Err(Status::INVALID_NAMESPACE.with_dnr(true));
                }
                let above = self.namespaces.iter().map(|namespace| namespace.nsid);
                encode_active_namespaces(&above.filter(|&id| id > nsid).collect::<Vec<_>>())
            }
            Cns::NamespaceDescriptors => find(&self.namespaces, nsid)?.descriptors(),
        };
        if let Some(hook) = &self.identify_hook {
            hook.call(cns, nsid, &mut data);
        }
        self.send(&data, command, scratch)
    }

    fn identify_controller(&self) -> IdentifyController {
        let limits = &self.limits;
        let mdts = if limits.mdts == 0 { 0 } else { (limits.mdts / 4096).trailing_zeros() as u8 };
        let oncs = Oncs::default()
            .with_compare(limits.optional_commands)
            .with_dataset_management(limits.optional_commands)
            .with_write_zeroes(limits.optional_commands);
        IdentifyController {
            vid: 0x1B36,
            ssvid: 0x1AF4,
            serial: limits.serial.clone(),
            model: limits.model.clone(),
            firmware: FIRMWARE.to_owned(),
            mdts,
            cntlid: 1,
            version: Vs::default().with_major(2),
            rtd3_entry_us: 1_000_000,
            controller_type: 1,
            // Format NVM, Doorbell Buffer Config.
            oacs: 1 << 1 | u16::from(limits.shadow_doorbells) << 8,
            abort_limit: ABORT_LIMIT as u16,
            async_event_limit: AER_LIMIT as u16,
            // One slot, read only.
            frmw: 0b0000_0011,
            // Extended data for Get Log Page: offsets and lengths beyond 12 bits.
            lpa: 1 << 2,
            error_log_entries: ERROR_LOG_ENTRIES as u16,
            warning_temperature: WARNING_KELVIN,
            critical_temperature: CRITICAL_KELVIN,
            sqes: 0x66,
            cqes: 0x44,
            namespaces: self.namespaces.len() as u32,
            oncs,
            // Flush of all namespaces is supported.
            vwc: 0b110 | u8::from(self.storage.is_volatile()),
            atomic_write_blocks: 1,
            atomic_write_power_fail_blocks: 1,
            sgls: SglSupport::default().with_support(u8::from(limits.sgl)),
            subnqn: format!("nqn.2014.08.org.nvmexpress:gcos:{}", limits.serial),
            ..IdentifyController::default()
        }
    }

    fn log_page(
        &self,
        lid: u8,
        bytes: u64,
        offset: u64,
        retain_event: bool,
        command: &Command,
        scratch: &mut Scratch,
    ) -> Answer {
        let page = LogPage::from_lid(lid).ok_or(Status::INVALID_LOG_PAGE.with_dnr(true))?;
        let nsid = command.sqe.nsid();
        if page == LogPage::Smart && nsid != 0 && nsid != NSID_ALL {
            return Err(invalid_field());
        }
        self.check_length(bytes)?;
        let log = self.log_bytes(page);
        let start = usize::try_from(offset).ok().filter(|&start| start <= log.len());
        let start = start.filter(|start| start.is_multiple_of(4)).ok_or(invalid_field())?;
        let mut data = vec![0; usize::try_from(bytes).map_err(|_| invalid_field())?];
        let there = log.get(start..).unwrap_or_default();
        for (to, from) in data.iter_mut().zip(there) {
            *to = *from;
        }
        self.send(&data, command, scratch)?;
        if !retain_event {
            self.health.lock().log_was_read(lid);
        }
        Ok(0)
    }

    fn log_bytes(&self, page: LogPage) -> Vec<u8> {
        let health = self.health.lock();
        match page {
            LogPage::Smart => health.smart(self.storage.counts()).encode().to_vec(),
            LogPage::Error => {
                let mut log: Vec<u8> =
                    health.error_log.iter().flat_map(|entry| entry.encode()).collect();
                log.resize(ERROR_LOG_ENTRIES * 64, 0);
                log
            }
            LogPage::FirmwareSlot => {
                let mut log = FirmwareSlotLog { active_slot: 1, ..FirmwareSlotLog::default() };
                if let Some(first) = log.revisions.first_mut() {
                    FIRMWARE.clone_into(first);
                }
                log.encode().to_vec()
            }
        }
    }

    /// DW0 bit 0 tells that the command was not aborted (Base, section 5.1).
    fn abort(&self, sqid: u16, cid: u16) -> Answer {
        let matches = |command: &Command| command.sq.place.id == sqid && command.sqe.cid() == cid;
        let found = {
            let mut parked = self.parked.lock();
            let is_abort = |command: &Command| command.is_admin() && command.sqe.opcode() == 0x08;
            let others = parked.held.iter().filter(|held| is_abort(&held.command)).count()
                + parked.ready.iter().filter(|command| is_abort(command)).count();
            if others >= ABORT_LIMIT {
                return Err(Status::ABORT_LIMIT_EXCEEDED);
            }
            if let Some(at) = parked.held.iter().position(|held| matches(&held.command)) {
                let command = parked.held.swap_remove(at).command;
                self.any_held.store(!parked.held.is_empty(), Ordering::SeqCst);
                Some(command)
            } else {
                let ready = parked.ready.iter().position(matches);
                ready.map(|at| parked.ready.swap_remove(at))
            }
        };
        let found = found.or_else(|| {
            let mut health = self.health.lock();
            (sqid == 0).then(|| health.take_request(cid)).flatten()
        });
        let Some(mut command) = found else { return Ok(1) };
        if !command.claim(&self.doorbells) {
            // No room for the completion: an event request that goes back to waiting.
            let returned = self.health.lock().request(command);
            debug_assert!(returned.is_ok());
            return Ok(1);
        }
        self.complete(command, Status::ABORT_REQUESTED.into());
        Ok(0)
    }

    fn format(&self, nsid: u32, lbaf: u8, secure_erase: u8) -> Answer {
        if secure_erase > 2 {
            return Err(invalid_field());
        }
        for namespace in select(&self.namespaces, nsid)? {
            namespace.set_format(lbaf)?;
            let erased = self.storage.zero(namespace.start, namespace.bytes, true, true);
            erased.map_err(|error| {
                tracing::error!(%error, nsid = namespace.nsid, "format");
                Status::INTERNAL_ERROR
            })?;
        }
        Ok(0)
    }
}
