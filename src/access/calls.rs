//! Operations of the store whose times are taken, for [`crate::metrics`].

use gcos_cuda::Stream;
use gcos_store::{
    DeviceSink, DeviceSource, Lookup, MissReason, PutOptions, PutOutcome, Sink, Source, StoreError,
};

use super::Access;
use crate::metrics::{IntervalStats, Mark, Op};

/// Bytes that a put stored.
fn stored(result: &Result<PutOutcome, StoreError>, len: u64) -> u64 {
    if matches!(result, Ok(PutOutcome::Stored)) { len } else { 0 }
}

/// Bytes that a get delivered.
fn delivered(result: &Result<Lookup, StoreError>, len: u64) -> u64 {
    if result.as_ref().is_ok_and(Lookup::is_hit) { len } else { 0 }
}

/// Sums over the results of a batch.
fn sum<T>(results: &[T], lengths: &[u64], bytes: impl Fn(&T, u64) -> u64) -> u64 {
    results.iter().zip(lengths).map(|(result, &len)| bytes(result, len)).sum()
}

impl Access {
    /// As [`gcos_store::Store::put`].
    ///
    /// # Errors
    /// As there.
    pub fn put<'a>(
        &self,
        key: &[u8],
        source: impl Into<Source<'a>>,
        options: &PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        let source = source.into();
        let len = source.len();
        self.measures.call(Op::Put, || self.store.put(key, source, options), |r| stored(r, len))
    }

    /// As [`gcos_store::Store::put_many`].
    pub fn put_many(
        &self,
        items: &[(&[u8], Source<'_>)],
        options: &PutOptions,
    ) -> Vec<Result<PutOutcome, StoreError>> {
        let lengths: Vec<_> = items.iter().map(|(_, source)| source.len()).collect();
        let put = || self.store.put_many(items, options);
        self.measures.call(Op::PutMany, put, |results| sum(results, &lengths, stored))
    }

    /// As [`gcos_store::Store::get`].
    ///
    /// # Errors
    /// As there.
    pub fn get<'a>(&self, key: &[u8], sink: impl Into<Sink<'a>>) -> Result<Lookup, StoreError> {
        let sink = sink.into();
        let len = sink.len();
        self.measures.call(Op::Get, || self.store.get(key, sink), |r| delivered(r, len))
    }

    /// As [`gcos_store::Store::get_range`].
    ///
    /// # Errors
    /// As there.
    pub fn get_range<'a>(
        &self,
        key: &[u8],
        offset: u32,
        sink: impl Into<Sink<'a>>,
    ) -> Result<Lookup, StoreError> {
        let sink = sink.into();
        let len = sink.len();
        let get = || self.store.get_range(key, offset, sink);
        self.measures.call(Op::Get, get, |r| delivered(r, len))
    }

    /// As [`gcos_store::Store::get_vec`].
    ///
    /// # Errors
    /// As there.
    pub fn get_vec(&self, key: &[u8]) -> Result<Result<Vec<u8>, MissReason>, StoreError> {
        let bytes = |result: &Result<Result<Vec<u8>, _>, _>| match result {
            Ok(Ok(bytes)) => bytes.len() as u64,
            _ => 0,
        };
        self.measures.call(Op::Get, || self.store.get_vec(key), bytes)
    }

    /// As [`gcos_store::Store::get_many`].
    pub fn get_many(&self, items: Vec<(&[u8], Sink<'_>)>) -> Vec<Result<Lookup, StoreError>> {
        let lengths: Vec<_> = items.iter().map(|(_, sink)| sink.len()).collect();
        let get = || self.store.get_many(items);
        self.measures.call(Op::GetMany, get, |results| sum(results, &lengths, delivered))
    }

    /// As [`gcos_store::Store::put_many_on`], for one object or many.
    pub fn put_on(
        &self,
        stream: &Stream,
        items: Vec<(&[u8], DeviceSource)>,
        options: &PutOptions,
    ) -> Vec<Result<PutOutcome, StoreError>> {
        let lengths: Vec<_> = items.iter().map(|(_, source)| source.len()).collect();
        let put = || self.store.put_many_on(stream, items, options);
        self.measures.call(Op::DevicePut, put, |results| sum(results, &lengths, stored))
    }

    /// As [`gcos_store::Store::get_on`], for one object or many, and waits for them.
    ///
    /// # Errors
    /// As there.
    pub fn get_on(
        &self,
        stream: &Stream,
        items: Vec<(&[u8], DeviceSink)>,
    ) -> Result<Vec<Result<Lookup, StoreError>>, StoreError> {
        let lengths: Vec<_> = items.iter().map(|(_, sink)| sink.len()).collect();
        let get = || Ok(self.store.get_on(stream, items)?.wait());
        let bytes = |results: &Result<Vec<_>, StoreError>| {
            results.as_ref().map_or(0, |results| sum(results, &lengths, delivered))
        };
        self.measures.call(Op::DeviceGet, get, bytes)
    }

    /// What happened since the last call of this, or since the pool was opened. Of operations it knows those
    /// that go through the methods here; hits and misses are those of the store.
    pub fn interval_stats(&self) -> IntervalStats {
        let stats = self.store.stats();
        let mut mark = self.mark.lock();
        let now = Mark::new(&self.measures, &stats);
        let figures = mark.until(&now, &stats);
        *mark = now;
        figures
    }
}
