//! Controllers that lie: registers and Identify data that cannot be, or that change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::common::{SECOND, config, open, options, pattern, read, refused, threaded, write};
use gcos_emulator::{Action, Config, Emulator, IdentifyHook, Rule, Run, WriteCacheConfig};
use gcos_hw::{Function, Intercept};
use gcos_layout::nvme::{
    Cap, Cmbmsc, Cns, Crto, IdentifyController, IdentifyData, IdentifyNamespace, LbaFormat,
    Register, encode_active_namespaces,
};
use gcos_nvme::{Cmb, Completion, Controller, ErrorKind, NvmeError, Options, ShadowDoorbells};

/// Another function, some of whose registers say something else.
#[derive(Debug)]
struct Lying {
    inner: Arc<dyn Function>,
    cap: AtomicU64,
    /// Of CMBSTS, or'ed.
    cmbsts: AtomicU32,
}

impl Lying {
    fn new(emulator: &Arc<Emulator>) -> Arc<Self> {
        let inner = emulator.function();
        let cap = AtomicU64::new(inner.read64(Register::Cap.offset()));
        Arc::new(Self { inner, cap, cmbsts: AtomicU32::new(0) })
    }

    fn change_cap(&self, change: impl Fn(Cap) -> Cap) {
        let cap = Cap(self.cap.load(Ordering::SeqCst));
        self.cap.store(change(cap).0, Ordering::SeqCst);
    }
}

impl Intercept for Lying {
    fn behind(&self) -> &Arc<dyn Function> {
        &self.inner
    }
    fn read32(&self, offset: usize) -> u32 {
        let value = self.inner.read32(offset);
        match Register::at(offset) {
            Some(Register::Crto) => Crto::default().with_crwmt(u16::MAX).with_crimt(u16::MAX).0,
            Some(Register::Cmbsts) => value | self.cmbsts.load(Ordering::SeqCst),
            _ => value,
        }
    }
    fn read64(&self, offset: usize) -> u64 {
        match Register::at(offset) {
            Some(Register::Cap) => self.cap.load(Ordering::SeqCst),
            _ => self.inner.read64(offset),
        }
    }
}

fn open_lying(change: impl Fn(Cap) -> Cap) -> Result<Arc<Controller>, NvmeError> {
    let emulator = Emulator::new(config(4096)).unwrap();
    let function = Lying::new(&emulator);
    function.change_cap(change);
    Controller::open(function, options())
}

#[test]
fn capabilities_that_cannot_be_are_refused_before_anything_is_done() {
    let error = open_lying(|cap| cap.with_mqes(0)).unwrap_err();
    assert!(matches!(error, NvmeError::Unsupported { what: "CAP.MQES", .. }), "{error}");
    let error = open_lying(|cap| cap.with_dstrd(15)).unwrap_err();
    assert!(matches!(error, NvmeError::Unsupported { what: "CAP.DSTRD", .. }), "{error}");
    let error = open_lying(|cap| cap.with_mpsmin(1).with_mpsmax(1)).unwrap_err();
    assert!(matches!(error, NvmeError::Unsupported { what: "CAP.MPSMIN", .. }), "{error}");
    let error = open_lying(|cap| cap.with_mqes(1)).unwrap_err();
    assert!(error.to_string().contains("2 to 2 entries"), "{error}");
    open_lying(|cap| cap.with_crms(3).with_to(0)).unwrap();
}

#[test]
fn capabilities_that_change_during_a_reset_keep_the_queues_closed() {
    for (same, change) in [
        (true, (|cap| cap.with_to(9)) as fn(Cap) -> Cap),
        (false, |cap| cap.with_dstrd(1)),
        (false, |cap| cap.with_mqes(3)),
    ] {
        let emulator = Emulator::new(config(4096)).unwrap();
        let function = Lying::new(&emulator);
        let controller = Controller::open(function.clone(), options()).unwrap();
        write(&controller, 5, &pattern(5, 1, 4096)).unwrap();
        function.change_cap(change);
        match controller.reset() {
            Ok(()) => assert!(same && read(&controller, 5, 4096).unwrap() == pattern(5, 1, 4096)),
            Err(error) => {
                assert!(!same && error.kind() == ErrorKind::Gone, "{error}");
                assert!(error.to_string().contains("capabilities changed"), "{error}");
            }
        }
    }
}

