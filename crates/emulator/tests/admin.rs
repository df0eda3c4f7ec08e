//! The admin command set: structures, queues, features, events, logs, format.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[cfg(test)]
mod common;

use common::{Host, Queue, buffer, prp, ram};
use gcos_emulator::{Action, Config, Namespace, Rule, Run};
use gcos_layout::nvme::{
    AdminCommand, AsyncEvent, AsyncEventConfig, AsyncEventType, Cns, CriticalWarning, DataPointer,
    ErrorLogEntry, Feature, FeatureId, FirmwareSlotLog, IdentifyController, IdentifyNamespace,
    IoCommand, NSID_ALL, NamespaceDescriptor, QueueCounts, SmartLog, Sqe, Status,
    parse_active_namespaces, parse_namespace_descriptors, sq_tail_doorbell,
};

fn identify(host: &mut Host, cns: Cns, nsid: u32) -> Result<[u8; 4096], Status> {
    let data = buffer(&*host.function, 4096).as_dma();
    let status = host.admin(AdminCommand::Identify { cns }, nsid, prp(&data)).status().code();
    let mut out = [0; 4096];
    data.read(0, &mut out).unwrap();
    if status.is_success() { Ok(out) } else { Err(status) }
}

fn log<const N: usize>(host: &mut Host, lid: u8, offset: u64) -> Result<[u8; N], Status> {
    let data = buffer(&*host.function, 4096).as_dma();
    let get = AdminCommand::GetLogPage { lid, bytes: N as u64, offset, retain_event: false };
    let status = host.admin(get, NSID_ALL, prp(&data)).status().code();
    let mut out = [0; N];
    data.read(0, &mut out).unwrap();
    if status.is_success() { Ok(out) } else { Err(status) }
}

fn set(host: &mut Host, feature: Feature) -> Result<u32, Status> {
    let set = AdminCommand::SetFeatures { feature, save: false };
    let cqe = host.admin(set, 0, DataPointer::NONE);
    if cqe.status().is_success() { Ok(cqe.dw0()) } else { Err(cqe.status().code()) }
}

fn get(host: &mut Host, id: FeatureId, select: u8, cdw11: u32) -> Result<u32, Status> {
    let get = AdminCommand::GetFeatures { id, select, cdw11 };
    let cqe = host.admin(get, 0, DataPointer::NONE);
    if cqe.status().is_success() { Ok(cqe.dw0()) } else { Err(cqe.status().code()) }
}

#[test]
fn identify_tells_what_was_configured() {
    let namespaces = vec![
        Namespace { lba_bytes: 512, bytes: 1 << 20 },
        Namespace { lba_bytes: 4096, bytes: 2 << 20 },
    ];
    let serial = "S1".to_owned();
    let config = Config { namespaces, serial, mdts: 128 << 10, sgl: false, ..ram(4 << 20) };
    let mut host = Host::new(config);
    let controller = identify(&mut host, Cns::Controller, 0).unwrap();
    let controller = IdentifyController::decode(&controller);
    assert_eq!(controller.serial, "S1");
    assert_eq!(controller.max_transfer_bytes(4096), Some(128 << 10));
    assert_eq!((controller.namespaces, controller.sqes, controller.cqes), (2, 0x66, 0x44));
    assert!(!controller.volatile_write_cache());
    assert_eq!(controller.sgls.support(), 0);

    let first = identify(&mut host, Cns::Namespace, 1).unwrap();
    let first = IdentifyNamespace::decode(&first);
    assert_eq!((first.nsze, first.format().unwrap().lba_bytes()), (2048, 512));
    let second = identify(&mut host, Cns::Namespace, 2).unwrap();
    let second = IdentifyNamespace::decode(&second);
    assert_eq!((second.nsze, second.format().unwrap().lba_bytes()), (512, 4096));
    assert!(identify(&mut host, Cns::Namespace, NSID_ALL).is_ok());
    for nsid in [0, 3] {
        assert_eq!(identify(&mut host, Cns::Namespace, nsid), Err(Status::INVALID_NAMESPACE));
    }
    let list = |host: &mut Host, above| {
        identify(host, Cns::ActiveNamespaces, above).map(|data| parse_active_namespaces(&data))
    };
    assert_eq!(list(&mut host, 0), Ok(vec![1, 2]));
    assert_eq!(list(&mut host, 1), Ok(vec![2]));
    assert_eq!(list(&mut host, NSID_ALL), Err(Status::INVALID_NAMESPACE));
    let ids = identify(&mut host, Cns::NamespaceDescriptors, 2).unwrap();
    let ids = parse_namespace_descriptors(&ids);
    assert!(ids.contains(&NamespaceDescriptor::CommandSet(0)));
    assert!(ids.iter().any(|id| matches!(id, NamespaceDescriptor::Nguid(_))));
    let refused = identify(&mut host, Cns::NamespaceDescriptors, 7);
    assert_eq!(refused, Err(Status::INVALID_NAMESPACE));
    let unknown = Sqe::new(0x06, 9).with_cdw(10, 0x42);
    assert_eq!(host.run_admin(unknown).status().code(), Status::INVALID_FIELD);
}

