//! One thread's share of a replay: look up, fetch and verify, store the rest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos::engine::device::Gpu;
use gcos::{Durability, Lookup, Store};
use hdrhistogram::Histogram;

use super::blocks::Blocks;
use super::trace::Request;
use crate::failure::Failure;
use crate::pattern::Pattern;

/// Longest latency that is told apart: 10 minutes in nanoseconds.
const LONGEST_NS: u64 = 600_000_000_000;

/// Seed of the bytes of all blocks: part of what makes an id's bytes the same in every run.
const SEED: u64 = 0x6b76;

/// What every worker needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) block_bytes: usize,
    /// Blocks moved at a time: what the device buffer holds.
    pub(crate) batch: usize,
    pub(crate) durability: Durability,
    pub(crate) verify: bool,
    /// In whose memory the blocks are; `None` for the host's.
    pub(crate) gpu: Option<Arc<Gpu>>,
    /// In how many layers each block is fetched; `None`: whole.
    pub(crate) layers: Option<usize>,
}

/// What was counted. Blocks, unless the name says otherwise.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) blocks: u64,
    pub(crate) hits: u64,
    /// Blocks that the lookup found and the get did not (evicted in between, or damaged).
    pub(crate) lost: u64,
    pub(crate) stored: u64,
    pub(crate) mismatches: u64,
    pub(crate) get_time: Duration,
    pub(crate) put_time: Duration,
    pub(crate) latency_ns: Histogram<u64>,
}

impl Tally {
    pub(crate) fn new() -> Result<Self, Failure> {
        let latency_ns = Histogram::new_with_bounds(1, LONGEST_NS, 3)
            .map_err(|error| Failure::new("internal", error.to_string()))?;
        let zero = Duration::ZERO;
        Ok(Self {
            requests: 0,
            blocks: 0,
            hits: 0,
            lost: 0,
            stored: 0,
            mismatches: 0,
            get_time: zero,
            put_time: zero,
            latency_ns,
        })
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        self.requests += other.requests;
        self.blocks += other.blocks;
        self.hits += other.hits;
        self.lost += other.lost;
        self.stored += other.stored;
        self.mismatches += other.mismatches;
        self.get_time += other.get_time;
        self.put_time += other.put_time;
        if let Err(error) = self.latency_ns.add(&other.latency_ns) {
            tracing::warn!(%error, "latencies of one thread left out");
        }
    }
}

