//! Objects layer by layer.

use std::collections::VecDeque;
use std::sync::Arc;

use gcos_engine::device::{Event, Stream};
use gcos_layout::media::ObjectHeader;

use super::context::Device;
use super::gets::{conclude, patience, resolve};
use super::held::{self, Held};
use super::launch::{Flight, Launch};
use super::memory::{DeviceRun, DeviceSink};
use super::plan::Plan;
use super::reaper::Pending;
use crate::object::{Range, Verdict};
use crate::pool::{Pool, count};
use crate::{Lookup, MissReason, StoreError};

/// Most layers under way that have a stream of their own.
const MOST_LANES: usize = 4;

/// Part of a layer: so many bytes of one object as its memory holds.
#[derive(Debug, Clone)]
pub struct LayerPart {
    /// Which of the keys.
    pub key: usize,
    /// Offset of the first byte in the object.
    pub offset: u32,
    /// Where it goes.
    pub sink: DeviceSink,
}

/// Where one layer comes from and goes to: a range of each of the objects, such as the blocks of a prompt.
#[derive(Debug, Clone, Default)]
pub struct LayerSink {
    /// Its parts.
    pub parts: Vec<LayerPart>,
}

impl LayerSink {
    /// A layer that is one range of the first object.
    #[must_use]
    pub fn new(offset: u32, sink: impl Into<DeviceSink>) -> Self {
        Self::default().part(0, offset, sink)
    }

    /// The layer with one more part.
    #[must_use]
    pub fn part(mut self, key: usize, offset: u32, sink: impl Into<DeviceSink>) -> Self {
        self.parts.push(LayerPart { key, offset, sink: sink.into() });
        self
    }
}

/// A layer that has come: all of it was verified.
#[derive(Debug)]
pub struct Layer {
    /// Which one.
    pub index: usize,
    /// One result for each part, in order. A hit: its memory holds these bytes of an acknowledged put.
    pub results: Vec<Result<Lookup, StoreError>>,
    landed: Option<Event>,
}

impl Layer {
    /// Whether all parts are there.
    #[must_use]
    pub fn is_hit(&self) -> bool {
        self.results.iter().all(|result| result.as_ref().is_ok_and(Lookup::is_hit))
    }

    /// Point of a stream of the store's from which on the layer is there. It has come: a stream that
    /// waits for it waits for nothing, but is ordered behind the transfers. `None` where the host moved
    /// everything.
    #[must_use]
    pub fn landed(&self) -> Option<&Event> {
        self.landed.as_ref()
    }
}

/// Layers on their way, in order. See [`crate::Store::get_layers`].
///
/// Dropping it gives up what has not been yielded: nothing waits, and memory and objects stay held until
/// the I/O has ended.
#[derive(Debug)]
pub struct Layers<'s> {
    pool: Arc<Pool>,
    device: Arc<Device>,
    stream: &'s Stream,
    objects: Vec<Subject>,
    waiting: VecDeque<LayerSink>,
    under_way: VecDeque<UnderWay>,
    prefetch: usize,
    lanes: Vec<Stream>,
    /// Layers launched so far.
    launched: usize,
}

/// One of the objects.
#[derive(Debug)]
enum Subject {
    /// No layer names it.
    Unused,
    Missed(MissReason),
    Reading {
        held: Arc<Held>,
        /// Whether its header has been asked for.
        asked: bool,
        header: Option<Box<ObjectHeader>>,
    },
}

/// A layer that was launched.
#[derive(Debug)]
struct UnderWay {
    index: usize,
    sink: LayerSink,
    /// By part: its item in the flight.
    items: Vec<Option<usize>>,
    flight: Option<Flight>,
    /// The end of what was in the caller's stream before, or why that could not be marked.
    before: Result<Event, StoreError>,
    /// Objects that it reads.
    held: Vec<Arc<Held>>,
}

