//! Items in memory of the host.

use gcos::hw::{DmaBuffer, DmaSlice};
use gcos::{Access, Lookup, Sink, Source, StoreError};

use super::{Item, Outcome, Task, of_get, of_put};
use crate::error::Failure;
use crate::foreign::HostRange;
use crate::handle::Reached;
use crate::region::{Place, Region};

/// Memory of one item as the store takes it.
enum Prepared {
    /// All of it within reach of the drives.
    Segments(Vec<DmaSlice>),
    /// One stretch that is not.
    Plain,
    /// Several stretches, of which some are not: through memory of the store's own.
    Gathered(DmaBuffer),
}

fn range(region: &Region) -> Option<&HostRange> {
    match &region.place {
        Place::Host(range) => Some(range),
        Place::Cuda { .. } => None,
    }
}

fn range_mut(region: &mut Region) -> Option<&mut HostRange> {
    match &mut region.place {
        Place::Host(range) => Some(range),
        Place::Cuda { .. } => None,
    }
}

fn prepare(access: &Access, reached: &Reached, item: &Item) -> Result<Prepared, StoreError> {
    let slice = |region: &Region| {
        let range = range(region)?;
        let (address, len) = (range.address(), range.len());
        access.slice(address, len).or_else(|| reached.host(address, len))
    };
    if let Some(segments) = item.regions.iter().map(slice).collect() {
        return Ok(Prepared::Segments(segments));
    }
    if item.regions.len() == 1 {
        return Ok(Prepared::Plain);
    }
    let len = item.regions.iter().map(Region::len).fold(0, usize::saturating_add);
    access.store().buffer(len).map(Prepared::Gathered)
}

pub(super) fn carry_out(
    access: &Access,
    reached: &Reached,
    task: Task,
    items: &mut [(usize, &mut Item)],
) -> Vec<Outcome> {
    let mut prepared: Vec<Result<Prepared, Failure>> = items
        .iter()
        .map(|(_, item)| prepare(access, reached, item).map_err(Failure::from))
        .collect();
    match task {
        Task::Put(options) => {
            for ((_, item), prepared) in items.iter().zip(&mut prepared) {
                if let Ok(Prepared::Gathered(buffer)) = prepared
                    && let Err(error) = gather(item, buffer)
                {
                    *prepared = Err(error.into());
                }
            }
            let sources: Vec<_> = items
                .iter()
                .zip(&prepared)
                .filter_map(|((_, item), prepared)| Some((item, source(item, prepared)?)))
                .map(|(item, source)| (item.key.as_slice(), source))
                .collect();
            let mut results = match sources.as_slice() {
                [(key, source)] => vec![access.put(key, source.clone(), &options)],
                several => access.put_many(several, &options),
            }
            .into_iter();
            drop(sources);
            merge(prepared, || results.next().map(of_put))
        }
        Task::Get(offset) => {
            let mut sinks = Vec::with_capacity(items.len());
            for ((_, item), prepared) in items.iter_mut().zip(&mut prepared) {
                let Item { key, regions } = &mut **item;
                if let Some(sink) = sink(regions, prepared) {
                    sinks.push((key.as_slice(), sink));
                }
            }
            let results: Vec<_> = match offset {
                None if sinks.len() == 1 => {
                    sinks.into_iter().map(|(key, sink)| access.get(key, sink)).collect()
                }
                None => access.get_many(sinks),
                Some(offset) => sinks
                    .into_iter()
                    .map(|(key, sink)| access.get_range(key, offset, sink))
                    .collect(),
            };
            let mut results = results.into_iter();
            let mut outcomes = Vec::with_capacity(items.len());
            for ((_, item), prepared) in items.iter_mut().zip(prepared) {
                outcomes.push(match prepared {
                    Err(failure) => Err(failure),
                    Ok(prepared) => {
                        let hit = results.next().map(|result| match (&prepared, result) {
                            // What comes late lands in that buffer, not in the caller's memory.
                            (Prepared::Gathered(_), Ok(Lookup::Miss(_))) => Ok(false),
                            (_, result) => of_get(result),
                        });
                        let hit = hit.unwrap_or_else(|| Err(Failure::internal("a get")));
                        match (hit, prepared) {
                            (Ok(true), Prepared::Gathered(buffer)) => {
                                scatter(item, &buffer).map(|()| true).map_err(Failure::from)
                            }
                            (hit, _) => hit,
                        }
                    }
                });
            }
            outcomes
        }
    }
}

/// One outcome for each item: its own failure, or the next result.
fn merge(
    prepared: Vec<Result<Prepared, Failure>>,
    mut next: impl FnMut() -> Option<Outcome>,
) -> Vec<Outcome> {
    let outcome = |prepared: Result<Prepared, Failure>| {
        prepared.and_then(|_| next().unwrap_or_else(|| Err(Failure::internal("a put"))))
    };
    prepared.into_iter().map(outcome).collect()
}

fn source<'a>(item: &'a Item, prepared: &'a Result<Prepared, Failure>) -> Option<Source<'a>> {
    match prepared.as_ref().ok()? {
        Prepared::Segments(segments) => Some(Source::Segments(segments)),
        Prepared::Plain => Some(Source::Bytes(range(item.regions.first()?)?.bytes())),
        Prepared::Gathered(buffer) => Some(Source::Buffer(buffer)),
    }
}

fn sink<'a>(
    regions: &'a mut [Region],
    prepared: &'a mut Result<Prepared, Failure>,
) -> Option<Sink<'a>> {
    match prepared.as_mut().ok()? {
        Prepared::Segments(segments) => Some(Sink::Segments(segments)),
        Prepared::Plain => Some(Sink::Bytes(range_mut(regions.first_mut()?)?.bytes_mut())),
        Prepared::Gathered(buffer) => Some(Sink::Buffer(buffer)),
    }
}

fn gather(item: &Item, buffer: &DmaBuffer) -> Result<(), StoreError> {
    let to = buffer.as_dma();
    let mut at = 0;
    for range in item.regions.iter().filter_map(range) {
        to.write(at, range.bytes())?;
        at += range.len();
    }
    Ok(())
}

fn scatter(item: &mut Item, buffer: &DmaBuffer) -> Result<(), StoreError> {
    let from = buffer.as_dma();
    let mut at = 0;
    for range in item.regions.iter_mut().filter_map(range_mut) {
        from.read(at, range.bytes_mut())?;
        at += range.len();
    }
    Ok(())
}
