//! The qtest protocol: one line for each access, one for its answer.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest time for one answer: QEMU may be draining a disk meanwhile. After it the machine counts as
/// dead.
const ANSWER: Duration = Duration::from_secs(10);

/// Writes whose answers may be outstanding. They are short, so this many fit the socket's buffer.
const POSTED: usize = 64;

/// A locked mutex, whatever a panicking test did to it: the data below stay valid at each step.
pub(crate) fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The wire to one machine. When it breaks, everything reads as all ones and writes go nowhere.
pub struct Link {
    wire: Mutex<Wire>,
    dead: AtomicBool,
    /// Writes to go until the fuse blows; [`u64::MAX`] for never.
    fuse: AtomicU64,
    blow: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("dead", &self.dead).finish_non_exhaustive()
    }
}

struct Wire {
    reader: BufReader<UnixStream>,
    /// Answers of posted writes that have not been read.
    outstanding: usize,
    line: String,
}

impl Link {
    pub(crate) fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let reader = BufReader::new(stream);
        Ok(Self {
            wire: Mutex::new(Wire { reader, outstanding: 0, line: String::new() }),
            dead: AtomicBool::new(false),
            fuse: AtomicU64::new(u64::MAX),
            blow: Mutex::new(None),
        })
    }

    /// Whether the machine no longer answers.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Calls `blow` right after the given number of further writes (most of them ring doorbells).
    pub fn set_fuse(&self, writes: u64, blow: impl FnOnce() + Send + 'static) {
        *locked(&self.blow) = Some(Box::new(blow));
        self.fuse.store(writes, Ordering::Release);
    }

    /// A read: the answer's number, all ones of a dead machine.
    pub(crate) fn ask(&self, access: &str, address: u64) -> u64 {
        self.with(|wire| wire.ask(access, address)).unwrap_or(u64::MAX)
    }

    /// A write, posted: accesses that follow on this link are carried out after it.
    pub(crate) fn tell(&self, access: &str, address: u64, value: u64) {
        let told = self.with(|wire| wire.post(access, address, value));
        if told.is_some() {
            self.burn();
        }
    }

    fn with<T>(&self, access: impl FnOnce(&mut Wire) -> std::io::Result<T>) -> Option<T> {
        if self.is_dead() {
            return None;
        }
        let result = access(&mut locked(&self.wire));
        if result.is_err() {
            self.dead.store(true, Ordering::Relaxed);
        }
        result.ok()
    }

    fn burn(&self) {
        let left = self.fuse.load(Ordering::Acquire);
        if left == u64::MAX {
            return;
        }
        let burnt =
            self.fuse.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| match left {
                u64::MAX => None,
                0 | 1 => Some(u64::MAX),
                left => Some(left - 1),
            });
        if matches!(burnt, Ok(0 | 1))
            && let Some(blow) = locked(&self.blow).take()
        {
            blow();
        }
    }
}

impl Wire {
    fn post(&mut self, access: &str, address: u64, value: u64) -> std::io::Result<()> {
        while self.outstanding >= POSTED {
            self.answer()?;
            self.outstanding -= 1;
        }
        let text = format!("{access} {address:#x} {value:#x}\n");
        self.reader.get_mut().write_all(text.as_bytes())?;
        self.outstanding += 1;
        Ok(())
    }

    fn ask(&mut self, access: &str, address: u64) -> std::io::Result<u64> {
        let text = format!("{access} {address:#x}\n");
        self.reader.get_mut().write_all(text.as_bytes())?;
        for _ in 0..std::mem::take(&mut self.outstanding) {
            self.answer()?;
        }
        self.answer()
    }

    /// The number in the next answer, 0 where it has none.
    fn answer(&mut self) -> std::io::Result<u64> {
        self.line.clear();
        self.reader.read_line(&mut self.line)?;
        let refused = || std::io::Error::other(format!("qtest answered {:?}", self.line));
        let number = self.line.trim_end().strip_prefix("OK").ok_or_else(refused)?.trim_start();
        if number.is_empty() {
            return Ok(0);
        }
        let digits = number.strip_prefix("0x").ok_or_else(refused)?;
        u64::from_str_radix(digits, 16).map_err(|_| refused())
    }
}
