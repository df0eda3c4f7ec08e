//! Index and journal: lookups, prefix lookups, and small puts in each durability, over driver and
//! software controller on a medium in memory.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to measure")]
#![allow(missing_docs, reason = "criterion's macros make public items")]

mod support;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gcos_store::{Durability, IfExists, PutOptions, Source};

use support::Pool;

const OBJECTS: u64 = 100_000;

fn key(i: u64) -> [u8; 16] {
    u128::from(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()
}

fn index(c: &mut Criterion) {
    let pool = Pool::ram(2 << 30);
    let store = &pool.store;
    let relaxed = PutOptions { durability: Durability::Relaxed, ..PutOptions::default() };
    let keys: Vec<[u8; 16]> = (0..OBJECTS).map(key).collect();
    for part in keys.chunks(256) {
        let items: Vec<(&[u8], Source<'_>)> =
            part.iter().map(|key| (key.as_slice(), Source::Bytes(&[1; 64]))).collect();
        store.put_many(&items, &relaxed).into_iter().for_each(|r| assert!(r.is_ok()));
    }
    let mut group = c.benchmark_group("index, 100,000 objects");
    let mut i = 0;
    let mut next = move || {
        i = (i + 7919) % OBJECTS;
        key(i)
    };
    group.bench_function("contains, hit", |b| b.iter(|| assert!(store.contains(&next()))));
    group.bench_function("contains, miss", |b| {
        b.iter(|| assert!(!store.contains(black_box(b"no such key"))));
    });
    group.bench_function("touch", |b| b.iter(|| assert!(store.touch(&next()))));
    let chain: Vec<&[u8]> = keys[..64].iter().map(|k| k.as_slice()).collect();
    group.throughput(Throughput::Elements(64));
    group.bench_function("prefix of 64 keys", |b| b.iter(|| store.prefix(black_box(&chain))));
    group.finish();
}

fn journal(c: &mut Criterion) {
    let pool = Pool::ram(1 << 30);
    let store = &pool.store;
    let mut group = c.benchmark_group("journal");
    for (name, durability) in [
        ("put of 64 bytes, sync", Durability::Sync),
        ("put of 64 bytes, relaxed", Durability::Relaxed),
    ] {
        let options =
            PutOptions { durability, if_exists: IfExists::Replace, ..PutOptions::default() };
        let mut i = 0u64;
        group.bench_function(name, |b| {
            b.iter(|| {
                i += 1;
                store.put(&(i % 1000).to_le_bytes(), [7u8; 64].as_slice(), &options).unwrap()
            });
        });
    }
    let keys: Vec<[u8; 16]> = (0..256).map(key).collect();
    let options = PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() };
    let items: Vec<(&[u8], Source<'_>)> =
        keys.iter().map(|key| (key.as_slice(), Source::Bytes(&[1; 64]))).collect();
    group.throughput(Throughput::Elements(256));
    group.bench_function("256 puts of 64 bytes at once, sync", |b| {
        b.iter(|| store.put_many(&items, &options).into_iter().for_each(|r| assert!(r.is_ok())));
    });
    group.finish();
}

criterion_group!(benches, index, journal);
criterion_main!(benches);
