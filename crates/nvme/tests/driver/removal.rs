//! Functions that the platform takes away in the middle of everything: registers that read as all ones
//! from one moment on, or as zeros, and interrupts that are all signalled.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{alloc, config, options, pattern, read, request, threaded, write};
use gcos_emulator::{Action, Config, Emulator, Rule, Run};
use gcos_hw::{EventFd, Function, HwError, Intercept};
use gcos_nvme::{
    Cmb, Completion, Controller, ErrorKind, IoOp, NvmeError, Options, ShadowDoorbells,
};

/// Longest time from the removal until everybody knows.
const PROMPT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    Registers = 0,
    Ones = 1,
    Zeros = 2,
}

/// Another function, which may be taken away.
#[derive(Debug)]
struct Lent {
    inner: Arc<dyn Function>,
    reads: AtomicU8,
    events: Mutex<Vec<Arc<EventFd>>>,
    /// Taken away at this register access from now on, and what it reads as then.
    at_access: AtomicU64,
    then: Reads,
}

impl Lent {
    fn new(inner: Arc<dyn Function>, at_access: u64, then: Reads) -> Arc<Self> {
        Arc::new(Self {
            inner,
            reads: AtomicU8::new(Reads::Registers as u8),
            events: Mutex::default(),
            at_access: AtomicU64::new(at_access),
            then,
        })
    }

    fn access(&self) {
        if self.at_access.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.take_away(self.then);
        }
    }

    fn take_away(&self, reads: Reads) {
        self.reads.store(reads as u8, Ordering::SeqCst);
        self.events.lock().unwrap().iter().for_each(|event| event.signal());
    }

    fn gone(&self) -> Option<u64> {
        match self.reads.load(Ordering::SeqCst) {
            0 => None,
            1 => Some(u64::MAX),
            _ => Some(0),
        }
    }
}

impl Intercept for Lent {
    fn behind(&self) -> &Arc<dyn Function> {
        &self.inner
    }
    fn read32(&self, offset: usize) -> u32 {
        self.access();
        self.gone().map_or_else(|| self.inner.read32(offset), |all| all as u32)
    }
    fn read64(&self, offset: usize) -> u64 {
        self.access();
        self.gone().unwrap_or_else(|| self.inner.read64(offset))
    }
    fn write32(&self, offset: usize, value: u32) {
        self.access();
        if self.gone().is_none() {
            self.inner.write32(offset, value);
        }
    }
    fn write64(&self, offset: usize, value: u64) {
        self.access();
        if self.gone().is_none() {
            self.inner.write64(offset, value);
        }
    }
    fn interrupt(&self, vector: u16) -> Result<Arc<EventFd>, HwError> {
        let event = self.inner.interrupt(vector)?;
        self.events.lock().unwrap().push(Arc::clone(&event));
        Ok(event)
    }
}

struct Bed {
    emulator: Arc<Emulator>,
    function: Arc<Lent>,
    controller: Arc<Controller>,
    /// What is mapped without the controller.
    mapped: usize,
}

/// A controller that answers nothing but the bring-up: I/O and log pages hang.
fn bed(completion: Completion) -> Bed {
    let emulator = Emulator::new(threaded(4096)).unwrap();
    let function = Lent::new(emulator.function(), u64::MAX, Reads::Ones);
    let mapped = emulator.space().table.len();
    let options = Options { io_queue_pairs: 2, completion, ..options() };
    let controller = Controller::open(function.clone(), options).unwrap();
    emulator.faults().add(Rule::io(Action::Hold));
    emulator.faults().add(Rule::admin(Action::Hold).opcode(0x02));
    Bed { emulator, function, controller, mapped }
}

const CASES: [(Completion, Reads); 4] = [
    (Completion::Polled, Reads::Ones),
    (Completion::Polled, Reads::Zeros),
    (Completion::Interrupt, Reads::Ones),
    (Completion::Interrupt, Reads::Zeros),
];