impl<'s> Layers<'s> {
    pub(crate) fn begin(
        pool: &Arc<Pool>,
        stream: &'s Stream,
        keys: &[&[u8]],
        layers: Vec<LayerSink>,
        prefetch: usize,
    ) -> Result<Self, StoreError> {
        pool.check_open()?;
        if prefetch == 0 {
            return Err(StoreError::invalid("prefetch", "at least one layer under way", 0));
        }
        let mut objects: Vec<_> = keys.iter().map(|_| Subject::Unused).collect();
        for part in layers.iter().flat_map(|layer| &layer.parts) {
            admit(pool, stream, keys, &mut objects, part)?;
        }
        let device = pool.device(stream.gpu());
        let mut all = Self {
            pool: Arc::clone(pool),
            device,
            stream,
            objects,
            waiting: layers.into(),
            under_way: VecDeque::new(),
            prefetch,
            lanes: Vec::new(),
            launched: 0,
        };
        all.fill();
        Ok(all)
    }

    /// Layers that have not been yielded.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.waiting.len() + self.under_way.len()
    }

    /// Launches layers until as many are under way as may be.
    fn fill(&mut self) {
        while self.under_way.len() < self.prefetch {
            let Some(sink) = self.waiting.pop_front() else { break };
            let mut layer = UnderWay {
                index: self.launched,
                items: vec![None; sink.parts.len()],
                sink,
                flight: None,
                before: self.stream.record().map_err(StoreError::from),
                held: Vec::new(),
            };
            if let Err(error) = self.launch(&mut layer) {
                tracing::debug!(error = error.chain(), "left to the host");
            }
            self.launched += 1;
            self.under_way.push_back(layer);
        }
    }

    /// A stream for the next layer, behind what is in the caller's by now.
    fn lane(&mut self, before: &Event) -> Result<Stream, StoreError> {
        let index = self.launched % self.prefetch.min(MOST_LANES);
        if self.lanes.len() <= index {
            self.lanes.push(self.device.lane()?);
        }
        let lane = self.lanes.get(index).cloned().ok_or(StoreError::Closed)?;
        lane.wait(before)?;
        Ok(lane)
    }

    fn launch(&mut self, layer: &mut UnderWay) -> Result<(), StoreError> {
        let Ok(before) = &layer.before else { return Ok(()) };
        let lane = self.lane(before)?;
        let (mut plan, mut segments) = (Plan::default(), 0);
        let mut runs = Vec::<&DeviceRun>::new();
        for (part, place) in layer.sink.parts.iter().zip(&mut layer.items) {
            let Some(Subject::Reading { held, asked, .. }) = self.objects.get_mut(part.key) else {
                continue;
            };
            let item = plan.items.len();
            let spans = part.sink.spans(segments);
            plan.read(held.places(), part.offset.into(), &spans, !*asked)?;
            *asked = true;
            segments += part.sink.segments().len();
            *place = Some(item);
            runs.push(&part.sink);
            layer.held.push(Arc::clone(held));
        }
        if !plan.items.is_empty() && self.device.direct.is_some() {
            layer.flight = Some(Launch::read(&self.pool, &self.device, &lane, &plan, &runs)?);
        }
        Ok(())
    }

    fn conclude(&mut self, mut layer: UnderWay) -> Layer {
        let patience = patience(&self.pool);
        let passed = match layer.flight.as_mut().is_none_or(|flight| flight.wait(patience)) {
            true => match &layer.before {
                Ok(before) => held::passed(before, patience),
                Err(error) => Err(Verdict::Failed { detail: error.chain() }),
            },
            false => Err(held::not_passed()),
        };
        let nothing = layer.flight.is_none();
        let passed = passed.map_err(|verdict| verdict.settled(nothing));
        let mut results = Vec::with_capacity(layer.items.len());
        for (part, &item) in layer.sink.parts.iter().zip(&layer.items) {
            results.push(match &passed {
                Ok(()) => self.part(part, item, layer.flight.as_mut()),
                Err(verdict) => Ok(self.stuck(part.key, verdict)),
            });
        }
        let landed = layer.flight.as_ref().and_then(|flight| flight.landed().cloned());
        let index = layer.index;
        if passed.is_err() {
            self.pool.reaper.keep(Box::new(layer));
        }
        Layer { index, results, landed }
    }

    fn part(
        &mut self,
        part: &LayerPart,
        item: Option<usize>,
        flight: Option<&mut Flight>,
    ) -> Result<Lookup, StoreError> {
        let (held, asked, header) = match self.objects.get_mut(part.key) {
            Some(Subject::Reading { held, asked, header }) => (Arc::clone(held), asked, header),
            Some(Subject::Missed(reason)) => {
                let mut reason = reason.clone();
                count(&self.pool.counters.misses, 1);
                // Its own transfer may still be under way.
                let failed = flight.zip(item).and_then(|(flight, item)| flight.item(item).err());
                let late = failed.map(|failed| Held::verdict(&failed));
                if let Some(verdict @ Verdict::Unfinished { .. }) = late {
                    reason = self.pool.reason(verdict);
                }
                return Ok(Lookup::Miss(reason));
            }
            Some(Subject::Unused) | None => return Err(StoreError::Closed),
        };
        let verdict = match (flight, item) {
            (Some(flight), Some(item)) => held::ended(&held, flight, item, header),
            _ => Err(Verdict::Failed { detail: "not started on the GPU".to_owned() }),
        };
        // What had asked for the header did not bring it: the next layer asks again.
        *asked &= header.is_some();
        let result = conclude(&self.device, &held, part.offset.into(), &part.sink, verdict);
        if let Ok(Lookup::Miss(reason)) = &result {
            self.miss(part.key, reason.clone());
        }
        result
    }

    /// The stream did not pass, in time or at all.
    fn stuck(&mut self, key: usize, verdict: &Verdict) -> Lookup {
        count(&self.pool.counters.misses, 1);
        let reason = self.pool.reason(verdict.clone());
        self.miss(key, reason.clone());
        Lookup::Miss(reason)
    }

    /// What follows of an object of which a layer was a miss is one, too.
    fn miss(&mut self, key: usize, reason: MissReason) {
        if let Some(subject) = self.objects.get_mut(key) {
            *subject = Subject::Missed(reason);
        }
    }
}

