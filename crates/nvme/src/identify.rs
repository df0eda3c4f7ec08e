//! Asking the controller what it and its namespaces are, and whether they are still the same.

use std::time::Duration;

use gcos_layout::nvme::{
    AdminCommand, Cns, IDENTIFY_BYTES, IdentifyController, IdentifyNamespace, NSID_ALL,
    parse_active_namespaces, parse_namespace_descriptors,
};

use crate::admin::AdminError;
use crate::bring_up::{Core, Facts};
use crate::device::gone;
use crate::{Namespace, NvmeError};

/// Namespace identifiers that one list holds.
const LIST_ENTRIES: usize = IDENTIFY_BYTES / 4;

/// Lists asked for at most, so that a controller that makes up namespaces ends, too.
const MOST_LISTS: usize = 16;

impl Core {
    pub(crate) fn identify_controller(
        &self,
        timeout: Duration,
    ) -> Result<IdentifyController, NvmeError> {
        let command = AdminCommand::Identify { cns: Cns::Controller };
        let data = self.path().fetch::<IDENTIFY_BYTES>(command, 0, timeout);
        data.map(|data| IdentifyController::decode(&data)).map_err(AdminError::into_inner)
    }

    /// The active namespaces. One that cannot be identified is among them, as unusable: it is no
    /// reason not to use the others.
    pub(crate) fn identify_namespaces(
        &self,
        identity: &IdentifyController,
        max_transfer: usize,
        timeout: Duration,
    ) -> Result<Vec<Namespace>, NvmeError> {
        let each = |nsid| self.namespace(nsid, identity, max_transfer, timeout);
        match self.active_namespaces(timeout) {
            Ok(nsids) => nsids.into_iter().map(each).collect(),
            // Controllers before NVMe 1.1 have no list. Theirs are numbered from 1 on, and those that
            // are not active say so by their size.
            Err(AdminError::Ended(error)) if error.status().is_some() => {
                let most = identity.namespaces.min(LIST_ENTRIES as u32);
                let active = (1..=most).map(each).filter(|namespace| {
                    !namespace.as_ref().is_ok_and(|namespace| namespace.identify.nsze == 0)
                });
                active.collect()
            }
            Err(error) => Err(error.into_inner()),
        }
    }

    /// Identifiers of the active namespaces, in rising order.
    fn active_namespaces(&self, timeout: Duration) -> Result<Vec<u32>, AdminError> {
        let command = AdminCommand::Identify { cns: Cns::ActiveNamespaces };
        let mut nsids: Vec<u32> = Vec::new();
        for _ in 0..MOST_LISTS {
            // The list holds what lies above the identifier that is asked with.
            let above = nsids.last().copied().unwrap_or(0);
            if above >= NSID_ALL - 2 {
                return Ok(nsids);
            }
            let list = self.path().fetch::<IDENTIFY_BYTES>(command, above, timeout)?;
            let list = parse_active_namespaces(&list);
            let full = list.len() == LIST_ENTRIES;
            let rising = list.iter().scan(above, |last, &nsid| {
                let rises = nsid > *last;
                *last = nsid;
                rises.then_some(nsid)
            });
            let before = nsids.len();
            nsids.extend(rising);
            if !full || nsids.len() - before < LIST_ENTRIES {
                return Ok(nsids);
            }
        }
        tracing::warn!(
            device = %self.device.name, used = nsids.len(),
            "the controller has more namespaces than are looked at"
        );
        Ok(nsids)
    }

    fn namespace(
        &self,
        nsid: u32,
        identity: &IdentifyController,
        max_transfer: usize,
        timeout: Duration,
    ) -> Result<Namespace, NvmeError> {
        let fetch = |cns| {
            self.path().fetch::<IDENTIFY_BYTES>(AdminCommand::Identify { cns }, nsid, timeout)
        };
        let data = match fetch(Cns::Namespace) {
            Ok(data) => data,
            Err(AdminError::Ended(error)) if let Some(status) = error.status() => {
                tracing::warn!(device = %self.device.name, nsid, %status, "namespace not usable");
                return Ok(Namespace::unidentified(nsid, status));
            }
            Err(error) => return Err(error.into_inner()),
        };
        let descriptors = match fetch(Cns::NamespaceDescriptors) {
            Ok(data) => parse_namespace_descriptors(&data),
            // Controllers before NVMe 1.3 do not know the structure.
            Err(AdminError::Ended(error)) if error.status().is_some() => Vec::new(),
            Err(error) => return Err(error.into_inner()),
        };
        let identify = IdentifyNamespace::decode(&data);
        let atomic = identity.atomic_write_power_fail_blocks;
        Ok(Namespace::new(nsid, identify, descriptors, max_transfer, atomic))
    }

    /// After a reset: checks that this is the controller that was opened, with namespaces as they
    /// were. Queues are made again only then: nobody shall write to another drive in its place, or to
    /// a namespace that has been formatted meanwhile.
    pub(crate) fn check_same(&self, facts: &Facts, timeout: Duration) -> Result<(), NvmeError> {
        let changed = |what: String| gone(&self.device.name, &what);
        let now = self.identify_controller(timeout)?;
        let before = &facts.identity;
        if (&now.serial, &now.model, now.cntlid) != (&before.serial, &before.model, before.cntlid) {
            return Err(changed(format!(
                "another controller is in its place: expected {} serial {} controller {:#x}, found \
                 {} serial {} controller {:#x}",
                before.model, before.serial, before.cntlid, now.model, now.serial, now.cntlid
            )));
        }
        // A write cache that was not there would lose what nobody has flushed.
        let abilities = |of: &IdentifyController| {
            let atomic = of.atomic_write_power_fail_blocks;
            (of.mdts, of.sgls, of.oncs, of.volatile_write_cache(), atomic)
        };
        if abilities(&now) != abilities(before) {
            let say = |of: &IdentifyController| {
                let (mdts, sgls, oncs, cache, atomic) = abilities(of);
                format!("MDTS {mdts}, {sgls:?}, {oncs:?}, write cache {cache}, AWUPF {atomic}")
            };
            return Err(changed(format!(
                "its abilities changed: expected {}, found {}; open it again",
                say(before),
                say(&now)
            )));
        }
        for before in facts.namespaces.iter().filter(|namespace| namespace.unusable.is_none()) {
            let now = self.namespace(before.nsid, &now, facts.max_transfer, timeout)?;
            if !now.is_same(before) {
                return Err(changed(format!(
                    "its namespace {} changed: expected {} blocks of {} bytes, found {} of {}{}; \
                     open it again",
                    before.nsid,
                    before.blocks,
                    before.lba_bytes,
                    now.blocks,
                    now.lba_bytes,
                    now.unusable.as_ref().map_or(String::new(), |why| format!(" ({why})")),
                )));
            }
        }
        Ok(())
    }
}