#[test]
fn a_function_taken_away_ends_every_waiter_once_and_promptly() {
    for (completion, reads) in CASES {
        let Bed { emulator, function, controller, mapped } = bed(completion);
        let waiters: Vec<_> = (0..8u64)
            .map(|thread| {
                let controller = Arc::clone(&controller);
                thread::spawn(move || {
                    let mut buffer = alloc(&controller, 4096);
                    let mut read = request(IoOp::Read, thread, 1, vec![buffer.as_dma()]);
                    read.timeout = Duration::from_secs(600);
                    let error = controller.run(read).unwrap_err();
                    assert!(buffer.bytes_mut().is_ok(), "the memory came back");
                    (error, Instant::now())
                })
            })
            .collect();
        let admin = {
            let controller = Arc::clone(&controller);
            thread::spawn(move || (controller.smart_log().unwrap_err(), Instant::now()))
        };
        thread::sleep(Duration::from_millis(50));
        let began = Instant::now();
        function.take_away(reads);
        for waiter in waiters.into_iter().chain([admin]) {
            let (error, ended) = waiter.join().unwrap();
            let kind = error.kind();
            assert!(matches!(kind, ErrorKind::Gone | ErrorKind::Timeout), "{error}");
            assert!(ended >= began && ended - began < PROMPT, "{completion:?} {reads:?}: {error}");
        }
        assert!(!controller.is_usable());
        assert_eq!(read(&controller, 0, 4096).unwrap_err().kind(), ErrorKind::Gone);
        assert_eq!(controller.smart_log().unwrap_err().kind(), ErrorKind::Gone);
        assert!(controller.shutdown(None).is_err());
        let counters = controller.counters();
        assert_eq!((counters.leaked_commands, counters.resets), (0, 1), "{reads:?}");
        drop(controller);
        assert!(began.elapsed() < PROMPT);
        assert_eq!(emulator.space().table.len(), mapped, "nothing is leaked");
    }
}

#[test]
fn a_function_taken_away_unnoticed_is_dropped_and_shut_down_promptly() {
    for (completion, reads) in CASES {
        for shut_down in [false, true] {
            let Bed { emulator, function, controller, mapped } = bed(completion);
            let mut buffer = alloc(&controller, 4096);
            let mut slow = request(IoOp::Read, 0, 1, vec![buffer.as_dma()]);
            slow.timeout = Duration::from_secs(600);
            let pending = controller.submit(slow).unwrap();
            function.take_away(reads);
            let began = Instant::now();
            if shut_down {
                assert!(controller.shutdown(None).is_err(), "{completion:?} {reads:?}");
                assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Gone);
            } else {
                drop(pending);
            }
            drop(controller);
            assert!(began.elapsed() < PROMPT, "{completion:?} {reads:?} {shut_down}");
            assert!(buffer.bytes_mut().is_ok());
            drop(buffer);
            assert_eq!(emulator.space().table.len(), mapped);
        }
    }
}

#[test]
fn a_function_that_reads_as_zeros_or_ones_is_not_opened() {
    for reads in [Reads::Ones, Reads::Zeros] {
        let Bed { function, controller, .. } = bed(Completion::Polled);
        drop(controller);
        function.take_away(reads);
        let error = Controller::open(function, options()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
        assert!(error.to_string().contains("removed"), "{error}");
    }
}

/// A whole life of a controller, up to the first error.
fn live(function: &Arc<Lent>, options: Options) -> Result<(), NvmeError> {
    let controller = Controller::open(function.clone(), options)?;
    for round in 0..2 {
        for lba in 0..4 {
            write(&controller, lba, &pattern(lba, round, 4096))?;
            assert!(read(&controller, lba, 4096)? == pattern(lba, round, 4096));
        }
        controller.smart_log()?;
        controller.reset()?;
    }
    controller.shutdown(None)
}

#[test]
fn a_function_may_be_taken_away_at_any_access_to_its_registers() {
    let plain = Options { io_queue_pairs: 2, ..options() };
    let fancy = Options {
        cmb: Cmb::SubmissionQueues,
        shadow_doorbells: ShadowDoorbells::On,
        ..plain.clone()
    };
    for options in [plain, fancy] {
        for then in [Reads::Ones, Reads::Zeros] {
            let mut at = 1;
            loop {
                let config = Config {
                    cmb_bytes: 64 << 10,
                    shadow_doorbells: true,
                    run: Run::Stepped { seed: at },
                    ..config(4096)
                };
                let emulator = Emulator::new(config).unwrap();
                let mapped = emulator.space().table.len();
                let function = Lent::new(emulator.function(), at, then);
                let ended = live(&function, options.clone());
                if function.gone().is_none() {
                    ended.unwrap();
                    break;
                }
                // The last accesses of all matter to nobody.
                if let Err(error) = ended {
                    let kind = error.kind();
                    let expected = [ErrorKind::Gone, ErrorKind::Timeout, ErrorKind::Unsupported];
                    assert!(expected.contains(&kind), "access {at}, {then:?}: {error}");
                }
                assert!(function.now() < Duration::from_secs(5), "access {at}, {then:?}");
                // The buffer itself is mapped for as long as nobody can hide it.
                let left = emulator.space().table.len() - mapped;
                assert!(left <= usize::from(options.cmb != Cmb::Off), "access {at}, {then:?}");
                at += 1;
            }
            assert!(at > 50, "{at} accesses");
        }
    }
}
