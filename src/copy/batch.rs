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
        let loaded = self.load(report)?;
        let mut missing = self.compare(loaded, report)?;
        if !self.options.dry_run {
            missing = self.write(missing, report, pins)?;
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
        let there = |object: &Loaded<'_>| self.destination.info(object.key).is_some();
        let there: Vec<bool> = loaded.iter().map(there).collect();
        let asked = || loaded.iter().zip(&there).filter(|(_, there)| **there);
        let mut same = self.same(asked().map(|(object, _)| object))?.into_iter();
        let mut missing = Vec::with_capacity(loaded.len());
        for (object, there) in loaded.into_iter().zip(there) {
            if !there {
                missing.push(object);
            } else if same.next() == Some(true) {
                report.same += 1;
                report.same_bytes += object.bytes.len() as u64;
            } else if self.options.replace || !self.destination.contains(object.key) {
                // A get that finds damage removes the object: then it is missing.
                missing.push(object);
            } else {
                let reason =
                    "the destination has an object of this key with other bytes, or cannot read it";
                report.fail(object.key, reason.to_owned());
            }
        }
        Ok(missing)
    }

    /// Whether the destination returns these very bytes, for each of them.
    fn same<'o>(
        &self,
        objects: impl Iterator<Item = &'o Loaded<'o>>,
    ) -> Result<Vec<bool>, CopyError> {
        let objects: Vec<_> = objects.collect();
        let mut buffers = Vec::with_capacity(objects.len());
        for object in &objects {
            buffers.push(buffer(u32::try_from(object.bytes.len()).unwrap_or(u32::MAX))?);
        }
        let keys = objects.iter().map(|object| object.key);
        let sinks = buffers.iter_mut().map(|buffer| Sink::from(buffer.as_mut_slice()));
        let results = self.destination.get_many(keys.zip(sinks).collect());
        let all = objects.iter().zip(buffers).zip(results);
        all.map(|((object, bytes), result)| match result {
            Ok(found) => Ok(found.is_hit() && bytes == object.bytes),
            Err(StoreError::WrongSize { .. }) => Ok(false),
            Err(error) => Err(CopyError::Destination(error)),
        })
        .collect()
    }

    /// Writes objects and makes them durable; gives those back. They are pinned, so that none makes room
    /// for another. What expired while it waited for its turn has gone.
    fn write(
        &self,
        objects: Vec<Loaded<'a>>,
        report: &mut CopyReport,
        pins: &mut Pins<'_>,
    ) -> Result<Vec<Loaded<'a>>, CopyError> {
        let options = PutOptions {
            durability: Durability::Relaxed,
            if_exists: IfExists::Replace,
            ttl: None,
            pin: true,
        };
        let copied = report.copied;
        let failed = |error: StoreError| match error {
            StoreError::Full { .. } => CopyError::Full { copied, source: error },
            error => CopyError::Destination(error),
        };
        let mut taken = Vec::with_capacity(objects.len());
        // In runs, so that the order of generations stays that of the source.
        for run in objects.chunk_by(|a, b| a.expires_at == b.expires_at) {
            let ttl = run.first().and_then(|object| object.expires_at).map(left_of);
            let expired = ttl == Some(Duration::ZERO);
            taken.extend(run.iter().map(|_| !expired));
            if expired {
                report.gone += run.len() as u64;
                continue;
            }
            let items: Vec<_> =
                run.iter().map(|o| (o.key, Source::from(o.bytes.as_slice()))).collect();
            let results = self.destination.put_many(&items, &PutOptions { ttl, ..options });
            let mut first = Ok(());
            // Those behind one that failed have a pin as well.
            for (object, result) in run.iter().zip(results) {
                match result {
                    Ok(_) => pins.note(object.key),
                    Err(error) => first = first.and(Err(failed(error))),
                }
            }
            first?;
        }
        let mut taken = taken.into_iter();
        let mut written = objects;
        written.retain(|_| taken.next() == Some(true));
        if !written.is_empty() {
            self.destination.flush().map_err(CopyError::Destination)?;
        }
        Ok(written)
    }

    /// Reads back what was written, and compares.
    fn verify(&self, objects: &[Loaded<'_>]) -> Result<(), CopyError> {
        for (object, same) in objects.iter().zip(self.same(objects.iter())?) {
            // Its lifetime may have ended since.
            let expired = |at: u32| left_of(at).is_zero();
            if !same && !object.expires_at.is_some_and(expired) {
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

#[cfg(test)]
mod tests {
    use gcos_store::ObjectInfo;

    use super::*;
    use crate::{Config, open_drives};

    fn pool() -> Store {
        let text = r#"{"disk": {"number": 1, "paths": ["emulated:ram:64MiB"],
            "capacity_bytes": 67108864}}"#;
        let config = Config::parse(text, "test").unwrap();
        let drives = open_drives(&config, false).unwrap().engines;
        gcos_store::format(&drives, &config.format_options(false)).unwrap();
        Store::open(drives, config.open_options()).unwrap()
    }

    #[test]
    fn what_expired_while_it_waited_is_gone_and_not_written() {
        let (source, destination) = (pool(), pool());
        let options = CopyOptions::default();
        let list: Vec<(Vec<u8>, ObjectInfo)> = Vec::new();
        let batch = Batch::new(&source, &destination, &options, &list);
        let later = u32::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
        let later = later.unwrap() + 1000;
        let object =
            |key: &'static [u8], expires_at| Loaded { key, bytes: vec![1; 99], expires_at };
        let objects = vec![
            object(b"a", Some(1)),
            object(b"b", None),
            object(b"c", Some(1)),
            object(b"d", Some(later)),
        ];
        let mut report = CopyReport::new(&list, false);
        let mut pins = Pins::of_all(&destination);
        let written = batch.write(objects, &mut report, &mut pins).unwrap();
        let keys: Vec<_> = written.iter().map(|object| object.key).collect();
        assert_eq!(keys, [b"b", b"d"]);
        assert_eq!((report.gone, destination.stats().puts), (2, 2));
        batch.verify(&written).unwrap();
        drop(pins);
        assert_eq!(destination.stats().pinned, 0);
    }
}