#[test]
fn no_two_controllers_have_the_same_identity() {
    let mut ids = std::collections::HashSet::new();
    for _ in 0..3 {
        let mut host = Host::new(ram(1 << 20));
        let controller = identify(&mut host, Cns::Controller, 0).unwrap();
        assert!(ids.insert(IdentifyController::decode(&controller).serial));
        let namespace = identify(&mut host, Cns::Namespace, 1).unwrap();
        let nguid = IdentifyNamespace::decode(&namespace).nguid;
        assert!(ids.insert(format!("{nguid:?}")));
    }
}

#[test]
fn unknown_admin_commands_and_sgls_are_refused() {
    let mut host = Host::new(ram(1 << 20));
    assert_eq!(host.run_admin(Sqe::new(0x7E, 3)).status().code(), Status::INVALID_OPCODE);
    let sgl = AdminCommand::Identify { cns: Cns::Controller }.encode(4, 0, DataPointer::NONE);
    assert_eq!(host.run_admin(sgl.with_psdt(1)).status().code(), Status::INVALID_FIELD);
    let unmapped = DataPointer::Prp { prp1: 0x1000, prp2: 0 };
    let cqe = host.admin(AdminCommand::Identify { cns: Cns::Controller }, 0, unmapped);
    assert_eq!(cqe.status().code(), Status::DATA_TRANSFER_ERROR);
}

#[test]
fn queues_are_created_only_as_the_specification_allows() {
    let mut host =
        Host::new(Config { max_queue_pairs: 4, mqes: 16, interrupt_vectors: 2, ..ram(1 << 20) });
    let base = buffer(&*host.function, 4096).as_dma().iova();
    let at = |prp1| DataPointer::Prp { prp1, prp2: 0 };
    let cq = |qid, entries, vector, contiguous| AdminCommand::CreateCq {
        qid,
        entries,
        vector,
        contiguous,
    };
    let sq = |qid, entries, cqid, contiguous| {
        let priority = 0;
        AdminCommand::CreateSq { qid, entries, cqid, priority, contiguous }
    };
    let mut run = |command, base| host.admin(command, 0, at(base)).status().code();
    assert_eq!(run(cq(0, 8, None, true), base), Status::INVALID_QID);
    assert_eq!(run(cq(5, 8, None, true), base), Status::INVALID_QID);
    assert_eq!(run(cq(1, 17, None, true), base), Status::INVALID_QUEUE_SIZE);
    assert_eq!(run(cq(1, 1, None, true), base), Status::INVALID_QUEUE_SIZE);
    assert_eq!(run(cq(1, 8, None, false), base), Status::INVALID_FIELD);
    assert_eq!(run(cq(1, 8, None, true), base + 8), Status::INVALID_PRP_OFFSET);
    assert_eq!(run(cq(1, 8, Some(2), true), base), Status::INVALID_INTERRUPT_VECTOR);
    assert_eq!(run(cq(1, 16, Some(1), true), base), Status::SUCCESS);
    assert_eq!(run(cq(1, 16, Some(1), true), base), Status::INVALID_QID, "exists");

    assert_eq!(run(sq(1, 8, 0, true), base), Status::INVALID_CQ);
    assert_eq!(run(sq(1, 8, 2, true), base), Status::INVALID_CQ);
    assert_eq!(run(sq(0, 8, 1, true), base), Status::INVALID_QID);
    assert_eq!(run(sq(5, 8, 1, true), base), Status::INVALID_QID);
    assert_eq!(run(sq(1, 17, 1, true), base), Status::INVALID_QUEUE_SIZE);
    assert_eq!(run(sq(1, 8, 1, false), base), Status::INVALID_FIELD);
    assert_eq!(run(sq(1, 8, 1, true), base + 512), Status::INVALID_PRP_OFFSET);
    assert_eq!(run(sq(1, 8, 1, true), base), Status::SUCCESS);
    assert_eq!(run(sq(1, 8, 1, true), base), Status::INVALID_QID, "exists");

    let mut run = |command| host.admin_status(command);
    assert_eq!(run(AdminCommand::DeleteCq { qid: 1 }), Status::INVALID_QUEUE_DELETION);
    assert_eq!(run(AdminCommand::DeleteCq { qid: 0 }), Status::INVALID_QID);
    assert_eq!(run(AdminCommand::DeleteCq { qid: 2 }), Status::INVALID_QID);
    assert_eq!(run(AdminCommand::DeleteSq { qid: 0 }), Status::INVALID_QID);
    assert_eq!(run(AdminCommand::DeleteSq { qid: 2 }), Status::INVALID_QID);
    assert_eq!(run(AdminCommand::DeleteSq { qid: 1 }), Status::SUCCESS);
    assert_eq!(run(AdminCommand::DeleteSq { qid: 1 }), Status::INVALID_QID);
    assert_eq!(run(AdminCommand::DeleteCq { qid: 1 }), Status::SUCCESS);
    let mut again = host.queue(1, 4);
    assert_eq!(host.fill(&mut again, 0, 1, 1), Status::SUCCESS);
}