impl Iterator for Layers<'_> {
    type Item = Layer;

    /// Waits for the next layer and verifies it. What is in the caller's stream by then comes before the
    /// layer that is launched instead, so that memory may be used by a layer, and by the one after the
    /// `prefetch` next.
    fn next(&mut self) -> Option<Layer> {
        self.fill();
        let layer = self.under_way.pop_front()?;
        Some(self.conclude(layer))
    }
}

/// Finds the object that a part of a layer belongs to, and checks that the part lies in it.
fn admit(
    pool: &Arc<Pool>,
    stream: &Stream,
    keys: &[&[u8]],
    objects: &mut [Subject],
    part: &LayerPart,
) -> Result<(), StoreError> {
    let (Some(key), Some(subject)) = (keys.get(part.key), objects.get_mut(part.key)) else {
        let expected = format!("the number of one of {} keys", keys.len());
        return Err(StoreError::invalid("key of a layer", expected, part.key));
    };
    match subject {
        Subject::Unused => {
            *subject = match resolve(pool, stream, key, Range::From(part.offset), &part.sink)? {
                Ok(held) => Subject::Reading { held, asked: false, header: None },
                Err(reason) => Subject::Missed(reason),
            };
            Ok(())
        }
        Subject::Missed(_) => Ok(()),
        Subject::Reading { held, .. } => {
            part.sink.check(stream.gpu())?;
            let (len, target) = (held.object.shape.payload_len(), part.sink.len());
            let object = u64::from(len.saturating_sub(part.offset));
            match target > 0 && target <= object {
                true => Ok(()),
                false => Err(StoreError::WrongSize { object, target }),
            }
        }
    }
}

impl Pending for UnderWay {
    fn ended(&mut self) -> bool {
        self.flight.as_mut().is_none_or(Flight::ended)
    }

    fn finish(self: Box<Self>) {
        drop(self.held);
    }
}

impl Drop for Layers<'_> {
    fn drop(&mut self) {
        for layer in self.under_way.drain(..) {
            self.pool.reaper.keep(Box::new(layer));
        }
        self.device.give_lanes(self.lanes.drain(..));
    }
}
