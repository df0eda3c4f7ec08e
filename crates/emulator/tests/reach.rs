//! A device reaches what is mapped at the moment and nothing else: neither what was unmapped, nor what
//! lies beside a mapping, nor memory of the process.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

#[cfg(test)]
mod common;

use common::{Host, Queue, buffer, ram};
use gcos_hw::DmaSlice;
use gcos_layout::nvme::{DataPointer, IoCommand, SglDescriptor, Status};

/// What stands in memory that nobody may touch.
const KEPT: u8 = 0x77;

fn kept(host: &Host, len: usize) -> DmaSlice {
    let slice = buffer(&*host.function, len).as_dma();
    slice.fill(0, len, KEPT).unwrap();
    slice
}

fn assert_untouched(slice: &DmaSlice, what: &str) {
    let mut bytes = vec![0; slice.len()];
    slice.read(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == KEPT), "{what} was written to");
}

/// Reads and writes 8 KiB at the address, by PRP and by SGL; all must fail.
fn assert_out_of_reach(host: &mut Host, queue: &mut Queue, iova: u64, what: &str) {
    let pointers = [
        DataPointer::Prp { prp1: iova, prp2: (iova / 4096 + 1).wrapping_mul(4096) },
        DataPointer::Sgl(SglDescriptor::data(iova, 8192)),
    ];
    for data in pointers {
        for command in [
            IoCommand::Read { slba: 0, nlb: 2, fua: false },
            IoCommand::Write { slba: 0, nlb: 2, fua: false },
            IoCommand::Compare { slba: 0, nlb: 2, fua: false },
        ] {
            let status = host.io(queue, command, data);
            assert_eq!(status, Status::DATA_TRANSFER_ERROR, "{what}: {command:?} by {data:?}");
        }
    }
}

#[test]
fn memory_that_was_unmapped_is_out_of_reach_and_its_neighbours_stay_as_they_are() {
    let mut host = Host::new(ram(1 << 20));
    let mut queue = host.queue(1, 8);
    assert_eq!(host.fill(&mut queue, 0, 2, 5), Status::SUCCESS);
    let before = kept(&host, 8192);
    let gone = kept(&host, 8192);
    let after = kept(&host, 8192);
    let iova = gone.iova();
    assert!(before.iova() < iova && iova < after.iova());
    drop(gone);
    assert_out_of_reach(&mut host, &mut queue, iova, "unmapped memory");
    assert_untouched(&before, "the memory before it");
    assert_untouched(&after, "the memory behind it");
    assert_eq!(host.block(&mut queue, 0), 5, "the medium after writes that failed");
    assert_eq!(host.block(&mut queue, 1), 5);
}

#[test]
fn transfers_that_leave_a_mapping_at_either_end_change_nothing_at_all() {
    let mut host = Host::new(ram(1 << 20));
    let mut queue = host.queue(1, 8);
    assert_eq!(host.fill(&mut queue, 0, 2, 5), Status::SUCCESS);
    let memory = kept(&host, 8192);
    let neighbour = kept(&host, 8192);
    for (iova, what) in [
        (memory.iova() + 4096, "half of it past the end"),
        (memory.iova() - 4096, "half of it before the start"),
        (memory.iova() + 8192, "the page behind"),
        (u64::MAX - 4095, "the end of all addresses"),
        (0, "address 0"),
    ] {
        assert_out_of_reach(&mut host, &mut queue, iova, what);
        assert_untouched(&memory, what);
        assert_untouched(&neighbour, what);
    }
}

#[test]
fn an_address_of_the_process_is_no_address_of_a_device() {
    let mut host = Host::new(ram(1 << 20));
    let mut queue = host.queue(1, 8);
    let memory = kept(&host, 8192);
    let (shared, offset) = memory.memory();
    let address = (shared.address() + offset) as u64;
    assert_out_of_reach(&mut host, &mut queue, address, "a process address");
    assert_untouched(&memory, "memory by its process address");
    // Memory that the process has and never mapped.
    let plain = vec![KEPT; 16 << 10];
    let page = (plain.as_ptr() as u64).next_multiple_of(4096);
    assert_out_of_reach(&mut host, &mut queue, page, "memory of the heap");
    assert!(plain.iter().all(|byte| *byte == KEPT));
}