#[test]
fn queue_entry_sizes_are_checked_when_queues_are_created() {
    let mut host = Host::disabled(ram(1 << 20));
    host.enable(common::cc().with_iocqes(0));
    let queue = Queue::new(&*host.function, 1, 4);
    assert_eq!(host.create_cq(&queue, None), Status::INVALID_QUEUE_SIZE);
}

#[test]
fn queue_numbers_are_granted_once_and_capped() {
    let mut host = Host::new(Config { max_queue_pairs: 4, ..ram(1 << 20) });
    let ask = |sq, cq| Feature::NumberOfQueues(QueueCounts { sq, cq });
    assert_eq!(set(&mut host, ask(65_536, 1)), Err(Status::INVALID_FIELD));
    assert_eq!(set(&mut host, ask(100, 2)), Ok(ask(4, 2).to_dword()));
    assert_eq!(get(&mut host, FeatureId::NumberOfQueues, 0, 0), Ok(ask(4, 2).to_dword()));
    let queue = Queue::new(&*host.function, 3, 4);
    assert_eq!(host.create_cq(&queue, None), Status::INVALID_QID, "above what was granted");
    host.queue(1, 4);
    assert_eq!(set(&mut host, ask(4, 4)), Err(Status::SEQUENCE_ERROR));
    host.reset();
    assert_eq!(set(&mut host, ask(1, 1)), Ok(ask(1, 1).to_dword()));
}

#[test]
fn features_are_set_got_and_reset() {
    let cached = Config { write_cache: Some(Default::default()), ..ram(1 << 20) };
    let mut host = Host::new(cached);
    let threshold = |kelvin, under| Feature::TemperatureThreshold { kelvin, sensor: 0, under };
    assert_eq!(set(&mut host, threshold(330, false)), Ok(0));
    assert_eq!(set(&mut host, threshold(280, true)), Ok(0));
    let id = FeatureId::TemperatureThreshold;
    assert_eq!(get(&mut host, id, 0, 0), Ok(330));
    assert_eq!(get(&mut host, id, 0, 1 << 20), Ok(280));
    assert_eq!(get(&mut host, id, 1, 0), Ok(343));
    assert_eq!(get(&mut host, id, 0, 5 << 16), Err(Status::INVALID_FIELD));
    assert_eq!(get(&mut host, id, 3, 0), Ok(4), "changeable");
    assert_eq!(get(&mut host, id, 4, 0), Err(Status::INVALID_FIELD));
    let off = Feature::VolatileWriteCache { enabled: false };
    assert_eq!(get(&mut host, FeatureId::VolatileWriteCache, 0, 0), Ok(1));
    let mut queue = host.queue(1, 4);
    host.fill(&mut queue, 0, 1, 1);
    assert_eq!(host.emulator.dirty_bytes(), 4096);
    assert_eq!(set(&mut host, off), Ok(0));
    assert_eq!(host.emulator.dirty_bytes(), 0, "turning it off empties it");
    host.fill(&mut queue, 0, 1, 2);
    assert_eq!(host.emulator.dirty_bytes(), 0);
    assert_eq!(get(&mut host, FeatureId::VolatileWriteCache, 0, 0), Ok(0));
    let save = AdminCommand::SetFeatures { feature: off, save: true };
    assert_eq!(host.admin_status(save), Status::FEATURE_NOT_SAVEABLE);
    let unknown = Sqe::new(0x09, 1).with_cdw(10, 0x42);
    assert_eq!(host.run_admin(unknown).status().code(), Status::INVALID_FIELD);
    host.reset();
    assert_eq!(get(&mut host, id, 0, 0), Ok(343));

    let mut plain = Host::new(ram(1 << 20));
    assert_eq!(set(&mut plain, off), Err(Status::INVALID_FIELD), "no cache, no feature");
}

