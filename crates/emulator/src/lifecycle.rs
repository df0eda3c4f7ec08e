//! Enabling, reset, shutdown, power, and the creation and deletion of queues.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gcos_layout::nvme::{ShutdownStatus, Status};

use crate::controller::{Controller, Queues};
use crate::queue::{Cq, Place, Sq};
use crate::registers::Transition;

/// CC.IOSQES and CC.IOCQES: log2 of 64 and 16 bytes.
const IOSQES: u8 = 6;
const IOCQES: u8 = 4;

impl Controller {
    /// Acts on register writes and the ready timer: whether anything was done.
    pub(crate) fn service(&self) -> bool {
        let changed = self.registers_changed.load(Ordering::SeqCst);
        if !changed && !self.ready_pending.load(Ordering::SeqCst) {
            return false;
        }
        let mut worked = false;
        if self.registers_changed.swap(false, Ordering::SeqCst) {
            loop {
                let next = self.registers.lock().transitions.pop_front();
                let Some(transition) = next else { break };
                worked = true;
                if self.is_present() {
                    self.act(transition);
                }
            }
        }
        let due = {
            let mut registers = self.registers.lock();
            let now = self.clock.now();
            let due = registers.ready_at.take_if(|at| *at <= now).is_some();
            self.ready_pending.store(registers.ready_at.is_some(), Ordering::SeqCst);
            due
        };
        if due {
            self.become_ready();
            worked = true;
        }
        worked
    }

    fn act(&self, transition: Transition) {
        match transition {
            Transition::Enable => self.enable(),
            Transition::Reset => self.reset(),
            Transition::SubsystemReset => {
                self.reset();
                let mut registers = self.registers.lock();
                registers.power_on(&self.table);
                registers.csts = registers.csts.with_nssro(true);
            }
            Transition::Shutdown { orderly } => {
                if orderly && let Err(error) = self.storage.settle() {
                    tracing::error!(%error, "write cache could not be emptied at shutdown");
                }
                let mut registers = self.registers.lock();
                registers.csts = registers.csts.with_shutdown(ShutdownStatus::Complete);
            }
        }
    }

    fn enable(&self) {
        let mut registers = self.registers.lock();
        if registers.can_start() {
            registers.ready_at = Some(self.clock.now() + self.limits.ready_delay);
        } else {
            drop(registers);
            self.fail("controller enabled with an invalid configuration");
        }
    }

    fn become_ready(&self) {
        self.clear_doorbells(0..=self.limits.max_queue_pairs);
        let mut registers = self.registers.lock();
        self.page_bytes.store(registers.page_bytes() as usize, Ordering::SeqCst);
        let cq_place = self.place(0, true, registers.acq, registers.aqa.cq_entries());
        let cq = Arc::new(Cq::new(cq_place, Some(0)));
        let sq_place = self.place(0, false, registers.asq, registers.aqa.sq_entries());
        let sq = Arc::new(Sq::new(sq_place, Arc::clone(&cq)));
        self.change_queues(|queues| {
            queues.sqs = vec![Some(sq)];
            queues.cqs = vec![Some(cq)];
        });
        registers.csts = registers.csts.with_rdy(true);
    }

    /// Controller reset (Base, section 3.7.2). When CSTS.RDY is 0 again no memory is touched.
    fn reset(&self) {
        self.quiesce();
        self.shadow.clear();
        self.health.lock().reset();
        self.interrupts.reset();
        self.stuck.store(false, Ordering::SeqCst);
        self.fatal.store(false, Ordering::SeqCst);
        self.clear_doorbells(0..=self.limits.max_queue_pairs);
        let mut registers = self.registers.lock();
        registers.ready_at = None;
        registers.csts =
            registers.csts.with_rdy(false).with_cfs(false).with_shutdown(ShutdownStatus::Normal);
    }