#[test]
fn a_memory_buffer_that_is_refused_is_hidden_again() {
    let emulator = Emulator::new(Config { cmb_bytes: 1 << 20, ..config(4096) }).unwrap();
    let function = Lying::new(&emulator);
    let options = Options { cmb: Cmb::SubmissionQueues, ..options() };
    function.cmbsts.store(1, Ordering::SeqCst);
    let error = Controller::open(function.clone(), options.clone()).unwrap_err();
    assert!(matches!(error, NvmeError::Unsupported { what: "CMBMSC", .. }), "{error}");
    assert_eq!(Cmbmsc(Intercept::read64(&*function, Register::Cmbmsc.offset())), Cmbmsc(0));
    function.cmbsts.store(0, Ordering::SeqCst);
    let controller = Controller::open(function.clone(), options).unwrap();
    function.cmbsts.store(1, Ordering::SeqCst);
    assert_eq!(controller.reset().unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(Cmbmsc(Intercept::read64(&*function, Register::Cmbmsc.offset())), Cmbmsc(0));
}

fn telling(change: impl Fn(Cns, u32, &mut IdentifyData) + Send + Sync + 'static) -> Config {
    Config { identify: Some(IdentifyHook::new(change)), ..config(4096) }
}

/// A namespace that says so.
fn namespace(change: impl Fn(&mut IdentifyNamespace) + Send + Sync + 'static) -> Config {
    telling(move |cns, _, data| {
        if cns == Cns::Namespace {
            let mut identify = IdentifyNamespace::decode(data);
            change(&mut identify);
            *data = identify.encode();
        }
    })
}

#[test]
fn every_format_that_a_namespace_can_claim_is_used_or_refused() {
    for lbads in 0..=255 {
        let format = LbaFormat::default().with_lbads(lbads);
        let config = namespace(move |identify| identify.lba_formats = vec![format; 2]);
        let (_emulator, controller) = open(config, options());
        let namespace = &controller.namespaces()[0];
        // The largest transfer is 1 MiB.
        assert_eq!(namespace.unusable.is_none(), (9..=20).contains(&lbads), "LBADS {lbads}");
        if namespace.lba_bytes != 0 {
            assert_eq!(read(&controller, 0, 4096).is_ok(), lbads == 12, "{lbads}");
        }
    }
    for flbas in 0..=255 {
        let (_emulator, controller) = open(namespace(move |it| it.flbas = flbas), options());
        assert_eq!(controller.namespaces()[0].unusable.is_none(), flbas & !0x90 < 2, "{flbas:#x}");
    }
}

#[test]
fn a_namespace_of_any_size_is_addressed_within_64_bits() {
    let (_emulator, controller) = open(namespace(|identify| identify.nsze = u64::MAX), options());
    let namespace = &controller.namespaces()[0];
    assert_eq!((namespace.blocks, namespace.bytes()), (u64::MAX, u64::MAX));
    let last = u64::MAX - 1;
    assert_eq!(read(&controller, last, 4096).unwrap_err().kind(), ErrorKind::Device);
    assert_eq!(read(&controller, last, 8192).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(read(&controller, u64::MAX, 4096).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn lists_of_namespaces_without_end_or_order_end() {
    let lists: [fn(u32) -> Vec<u32>; 5] = [
        // Without end, always the same, falling, one identifier only, nothing but broadcasts.
        |above| (above + 1..=above + 1024).collect(),
        |_| (1..=1024).collect(),
        |_| (1..=1024).rev().collect(),
        |_| vec![7; 1024],
        |_| vec![u32::MAX; 1024],
    ];
    for (list, found) in lists.iter().zip([16 * 1024, 1024, 1, 1, 1]) {
        let list = *list;
        let config = telling(move |cns, above, data| {
            if cns == Cns::ActiveNamespaces {
                *data = encode_active_namespaces(&list(above));
            }
        });
        let (_emulator, controller) = open(config, options());
        let nsids: Vec<_> = controller.namespaces().iter().map(|it| it.nsid).collect();
        assert_eq!(nsids.len(), found);
        assert!(nsids.is_sorted());
    }
}

#[test]
fn any_limit_of_transfers_is_taken_or_exceeded_by_none() {
    for mdts in 0..=255 {
        let config = telling(move |cns, _, data| {
            if cns == Cns::Controller {
                let identity = IdentifyController { mdts, ..IdentifyController::decode(data) };
                *data = identity.encode();
            }
        });
        let options = Options { max_transfer: 64 << 20, queue_depth: 2, ..options() };
        let (_emulator, controller) = open(config, options);
        let limit = if (1..=14).contains(&mdts) { 4096 << mdts } else { 64 << 20 };
        assert_eq!(controller.max_transfer(), limit, "MDTS {mdts}");
    }
}

#[test]
fn random_identify_data_is_refused_or_used_and_never_hangs_or_panics() {
    for seed in 0..200 {
        let config = telling(move |cns, nsid, data| {
            let mut rng = fastrand::Rng::with_seed(seed << 40 | u64::from(nsid) << 8 | cns as u64);
            // Wholly, or here and there.
            match seed % 2 {
                0 if cns != Cns::ActiveNamespaces => rng.fill(data),
                _ => (0..200).for_each(|_| data[rng.usize(0..600)] = rng.u8(..)),
            }
        });
        let config = Config { run: Run::Stepped { seed }, shadow_doorbells: true, ..config };
        let shadow_doorbells = ShadowDoorbells::Auto;
        let emulator = Emulator::new(config).unwrap();
        let options = Options { shadow_doorbells, queue_depth: 4, ..options() };
        let Ok(controller) = Controller::open(emulator.function(), options) else { continue };
        for namespace in controller.namespaces() {
            let bytes = namespace.lba_bytes as usize;
            if namespace.unusable.is_none() && namespace.nsid == 1 {
                let _ = read(&controller, 0, bytes);
            }
        }
        controller.reset().unwrap();
    }
}

/// A controller that has a write cache, or none, as it pleases.
fn cached(cache: &Arc<AtomicU32>) -> Config {
    let cache = Arc::clone(cache);
    telling(move |cns, _, data| {
        if cns == Cns::Controller {
            let vwc = cache.load(Ordering::SeqCst) as u8;
            *data = IdentifyController { vwc, ..IdentifyController::decode(data) }.encode();
        }
    })
}

#[test]
fn a_write_cache_that_appears_during_a_reset_keeps_the_queues_closed() {
    let cache = Arc::new(AtomicU32::new(0));
    let (_emulator, controller) = open(cached(&cache), options());
    assert!(!controller.volatile_cache());
    controller.reset().unwrap();
    cache.store(1, Ordering::SeqCst);
    let error = controller.reset().unwrap_err();
    assert!(error.to_string().contains("its abilities changed"), "{error}");
}

#[test]
fn a_write_cache_that_a_reset_enables_or_disables_is_known_from_then_on() {
    // Get Features says 0 once: disabled.
    let disabled_once = |after| {
        let mut config = Config { write_cache: Some(WriteCacheConfig::default()), ..config(4096) };
        config.faults.rules = vec![Rule::admin(Action::Lie).opcode(0x0A).after(after).times(1)];
        config
    };
    for (after, enabled) in [(0, [false, true]), (1, [true, false])] {
        let (_emulator, controller) = open(disabled_once(after), options());
        assert_eq!(controller.volatile_cache(), enabled[0]);
        controller.reset().unwrap();
        assert_eq!(controller.volatile_cache(), enabled[1]);
        controller.reset().unwrap();
        assert!(controller.volatile_cache());
    }
}

#[test]
fn namespaces_that_come_or_go_during_a_reset_are_noticed_if_they_were_used() {
    let removed = Arc::new(AtomicU32::new(0));
    let which = Arc::clone(&removed);
    let hook = IdentifyHook::new(move |cns, nsid, data| {
        let removed = which.load(Ordering::SeqCst);
        if cns == Cns::Namespace && nsid == removed {
            data.fill(0);
        }
        if cns == Cns::ActiveNamespaces {
            let all = [1, 2, 3].into_iter().filter(|id| *id > nsid && *id != removed);
            *data = encode_active_namespaces(&all.collect::<Vec<_>>());
        }
    });
    let half = gcos_emulator::Namespace { lba_bytes: 4096, bytes: crate::common::MEDIUM / 4 };
    let config = Config { namespaces: vec![half; 3], identify: Some(hook), ..threaded(4096) };
    let options = Options { completion: Completion::Interrupt, ..options() };
    // The third is not there at opening, and comes.
    removed.store(3, Ordering::SeqCst);
    let (_emulator, controller) = open(config, options);
    assert_eq!(controller.namespaces().len(), 2);
    removed.store(0, Ordering::SeqCst);
    controller.reset().unwrap();
    write(&controller, 9, &pattern(9, 1, 4096)).unwrap();
    assert_eq!(controller.namespaces().len(), 2, "as they were at opening");
    // The second goes.
    removed.store(2, Ordering::SeqCst);
    let error = controller.reset().unwrap_err();
    assert!(error.to_string().contains("namespace 2 changed"), "{error}");
    assert_eq!(read(&controller, 9, 4096).unwrap_err().kind(), ErrorKind::Gone);
}

#[test]
fn a_controller_without_namespaces_is_opened_with_none() {
    let config = telling(|cns, _, data| {
        if cns == Cns::ActiveNamespaces {
            data.fill(0);
        }
    });
    let (_emulator, controller) = open(config, options());
    assert!(controller.namespaces().is_empty());
    controller.shutdown(Some(SECOND)).unwrap();
    let error = refused(telling(|_, _, data| data.fill(0xFF)), options());
    // It claims a write cache, too, and has none.
    assert_eq!(error.kind(), ErrorKind::Device, "{error}");
}

#[test]
fn a_controller_without_a_list_of_namespaces_is_asked_for_each() {
    // NVMe 1.0: the second Identify, for the list, is an invalid field.
    let refuse = Action::Status { sct: 0, sc: 2, dnr: true };
    for (count, says) in [(3, 3), (3, 5), (1, u32::MAX)] {
        let hook = IdentifyHook::new(move |cns, nsid, data| match cns {
            Cns::Controller => {
                let identity = IdentifyController::decode(data);
                *data = IdentifyController { namespaces: says, ..identity }.encode();
            }
            Cns::Namespace if nsid == 2 => data.fill(0),
            _ => {}
        });
        let one = gcos_emulator::Namespace { lba_bytes: 4096, bytes: crate::common::MEDIUM / 4 };
        let mut config =
            Config { namespaces: vec![one; count], identify: Some(hook), ..config(4096) };
        config.faults.rules = vec![Rule::admin(refuse).opcode(0x06).after(1).times(1)];
        let (_emulator, controller) = open(config, options());
        let nsids: Vec<_> = controller.namespaces().iter().map(|it| it.nsid).collect();
        assert_eq!(nsids, if count == 3 { vec![1, 3] } else { vec![1] }, "{says} at most");
        write(&controller, 1, &pattern(1, 1, 4096)).unwrap();
        controller.reset().unwrap();
    }
    let mut config = config(4096);
    config.faults.rules = vec![Rule::admin(Action::Hold).opcode(0x06).after(1).times(1)];
    assert_eq!(refused(config, options()).kind(), ErrorKind::Timeout, "no answer is none");
}
