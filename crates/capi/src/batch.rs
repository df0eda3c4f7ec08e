use gcos::hw::DmaSlice;
use gcos::store::{Sink, Source};
use gcos::{Status, StoreError};

use crate::args::{Out, array_mut, bytes, bytes_mut};
use crate::call::{Failure, guard};
use crate::handle::{self, Handle};
use crate::object::{hit, kept, put_options};
use crate::types::{gcos_item, gcos_put_options, gcos_status, gcos_store};

/// What a batch makes of its items: sets each one's status, counts those that failed, and keeps the first message.
pub(crate) fn conclude<T>(
    items: &mut [gcos_item],
    results: impl IntoIterator<Item = Result<T, Failure>>,
    kept: impl Fn(T) -> i32,
    failed: &Out<usize>,
) {
    let mut count = 0;
    for (item, result) in items.iter_mut().zip(results) {
        (item.status, item.kept) = match result {
            Ok(outcome) => (Status::Ok.code(), kept(outcome)),
            Err(failure) => {
                count += 1;
                (failure.status.code(), 0)
            }
        };
    }
    failed.put(count);
}

/// Memory of each item that drives reach.
fn reached(handle: &Handle, items: &[gcos_item]) -> Vec<Option<DmaSlice>> {
    items.iter().map(|item| handle.slice(item.data as usize, item.len)).collect()
}

/// Stores several objects, with their I/O overlapping and their records together: faster than one by one. Each
/// item's status says how it ended; failed (may be null) is how many did not end with GCOS_OK. What is returned is of
/// the call: GCOS_OK also if items failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_put_many(
    store: *mut gcos_store,
    items: *mut gcos_item,
    count: usize,
    options: *const gcos_put_options,
    failed: *mut usize,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        let (items, options, failed) = unsafe {
            (
                array_mut("items", items, count)?,
                put_options(options)?,
                Out::maybe("failed", failed)?,
            )
        };
        let reached = reached(&handle, items);
        let mut sources = Vec::with_capacity(count);
        for (item, slice) in items.iter().zip(&reached) {
            // SAFETY: as above, of each item.
            let key = unsafe { bytes("key of an item", item.key.data, item.key.len)? };
            let source = match slice {
                Some(slice) => Source::Segments(std::slice::from_ref(slice)),
                // SAFETY: as above.
                None => Source::Bytes(unsafe { bytes("data of an item", item.data, item.len)? }),
            };
            sources.push((key, source));
        }
        let results = handle.access.put_many(&sources, &options);
        drop(sources);
        let results = results.into_iter().map(|result| result.map_err(Failure::from));
        conclude(items, results, kept, &failed);
        Ok(())
    })
}

/// Reads several objects, with their I/O overlapping, each into memory of exactly its length. No two items may have
/// memory in common. As gcos_put_many else; misses have GCOS_NO_SUCH_KEY and count as failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_get_many(
    store: *mut gcos_store,
    items: *mut gcos_item,
    count: usize,
    failed: *mut usize,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        let items = unsafe { array_mut("items", items, count)? };
        // SAFETY: as above.
        let failed = unsafe { Out::maybe("failed", failed)? };
        apart(items)?;
        let reached = reached(&handle, items);
        let mut sinks = Vec::with_capacity(count);
        for (item, slice) in items.iter().zip(&reached) {
            // SAFETY: as above, of each item.
            let key = unsafe { bytes("key of an item", item.key.data, item.key.len)? };
            let sink = match slice {
                Some(slice) => Sink::Segments(std::slice::from_ref(slice)),
                // SAFETY: as above, and no two have memory in common.
                None => Sink::Bytes(unsafe { bytes_mut("data of an item", item.data, item.len)? }),
            };
            sinks.push((key, sink));
        }
        let results = handle.access.get_many(sinks).into_iter();
        let results = results.map(|result: Result<_, StoreError>| hit(result?));
        conclude(items, results, |()| 0, &failed);
        Ok(())
    })
}

/// Checks that no two items have memory in common.
pub(crate) fn apart(items: &[gcos_item]) -> Result<(), Failure> {
    let mut ranges: Vec<_> = items
        .iter()
        .filter(|item| item.len > 0)
        .map(|item| (item.data as usize, item.len))
        .collect();
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        if let [(start, len), (next, _)] = *pair
            && start.saturating_add(len) > next
        {
            let got = format!("{len} bytes at {start:#x} and more at {next:#x}");
            return Err(Failure::invalid("data of items", "memory that does not overlap", got));
        }
    }
    Ok(())
}