/// One thread's state.
#[derive(Debug)]
pub(crate) struct Worker<'a> {
    store: &'a Store,
    plan: Plan,
    blocks: Blocks,
    pub(crate) tally: Tally,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(store: &'a Store, plan: Plan) -> Result<Self, Failure> {
        let blocks = Blocks::new(store, &plan)?;
        Ok(Self { store, plan, blocks, tally: Tally::new()? })
    }

    /// Runs one request. What counts as its latency is the store's time, not that of deriving and
    /// comparing bytes.
    pub(crate) fn request(&mut self, request: &Request) -> Result<(), Failure> {
        let ids = &request.hash_ids;
        let keys: Vec<[u8; 24]> = ids.iter().map(|&id| key(id)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        let start = Instant::now();
        let cached = self.store.prefix(&keys);
        let mut time = start.elapsed();
        let fetched = self.fetch(&keys, ids, cached, &mut time)?;
        for (ids, keys) in parts(ids, &keys, fetched, self.plan.batch) {
            time += self.store_blocks(ids, keys)?;
        }
        self.tally.requests += 1;
        self.tally.blocks += ids.len() as u64;
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(LONGEST_NS);
        self.tally.latency_ns.saturating_record(nanos.max(1));
        Ok(())
    }

    /// Fetches the first `cached` blocks; how many came. A block that is gone ends the prefix.
    fn fetch(
        &mut self,
        keys: &[&[u8]],
        ids: &[u64],
        cached: usize,
        time: &mut Duration,
    ) -> Result<usize, Failure> {
        let mut done = 0;
        while done < cached {
            let count = (cached - done).min(self.plan.batch);
            let range = done..done + count;
            let (Some(keys), Some(ids)) = (keys.get(range.clone()), ids.get(range)) else { break };
            let (results, elapsed) = self.blocks.fetch(self.store, &self.plan, keys)?;
            *time += elapsed;
            self.tally.get_time += elapsed;
            let came = self.check(ids, results)?;
            done += came;
            if came < count {
                self.tally.lost += (count - came) as u64;
                break;
            }
        }
        self.tally.hits += done as u64;
        Ok(done)
    }

    /// Compares what came; how many blocks of the front are hits.
    fn check(
        &mut self,
        ids: &[u64],
        results: Vec<Result<Lookup, gcos::StoreError>>,
    ) -> Result<usize, Failure> {
        let Plan { block_bytes, verify, .. } = self.plan;
        let bytes = self.blocks.bytes(ids.len())?;
        let mut came = 0;
        for ((id, result), block) in ids.iter().zip(results).zip(bytes.chunks(block_bytes)) {
            match result {
                Ok(Lookup::Hit(_)) => {}
                Ok(Lookup::Miss(_)) => break,
                Err(gcos::StoreError::WrongSize { object, .. }) => {
                    return Err(Failure::usage(format!(
                        "the pool holds block {id} with {object} bytes: it was filled with another \
                         --block-bytes"
                    )));
                }
                Err(error) => return Err(error.into()),
            }
            if verify && !Pattern::new(SEED, *id).matches(0, block) {
                tracing::error!(id, "bytes differ from those that were stored");
                self.tally.mismatches += 1;
            }
            came += 1;
        }
        Ok(came)
    }

    fn store_blocks(&mut self, ids: &[u64], keys: &[&[u8]]) -> Result<Duration, Failure> {
        self.blocks.fill(ids.len(), &self.plan, |index, block| {
            if let Some(id) = ids.get(index) {
                Pattern::new(SEED, *id).fill(block);
            }
        })?;
        let (results, time) = self.blocks.store(self.store, &self.plan, keys)?;
        self.tally.put_time += time;
        for result in results {
            if result? == gcos::PutOutcome::Stored {
                self.tally.stored += 1;
            }
        }
        Ok(time)
    }
}

/// Ids and keys from `from` on, `batch` at a time.
fn parts<'a, 'k>(
    ids: &'a [u64],
    keys: &'a [&'k [u8]],
    from: usize,
    batch: usize,
) -> impl Iterator<Item = (&'a [u64], &'a [&'k [u8]])> {
    let rest = (ids.get(from..).unwrap_or_default(), keys.get(from..).unwrap_or_default());
    rest.0.chunks(batch).zip(rest.1.chunks(batch))
}

/// `kv-block` and the id, in 16 hexadecimal digits: fixed length, no allocation.
fn key(id: u64) -> [u8; 24] {
    let mut key = *b"kv-block0000000000000000";
    for (index, byte) in key.iter_mut().rev().take(16).enumerate() {
        let nibble = (id >> (4 * index)) & 15;
        *byte = char::from_digit(nibble as u32, 16).map_or(b'0', |digit| digit as u8);
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_readable_and_distinct() {
        assert_eq!(&key(0xabc), b"kv-block0000000000000abc");
        assert_eq!(&key(u64::MAX), b"kv-blockffffffffffffffff");
    }

    #[test]
    fn parts_start_after_what_was_fetched() {
        let (ids, keys) = ([1, 2, 3, 4, 5], [&b"a"[..], b"b", b"c", b"d", b"e"]);
        let lens: Vec<_> =
            parts(&ids, &keys, 2, 2).map(|(ids, keys)| (ids.len(), keys.len())).collect();
        assert_eq!(lens, [(2, 2), (1, 1)]);
        assert_eq!(parts(&ids, &keys, 5, 2).count(), 0);
    }
}