#[test]
fn held_commands_can_be_aborted() {
    let mut host = Host::new(ram(1 << 20));
    let mut queue = host.queue(1, 8);
    host.emulator.faults().add(Rule::io(Action::Hold).opcode(0x00).times(1));
    host.submit(&mut queue, IoCommand::Flush.encode(77, 1, DataPointer::NONE));
    assert_eq!(host.block(&mut queue, 0), 0, "others go on");
    let abort = |host: &mut Host, sqid, cid| {
        host.admin(AdminCommand::Abort { sqid, cid }, 0, DataPointer::NONE)
    };
    assert_eq!(abort(&mut host, 1, 78).dw0() & 1, 1, "not found");
    assert_eq!(abort(&mut host, 1, 77).dw0() & 1, 0);
    let cqe = host.reap(&mut queue);
    assert_eq!((cqe.cid(), cqe.status().code()), (77, Status::ABORT_REQUESTED));
    assert_eq!(abort(&mut host, 1, 77).dw0() & 1, 1, "gone");
}

#[test]
fn too_many_aborts_at_once_are_refused() {
    let mut host = Host::new(ram(1 << 20));
    let id = host.emulator.faults().add(Rule::admin(Action::Hold).opcode(0x08));
    let abort = AdminCommand::Abort { sqid: 1, cid: 1 };
    for cid in 100..104 {
        host.admin_submit(abort.encode(cid, 0, DataPointer::NONE));
    }
    // The next admin command is fetched after them.
    assert_eq!(get(&mut host, FeatureId::TemperatureThreshold, 0, 0), Ok(343));
    host.emulator.faults().remove(id);
    assert_eq!(host.admin_status(abort), Status::ABORT_LIMIT_EXCEEDED);
}

#[test]
fn deleting_a_queue_aborts_what_waits_in_it() {
    let mut host = Host::new(ram(1 << 20));
    let mut queue = host.queue(1, 8);
    host.emulator.faults().add(Rule::io(Action::Hold));
    for cid in 0..3 {
        host.submit(&mut queue, IoCommand::Flush.encode(cid, 1, DataPointer::NONE));
    }
    host.idle(std::time::Duration::from_millis(5));
    assert_eq!(host.admin_status(AdminCommand::DeleteSq { qid: 1 }), Status::SUCCESS);
    let mut cids = Vec::new();
    for _ in 0..3 {
        let cqe = host.peek(&mut queue).expect("completed before the deletion was");
        assert_eq!(cqe.status().code(), Status::SQ_DELETION_ABORT);
        cids.push(cqe.cid());
    }
    cids.sort_unstable();
    assert_eq!(cids, [0, 1, 2]);
}

