//! Medium, write cache, observer and the power switch: everything below the namespaces.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fastrand::Rng;

use crate::cache::WriteCache;
use crate::medium::{MediaError, Medium, Scratch};

/// What a command did to the medium, as an [`Observer`] sees it.
///
/// A write is reported after it was taken and before its completion is posted; a flush is reported
/// before it starts. A write reported before a flush is therefore durable once that flush ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediumEvent<'a> {
    /// Bytes were written.
    Write {
        /// Offset on the medium in bytes.
        offset: u64,
        /// What was written.
        data: &'a [u8],
        /// Whether the write was durable when it completed (Force Unit Access).
        fua: bool,
    },
    /// A range was made to read as zeros (Write Zeroes, deallocation, Format NVM).
    Zero {
        /// Offset on the medium in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// Whether by Dataset Management or Format NVM.
        deallocate: bool,
    },
    /// Everything written so far becomes durable.
    Flush,
}

/// Called with every change of the medium, in order. It runs on the executing thread: it must not
/// free DMA memory, which would wait for the command that it is called from.
pub type Observer = Arc<dyn Fn(&MediumEvent<'_>) + Send + Sync>;

/// What has reached the medium or its cache since the controller was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MediumCounts {
    /// Read and Compare commands.
    pub reads: u64,
    /// Write and Write Zeroes commands.
    pub writes: u64,
    /// Bytes of those writes.
    pub bytes_written: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Flushes carried out; flushes that a fault only pretended are not counted.
    pub flushes: u64,
    /// Ranges deallocated.
    pub deallocates: u64,
}

#[derive(Debug, Default)]
struct Counters {
    reads: AtomicU64,
    writes: AtomicU64,
    bytes_written: AtomicU64,
    bytes_read: AtomicU64,
    flushes: AtomicU64,
    deallocates: AtomicU64,
}

/// Everything below the namespaces of one controller. Offsets are bytes on the medium.
pub(crate) struct Storage {
    medium: Arc<Medium>,
    cache: Option<WriteCache>,
    /// Volatile Write Cache Enable of the feature of that name.
    cache_enabled: AtomicBool,
    observer: Option<Observer>,
    counters: Counters,
    /// Bytes that are written or lost as one.
    unit: u64,
    off: AtomicBool,
    /// Media writes left until power is cut; 0 means never.
    writes_left: AtomicU64,
    cut_seed: AtomicU64,
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("medium", &self.medium).finish_non_exhaustive()
    }
}

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

impl Storage {
    pub(crate) fn new(
        medium: Arc<Medium>,
        cache: Option<WriteCache>,
        observer: Option<Observer>,
        unit: u64,
    ) -> Self {
        Self {
            medium,
            cache,
            cache_enabled: AtomicBool::new(true),
            observer,
            counters: Counters::default(),
            unit,
            off: AtomicBool::new(false),
            writes_left: AtomicU64::new(0),
            cut_seed: AtomicU64::new(0),
        }
    }

    pub(crate) fn medium(&self) -> &Arc<Medium> {
        &self.medium
    }

    /// Whether a completed write may be lost before the next flush. A file is behind the system's
    /// and the drive's caches, so it counts.
    pub(crate) fn is_volatile(&self) -> bool {
        self.cache.is_some() || self.medium.is_file()
    }

    pub(crate) fn cache_enabled(&self) -> bool {
        self.cache_enabled.load(Ordering::Relaxed)
    }

    /// Turns the write cache off, after having emptied it, or on.
    pub(crate) fn set_cache_enabled(&self, enabled: bool) -> Result<(), MediaError> {
        self.cache_enabled.store(enabled, Ordering::Relaxed);
        if enabled { Ok(()) } else { self.settle() }
    }

