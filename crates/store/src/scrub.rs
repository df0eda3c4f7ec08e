//! Reading all live objects while the pool serves, so that damage is found before somebody asks for
//! what it hit.
//!
//! An object is read as a get would read it, damage is treated as a get would treat it: it is read once
//! more, and then removed. The order of use is left as it is.

use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use gcos_layout::media::GRAIN_BYTES;

use crate::index::{EntryState, Id};
use crate::object::{Object, Verdict};
use crate::payload::Into;
use crate::pool::{Pool, now_seconds};
use crate::{Store, StoreError, turns};

/// Bytes a second that a scrub reads unless told otherwise: some hours for a drive of a terabyte, and
/// a hundredth of what an NVMe drive gives.
const DEFAULT_RATE: NonZeroU64 = NonZeroU64::MIN.saturating_add((64 << 20) - 1);
/// Longest stretch of payload read at a time.
const MOST_AT_ONCE: u32 = 4 << 20;
/// Parts of a second between two stretches at the least.
const STRETCHES_A_SECOND: u64 = 8;
/// Longest pause between two looks at whether to go on.
const NAP: Duration = Duration::from_millis(50);
/// Damaged objects that are listed; the rest is only counted.
const LISTED: usize = 1000;
/// Entries that are looked through under one lock for the next live one.
const SEARCH: u32 = 4096;

/// How a scrub reads.
#[derive(Debug, Clone)]
pub struct ScrubOptions {
    /// Payload bytes a second, on average; `None` for as fast as the drives give them.
    pub bytes_per_second: Option<NonZeroU64>,
    /// End the call after about so many payload bytes; `None` for only at the end of the pass.
    pub most_bytes: Option<u64>,
}

impl Default for ScrubOptions {
    fn default() -> Self {
        Self { bytes_per_second: Some(DEFAULT_RATE), most_bytes: None }
    }
}

/// Where a scrub goes on. It means something for the store that it was used with alone; a new one
/// begins a new pass.
#[derive(Debug, Clone, Default)]
pub struct ScrubCursor {
    next: Id,
}

/// A damaged object that a scrub removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubDamage {
    /// Its key.
    pub key: Vec<u8>,
    /// Drive on which the damage was seen.
    pub drive: String,
    /// What did not fit.
    pub detail: String,
}

/// What a call of [`Store::scrub`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Objects that verified.
    pub objects: u64,
    /// Payload bytes read, those of damaged objects too.
    pub bytes: u64,
    /// Objects that went while they were read, or of which a drive is missing.
    pub skipped: u64,
    /// Objects that could not be read, for a reason other than damage: they stay.
    pub unread: u64,
    /// Damaged objects, all of them removed.
    pub damaged: u64,
    /// The first thousand of them.
    pub found: Vec<ScrubDamage>,
    /// Whether the pass is over. The cursor stands at the start of the next one then.
    pub complete: bool,
}

/// How the reading of one object ended.
enum Ended {
    Verified,
    Damaged {
        drive: u8,
        detail: String,
    },
    Skipped,
    Unread,
    /// The caller wants no more.
    Stopped,
}

impl Store {
    /// Reads and verifies live objects from the cursor on, each once in a pass, at a limited rate, until
    /// the pass is over, the options' bytes are read, or `watch` breaks. Objects that are put meanwhile
    /// may be left to the next pass. Memory use does not depend on the pool.
    ///
    /// `watch` is called between stretches of at most 4 MiB, and every 50 ms in pauses. A process that
    /// serves runs this in a thread of its own; any number of gets and puts go on beside it. An object of
    /// which the reading was stopped is read anew by the next call.
    ///
    /// # Errors
    /// [`StoreError::Closed`]. What is wrong with objects is in the report.
    pub fn scrub(
        &self,
        cursor: &mut ScrubCursor,
        options: &ScrubOptions,
        watch: &mut dyn FnMut(&ScrubReport) -> ControlFlow<()>,
    ) -> Result<ScrubReport, StoreError> {
        let mut scrub = Scrub {
            pool: &self.pool,
            options,
            watch,
            begun: turns::now(),
            report: ScrubReport::default(),
            buffer: Vec::new(),
        };
        scrub.run(cursor)?;
        Ok(scrub.report)
    }
}

struct Scrub<'s> {
    pool: &'s Pool,
    options: &'s ScrubOptions,
    watch: &'s mut dyn FnMut(&ScrubReport) -> ControlFlow<()>,
    begun: Instant,
    report: ScrubReport,
    buffer: Vec<u8>,
}

