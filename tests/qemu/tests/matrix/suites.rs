//! The whole suite on controllers of different shapes.

use gcos_hardware_tests::Target;
use gcos_nvme::{Completion, IoOp, Options, PointerChoice, ShadowDoorbells};

use crate::rig::{MIB, Shape, open, options, request, suite, target};

/// The suite on a machine of one controller and one namespace, all of it.
fn whole_suite(shape: &Shape, lba: u64, options: Options, lacking: &[&str]) {
    let machine = shape.start();
    suite(&Target { options, ..target(&machine, 0, lba) }, lacking);
}

#[test]
fn the_suite_passes_on_blocks_of_512_bytes() {
    whole_suite(&Shape::simple(""), 512, options(), &[]);
}

#[test]
fn the_suite_passes_on_blocks_of_4096_bytes() {
    let shape = Shape::namespace("", ",logical_block_size=4096,physical_block_size=4096");
    whole_suite(&shape, 4096, options(), &[]);
}

#[test]
fn the_suite_passes_with_interrupts_throughout() {
    let options = Options { completion: Completion::Interrupt, ..options() };
    whole_suite(&Shape::simple(""), 512, options, &[]);
}

#[test]
fn the_suite_passes_where_one_command_moves_two_pages_and_where_nothing_limits_it() {
    for (mdts, bytes) in [(1, 8192), (0, 2 << 20)] {
        let shape = Shape::simple(&format!(",mdts={mdts}"));
        let machine = shape.start();
        assert_eq!(open(&machine, options()).max_transfer(), bytes, "mdts={mdts}");
        suite(&target(&machine, 0, 512), &[]);
    }
}

#[test]
fn the_suite_passes_with_one_queue_pair_of_which_more_are_refused_politely() {
    let lacking = ["queue_pairs_of_several_threads_do_not_disturb_each_other"];
    whole_suite(&Shape::simple(",max_ioqpairs=1,msix_qsize=2"), 512, options(), &lacking);
}

#[test]
fn the_suite_passes_with_sgls_throughout_and_with_prps_alone() {
    let machine = Shape::simple("").start();
    for data_pointer in [PointerChoice::Sgl, PointerChoice::Prp] {
        let options = Options { data_pointer, ..options() };
        suite(&Target { options, ..target(&machine, 0, 512) }, &[]);
    }
}

#[test]
fn the_suite_passes_with_shadow_doorbells() {
    let options = Options { shadow_doorbells: ShadowDoorbells::On, ..options() };
    whole_suite(&Shape::simple(""), 512, options, &[]);
}

#[test]
fn the_suite_passes_with_doorbells_that_are_event_descriptors() {
    whole_suite(&Shape::simple(",ioeventfd=on"), 512, options(), &[]);
}

#[test]
fn shadow_doorbells_spare_writes_to_registers() {
    const ROUNDS: u64 = 20;
    let machine = Shape::simple("").start();
    // What is submitted while the controller is at work on the entries before needs no register.
    let doorbells = |shadow_doorbells| {
        let controller = open(&machine, Options { shadow_doorbells, ..options() });
        let buffer = controller.dma().alloc(4096).unwrap();
        let read = |page: u64| request(IoOp::Read, 8 * page, 8, vec![buffer.as_dma()]);
        let mut rung = 0;
        for _ in 0..ROUNDS {
            let before = machine.functions()[0].doorbells();
            let pending: Vec<_> = (0..32).map(|i| controller.submit(read(i)).unwrap()).collect();
            rung += machine.functions()[0].doorbells() - before;
            pending.into_iter().for_each(|pending| pending.wait().unwrap());
        }
        rung
    };
    assert_eq!(doorbells(ShadowDoorbells::Off), 32 * ROUNDS);
    let with = doorbells(ShadowDoorbells::On);
    assert!(with < 32 * ROUNDS, "{with} of {}", 32 * ROUNDS);
}

#[test]
fn the_suite_passes_on_each_of_several_namespaces_and_they_stay_apart() {
    let mut shape = Shape::new().device("nvme,id=nvme0,serial=QTEST");
    for nsid in 1..=3 {
        let name = format!("ns{nsid}");
        let lba = if nsid == 2 { 4096 } else { 512 };
        shape = shape.drive(&name, 64 * MIB, "").device(&format!(
            "nvme-ns,drive={name},bus=nvme0,nsid={nsid},logical_block_size={lba},\
             physical_block_size=4096"
        ));
    }
    let machine = shape.start();
    let image = |nsid: u32| std::fs::read(shape.path(&format!("ns{nsid}"))).unwrap();
    for nsid in 1..=3u32 {
        let lba = if nsid == 2 { 4096 } else { 512 };
        let others: Vec<u32> = (1..=3).filter(|other| *other != nsid).collect();
        let before: Vec<_> = others.iter().map(|other| image(*other)).collect();
        suite(&Target { nsid, ..target(&machine, 0, lba) }, &[]);
        let after: Vec<_> = others.iter().map(|other| image(*other)).collect();
        assert!(before == after, "work on namespace {nsid} changed another");
    }
}

#[test]
fn the_suite_passes_on_four_controllers_of_one_machine_at_once() {
    let mut shape = Shape::new();
    for index in 0..4 {
        shape = shape
            .drive(&format!("d{index}"), 64 * MIB, "")
            .device(&format!("nvme,id=nvme{index},serial=QTEST{index},drive=d{index}"));
    }
    let machine = shape.start();
    assert_eq!(machine.functions().len(), 4);
    std::thread::scope(|scope| {
        let machine = &machine;
        let threads: Vec<_> = (0..4)
            .map(|index| scope.spawn(move || suite(&target(machine, index, 512), &[])))
            .collect();
        threads.into_iter().for_each(|thread| drop(thread.join().unwrap()));
    });
}

#[test]
fn the_suite_passes_on_a_controller_behind_a_root_port() {
    let shape = Shape::new()
        .drive("one", 64 * MIB, "")
        .device("pcie-root-port,id=rp0,chassis=1,slot=1")
        .device("nvme,id=nvme0,serial=QTEST,drive=one,bus=rp0");
    whole_suite(&shape, 512, options(), &[]);
}

#[test]
fn the_suite_passes_on_a_controller_with_a_controller_memory_buffer_left_unused() {
    whole_suite(&Shape::simple(",cmb_size_mb=4"), 512, options(), &[]);
}
