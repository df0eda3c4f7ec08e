use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gcos_store::{
    Durability, IfExists, Lookup, MissReason, ObjectInfo, PutOptions, Sink, Source, Store,
    StoreError,
};

use super::{CopyError, CopyOptions, CopyReport, Pins};

/// How often an object is read anew that is replaced while it is read.
const ATTEMPTS: usize = 4;

/// Some objects that go together: read, compared, written, made durable, read back.
pub(super) struct Batch<'a> {
    source: &'a Store,
    destination: &'a Store,
    options: &'a CopyOptions,
    list: &'a [(Vec<u8>, ObjectInfo)],
}

/// An object that has been read and verified.
struct Loaded<'a> {
    key: &'a [u8],
    bytes: Vec<u8>,
    expires_at: Option<u32>,
}

/// What reading gave.
enum Read {
    There(Vec<u8>, Option<u32>),
    Gone,
    Failed(String),
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        source: &'a Store,
        destination: &'a Store,
        options: &'a CopyOptions,
        list: &'a [(Vec<u8>, ObjectInfo)],
    ) -> Self {
        Self { source, destination, options, list }
    }

    pub(super) fn run(
        &self,
        report: &mut CopyReport,
        pins: &mut Pins<'_>,
    ) -> Result<(), CopyError> {
        // Without the pin an object could be evicted by its owner while it waits for its turn.
        let pinned: Vec<bool> = self.list.iter().map(|(key, _)| self.source.pin(key)).collect();
        let loaded = self.load(report);
        for ((key, _), pinned) in self.list.iter().zip(pinned) {
            if pinned {
                self.source.unpin(key);
            }
        }
        let missing = self.compare(loaded?, report)?;
        if !self.options.dry_run {
            self.write(&missing, report.copied, pins)?;
            self.verify(&missing)?;
        }
        for object in &missing {
            report.copied += 1;
            report.copied_bytes += object.bytes.len() as u64;
        }
        Ok(())
    }

    /// Reads what there is, all of it together; what has changed since it was listed, by itself.
    fn load(&self, report: &mut CopyReport) -> Result<Vec<Loaded<'a>>, CopyError> {
        let mut buffers = Vec::with_capacity(self.list.len());
        for (_, info) in self.list {
            buffers.push(buffer(info.len)?);
        }
        let keys = self.list.iter().map(|(key, _)| key.as_slice());
        let sinks = buffers.iter_mut().map(|buffer| Sink::from(buffer.as_mut_slice()));
        let results = self.source.get_many(keys.zip(sinks).collect());
        let mut loaded = Vec::with_capacity(self.list.len());
        for (((key, _), bytes), result) in self.list.iter().zip(buffers).zip(results) {
            let read = match result {
                Err(StoreError::WrongSize { .. }) => self.read_anew(key)?,
                result => of_lookup(result, bytes)?,
            };
            match read {
                Read::There(bytes, expires_at) => loaded.push(Loaded { key, bytes, expires_at }),
                Read::Gone => report.gone += 1,
                Read::Failed(reason) => report.fail(key, format!("the source: {reason}")),
            }
        }
        Ok(loaded)
    }

    /// Reads an object whose length has changed.
    fn read_anew(&self, key: &[u8]) -> Result<Read, CopyError> {
        for _ in 0..ATTEMPTS {
            let Some(info) = self.source.info(key) else { return Ok(Read::Gone) };
            let mut bytes = buffer(info.len)?;
            match self.source.get(key, bytes.as_mut_slice()) {
                Err(StoreError::WrongSize { .. }) => {}
                result => return of_lookup(result, bytes),
            }
        }
        Ok(Read::Failed("it is replaced faster than it can be read".to_owned()))
    }

    /// Counts what the destination has already, and gives back what it has not.
    fn compare(
        &self,
        loaded: Vec<Loaded<'a>>,
        report: &mut CopyReport,
    ) -> Result<Vec<Loaded<'a>>, CopyError> {
        let mut missing = Vec::with_capacity(loaded.len());
        for object in loaded {
            match self.destination.info(object.key) {
                None => missing.push(object),
                Some(_) if self.has(&object)? => {
                    report.same += 1;
                    report.same_bytes += object.bytes.len() as u64;
                }
                // A get that finds damage removes the object: then it is missing.
                Some(_) if self.options.replace || !self.destination.contains(object.key) => {
                    missing.push(object);
                }
                Some(_) => {
                    let reason = "the destination has an object of this key with other bytes";
                    report.fail(object.key, reason.to_owned());
                }
            }
        }
        Ok(missing)
    }

    /// Whether the destination returns these very bytes.
    fn has(&self, object: &Loaded<'_>) -> Result<bool, CopyError> {
        let mut bytes = buffer(u32::try_from(object.bytes.len()).unwrap_or(u32::MAX))?;
        match self.destination.get(object.key, bytes.as_mut_slice()) {
            Ok(found) => Ok(found.is_hit() && bytes == object.bytes),
            Err(StoreError::WrongSize { .. }) => Ok(false),
            Err(error) => Err(CopyError::Destination(error)),
        }
    }

    /// Writes objects and makes them durable. They are pinned, so that none makes room for another.
    fn write(
        &self,
        objects: &[Loaded<'_>],
        copied: u64,
        pins: &mut Pins<'_>,
    ) -> Result<(), CopyError> {
        if objects.is_empty() {
            return Ok(());
        }
        let options = PutOptions {
            durability: Durability::Relaxed,
            if_exists: IfExists::Replace,
            ttl: None,
            pin: true,
        };
        let failed = |error: StoreError| match error {
            StoreError::Full { .. } => CopyError::Full { copied, source: error },
            error => CopyError::Destination(error),
        };
        // In runs, so that the order of generations stays that of the source.
        for run in objects.chunk_by(|a, b| a.expires_at == b.expires_at) {
            let items: Vec<_> =
                run.iter().map(|o| (o.key, Source::from(o.bytes.as_slice()))).collect();
            let ttl = run.first().and_then(|o| o.expires_at).map(left_of);
            let results = self.destination.put_many(&items, &PutOptions { ttl, ..options });
            for (object, result) in run.iter().zip(results) {
                result.map_err(failed)?;
                pins.note(object.key);
            }
        }
        self.destination.flush().map_err(CopyError::Destination)
    }

    /// Reads back what was written, and compares.
    fn verify(&self, objects: &[Loaded<'_>]) -> Result<(), CopyError> {
        for object in objects {
            // Its lifetime may have ended since.
            let expired = |at: u32| left_of(at).is_zero();
            if !self.has(object)? && !object.expires_at.is_some_and(expired) {
                let reason =
                    format!("an object of {} bytes differs or is a miss", object.bytes.len());
                return Err(CopyError::Unverified { reason });
            }
        }
        Ok(())
    }
}

fn of_lookup(result: Result<Lookup, StoreError>, bytes: Vec<u8>) -> Result<Read, CopyError> {
    match result {
        Ok(Lookup::Hit(info)) => Ok(Read::There(bytes, info.expires_at)),
        Ok(Lookup::Miss(MissReason::Absent | MissReason::Expired)) => Ok(Read::Gone),
        Ok(Lookup::Miss(reason)) => Ok(Read::Failed(reason.to_string())),
        Err(error) => Err(CopyError::Source(error)),
    }
}

/// Zeroed memory, or an error instead of an abort.
fn buffer(len: u32) -> Result<Vec<u8>, CopyError> {
    let len = len as usize;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| CopyError::Memory { len })?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// What is left of a lifetime that ends at this time, in seconds since 1970.
fn left_of(expires_at: u32) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(u64::from(expires_at)).saturating_sub(now)
}
