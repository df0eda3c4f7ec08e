//! What cannot be driven is refused with words, and spoils nothing else.

use std::sync::Arc;

use gcos_engine::HostQueueEngine;
use gcos_nvme::{Cmb, Controller, ErrorKind, Options};

use crate::rig::{MIB, Shape, open, options, read, target, works, write};

#[test]
fn a_namespace_with_metadata_is_refused_and_says_why() {
    let machine = Shape::namespace("", ",ms=8").start();
    let controller = open(&machine, options());
    assert_eq!(controller.namespaces()[0].metadata_bytes, 8);
    let refused = HostQueueEngine::new(Arc::clone(&controller), 1).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(refused.to_string().contains("metadata"), "{refused}");
    for error in [write(&controller, 0, 1).unwrap_err(), read(&controller, 0).unwrap_err()] {
        assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unsupported), "{error}");
        assert!(error.to_string().contains("metadata"), "{error}");
    }
    assert_eq!(controller.counters().commands, 0, "no command was sent");
    assert!(controller.is_usable());
}

#[test]
fn a_zoned_namespace_is_refused_and_the_one_beside_it_is_used() {
    let machine = Shape::new()
        .drive("zoned", 64 * MIB, "")
        .drive("plain", 64 * MIB, "")
        .device("nvme,id=nvme0,serial=QTEST")
        .device("nvme-ns,drive=zoned,bus=nvme0,nsid=1,zoned=on,zoned.zone_size=4M")
        .device("nvme-ns,drive=plain,bus=nvme0,nsid=2")
        .start();
    let controller = open(&machine, options());
    let refused = HostQueueEngine::new(Arc::clone(&controller), 1).unwrap_err();
    assert!(
        matches!(refused.kind(), ErrorKind::Unsupported | ErrorKind::Invalid),
        "{refused} is not a refusal"
    );
    assert!(refused.to_string().to_lowercase().contains("zone"), "{refused}");
    let error = write(&controller, 0, 1).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Invalid), "{error}");
    drop(controller);
    let beside = gcos_hardware_tests::Target { nsid: 2, ..target(&machine, 0, 512) };
    crate::rig::suite(&beside, &[]);
}

#[test]
fn more_queue_pairs_than_the_controller_has_are_refused_with_both_numbers() {
    let machine = Shape::simple(",max_ioqpairs=3").start();
    let wanted = Options { io_queue_pairs: 4, ..options() };
    let refused = Controller::open(machine.function(0).unwrap(), wanted).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    let text = refused.to_string();
    assert!(text.contains("asked for 4") && text.contains("grants 3"), "{text}");
    works(&open(&machine, Options { io_queue_pairs: 3, ..options() }));
}

#[test]
fn queues_in_a_controller_memory_buffer_that_cannot_be_mapped_are_refused() {
    for shape in [Shape::simple(",cmb_size_mb=4"), Shape::simple("")] {
        let machine = shape.start();
        let wanted = Options { cmb: Cmb::SubmissionQueues, ..options() };
        let refused = Controller::open(machine.function(0).unwrap(), wanted).unwrap_err();
        let kinds = [ErrorKind::Unsupported, ErrorKind::Platform];
        assert!(kinds.contains(&refused.kind()), "{refused}");
        works(&open(&machine, options()));
    }
}
