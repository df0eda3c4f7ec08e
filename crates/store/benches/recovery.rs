//! Opening a pool with a million objects, from a checkpoint and from the journal.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a benchmark that cannot run has nothing to measure"
)]
#![allow(missing_docs, reason = "criterion's macros make public items")]

mod support;

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use gcos_store::{Durability, PutOptions, Source};

use support::Pool;

const OBJECTS: u64 = 1_000_000;

fn recovery(c: &mut Criterion) {
    let mut pool = Some(Pool::ram(12 << 30));
    {
        let store = &pool.as_ref().unwrap().store;
        let options = PutOptions { durability: Durability::Relaxed, ..PutOptions::default() };
        let payload = [7u8; 64];
        let keys: Vec<[u8; 16]> = (0..OBJECTS).map(|i| u128::from(i).to_le_bytes()).collect();
        for part in keys.chunks(256) {
            let items: Vec<(&[u8], Source<'_>)> =
                part.iter().map(|key| (key.as_slice(), Source::Bytes(&payload))).collect();
            store.put_many(&items, &options).into_iter().for_each(|r| assert!(r.is_ok()));
        }
        store.checkpoint().unwrap();
        let stats = store.stats();
        assert_eq!(stats.objects, OBJECTS, "{stats:?}");
        let beside = (stats.index_bytes - stats.key_bytes) as f64 / OBJECTS as f64;
        eprintln!("index: {beside:.1} bytes an object beside its key");
    }
    let mut group = c.benchmark_group("recovery");
    group.sample_size(10).measurement_time(Duration::from_secs(20));
    group.bench_function("open, 1,000,000 objects in a checkpoint", |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let begun = Instant::now();
                let reopened = pool.take().unwrap().reopen();
                assert_eq!(reopened.store.recovery().objects, OBJECTS);
                spent += begun.elapsed().min(Duration::from_secs(60));
                pool = Some(reopened);
            }
            spent
        });
    });
    group.finish();
    let report = pool.as_ref().unwrap().store.recovery();
    eprintln!("of which recovery proper: {} ms", report.micros / 1000);
}

criterion_group!(benches, recovery);
criterion_main!(benches);
