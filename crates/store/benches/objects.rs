//! Puts and gets of large objects through store, driver and software controller on a RAM medium, beside
//! their ceiling: one memcpy plus one checksum pass over the same bytes.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to measure")]
#![allow(missing_docs, reason = "criterion's macros make public items")]

mod support;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gcos_layout::checksum::crc32c;
use gcos_store::{Durability, IfExists, PutOptions};

use support::{Pool, fill};

fn objects(c: &mut Criterion) {
    let pool = Pool::ram(640 << 20);
    let store = &pool.store;
    touch_medium(&pool);
    for mib in [8usize, 32] {
        let len = mib << 20;
        let mut group = c.benchmark_group(format!("{mib} MiB"));
        group.throughput(Throughput::Bytes(len as u64)).sample_size(20);

        let mut source = store.buffer(len).unwrap();
        fill(source.bytes_mut().unwrap(), 1);
        let from = source.bytes_mut().unwrap().to_vec();
        let mut to = vec![1u8; len];
        group.bench_function(BenchmarkId::from_parameter("ceiling: memcpy + crc32c"), |b| {
            b.iter(|| {
                to.copy_from_slice(black_box(&from));
                black_box(to.chunks(65_536).map(crc32c).fold(0, |a, b| a ^ b))
            });
        });
        let options = PutOptions {
            durability: Durability::Sync,
            if_exists: IfExists::Replace,
            ..PutOptions::default()
        };
        let mut n = 0u64;
        group.bench_function(BenchmarkId::from_parameter("put, device memory"), |b| {
            b.iter(|| {
                n += 1;
                store.put(&(n % 8).to_le_bytes(), &source, &options).unwrap()
            });
        });
        group.bench_function(BenchmarkId::from_parameter("put, plain memory"), |b| {
            b.iter(|| {
                n += 1;
                store.put(&(n % 8).to_le_bytes(), from.as_slice(), &options).unwrap()
            });
        });
        store.put(b"object", &source, &options).unwrap();
        group.bench_function(BenchmarkId::from_parameter("get, device memory"), |b| {
            b.iter(|| assert!(store.get(b"object", &mut source).unwrap().is_hit()));
        });
        group.bench_function(BenchmarkId::from_parameter("get, plain memory"), |b| {
            b.iter(|| assert!(store.get(b"object", to.as_mut_slice()).unwrap().is_hit()));
        });
        group.finish();
        assert!(store.get(b"object", to.as_mut_slice()).unwrap().is_hit() && to == from);
        assert!(store.get(b"object", &mut source).unwrap().is_hit());
        assert!(source.bytes_mut().unwrap() == from.as_slice());
    }
}

/// Writes the whole data zone once, so that no benchmark pays for the medium's first page faults.
fn touch_medium(pool: &Pool) {
    let options = PutOptions { durability: Durability::Relaxed, ..PutOptions::default() };
    let payload = vec![1u8; 8 << 20];
    for i in 0..160u64 {
        pool.store.put(&i.to_le_bytes(), payload.as_slice(), &options).unwrap();
    }
    for (key, _) in pool.store.list(b"", None, usize::MAX) {
        pool.store.remove(&key, Durability::Sync).unwrap();
    }
}

criterion_group!(benches, objects);
criterion_main!(benches);
