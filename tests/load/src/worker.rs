use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use gcos_store::{
    Durability, IfExists, Lookup, PutOptions, PutOutcome, Sink, Source, Store, StoreError,
};
use parking_lot::Mutex;

use crate::{Clock, History, Kind, Latencies, Payload};

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) histories: Vec<Mutex<History>>,
    /// When the operation of each thread began; `u64::MAX` between two.
    pub(crate) under_way: Vec<AtomicU64>,
    pub(crate) versions: AtomicU64,
}

impl Shared {
    fn oldest(&self) -> u64 {
        let starts = self.under_way.iter().map(|start| start.load(Ordering::SeqCst));
        starts.min().unwrap_or(u64::MAX).min(self.clock.tick())
    }
}

/// What one thread saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) latencies: Latencies,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) full: u64,
}

pub(crate) fn key_of(key: u64) -> Vec<u8> {
    // Of many lengths.
    let mut bytes = format!("key {key} ").into_bytes();
    bytes.resize(8 + (key as usize * 37) % 200, b'.');
    bytes
}

/// One thread.
pub(crate) struct Worker<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) index: usize,
    pub(crate) rng: Rng,
    pub(crate) seen: Seen,
    pub(crate) pinned: Option<(u64, Payload)>,
}

impl Worker<'_> {
    pub(crate) fn run(mut self, until: Instant) -> Seen {
        while Instant::now() < until {
            self.step();
        }
        self.unpin();
        self.seen
    }

    /// A key, some of them far more often than others.
    fn key(&mut self) -> u64 {
        let all = self.shared.histories.len() as u64;
        let own = self.shared.under_way.len() as u64;
        // The first keys belong to one thread each: see `own_key`.
        let shared = all - own;
        own + if self.rng.u8(..4) == 0 { self.rng.u64(..8) } else { self.rng.u64(..shared) }
    }

    fn start(&self) -> u64 {
        // Announced before it is taken, so that nobody prunes what this operation may find.
        let place = &self.shared.under_way[self.index];
        place.store(self.shared.clock.tick(), Ordering::SeqCst);
        self.shared.clock.tick()
    }

    fn finish(&mut self, kind: Kind, began: Instant) {
        self.shared.under_way[self.index].store(u64::MAX, Ordering::SeqCst);
        self.seen.latencies.note(kind, began.elapsed());
    }

    fn step(&mut self) {
        match self.rng.u8(..100) {
            0..18 => self.put(Durability::Sync),
            18..30 => self.put(Durability::Relaxed),
            30..34 => self.put_many(),
            34..70 => self.get(),
            70..78 => self.get_range(),
            78..84 => self.get_many(),
            84..89 => self.remove(),
            89..97 => self.look(),
            97..99 => self.pin(),
            _ => self.maintain(),
        }
    }

    fn new_version(&self, key: u64) -> Payload {
        Payload { key, version: self.shared.versions.fetch_add(1, Ordering::Relaxed) }
    }

    fn begin_write(&self, key: u64, version: Option<u64>) -> u64 {
        let mut history = self.shared.histories[key as usize].lock();
        if history.len() > 64 {
            history.prune(self.shared.oldest());
        }
        let start = self.shared.clock.tick();
        history.begin(version, start);
        start
    }

    fn end_write(&mut self, key: u64, start: u64, result: Result<PutOutcome, StoreError>) {
        let mut history = self.shared.histories[key as usize].lock();
        match result {
            Ok(PutOutcome::Stored) => history.end(start, self.shared.clock.tick()),
            Ok(PutOutcome::Kept) => history.cancel(start),
            Err(StoreError::Full { .. }) => self.seen.full += 1,
            Err(error) => panic!("a put failed: {error}"),
        }
    }

    fn put(&mut self, durability: Durability) {
        let key = self.key();
        let payload = self.new_version(key);
        let bytes = payload.bytes();
        let if_exists = if self.rng.u8(..5) == 0 { IfExists::Keep } else { IfExists::Replace };
        let options = PutOptions { durability, if_exists, ..PutOptions::default() };
        let (start, began) = (self.begin_write(key, Some(payload.version)), Instant::now());
        let result = self.shared.store.put(&key_of(key), bytes.as_slice(), &options);
        let kind = if durability == Durability::Sync { Kind::PutSync } else { Kind::PutRelaxed };
        self.finish(kind, began);
        self.end_write(key, start, result);
    }

    fn put_many(&mut self) {
        let count = self.rng.usize(2..12);
        let mut puts = Vec::new();
        for _ in 0..count {
            let key = self.key();
            let payload = self.new_version(key);
            puts.push((key, key_of(key), payload.version, payload.bytes()));
        }
        let starts: Vec<_> = puts
            .iter()
            .map(|(key, _, version, _)| self.begin_write(*key, Some(*version)))
            .collect();
        let options = PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() };
        let items: Vec<(&[u8], Source<'_>)> = puts
            .iter()
            .map(|(_, name, _, bytes)| (name.as_slice(), bytes.as_slice().into()))
            .collect();
        let began = Instant::now();
        let results = self.shared.store.put_many(&items, &options);
        self.finish(Kind::PutMany, began);
        assert_eq!(results.len(), puts.len());
        for (((key, ..), start), result) in puts.into_iter().zip(starts).zip(results) {
            self.end_write(key, start, result);
        }
    }

    /// Holds what a get returned against the history.
    fn judge(&mut self, key: u64, start: u64, bytes: &[u8]) {
        let end = self.shared.clock.tick();
        let found = Payload::recognise(bytes);
        let found = found.filter(|payload| payload.key == key);
        let Some(payload) = found else {
            panic!("key {key}: {} bytes that are no object of this key", bytes.len());
        };
        let allowed =
            self.shared.histories[key as usize].lock().allows(payload.version, start, end);
        assert!(allowed, "key {key}: version {} from {start} to {end}", payload.version);
        self.seen.hits += 1;
    }

    fn get(&mut self) {
        let key = self.key();
        let (start, began) = (self.start(), Instant::now());
        let result = self.shared.store.get_vec(&key_of(key)).unwrap();
        let took = began;
        match result {
            Ok(bytes) => self.judge(key, start, &bytes),
            Err(reason) => self.miss(&reason),
        }
        self.finish(Kind::Get, took);
    }

    fn miss(&mut self, reason: &gcos_store::MissReason) {
        assert_eq!(*reason, gcos_store::MissReason::Absent, "nothing is damaged here");
        self.seen.misses += 1;
    }

    fn get_range(&mut self) {
        let key = self.key();
        let name = key_of(key);
        let Some(info) = self.shared.store.info(&name) else { return };
        let offset = self.rng.u32(0..info.len);
        let mut part = vec![0; self.rng.usize(1..=(info.len - offset) as usize)];
        let began = Instant::now();
        // The stamp is not in it, so all that can be said is whether it is part of some version.
        match self.shared.store.get_range(&name, offset, part.as_mut_slice()) {
            Ok(Lookup::Hit(hit)) => {
                let found = self.shared.store.get_vec(&name).unwrap();
                if let Ok(whole) = found
                    && self.shared.store.info(&name).is_some_and(|i| i.generation == hit.generation)
                    && self.generation_is(&name, hit.generation)
                    && whole.len() == hit.len as usize
                {
                    let at = offset as usize;
                    // Replaced twice in between is possible; then the generation differs again.
                    if self.generation_is(&name, hit.generation) {
                        assert!(whole[at..at + part.len()] == part[..], "key {key}: a wrong part");
                    }
                }
                self.seen.hits += 1;
            }
            Ok(Lookup::Miss(reason)) => self.miss(&reason),
            Err(StoreError::WrongSize { .. }) => {}
            Err(error) => panic!("a get failed: {error}"),
        }
        self.finish(Kind::GetRange, began);
    }

    fn generation_is(&self, name: &[u8], generation: u64) -> bool {
        self.shared.store.info(name).is_some_and(|info| info.generation == generation)
    }

    fn get_many(&mut self) {
        let keys: Vec<u64> = (0..self.rng.usize(2..10)).map(|_| self.key()).collect();
        let names: Vec<_> = keys.iter().map(|key| key_of(*key)).collect();
        let start = self.start();
        let mut sinks: Vec<Vec<u8>> = names
            .iter()
            .map(|name| vec![0; self.shared.store.info(name).map_or(1, |info| info.len as usize)])
            .collect();
        let items: Vec<(&[u8], Sink<'_>)> = names
            .iter()
            .zip(&mut sinks)
            .map(|(name, sink)| (name.as_slice(), sink.as_mut_slice().into()))
            .collect();
        let began = Instant::now();
        let results = self.shared.store.get_many(items);
        let took = began;
        for ((key, bytes), result) in keys.into_iter().zip(&sinks).zip(results) {
            match result {
                Ok(Lookup::Hit(_)) => self.judge(key, start, bytes),
                Ok(Lookup::Miss(reason)) => self.miss(&reason),
                Err(StoreError::WrongSize { .. }) => {}
                Err(error) => panic!("a get failed: {error}"),
            }
        }
        self.finish(Kind::GetMany, took);
    }

    fn remove(&mut self) {
        let key = self.key();
        let durability = if self.rng.bool() { Durability::Sync } else { Durability::Relaxed };
        let (start, began) = (self.begin_write(key, None), Instant::now());
        let removed = self.shared.store.remove(&key_of(key), durability);
        self.finish(Kind::Remove, began);
        let mut history = self.shared.histories[key as usize].lock();
        match removed.unwrap() {
            true => history.end(start, self.shared.clock.tick()),
            // Nothing was there: nothing to bury, a put may have come just after the look.
            false => history.cancel(start),
        }
    }

    fn look(&mut self) {
        let began = Instant::now();
        let keys: Vec<_> = (0..8).map(|_| key_of(self.key())).collect();
        let refs: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let store = &self.shared.store;
        assert!(store.prefix(&refs) <= refs.len());
        store.touch(&keys[0]);
        let _ = store.contains(&keys[1]);
        let stats = store.stats();
        assert!(stats.used_bytes <= stats.capacity_bytes);
        assert!(stats.meta_used_bytes <= stats.meta_capacity_bytes);
        if self.rng.u8(..20) == 0 {
            let listed = store.list(b"key 1", None, 10);
            assert!(listed.is_sorted_by(|a, b| a.0 < b.0));
        }
        self.finish(Kind::Look, began);
    }

    /// Puts an object of this thread's own and pins it; what is pinned is never a miss.
    fn pin(&mut self) {
        self.unpin();
        let key = self.index as u64;
        let payload = self.new_version(key);
        let options =
            PutOptions { if_exists: IfExists::Replace, pin: true, ..PutOptions::default() };
        let (name, began) = (key_of(key), Instant::now());
        match self.shared.store.put(&name, payload.bytes().as_slice(), &options) {
            Ok(_) => self.pinned = Some((key, payload)),
            Err(StoreError::Full { .. }) => self.seen.full += 1,
            Err(error) => panic!("a put failed: {error}"),
        }
        self.finish(Kind::PutSync, began);
    }

    fn unpin(&mut self) {
        let Some((key, payload)) = self.pinned.take() else { return };
        let name = key_of(key);
        let got = self.shared.store.get_vec(&name).unwrap();
        assert!(got == Ok(payload.bytes()), "what is pinned is gone or changed");
        assert!(self.shared.store.unpin(&name));
    }

    fn maintain(&mut self) {
        let began = Instant::now();
        match self.rng.u8(..3) {
            0 => self.shared.store.flush().unwrap(),
            1 => self.shared.store.maintain().unwrap(),
            _ => self.shared.store.checkpoint().unwrap(),
        }
        self.finish(Kind::Maintain, began);
        std::thread::sleep(Duration::from_micros(self.rng.u64(..500)));
    }
}