#[test]
fn events_are_reported_once_until_their_log_is_read() {
    let mut host = Host::new(ram(1 << 20));
    let config = AsyncEventConfig::default().with_critical_warnings(0b111);
    set(&mut host, Feature::AsyncEventConfig(config)).unwrap();
    let ask = |host: &mut Host, cid| {
        host.admin_submit(AdminCommand::AsyncEventRequest.encode(cid, 0, DataPointer::NONE));
    };
    ask(&mut host, 200);
    host.emulator.set_temperature(350);
    let cqe = host.admin_reap();
    assert_eq!(cqe.cid(), 200);
    let event = AsyncEvent(cqe.dw0());
    assert_eq!(event, AsyncEvent::smart(AsyncEvent::SMART_TEMPERATURE));

    // Silent until the SMART log was read, however often the threshold is crossed.
    ask(&mut host, 201);
    host.emulator.set_temperature(300);
    host.emulator.set_temperature(350);
    host.idle(std::time::Duration::from_millis(5));
    assert!(host.admin_peek().is_none());
    let smart = SmartLog::decode(&log(&mut host, 2, 0).unwrap());
    assert!(smart.critical_warning.temperature());
    assert_eq!(smart.temperature, 350);
    host.emulator.set_critical_warning(CriticalWarning::default().with_spare(true));
    let cqe = host.admin_reap();
    assert_eq!((cqe.cid(), AsyncEvent(cqe.dw0()).info()), (201, AsyncEvent::SMART_SPARE));

    // An event waits for a request, and a threshold that moves is an event.
    log::<512>(&mut host, 2, 0).unwrap();
    host.emulator.set_temperature(320);
    set(&mut host, Feature::TemperatureThreshold { kelvin: 315, sensor: 0, under: false }).unwrap();
    ask(&mut host, 202);
    let cqe = host.admin_reap();
    assert_eq!((cqe.cid(), AsyncEvent(cqe.dw0()).info()), (202, AsyncEvent::SMART_TEMPERATURE));
}

#[test]
fn event_requests_are_limited_and_can_be_aborted() {
    let mut host = Host::new(ram(1 << 20));
    for cid in 300..304 {
        host.admin_submit(AdminCommand::AsyncEventRequest.encode(cid, 0, DataPointer::NONE));
    }
    let refused = host.admin_status(AdminCommand::AsyncEventRequest);
    assert_eq!(refused, Status::AER_LIMIT_EXCEEDED);
    let abort = AdminCommand::Abort { sqid: 0, cid: 302 }.encode(400, 0, DataPointer::NONE);
    host.admin_submit(abort);
    let first = host.admin_reap();
    assert_eq!((first.cid(), first.status().code()), (302, Status::ABORT_REQUESTED));
    let second = host.admin_reap();
    assert_eq!((second.cid(), second.dw0()), (400, 0));
}

#[test]
fn wrong_doorbells_are_events_on_threads() {
    wrong_doorbells_are_events(Run::Threads);
}

#[test]
fn wrong_doorbells_are_events_in_steps() {
    (0..20).for_each(|seed| wrong_doorbells_are_events(Run::Stepped { seed }));
}

fn wrong_doorbells_are_events(run: Run) {
    let mut host = Host::new(Config { run, ..ram(1 << 20) });
    let mut queue = host.queue(1, 8);
    let ask = |host: &mut Host, cid| {
        host.admin_submit(AdminCommand::AsyncEventRequest.encode(cid, 0, DataPointer::NONE));
    };
    ask(&mut host, 500);
    host.function.write32(sq_tail_doorbell(1, 4), 8);
    let event = AsyncEvent(host.admin_reap().dw0());
    assert_eq!((event.kind(), event.info(), event.log_page()), (AsyncEventType::Error, 1, 1));
    log::<64>(&mut host, 1, 0).unwrap();
    ask(&mut host, 501);
    host.function.write32(sq_tail_doorbell(9, 4), 1);
    let event = AsyncEvent(host.admin_reap().dw0());
    assert_eq!((event.kind(), event.info()), (AsyncEventType::Error, 0));
    log::<64>(&mut host, 1, 0).unwrap();
    // A completion queue head beyond the tail.
    ask(&mut host, 502);
    host.function.write32(gcos_layout::nvme::cq_head_doorbell(1, 4), 3);
    host.submit(&mut queue, IoCommand::Flush.encode(1, 1, DataPointer::NONE));
    let event = AsyncEvent(host.admin_reap().dw0());
    assert_eq!((event.kind(), event.info()), (AsyncEventType::Error, 1));
    assert_eq!(host.reap(&mut queue).status(), Status::SUCCESS, "the queue still works");
}

