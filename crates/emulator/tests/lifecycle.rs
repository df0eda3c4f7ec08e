//! Registers, enabling, reset, shutdown, interrupts, the controller memory buffer, address faults.

#[cfg(test)]
mod common;

use std::time::Duration;

use common::{Host, Queue, buffer, cc, prp, ram};
use gcos_emulator::{Action, AddressSpace, Config, Emulator, EmulatorError, Medium, Rule, Run};
use gcos_layout::nvme::{
    Aqa, Cap, Cc, Cns, DataPointer, IoCommand, Register, ShutdownNotification, ShutdownStatus,
    Status, Vs,
};

fn read32(host: &Host, register: Register) -> u32 {
    host.function.read32(register.offset())
}

#[test]
fn registers_read_as_the_specification_says() {
    let host = Host::disabled(Config { mqes: 256, doorbell_stride: 16, ..ram(1 << 20) });
    let cap = Cap(host.function.read64(0));
    assert_eq!((cap.max_queue_entries(), cap.doorbell_stride()), (256, 16));
    assert!(cap.cqr() && cap.nvm_command_set() && cap.nssrs() && !cap.cmbs());
    assert_eq!(Vs(read32(&host, Register::Vs)).major(), 2);
    assert_eq!(host.csts().0, 0);
    assert_eq!(host.function.registers_len(), 0x1000 + 2 * 65 * 16);
    // Outside, or not aligned: as if nothing were there.
    assert_eq!(host.function.read32(2), u32::MAX);
    assert_eq!(host.function.read32(host.function.registers_len()), u32::MAX);
    assert_eq!(host.function.read32(usize::MAX - 3), u32::MAX);
    host.function.write32(usize::MAX - 3, 1);
    assert_eq!(host.function.read32(0x1000), 0, "doorbells are write only");
    host.function.write64(Register::Asq.offset(), 0x1234_5678_9ABC_DEF0);
    assert_eq!(host.function.read64(Register::Asq.offset()), 0x1234_5678_9ABC_D000);
    host.write(Register::Vs, 0);
    assert_eq!(Vs(read32(&host, Register::Vs)).major(), 2, "read only");
}

#[test]
fn an_invalid_configuration_is_a_fatal_status() {
    for wrong in [cc().with_mps(5), cc().with_css(1), cc().with_ams(1)] {
        let host = Host::disabled(ram(1 << 20));
        host.set_admin_queues();
        host.write(Register::Cc, wrong.0);
        host.wait("CFS", || host.csts().cfs());
        assert!(!host.csts().rdy());
        host.disable();
        host.wait("reset clears it", || !host.csts().cfs());
        host.enable(cc());
    }
    let host = Host::disabled(ram(1 << 20));
    host.set_admin_queues();
    host.write(Register::Aqa, Aqa::default().with_asqs(0).with_acqs(7).0);
    host.write(Register::Cc, cc().0);
    host.wait("CFS", || host.csts().cfs());
}

#[test]
fn readiness_takes_its_time_within_the_announced_timeout() {
    let delay = Duration::from_millis(700);
    let stepped = Config { ready_delay: delay, run: Run::Stepped { seed: 1 }, ..ram(1 << 20) };
    let threads = Config { ready_delay: delay, ..ram(1 << 20) };
    for config in [stepped, threads] {
        let host = Host::disabled(config);
        let start = host.function.now();
        host.enable(cc());
        let took = host.function.now() - start;
        assert!(took >= delay, "{took:?}");
        assert!(took < Cap(host.function.read64(0)).timeout(), "{took:?}");
    }
}

#[test]
fn queue_registers_are_fixed_while_enabled() {
    let host = Host::new(ram(1 << 20));
    let before = read32(&host, Register::Aqa);
    host.write(Register::Aqa, 0);
    host.function.write64(Register::Asq.offset(), 0);
    assert_eq!(read32(&host, Register::Aqa), before);
    assert_ne!(host.function.read64(Register::Asq.offset()), 0);
}

#[test]
fn shutdown_empties_the_cache_and_says_so() {
    for (kind, kept) in [(ShutdownNotification::Normal, 0), (ShutdownNotification::Abrupt, 4096)] {
        let cached = Config { write_cache: Some(Default::default()), ..ram(1 << 20) };
        let mut host = Host::new(cached);
        let mut queue = host.queue(1, 4);
        host.fill(&mut queue, 0, 1, 1);
        host.write(Register::Cc, cc().with_shutdown(kind).0);
        host.wait("shutdown", || host.csts().shutdown() == ShutdownStatus::Complete);
        assert_eq!(host.emulator.dirty_bytes(), kept);
        host.reset();
        assert_eq!(host.csts().shutdown(), ShutdownStatus::Normal);
    }
}

#[test]
fn subsystem_reset_clears_everything_and_leaves_its_mark() {
    let host = Host::new(ram(1 << 20));
    host.write(Register::Nssr, 1);
    host.idle(Duration::from_millis(5));
    assert!(host.csts().rdy(), "only the right word resets");
    host.write(Register::Nssr, 0x4E56_4D65);
    host.wait("subsystem reset", || host.csts().nssro());
    assert_eq!((read32(&host, Register::Cc), read32(&host, Register::Aqa)), (0, 0));
    assert!(!host.csts().rdy());
    host.write(Register::Csts, 1 << 4);
    assert!(!host.csts().nssro());
}

