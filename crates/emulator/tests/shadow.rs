//! Shadow doorbells at register level: stores without a ring, event indexes, refusals.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Host, Queue, buffer, cc, ram};
use gcos_emulator::{Config, Run};
use gcos_hw::DmaSlice;
use gcos_layout::nvme::{AdminCommand, DataPointer, IoCommand, Status};

fn host(run: Run) -> Host {
    Host::new(Config { shadow_doorbells: true, run, ..ram(1 << 20) })
}

/// Shadow doorbells and event indexes, configured.
fn configure(host: &mut Host) -> (DmaSlice, DmaSlice) {
    let (values, events) =
        (buffer(&*host.function, 4096).as_dma(), buffer(&*host.function, 4096).as_dma());
    let pages = DataPointer::Prp { prp1: values.iova(), prp2: events.iova() };
    let cqe = host.admin(AdminCommand::DoorbellBufferConfig, 0, pages);
    assert_eq!(cqe.status(), Status::SUCCESS);
    (values, events)
}

/// Posts a flush and stores the tail in memory; rings nothing.
fn post(host: &mut Host, queue: &mut Queue, values: &DmaSlice) {
    let cid = host.cid();
    host.put(queue, IoCommand::Flush.encode(cid, 1, DataPointer::NONE));
    values.store_u32(8 * usize::from(queue.qid), queue.tail, Ordering::SeqCst).unwrap();
}

#[test]
fn an_idle_queue_is_looked_at_when_rung_and_says_so() {
    for run in [Run::Threads, Run::Stepped { seed: 2 }] {
        let mut host = host(run);
        let (values, events) = configure(&mut host);
        let mut queue = host.queue(1, 4);
        let event = || events.load_u32(8, Ordering::SeqCst).unwrap();
        // A new queue is looked at once.
        host.idle(Duration::from_millis(20));
        for round in 1..=9 {
            let old = event();
            assert_eq!(old, (round - 1) % 4, "it wants to be rung for the next entry");
            post(&mut host, &mut queue, &values);
            host.idle(Duration::from_millis(5));
            assert!(host.peek(&mut queue).is_none(), "not rung, not seen");
            host.ring(&queue);
            assert!(host.reap(&mut queue).status().is_success());
            values.store_u32(12, queue.head, Ordering::SeqCst).unwrap();
            host.wait("event index", || event() != old);
        }
    }
}

#[test]
fn a_full_completion_queue_wants_its_head_rung() {
    let mut host = host(Run::Stepped { seed: 3 });
    let (values, events) = configure(&mut host);
    let (mut queue, small) = (Queue::new(&*host.function, 1, 8), Queue::new(&*host.function, 1, 2));
    assert_eq!(host.create_cq(&small, None), Status::SUCCESS);
    assert_eq!(host.create_sq(&queue, 1), Status::SUCCESS);
    (queue.cq, queue.entries) = (small.cq, 8);
    for _ in 0..3 {
        post(&mut host, &mut queue, &values);
    }
    host.ring(&queue);
    host.idle(Duration::from_millis(5));
    let mut heads = Queue { entries: 2, ..queue };
    for head in [1, 0, 1] {
        assert!(host.peek(&mut heads).unwrap().status().is_success());
        assert!(host.peek(&mut heads).is_none(), "no room for more");
        let event = events.load_u32(12, Ordering::SeqCst).unwrap();
        assert_eq!(event, 1 - head, "it wants to be rung when the head moves on from here");
        values.store_u32(12, head, Ordering::SeqCst).unwrap();
        host.ring_head(&heads);
        host.idle(Duration::from_millis(5));
    }
}

#[test]
fn queues_that_are_there_keep_their_doorbells_and_a_reset_ends_it() {
    let mut host = host(Run::Threads);
    let mut queue = host.queue(1, 4);
    assert_eq!(host.flush(&mut queue), Status::SUCCESS);
    let (values, events) = configure(&mut host);
    assert_eq!(values.load_u32(8, Ordering::SeqCst).unwrap(), 1);
    assert_eq!(values.load_u32(12, Ordering::SeqCst).unwrap(), 1);
    host.wait("event index", || events.load_u32(8, Ordering::SeqCst).unwrap() == 1);
    host.reset();
    values.fill(0, 4096, 0xFF).unwrap();
    let mut queue = host.queue(1, 4);
    assert_eq!(host.flush(&mut queue), Status::SUCCESS, "the registers count again");
}

#[test]
fn pages_that_cannot_be_are_refused_and_so_is_the_command_where_it_is_not_offered() {
    let mut host = host(Run::Threads);
    let page = buffer(&*host.function, 4096).as_dma().iova();
    for (prp1, prp2) in [(page + 8, page), (page, page + 4), (0, page), (page, 0)] {
        let pages = DataPointer::Prp { prp1, prp2 };
        let status = host.admin(AdminCommand::DoorbellBufferConfig, 0, pages).status();
        assert_eq!(status.code(), Status::INVALID_FIELD);
    }
    let mut plain = Host::disabled(ram(1 << 20));
    plain.enable(cc());
    let pages = DataPointer::Prp { prp1: page, prp2: page };
    let status = plain.admin(AdminCommand::DoorbellBufferConfig, 0, pages).status();
    assert_eq!(status.code(), Status::INVALID_OPCODE);
}
