//! Threads and steps: determinism, rest, and clean ends.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[cfg(test)]
mod common;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Host, buffer, prp, ram};
use gcos_emulator::{Action, Config, MediumEvent, Observer, Rule, Run};
use gcos_hw::DmaBuffer;
use gcos_layout::nvme::{DataPointer, IoCommand, Status};

/// Runs many commands over two queues: what the medium and the host saw, in order.
fn trace(seed: u64) -> Vec<String> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&lines);
    let observer: Observer = Arc::new(move |event| {
        if let MediumEvent::Write { offset, .. } = event {
            record.lock().unwrap().push(format!("write {offset}"));
        }
    });
    let run = Run::Stepped { seed };
    let mut host = Host::new(Config { run, observer: Some(observer), ..ram(1 << 20) });
    let jitter = Action::Delay(Duration::from_micros(3));
    host.emulator.faults().add(Rule::io(jitter).percent(30));
    let mut queues = [host.queue(1, 16), host.queue(2, 16)];
    let buffers: Vec<DmaBuffer> = (0..20).map(|_| buffer(&*host.function, 4096)).collect();
    for (index, data) in buffers.iter().enumerate() {
        let write = IoCommand::Write { slba: index as u64, nlb: 1, fua: false };
        let sqe = write.encode(index as u16, 1, prp(&data.as_dma()));
        host.submit(&mut queues[index % 2], sqe);
    }
    let mut left = buffers.len();
    host.wait("all completions", || {
        for queue in &mut queues {
            while let Some(cqe) = host.peek(queue) {
                let at = host.function.now().as_nanos();
                lines.lock().unwrap().push(format!("{at} {} {}", cqe.sqid(), cqe.cid()));
                left -= 1;
            }
        }
        left == 0
    });
    drop(host);
    Arc::into_inner(lines).unwrap().into_inner().unwrap()
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..10 {
        assert_eq!(trace(seed), trace(seed));
    }
    let distinct: std::collections::HashSet<_> = (0..10).map(trace).collect();
    assert_eq!(distinct.len(), 10);
}

#[test]
fn steps_carry_commands_out_of_order() {
    let in_order = (0..20).all(|index| format!("write {}", index * 4096) == trace(1)[index]);
    assert!(!in_order);
}

#[test]
fn simulated_waits_end_without_waiting() {
    let host = Host::new(Config { run: Run::Stepped { seed: 1 }, ..ram(1 << 20) });
    let real = Instant::now();
    let start = host.function.now();
    while host.function.now() - start < Duration::from_secs(60) {
        host.function.relax(0);
    }
    assert!(real.elapsed() < Duration::from_secs(5), "{:?}", real.elapsed());
}

/// Processor time of this process in clock ticks (1/100 s).
fn processor_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap();
    fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

#[test]
fn dropping_a_busy_controller_ends_cleanly() {
    for workers in [0, 2] {
        let mut host = Host::new(Config { workers: Some(workers), ..ram(8 << 20) });
        let mut queue = host.queue(1, 64);
        let mut data = buffer(&*host.function, 1 << 20);
        let sgl = gcos_layout::nvme::SglDescriptor::data(data.as_dma().iova(), 1 << 20);
        for cid in 0..60 {
            let read = IoCommand::Read { slba: 0, nlb: 256, fua: false };
            host.put(&mut queue, read.encode(cid, 1, DataPointer::Sgl(sgl)));
        }
        host.ring(&queue);
        let emulator = Arc::downgrade(&host.emulator);
        drop(host);
        assert!(emulator.upgrade().is_none());
        data.bytes_mut().unwrap().fill(0xEE);
        std::thread::sleep(Duration::from_millis(1));
        assert!(data.bytes_mut().unwrap().iter().all(|byte| *byte == 0xEE));
    }
}

#[test]
fn idle_controllers_rest() {
    let mut hosts: Vec<Host> = (0..10).map(|_| Host::new(ram(1 << 20))).collect();
    // The last one is watched for stores by others, which costs a little.
    let _doorbells = hosts[9].emulator.doorbells();
    std::thread::sleep(Duration::from_millis(50));
    let before = idle_wakeups();
    std::thread::sleep(Duration::from_millis(300));
    let wakeups = idle_wakeups() - before;
    assert!(wakeups < 3000, "{wakeups} wake-ups in 300 ms");
    // They are awake at once all the same.
    for host in &mut hosts {
        let mut queue = host.queue(1, 4);
        assert_eq!(host.flush(&mut queue), Status::SUCCESS);
    }
    assert!(processor_ticks() < 100_000);
}

/// Voluntary context switches of every controller thread of this process.
fn idle_wakeups() -> u64 {
    let mut sum = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let Ok(status) = std::fs::read_to_string(task.path().join("status")) else { continue };
        if !status.starts_with("Name:\tnvme-controller") {
            continue;
        }
        let switches =
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += switches.map_or(0, |count| count.trim().parse::<u64>().unwrap());
    }
    sum
}

#[test]
fn many_threads_drive_many_queues() {
    let mut host = Host::new(Config { workers: Some(2), ..ram(16 << 20) });
    let mut queues: Vec<_> = (1..=4).map(|qid| host.queue(qid, 32)).collect();
    let host = &host;
    std::thread::scope(|scope| {
        for queue in &mut queues {
            scope.spawn(move || {
                let base = u64::from(queue.qid - 1) * 100;
                let data = buffer(&*host.function, 4096).as_dma();
                for round in 0..300u16 {
                    let slba = base + u64::from(round % 100);
                    data.fill(0, 4096, round as u8).unwrap();
                    let write = IoCommand::Write { slba, nlb: 1, fua: false };
                    host.submit(queue, write.encode(round, 1, prp(&data)));
                    assert_eq!(host.reap(queue).status(), Status::SUCCESS);
                    data.fill(0, 4096, 0).unwrap();
                    let read = IoCommand::Read { slba, nlb: 1, fua: false };
                    host.submit(queue, read.encode(round, 1, prp(&data)));
                    assert_eq!(host.reap(queue).status(), Status::SUCCESS);
                    let mut out = [1; 4096];
                    data.read(0, &mut out).unwrap();
                    assert!(out.iter().all(|byte| *byte == round as u8));
                }
            });
        }
    });
}

#[test]
fn power_may_be_cut_from_another_thread_between_any_two_steps() {
    for seed in 0..1000 {
        let mut host = Host::new(Config { run: Run::Stepped { seed }, ..ram(1 << 20) });
        let mut queue = host.queue(1, 256);
        for cid in 0..255 {
            host.submit(&mut queue, IoCommand::Flush.encode(cid, 1, DataPointer::NONE));
        }
        let (sender, begun) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..100).for_each(|spins| host.function.relax(spins));
                sender.send(()).unwrap();
                (0..2000).for_each(|spins| host.function.relax(spins));
            });
            begun.recv().unwrap();
            host.emulator.power_cut(seed);
        });
    }
}