    /// Drops every queue and command, and waits for those that are being worked on.
    pub(crate) fn quiesce(&self) {
        let queues = self.change_queues(std::mem::take);
        queues.sqs.iter().flatten().for_each(|sq| sq.kill());
        queues.cqs.iter().flatten().for_each(|cq| cq.kill());
        self.drop_parked();
        self.health.lock().requests.clear();
        let mut spins = 0;
        while self.executing.load(Ordering::SeqCst) != 0 {
            gcos_hw::relax_spinning(spins);
            spins += 1;
        }
        // A command may have been parked by a thread that was working until just now.
        self.drop_parked();
    }

    fn drop_parked(&self) {
        let parked = std::mem::take(&mut *self.parked.lock());
        self.any_held.store(false, Ordering::SeqCst);
        drop(parked);
    }

    /// Power comes back: registers and features are as new, the medium is what it was.
    pub(crate) fn power_on(&self) {
        self.quiesce();
        self.shadow.clear();
        let shutdown = self.registers.lock().csts.shutdown();
        {
            let mut health = self.health.lock();
            health.reset();
            health.life.power_cycles += 1;
            health.life.unsafe_shutdowns += u64::from(shutdown != ShutdownStatus::Complete);
        }
        self.interrupts.reset();
        self.stuck.store(false, Ordering::SeqCst);
        self.fatal.store(false, Ordering::SeqCst);
        self.registers.lock().power_on(&self.table);
        self.storage.power_on();
        self.removed.store(false, Ordering::SeqCst);
    }

    fn clear_doorbells(&self, queues: std::ops::RangeInclusive<u16>) {
        for qid in queues {
            for place in [self.place(qid, false, 0, 0), self.place(qid, true, 0, 0)] {
                let cleared = self.doorbells.store_u32(place.doorbell, 0, Ordering::SeqCst);
                debug_assert!(cleared.is_ok());
            }
        }
    }

    fn place(&self, id: u16, is_cq: bool, base: u64, entries: u32) -> Place {
        let index = 2 * usize::from(id) + usize::from(is_cq);
        Place { id, base, entries, doorbell: index * self.limits.doorbell_stride }
    }

    fn change_queues<T>(&self, change: impl FnOnce(&mut Queues) -> T) -> T {
        let result = change(&mut self.queues.write());
        self.queues_version.fetch_add(1, Ordering::SeqCst);
        result
    }

    pub(crate) fn create_cq(
        &self,
        qid: u16,
        entries: u32,
        vector: Option<u16>,
        contiguous: bool,
        base: u64,
    ) -> Result<u32, Status> {
        let most = self.granted().cq;
        let exists = |queues: &Queues| slot(&queues.cqs, qid).is_some();
        self.check_new_queue(qid, entries, contiguous, base, most, &exists)?;
        if vector.is_some_and(|vector| vector >= self.interrupts.count()) {
            return Err(Status::INVALID_INTERRUPT_VECTOR.with_dnr(true));
        }
        if self.registers.lock().cc.iocqes() != IOCQES {
            return Err(Status::INVALID_QUEUE_SIZE.with_dnr(true));
        }
        let place = self.place(qid, true, base, entries);
        let _ = self.doorbells.store_u32(place.doorbell, 0, Ordering::SeqCst);
        let cq = Arc::new(Cq::new(place, vector));
        self.change_queues(|queues| put(&mut queues.cqs, qid, cq));
        Ok(0)
    }

    pub(crate) fn create_sq(
        &self,
        qid: u16,
        entries: u32,
        cqid: u16,
        contiguous: bool,
        base: u64,
    ) -> Result<u32, Status> {
        let most = self.granted().sq;
        let exists = |queues: &Queues| slot(&queues.sqs, qid).is_some();
        let cq = slot(&self.queues.read().cqs, cqid).filter(|_| cqid != 0);
        let cq = cq.ok_or(Status::INVALID_CQ.with_dnr(true))?;
        self.check_new_queue(qid, entries, contiguous, base, most, &exists)?;
        if self.registers.lock().cc.iosqes() != IOSQES {
            return Err(Status::INVALID_QUEUE_SIZE.with_dnr(true));
        }
        let place = self.place(qid, false, base, entries);
        let _ = self.doorbells.store_u32(place.doorbell, 0, Ordering::SeqCst);
        let sq = Arc::new(Sq::new(place, cq));
        // A tail in memory that is not 0 yet is taken at its word.
        sq.looked_at.store(self.shadow.is_used_by(qid.into()), Ordering::SeqCst);
        self.change_queues(|queues| put(&mut queues.sqs, qid, sq));
        Ok(0)
    }