impl Scrub<'_> {
    fn run(&mut self, cursor: &mut ScrubCursor) -> Result<(), StoreError> {
        loop {
            self.pool.check_open()?;
            if self.options.most_bytes.is_some_and(|most| self.report.bytes >= most)
                || (self.watch)(&self.report).is_break()
            {
                return Ok(());
            }
            let found = self.next(&mut cursor.next);
            let Some((object, key)) = found else {
                if cursor.next == 0 {
                    self.report.complete = true;
                    return Ok(());
                }
                continue;
            };
            match self.read(&object, &key) {
                Ended::Verified => self.report.objects += 1,
                Ended::Skipped => self.report.skipped += 1,
                Ended::Unread => self.report.unread += 1,
                Ended::Damaged { drive, detail } => self.damaged(object, key, drive, detail),
                Ended::Stopped => {
                    cursor.next = object.id;
                    return Ok(());
                }
            }
        }
    }

    /// The next live object, if there is one among the next entries. The cursor is left behind it, or at
    /// 0 when there are no more.
    fn next(&mut self, at: &mut Id) -> Option<(Object, Vec<u8>)> {
        let now = now_seconds();
        let state = self.pool.state.lock();
        let upper = state.index.upper_id();
        let end = at.saturating_add(SEARCH).min(upper);
        for id in *at..end {
            let Some(entry) = state.index.entry(id) else { continue };
            if entry.state() != EntryState::Live || entry.expired(now) {
                continue;
            }
            let Some(object) = Object::of(id, entry) else { continue };
            *at = id.saturating_add(1);
            return Some((object, entry.key().to_vec()));
        }
        *at = if end >= upper { 0 } else { end };
        None
    }

    fn read(&mut self, object: &Object, key: &[u8]) -> Ended {
        if object.info.drives.iter().any(|&drive| !self.pool.readable(drive)) {
            return Ended::Skipped;
        }
        let len = object.shape.payload_len();
        let mut offset = 0;
        while offset < len {
            let part = self.stretch().min(len - offset);
            let mut verdict = self.verify(object, key, offset, part);
            if matches!(verdict, Verdict::Damaged { .. }) {
                verdict = self.verify(object, key, offset, part);
            }
            self.report.bytes += u64::from(part);
            match verdict {
                Verdict::Good => {}
                Verdict::Damaged { drive, detail } => return Ended::Damaged { drive, detail },
                Verdict::Gone { .. } => return Ended::Skipped,
                Verdict::Failed { detail } | Verdict::Unfinished { detail } => {
                    return match self.lives(object) {
                        true => {
                            let key = key.escape_ascii();
                            tracing::warn!(%key, detail, "object not read by the scrub");
                            Ended::Unread
                        }
                        false => Ended::Skipped,
                    };
                }
            }
            offset += part;
            if self.pause().is_break() && offset < len {
                return Ended::Stopped;
            }
        }
        Ended::Verified
    }

    /// Bytes to read at a time: whole grains, and a small part of what a second allows.
    fn stretch(&self) -> u32 {
        let Some(rate) = self.options.bytes_per_second else { return MOST_AT_ONCE };
        let part = u32::try_from(rate.get() / STRETCHES_A_SECOND).unwrap_or(MOST_AT_ONCE);
        (part / GRAIN_BYTES * GRAIN_BYTES).clamp(GRAIN_BYTES, MOST_AT_ONCE)
    }

    fn verify(&mut self, object: &Object, key: &[u8], offset: u32, len: u32) -> Verdict {
        self.buffer.resize(len as usize, 0);
        let sink = Into::Bytes(self.buffer.as_mut_slice());
        self.pool.read_again(object, key.to_vec(), offset, len, sink)
    }

    fn lives(&self, object: &Object) -> bool {
        let state = self.pool.state.lock();
        state.index.entry(object.id).is_some_and(|entry| {
            entry.generation == object.generation && entry.state() == EntryState::Live
        })
    }

    /// Waits until the rate allows more.
    fn pause(&mut self) -> ControlFlow<()> {
        let Some(rate) = self.options.bytes_per_second else { return (self.watch)(&self.report) };
        let due = Duration::from_secs_f64(self.report.bytes as f64 / rate.get() as f64);
        loop {
            (self.watch)(&self.report)?;
            match due.checked_sub(turns::now() - self.begun) {
                None | Some(Duration::ZERO) => return ControlFlow::Continue(()),
                Some(left) => std::thread::sleep(left.min(NAP)),
            }
        }
    }

    fn damaged(&mut self, object: Object, key: Vec<u8>, drive: u8, detail: String) {
        self.pool.drop_damaged(&key, object.generation);
        self.report.damaged += 1;
        if self.report.found.len() < LISTED {
            let drive = self.pool.drive_name(drive);
            self.report.found.push(ScrubDamage { key, drive, detail });
        }
    }
}