#[test]
fn reset_forgets_commands_and_queues() {
    let mut host = Host::new(ram(1 << 20));
    let mut queue = host.queue(1, 8);
    host.emulator.faults().add(Rule::io(Action::Hold).times(2));
    for cid in 0..2 {
        host.submit(&mut queue, IoCommand::Flush.encode(cid, 1, DataPointer::NONE));
    }
    host.idle(Duration::from_millis(5));
    host.reset();
    let mut again = host.queue(1, 8);
    assert_eq!(host.fill(&mut again, 1, 1, 5), Status::SUCCESS);
    assert_eq!(host.block(&mut again, 1), 5);
    assert!(host.peek(&mut queue).is_none(), "nothing is posted to the old queue");
}

#[test]
fn reset_waits_for_workers_and_touches_nothing_afterwards() {
    for _ in 0..20 {
        let mut host = Host::new(Config { workers: Some(3), ..ram(16 << 20) });
        let mut queue = host.queue(1, 64);
        let data = buffer(&*host.function, 1 << 20);
        let sgl = gcos_layout::nvme::SglDescriptor::data(data.as_dma().iova(), 1 << 20);
        for cid in 0..40 {
            let read = IoCommand::Read { slba: 0, nlb: 256, fua: false };
            host.put(&mut queue, read.encode(cid, 1, DataPointer::Sgl(sgl)));
        }
        host.ring(&queue);
        host.disable();
        let mut data = data;
        data.bytes_mut().unwrap().fill(0xEE);
        std::thread::sleep(Duration::from_millis(1));
        assert!(data.bytes_mut().unwrap().iter().all(|byte| *byte == 0xEE));
    }
}

#[test]
fn interrupts_follow_the_queue_and_the_masks() {
    let mut host = Host::new(ram(1 << 20));
    let mut queue = Queue::new(&*host.function, 1, 8);
    assert_eq!(host.create_cq(&queue, Some(3)), Status::SUCCESS);
    assert_eq!(host.create_sq(&queue, 1), Status::SUCCESS);
    let event = host.function.interrupt(3).unwrap();
    let admin = host.function.interrupt(0).unwrap();
    assert_eq!(host.flush(&mut queue), Status::SUCCESS);
    assert!(event.wait(Duration::from_secs(5)));
    let _ = admin.take();
    host.write(Register::Intms, 1 << 3);
    assert_eq!(read32(&host, Register::Intms), 1 << 3);
    assert_eq!(host.flush(&mut queue), Status::SUCCESS);
    assert!(!event.wait(Duration::from_millis(5)));
    host.write(Register::Intmc, 1 << 3);
    assert!(event.wait(Duration::from_secs(5)), "delivered when unmasked");
    assert_eq!(host.function.interrupt_vectors(), 65);
    assert!(host.function.interrupt(65).is_err());

    let mut silent = host.queue(2, 8);
    assert_eq!(host.flush(&mut silent), Status::SUCCESS);
    assert!(!event.take(), "queues without interrupts signal nobody");
}

#[test]
fn queues_that_are_not_mapped_are_fatal() {
    // Submission queue.
    let mut host = Host::new(ram(1 << 20));
    let queue = host.queue(1, 8);
    drop(queue);
    host.function.write32(gcos_layout::nvme::sq_tail_doorbell(1, 4), 1);
    host.wait("CFS", || host.csts().cfs());
    host.reset();
    // Completion queue: the command is carried out, its completion has nowhere to go.
    let mut queue = host.queue(1, 8);
    let other = buffer(&*host.function, 4096).as_dma();
    queue.cq = other;
    host.submit(&mut queue, IoCommand::Flush.encode(1, 1, DataPointer::NONE));
    host.wait("CFS", || host.csts().cfs());
    host.reset();
    assert_eq!(host.fill_one_more(), Status::SUCCESS);
}

impl Host {
    fn fill_one_more(&mut self) -> Status {
        let mut queue = self.queue(1, 8);
        self.fill(&mut queue, 0, 1, 1)
    }
}

#[test]
fn the_controller_memory_buffer_holds_queues_and_data() {
    let mut host = Host::new(Config { cmb_bytes: 1 << 20, ..ram(1 << 20) });
    assert!(Cap(host.function.read64(0)).cmbs());
    assert_eq!(read32(&host, Register::Cmbsz), 0, "hidden until enabled");
    let base = 0x20_0000_0000u64;
    host.function.write64(Register::Cmbmsc.offset(), base | 0b11);
    assert_eq!(read32(&host, Register::Cmbsz) >> 12, 256);
    assert_eq!(read32(&host, Register::Cmbloc) & 7, 2);
    let cmb = host.emulator.cmb().unwrap().clone();
    cmb.fill(8192, 4096, 0x77).unwrap();
    let mut queue = host.queue(1, 8);
    let data = DataPointer::Prp { prp1: base + 8192, prp2: 0 };
    let write = IoCommand::Write { slba: 3, nlb: 1, fua: false };
    assert_eq!(host.io(&mut queue, write, data), Status::SUCCESS);
    assert_eq!(host.block(&mut queue, 3), 0x77);
    host.function.write64(Register::Cmbmsc.offset(), 0);
    assert_eq!(host.io(&mut queue, write, data), Status::DATA_TRANSFER_ERROR);
}