    fn check_new_queue(
        &self,
        qid: u16,
        entries: u32,
        contiguous: bool,
        base: u64,
        most: u32,
        exists: &dyn Fn(&Queues) -> bool,
    ) -> Result<(), Status> {
        if qid == 0 || u32::from(qid) > most || exists(&self.queues.read()) {
            return Err(Status::INVALID_QID.with_dnr(true));
        }
        if !(2..=self.limits.mqes).contains(&entries) {
            return Err(Status::INVALID_QUEUE_SIZE.with_dnr(true));
        }
        // CAP.CQR is set: queues are contiguous.
        if !contiguous {
            return Err(Status::INVALID_FIELD.with_dnr(true));
        }
        if !base.is_multiple_of(self.page_bytes.load(Ordering::Relaxed) as u64) {
            return Err(Status::INVALID_PRP_OFFSET.with_dnr(true));
        }
        Ok(())
    }

    /// Deletes a submission queue after its commands ended: those that wait are aborted.
    pub(crate) fn delete_sq(&self, qid: u16) -> Result<u32, Status> {
        let found = slot(&self.queues.read().sqs, qid).filter(|_| qid != 0);
        let sq = found.ok_or(Status::INVALID_QID.with_dnr(true))?;
        // No more is fetched; what is being carried out ends as usual.
        self.change_queues(|queues| take(&mut queues.sqs, qid));
        let mut done = Vec::new();
        {
            let mut parked = self.parked.lock();
            let ours = |command: &crate::queue::Command| command.sq.place.id == qid;
            let held = parked.held.extract_if(.., |held| ours(&held.command));
            done.extend(held.map(|held| (held.command, Status::SQ_DELETION_ABORT.into())));
            let ready = parked.ready.extract_if(.., |command| ours(command));
            done.extend(ready.map(|command| (command, Status::SQ_DELETION_ABORT.into())));
            done.extend(parked.done.extract_if(.., |(command, _)| ours(command)));
            self.any_held.store(!parked.held.is_empty(), Ordering::SeqCst);
        }
        for (command, outcome) in done {
            self.complete(command, outcome);
        }
        let mut spins = 0;
        while sq.outstanding() != 0 && self.is_present() {
            gcos_hw::relax_spinning(spins);
            spins += 1;
        }
        sq.kill();
        sq.cq.users.fetch_sub(1, Ordering::SeqCst);
        Ok(0)
    }

    pub(crate) fn delete_cq(&self, qid: u16) -> Result<u32, Status> {
        let found = slot(&self.queues.read().cqs, qid).filter(|_| qid != 0);
        let cq = found.ok_or(Status::INVALID_QID.with_dnr(true))?;
        if cq.users.load(Ordering::SeqCst) != 0 {
            return Err(Status::INVALID_QUEUE_DELETION.with_dnr(true));
        }
        self.change_queues(|queues| take(&mut queues.cqs, qid));
        cq.kill();
        Ok(0)
    }
}

fn slot<T>(slots: &[Option<Arc<T>>], qid: u16) -> Option<Arc<T>> {
    slots.get(usize::from(qid)).cloned().flatten()
}

fn put<T>(slots: &mut Vec<Option<Arc<T>>>, qid: u16, queue: Arc<T>) {
    let index = usize::from(qid);
    if slots.len() <= index {
        slots.resize(index + 1, None);
    }
    if let Some(slot) = slots.get_mut(index) {
        *slot = Some(queue);
    }
}

fn take<T>(slots: &mut [Option<Arc<T>>], qid: u16) {
    if let Some(slot) = slots.get_mut(usize::from(qid)) {
        *slot = None;
    }
}
