//! Items in memory of a GPU.

use std::collections::BTreeSet;
use std::sync::Arc;

use gcos::engine::device::{ForeignMemory, Gpu, Stream};
use gcos::store::{DeviceRun, DeviceSegment, LayerSink};
use gcos::{Access, Lookup};

use super::{Item, Outcome, Task, of_get, of_put};
use crate::error::Failure;
use crate::foreign;
use crate::handle::Reached;
use crate::region::Place;

pub(super) fn carry_out(
    access: &Access,
    reached: &Reached,
    task: Task,
    gpu: usize,
    stream: Option<u64>,
    items: &mut [(usize, &mut Item)],
) -> Vec<Outcome> {
    let known = || items.iter().flat_map(|(_, item)| &item.regions).filter_map(|r| r.stream);
    let opened = access.gpu(gpu).map_err(Failure::from).and_then(|gpu| {
        let chosen = stream.or_else(|| known().next()).unwrap_or(0);
        let stream = foreign::stream(&gpu, chosen)?;
        // What makes the memory of other items is in other streams.
        let others: BTreeSet<u64> = known().filter(|&other| other != chosen).collect();
        for other in others {
            stream.wait(&foreign::stream(&gpu, other)?.record()?)?;
        }
        Ok((gpu, stream))
    });
    let (gpu, stream) = match opened {
        Ok(opened) => opened,
        Err(failure) => return items.iter().map(|_| Err(failure.clone())).collect(),
    };
    let runs: Vec<Result<DeviceRun, Failure>> =
        items.iter().map(|(_, item)| run_of(&gpu, reached, item)).collect();
    let good = || {
        let pairs = items.iter().zip(&runs);
        pairs.filter_map(|((_, item), run)| Some((item.key.as_slice(), run.as_ref().ok()?.clone())))
    };
    let moved: Vec<Outcome> = match task {
        Task::Put(options) => {
            access.put_on(&stream, good().collect(), &options).into_iter().map(of_put).collect()
        }
        Task::Get(None) => match access.get_on(&stream, good().collect()) {
            Ok(results) => results.into_iter().map(of_get).collect(),
            Err(error) => {
                let failure = Failure::from(error);
                good().map(|_| Err(failure.clone())).collect()
            }
        },
        Task::Get(Some(offset)) => {
            good().map(|(key, run)| range_of(access, &stream, key, offset, run)).collect()
        }
    };
    if !stream.query().unwrap_or(false) {
        // What did not end in time may still be in the stream: its memory stays until that has passed.
        let held: Vec<_> =
            items.iter_mut().map(|(_, item)| std::mem::take(&mut item.regions)).collect();
        stream.keep(held);
    }
    let mut moved = moved.into_iter();
    let missing = || Err(Failure::internal("a transfer with a GPU"));
    runs.into_iter().map(|run| run.and_then(|_| moved.next().unwrap_or_else(missing))).collect()
}

/// The memory of an item; what is the store's own is within reach of the drives.
fn run_of(gpu: &Arc<Gpu>, reached: &Reached, item: &Item) -> Result<DeviceRun, Failure> {
    let segment = |place: &Place| match place {
        Place::Host(_) => None,
        Place::Cuda { gpu: number, address, len } => {
            Some(match reached.device(*number, *address, *len) {
                Some(slice) => Ok(DeviceSegment::Reached(slice)),
                None => ForeignMemory::check(gpu, *address, *len)
                    .map(DeviceSegment::Foreign)
                    .map_err(Failure::from),
            })
        }
    };
    item.regions.iter().filter_map(|region| segment(&region.place)).collect()
}

/// Part of an object.
fn range_of(access: &Access, stream: &Stream, key: &[u8], offset: u32, run: DeviceRun) -> Outcome {
    let layers = vec![LayerSink::new(offset, run)];
    let mut layers = access.store().get_layers(stream, &[key], layers, 1)?;
    let layer = layers.next().ok_or_else(|| Failure::internal("a read of a layer"))?;
    let mut results = layer.results.into_iter();
    let result = results.next().unwrap_or(Ok(Lookup::Miss(gcos::MissReason::Absent)));
    of_get(result)
}