#[test]
fn logs_tell_what_happened() {
    let mut host = Host::new(ram(1 << 20));
    let mut queue = host.queue(1, 8);
    for lba in 0..3 {
        host.fill(&mut queue, lba, 1, 1);
    }
    host.read(&mut queue, 0, 2).unwrap();
    let read = IoCommand::Read { slba: 1000, nlb: 1, fua: false };
    host.run(&mut queue, read.encode(0xABC, 1, DataPointer::NONE));
    let status = Action::Status { sct: 2, sc: 0x81, dnr: false };
    host.emulator.faults().add(Rule::io(status).times(1));
    let data = buffer(&*host.function, 4096).as_dma();
    let read = IoCommand::Read { slba: 5, nlb: 1, fua: false };
    host.run(&mut queue, read.encode(0xABD, 1, prp(&data)));

    let errors: [u8; 128] = log(&mut host, 1, 0).unwrap();
    let (newest, older) = errors.split_at(64);
    let newest = ErrorLogEntry::decode(newest.try_into().unwrap());
    assert_eq!((newest.cid, newest.lba, newest.count), (0xABD, 5, 2));
    assert_eq!(newest.status.code(), Status::UNRECOVERED_READ_ERROR);
    let older = ErrorLogEntry::decode(older.try_into().unwrap());
    assert_eq!((older.cid, older.sqid, older.nsid, older.count), (0xABC, 1, 1, 1));
    assert_eq!(older.status.code(), Status::LBA_OUT_OF_RANGE);
    assert_eq!(log::<64>(&mut host, 1, 64).unwrap()[..], errors[64..], "offsets work");

    let smart = SmartLog::decode(&log(&mut host, 2, 0).unwrap());
    assert_eq!((smart.host_writes, smart.host_reads), (3, 1));
    assert_eq!((smart.media_errors, smart.error_entries, smart.power_cycles), (1, 2, 1));
    let slots = FirmwareSlotLog::decode(&log(&mut host, 3, 0).unwrap());
    assert_eq!((slots.active_slot, slots.revisions[0].as_str()), (1, "1.0"));
    assert_eq!(log::<64>(&mut host, 0x70, 0), Err(Status::INVALID_LOG_PAGE));
    assert_eq!(log::<64>(&mut host, 2, 516), Err(Status::INVALID_FIELD));
    let data = buffer(&*host.function, 4096).as_dma();
    let one = AdminCommand::GetLogPage { lid: 2, bytes: 512, offset: 0, retain_event: true };
    assert_eq!(host.admin(one, 1, prp(&data)).status().code(), Status::INVALID_FIELD);
}

#[test]
fn format_changes_the_block_size_and_erases() {
    let mut host = Host::new(ram(1 << 20));
    let mut queue = host.queue(1, 8);
    host.fill(&mut queue, 0, 2, 9);
    let format = |lbaf, secure_erase| AdminCommand::FormatNvm { lbaf, secure_erase };
    let run =
        |host: &mut Host, nsid, format| host.admin(format, nsid, DataPointer::NONE).status().code();
    assert_eq!(run(&mut host, 1, format(2, 0)), Status::INVALID_FORMAT);
    assert_eq!(run(&mut host, 1, format(0, 3)), Status::INVALID_FIELD);
    assert_eq!(run(&mut host, 2, format(0, 0)), Status::INVALID_NAMESPACE);
    assert_eq!(host.block(&mut queue, 0), 9, "refused formats erase nothing");
    assert_eq!(run(&mut host, 1, format(0, 0)), Status::SUCCESS);
    let data = identify(&mut host, Cns::Namespace, 1).unwrap();
    let namespace = IdentifyNamespace::decode(&data);
    assert_eq!((namespace.nsze, namespace.format().unwrap().lba_bytes()), (2048, 512));
    let data = buffer(&*host.function, 4096).as_dma();
    data.fill(0, 4096, 1).unwrap();
    let read = IoCommand::Read { slba: 0, nlb: 8, fua: false };
    assert_eq!(host.io(&mut queue, read, prp(&data)), Status::SUCCESS);
    let mut out = [1; 4096];
    data.read(0, &mut out).unwrap();
    assert_eq!(out, [0; 4096]);
    assert_eq!(run(&mut host, NSID_ALL, format(1, 1)), Status::SUCCESS);
    assert_eq!(host.block(&mut queue, 255), 0);
}