    pub(crate) fn counts(&self) -> MediumCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MediumCounts {
            reads: get(&self.counters.reads),
            writes: get(&self.counters.writes),
            bytes_written: get(&self.counters.bytes_written),
            bytes_read: get(&self.counters.bytes_read),
            flushes: get(&self.counters.flushes),
            deallocates: get(&self.counters.deallocates),
        }
    }

    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.cache.as_ref().map_or(0, WriteCache::dirty_bytes)
    }

    /// Reads into the scratch's transfer.
    pub(crate) fn read(&self, offset: u64, scratch: &mut Scratch) -> Result<(), MediaError> {
        self.check_power()?;
        add(&self.counters.reads, 1);
        add(&self.counters.bytes_read, scratch.transfer.len() as u64);
        match &self.cache {
            Some(cache) => cache.read(&self.medium, offset, scratch),
            None => self.medium.read(offset, scratch),
        }
    }

    /// Whether the medium holds exactly what the scratch's transfer holds.
    pub(crate) fn compare(&self, offset: u64, scratch: &mut Scratch) -> Result<bool, MediaError> {
        self.check_power()?;
        let len = scratch.transfer.len();
        add(&self.counters.reads, 1);
        add(&self.counters.bytes_read, len as u64);
        scratch.bytes.clear();
        scratch.bytes.resize(2 * len, 0);
        let (ours, theirs) = scratch.bytes.split_at_mut(len);
        self.read_bytes(offset, ours)?;
        scratch.transfer.gather(0, theirs)?;
        Ok(ours == theirs)
    }

    fn read_bytes(&self, offset: u64, out: &mut [u8]) -> Result<(), MediaError> {
        match &self.cache {
            Some(cache) => cache.read_bytes(&self.medium, offset, out),
            None => self.medium.read_bytes(offset, out),
        }
    }

    /// Writes what the scratch's transfer holds.
    pub(crate) fn write(
        &self,
        offset: u64,
        fua: bool,
        scratch: &mut Scratch,
    ) -> Result<(), MediaError> {
        self.check_power()?;
        add(&self.counters.writes, 1);
        add(&self.counters.bytes_written, scratch.transfer.len() as u64);
        if self.is_last_write() {
            return self.write_and_cut(offset, scratch);
        }
        match &self.cache {
            Some(cache) if fua || !self.cache_enabled() => {
                cache.write_through(&self.medium, offset, scratch)?;
            }
            Some(cache) => cache.write(&self.medium, offset, scratch)?,
            None => self.medium.write(offset, scratch)?,
        }
        if let Some(observer) = &self.observer {
            scratch.bytes.clear();
            scratch.bytes.resize(scratch.transfer.len(), 0);
            scratch.transfer.gather(0, &mut scratch.bytes)?;
            observer(&MediumEvent::Write { offset, data: &scratch.bytes, fua });
        }
        if fua || !self.cache_enabled() {
            self.medium.sync()?;
        }
        Ok(())
    }

    /// Makes a range read as zeros.
    pub(crate) fn zero(
        &self,
        offset: u64,
        len: u64,
        deallocate: bool,
        fua: bool,
    ) -> Result<(), MediaError> {
        self.check_power()?;
        if deallocate {
            add(&self.counters.deallocates, 1);
        } else {
            add(&self.counters.writes, 1);
            add(&self.counters.bytes_written, len);
        }
        let cut = !deallocate && self.is_last_write();
        match &self.cache {
            Some(cache) if fua || !self.cache_enabled() => {
                cache.zero_through(&self.medium, offset, len)?;
            }
            Some(cache) => cache.zero(&self.medium, offset, len)?,
            None => self.medium.zero(offset, len)?,
        }
        if cut {
            self.power_off(self.cut_seed.load(Ordering::Relaxed));
            return Err(MediaError::PowerOff);
        }
        if let Some(observer) = &self.observer {
            observer(&MediumEvent::Zero { offset, len, deallocate });
        }
        if fua || !self.cache_enabled() {
            self.medium.sync()?;
        }
        Ok(())
    }

    /// Makes everything written so far durable.
    pub(crate) fn flush(&self) -> Result<(), MediaError> {
        self.check_power()?;
        add(&self.counters.flushes, 1);
        if let Some(observer) = &self.observer {
            observer(&MediumEvent::Flush);
        }
        self.settle()
    }

    /// Empties the cache, as an orderly shutdown does; nobody is told.
    pub(crate) fn settle(&self) -> Result<(), MediaError> {
        if let Some(cache) = &self.cache {
            cache.flush(&self.medium)?;
        }
        self.medium.sync()
    }

    /// Flips a bit on the medium, below the cache where the block is not dirty.
    pub(crate) fn rot(&self, offset: u64, bit: u8) -> Result<(), MediaError> {
        let mut byte = [0];
        self.medium.read_bytes(offset, &mut byte)?;
        self.medium.write_bytes(offset, &byte.map(|byte| byte ^ (1 << (bit % 8))))
    }

    /// Cuts power after `writes` more media writes; 0 disarms.
    pub(crate) fn cut_after(&self, writes: u64, seed: u64) {
        self.cut_seed.store(seed, Ordering::Relaxed);
        self.writes_left.store(writes, Ordering::Relaxed);
    }

    fn is_last_write(&self) -> bool {
        if self.writes_left.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let step = |left: u64| left.checked_sub(1);
        let before = self.writes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
        before == Ok(1)
    }

    /// The write during which power fails: it was never acknowledged, so each of its units may
    /// have reached the medium or not, with or without a cache.
    fn write_and_cut(&self, offset: u64, scratch: &mut Scratch) -> Result<(), MediaError> {
        let seed = self.cut_seed.load(Ordering::Relaxed);
        if let Some(cache) = &self.cache {
            cache.write(&self.medium, offset, scratch)?;
        } else {
            let len = scratch.transfer.len();
            scratch.bytes.clear();
            scratch.bytes.resize(len, 0);
            scratch.transfer.gather(0, &mut scratch.bytes)?;
            let mut rng = Rng::with_seed(seed);
            let (mut at, end) = (offset, offset + len as u64);
            while at < end {
                let next = ((at / self.unit + 1) * self.unit).min(end);
                let part = (at - offset) as usize..(next - offset) as usize;
                if rng.bool() {
                    self.medium.write_bytes(at, scratch.bytes.get(part).unwrap_or_default())?;
                }
                at = next;
            }
        }
        self.power_off(seed);
        Err(MediaError::PowerOff)
    }

    /// Loses power; unflushed blocks survive or not by the seed.
    pub(crate) fn power_off(&self, seed: u64) {
        // First the cache, which takes nothing from then on: who sees that power is off finds the
        // medium as it will stay.
        if let Some(cache) = &self.cache
            && let Err(error) = cache.power_off(&self.medium, seed)
        {
            tracing::error!(%error, "a block could not be written while power failed");
        }
        self.off.store(true, Ordering::SeqCst);
    }

    pub(crate) fn power_on(&self) {
        if let Some(cache) = &self.cache {
            cache.power_on();
        }
        self.cache_enabled.store(true, Ordering::Relaxed);
        self.off.store(false, Ordering::SeqCst);
    }

    /// Whether power is off.
    pub(crate) fn is_off(&self) -> bool {
        self.off.load(Ordering::SeqCst)
    }

    fn check_power(&self) -> Result<(), MediaError> {
        if self.is_off() { Err(MediaError::PowerOff) } else { Ok(()) }
    }
}