#[test]
fn controllers_share_an_address_space() {
    let space = AddressSpace::new().unwrap();
    let config = || Config { space: Some(space.clone()), ..ram(1 << 20) };
    let (mut a, mut b) = (Host::new(config()), Host::new(config()));
    let (mut qa, mut qb) = (a.queue(1, 4), b.queue(1, 4));
    let data = buffer(&*a.function, 4096).as_dma();
    data.fill(0, 4096, 0x5A).unwrap();
    let write = IoCommand::Write { slba: 1, nlb: 1, fua: false };
    assert_eq!(a.io(&mut qa, write, prp(&data)), Status::SUCCESS);
    assert_eq!(b.io(&mut qb, write, prp(&data)), Status::SUCCESS);
    assert_eq!((a.block(&mut qa, 1), b.block(&mut qb, 1)), (0x5A, 0x5A));
}

#[test]
fn buffers_are_freed_under_load_without_harm() {
    let mut host = Host::new(Config { workers: Some(2), ..ram(16 << 20) });
    let mut queue = host.queue(1, 64);
    for _ in 0..50 {
        let data = buffer(&*host.function, 1 << 20);
        let sgl = gcos_layout::nvme::SglDescriptor::data(data.as_dma().iova(), 1 << 20);
        for cid in 0..8 {
            let read = IoCommand::Read { slba: 0, nlb: 256, fua: false };
            host.put(&mut queue, read.encode(cid, 1, DataPointer::Sgl(sgl)));
        }
        host.ring(&queue);
        // A broken driver: frees the memory while the controller writes to it.
        drop(data);
        for _ in 0..8 {
            let status = host.reap(&mut queue).status().code();
            assert!([Status::SUCCESS, Status::DATA_TRANSFER_ERROR].contains(&status), "{status}");
        }
    }
}

#[test]
fn wrong_configurations_are_explained() {
    let bad = |config: Config| Emulator::new(config).unwrap_err();
    let field = |error: EmulatorError| match error {
        EmulatorError::Config { field, .. } => field,
        other => panic!("{other}"),
    };
    assert_eq!(field(bad(Config { mdts: 5000, ..ram(1 << 20) })), "mdts");
    assert_eq!(field(bad(Config { mdts: 4096, ..ram(1 << 20) })), "mdts");
    assert_eq!(field(bad(Config { mqes: 1, ..ram(1 << 20) })), "mqes");
    assert_eq!(field(bad(Config { max_queue_pairs: 0, ..ram(1 << 20) })), "max_queue_pairs");
    assert_eq!(field(bad(Config { doorbell_stride: 6, ..ram(1 << 20) })), "doorbell_stride");
    assert_eq!(field(bad(Config { atomic_bytes: 100, ..ram(1 << 20) })), "atomic_bytes");
    let namespace = gcos_emulator::Namespace { lba_bytes: 4096, bytes: 2 << 20 };
    let error = bad(Config { namespaces: vec![namespace], ..ram(1 << 20) });
    assert!(matches!(error, EmulatorError::Capacity { need: 0x20_0000, have: 0x10_0000 }));
}

#[test]
fn a_file_medium_outlives_its_controller_and_has_one_owner() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let open = || Medium::file(file.path(), true);
    let mut host = Host::new(Config::new(open().unwrap()));
    assert!(host.function.name().starts_with("emulated:/"), "{}", host.function.name());
    let mut queue = host.queue(1, 4);
    host.fill(&mut queue, 7, 2, 0x42);
    assert!(matches!(open(), Err(EmulatorError::Locked { .. })));
    drop(queue);
    drop(host);
    let mut host = Host::new(Config::new(open().unwrap()));
    let mut queue = host.queue(1, 4);
    assert_eq!((host.block(&mut queue, 7), host.block(&mut queue, 8)), (0x42, 0x42));
    let data = buffer(&*host.function, 4096).as_dma();
    let identify = gcos_layout::nvme::AdminCommand::Identify { cns: Cns::Controller };
    assert!(host.admin(identify, 0, prp(&data)).status().is_success());
    let mut vwc = [0];
    data.read(525, &mut vwc).unwrap();
    assert_eq!(vwc[0] & 1, 1, "a file is behind volatile caches");
}

#[test]
fn quick_toggling_of_enable_ends_in_the_last_state() {
    let host = Host::disabled(ram(1 << 20));
    host.set_admin_queues();
    for _ in 0..200 {
        host.write(Register::Cc, cc().0);
        host.write(Register::Cc, Cc::default().0);
    }
    host.write(Register::Cc, cc().0);
    host.wait("enable", || host.csts().rdy());
    host.write(Register::Cc, 0);
    host.wait("disable", || !host.csts().rdy());
}
