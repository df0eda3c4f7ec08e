//! The suite over the software controller, so that the suite itself is tested wherever tests run.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use gcos_emulator::{Action, Config, Emulator, Medium, Namespace, Rule, WriteCacheConfig};
use gcos_hardware_tests::{Outcome, Summary, Target, Window, cases, run};

const MIB: u64 = 1 << 20;

fn emulator(change: impl FnOnce(&mut Config)) -> Arc<Emulator> {
    let mut config = Config {
        write_cache: Some(WriteCacheConfig { capacity_bytes: 4 << 20, seed: 7 }),
        serial: "SUITE".to_owned(),
        ..Config::new(Medium::ram(64 * MIB).unwrap())
    };
    change(&mut config);
    Emulator::new(config).unwrap()
}

fn target(emulator: &Arc<Emulator>, window: Option<Window>) -> Target {
    Target { window, timeout: Duration::from_secs(5), ..Target::read_only(emulator.function()) }
}

fn quiet(target: &Target) -> Summary {
    run(target, |_, _, _| {})
}

#[test]
fn every_case_passes_on_blocks_of_512_and_of_4096_bytes_and_spares_what_is_around() {
    for lba_bytes in [512, 4096] {
        let namespaces = vec![Namespace { lba_bytes, bytes: 64 * MIB }];
        let emulator = emulator(|config| config.namespaces = namespaces);
        let medium = Arc::clone(emulator.medium());
        let (before, after) = (vec![0xA5; 4 << 20], vec![0x5A; 4 << 20]);
        medium.poke(0, &before).unwrap();
        medium.poke(60 * MIB, &after).unwrap();
        let lba = u64::from(lba_bytes);
        let window = Window { slba: 4 * MIB / lba, blocks: 56 * MIB / lba };
        let summary = quiet(&target(&emulator, Some(window)));
        assert!(summary.is_good(), "blocks of {lba_bytes} bytes: {summary}");
        assert_eq!(summary.passed.len(), cases().len(), "{:?}", summary.not_offered);
        for (offset, expected) in [(0, before), (60 * MIB, after)] {
            let mut got = vec![0; expected.len()];
            medium.peek(offset, &mut got).unwrap();
            assert!(got == expected, "blocks outside of the window were written");
        }
    }
}

#[test]
fn without_a_window_nothing_is_written_and_the_rest_passes() {
    let emulator = emulator(|_| {});
    let summary = quiet(&target(&emulator, None));
    assert!(summary.is_good(), "{summary}");
    assert_eq!(emulator.counts().writes, 0);
    let writing = cases().iter().filter(|case| case.destructive).count();
    assert_eq!(summary.not_offered.len(), writing);
}

#[test]
fn what_a_controller_lacks_is_not_offered_rather_than_failed() {
    let emulator = emulator(|config| {
        config.sgl = false;
        config.max_queue_pairs = 1;
        config.interrupt_vectors = 1;
    });
    let window = Window { slba: 0, blocks: 64 * MIB / 4096 };
    let summary = quiet(&target(&emulator, Some(window)));
    assert!(summary.is_good(), "{summary}");
    let lacking: Vec<_> = summary.not_offered.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        lacking,
        [
            "interrupts_wake_whoever_waits",
            "queue_pairs_of_several_threads_do_not_disturb_each_other",
            "sgls_describe_what_prps_cannot",
        ]
    );
}

/// The outcome of one case on a controller with a fault.
fn with_fault(case: &str, rule: Rule) -> Outcome {
    let emulator = emulator(|_| {});
    emulator.faults().add(rule);
    let window = Window { slba: 0, blocks: 64 * MIB / 4096 };
    let mut target = target(&emulator, Some(window));
    target.timeout = Duration::from_millis(300);
    let case = cases().iter().find(|one| one.name == case);
    case.unwrap_or_else(|| panic!("no such case")).run(&target)
}

#[test]
fn a_controller_that_misbehaves_fails_the_case_that_is_about_it() {
    let (write, read) = (1, 2);
    for (case, rule) in [
        (
            "what_is_written_is_read_at_every_size",
            Rule::io(Action::Misdirect { blocks: 1 }).opcode(write),
        ),
        (
            "random_writes_and_reads_at_queue_depth_32_keep_every_block",
            Rule::io(Action::CorruptRead { bits: 1 }).opcode(read).times(1),
        ),
        (
            "scattered_pages_are_one_transfer",
            Rule::io(Action::Misdirect { blocks: 2 }).opcode(write),
        ),
        ("a_flush_completes_after_writes", Rule::io(Action::LoseCompletion).opcode(0)),
        ("write_zeroes_clears_its_blocks_and_no_others", Rule::io(Action::Lie).opcode(8)),
        (
            "a_store_keeps_its_objects_over_reopening_and_passes_fsck",
            Rule::io(Action::Misdirect { blocks: 1 }).opcode(write).after(80).times(8),
        ),
    ] {
        let outcome = with_fault(case, rule);
        assert!(matches!(outcome, Outcome::Failed(_)), "{case} {outcome}");
    }
}
