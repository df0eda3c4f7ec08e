//! Which transfers, copies and checksums move payloads between drives and device memory. Numbers only:
//! nothing here touches memory or drives.

use gcos_layout::media::{BLOCK_BYTES, GRAIN_BYTES, Location, Shape};

use super::spans::{Bytes, Parts, Spans};
use crate::StoreError;
use crate::payload::UNIT_BYTES;

/// Memory of a plan: object headers as they are on the drives.
pub(super) const HEADERS: usize = 0;
/// Memory of a plan: blocks that are not wanted whole, kept until their checksums are known.
pub(super) const KEPT: usize = 1;
/// Memory of a plan: payload on its way to or from memory that drives cannot reach; one round's.
pub(super) const RING: usize = 2;
/// Memory of a plan: a block of zeros.
pub(super) const ZEROS: usize = 3;
/// Memory of a plan: the first of the caller's segments.
pub(super) const SEGMENTS: usize = 4;

/// Most bytes on their way through [`RING`] in one round.
const RING_BYTES: u64 = 32 << 20;

const BLOCK: u64 = BLOCK_BYTES as u64;
const GRAIN: u64 = GRAIN_BYTES as u64;

/// How an object lies on its drives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    pub(super) shape: Shape,
    pub(super) pieces: &'a [Location],
    pub(super) head: Location,
    /// Bytes of the header in front of the tail.
    pub(super) header_bytes: u64,
}

impl Places<'_> {
    /// Checks that there is a place for each piece, before anything is planned.
    fn check(&self) -> Result<(), StoreError> {
        match self.pieces.len() == self.shape.pieces() {
            true => Ok(()),
            false => Err(StoreError::Closed),
        }
    }

    /// Slot that a part of the payload lies in, and the offset of its first byte from the slot's start.
    fn place(&self, piece: Option<usize>, offset: u32) -> Result<(Location, u64), StoreError> {
        match piece {
            Some(index) => {
                let slot = self.pieces.get(index).copied().ok_or(StoreError::Closed)?;
                Ok((slot, offset.into()))
            }
            None => Ok((self.head, self.header_bytes + u64::from(offset))),
        }
    }
}

/// One request to one drive.
#[derive(Debug, Clone)]
pub(super) struct Transfer {
    /// Which of the plan's items it is for.
    pub(super) item: usize,
    /// Slot on the drive.
    pub(super) slot: Location,
    /// Bytes from the start of the slot.
    pub(super) at: u64,
    /// Whole blocks of memory.
    pub(super) parts: Parts,
}

/// A copy within device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CopyRun {
    pub(super) from: Bytes,
    /// Of the same length.
    pub(super) to: Bytes,
}

/// Part of a grain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GrainRun {
    pub(super) bytes: Bytes,
    /// Which of the plan's grains.
    pub(super) grain: usize,
}

/// What can be under way together. Reads come before the copies of their round, writes after them.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) transfers: Vec<Transfer>,
    pub(super) copies: Vec<CopyRun>,
}

/// Where the parts of an item are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Item {
    /// Offset of its header in [`HEADERS`], if that is read.
    pub(super) header: Option<u64>,
    /// Index in the object of its first grain.
    pub(super) first_grain: usize,
    /// Its grains among the plan's.
    pub(super) grains: std::ops::Range<usize>,
}

/// Everything that is to be done, for one or many objects.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) rounds: Vec<Round>,
    pub(super) runs: Vec<GrainRun>,
    pub(super) grains: usize,
    pub(super) items: Vec<Item>,
    /// Bytes of [`HEADERS`], [`KEPT`] and [`RING`].
    pub(super) staging: [u64; 3],
    /// Bytes taken of the ring in the round at hand.
    ring: u64,
    /// The request for the header of the item at hand: round, and index in it.
    header: Option<(usize, usize)>,
}

/// A run of payload within one slot that one request moves.
struct Unit {
    slot: Location,
    at: u64,
    payload: u64,
    len: u64,
}

impl Plan {
    /// Adds reads of `target.len()` bytes of payload at `offset`, and of the header if `header` is set.
    pub(super) fn read(
        &mut self,
        places: Places<'_>,
        offset: u64,
        target: &Spans,
        header: bool,
    ) -> Result<(), StoreError> {
        places.check()?;
        let wanted = offset..offset + target.len();
        let start = wanted.start / GRAIN * GRAIN;
        let payload_len = u64::from(places.shape.payload_len());
        let end = wanted.end.next_multiple_of(GRAIN).min(payload_len);
        let mut item =
            Item { first_grain: to_usize(start / GRAIN), grains: self.grains..0, header: None };
        let index = self.items.len();
        self.header = None;
        if header {
            item.header = Some(self.read_header(index, places));
        }
        for part in places.shape.parts(to_u32(start), to_u32(end - start)) {
            let (slot, base) = places.place(part.piece, part.offset)?;
            let from = u64::from(part.payload_offset);
            let part_end = from + u64::from(part.len);
            let mut payload = from;
            while payload < part_end {
                let grain_end = (payload + GRAIN).min(part_end);
                let edge = payload < wanted.start || wanted.end < grain_end;
                let unit_end = match edge {
                    true => grain_end,
                    false => {
                        let most = (payload + u64::from(UNIT_BYTES)).min(part_end);
                        if wanted.end < most { wanted.end / GRAIN * GRAIN } else { most }
                    }
                };
                let at = base + (payload - from);
                let unit = Unit { slot, at, payload, len: unit_end - payload };
                match edge {
                    true => self.read_edge(index, &unit, &wanted, target),
                    false => self.read_unit(index, &unit, offset, target),
                }
                payload = unit_end;
            }
        }
        item.grains.end = self.grains;
        self.items.push(item);
        Ok(())
    }

    /// Adds writes of a whole payload to the places that were taken for it.
    pub(super) fn write(&mut self, places: Places<'_>, source: &Spans) -> Result<(), StoreError> {
        places.check()?;
        let (index, grains) = (self.items.len(), self.grains);
        self.header = None;
        for part in places.shape.parts(0, places.shape.payload_len()) {
            let (slot, base) = places.place(part.piece, part.offset)?;
            let mut done = 0;
            while done < part.len {
                let take = (part.len - done).min(UNIT_BYTES);
                let unit = Unit {
                    slot,
                    at: base + u64::from(done),
                    payload: u64::from(part.payload_offset + done),
                    len: take.into(),
                };
                self.write_unit(index, &unit, source);
                done += take;
            }
        }
        self.items.push(Item { header: None, first_grain: 0, grains: grains..self.grains });
        Ok(())
    }

    fn read_header(&mut self, item: usize, places: Places<'_>) -> u64 {
        let len = places.header_bytes;
        let offset = self.take(HEADERS, len);
        let parts = Parts::from_slice(&[Bytes { memory: HEADERS, offset, len }]);
        let round = self.round();
        round.transfers.push(Transfer { item, slot: places.head, at: 0, parts });
        let index = round.transfers.len() - 1;
        self.header = Some((self.rounds.len() - 1, index));
        offset
    }

    /// A grain of which only a part is wanted: read whole into staging memory, checked there.
    fn read_edge(
        &mut self,
        item: usize,
        unit: &Unit,
        wanted: &std::ops::Range<u64>,
        target: &Spans,
    ) {
        let padded = unit.len.next_multiple_of(BLOCK);
        let offset = self.take(KEPT, padded);
        let whole = Bytes { memory: KEPT, offset, len: unit.len };
        self.transfer(item, unit, Parts::from_slice(&[Bytes { len: padded, ..whole }]), true);
        let from = wanted.start.max(unit.payload);
        let to = wanted.end.min(unit.payload + unit.len);
        let cut = Bytes { offset: offset + (from - unit.payload), len: to - from, ..whole };
        self.copy_out(cut, target, from - wanted.start);
        self.runs.push(GrainRun { bytes: whole, grain: self.grains });
        self.grains += 1;
    }

    /// Grains that are wanted whole: their blocks go where they are wanted, and are checked there.
    fn read_unit(&mut self, item: usize, unit: &Unit, offset: u64, target: &Spans) {
        let at = unit.payload - offset;
        let whole = unit.len / BLOCK * BLOCK;
        match target.direct(at, whole) {
            Some(mut direct) => {
                if whole < unit.len {
                    let odd = self.take(KEPT, BLOCK);
                    let block = Bytes { memory: KEPT, offset: odd, len: BLOCK };
                    direct.parts.push(block);
                    let rest = Bytes { len: unit.len - whole, ..block };
                    self.copy_out(rest, target, at + whole);
                }
                self.transfer(item, unit, direct.parts, direct.paged);
            }
            None => {
                let padded = unit.len.next_multiple_of(BLOCK);
                let offset = self.take_ring(padded);
                let staged = Bytes { memory: RING, offset, len: padded };
                self.transfer(item, unit, Parts::from_slice(&[staged]), true);
                self.copy_out(Bytes { len: unit.len, ..staged }, target, at);
            }
        }
        self.check(target, at, unit.len);
    }

    fn write_unit(&mut self, item: usize, unit: &Unit, source: &Spans) {
        let whole = unit.len / BLOCK * BLOCK;
        let padded = unit.len.next_multiple_of(BLOCK);
        let mut parts = Parts::new();
        let staged = match source.direct(unit.payload, whole) {
            Some(direct) => {
                parts = direct.parts;
                let len = padded - whole;
                (len > 0).then(|| Bytes { memory: KEPT, offset: self.take(KEPT, len), len })
            }
            None => {
                let offset = self.take_ring(padded);
                Some(Bytes { memory: RING, offset, len: padded })
            }
        };
        if let Some(staged) = staged {
            let filled = staged.len - (padded - unit.len);
            let mut to = staged.offset;
            for from in source.cut(unit.payload + unit.len - filled, filled) {
                let to_bytes = Bytes { offset: to, len: from.len, ..staged };
                self.round().copies.push(CopyRun { from, to: to_bytes });
                to += from.len;
            }
            // What lies behind the payload on the drive is zeros.
            if padded > unit.len {
                let len = padded - unit.len;
                let from = Bytes { memory: ZEROS, offset: 0, len };
                let to = Bytes { offset: to, len, ..staged };
                self.round().copies.push(CopyRun { from, to });
            }
            parts.push(staged);
        }
        self.transfer(item, unit, parts, false);
        self.check(source, unit.payload, unit.len);
    }

    /// Adds checksums of the grains of `len` bytes at `at`, the start of one.
    fn check(&mut self, spans: &Spans, at: u64, len: u64) {
        let mut done = 0;
        while done < len {
            let take = (len - done).min(GRAIN);
            let grain = self.grains;
            self.runs.extend(
                spans.cut(at + done, take).into_iter().map(|bytes| GrainRun { bytes, grain }),
            );
            self.grains += 1;
            done += take;
        }
    }

    fn transfer(&mut self, item: usize, unit: &Unit, parts: Parts, paged: bool) {
        // What lies behind the header is read with it, unless that would force a detour.
        let header = self.header.filter(|(round, _)| paged && *round + 1 == self.rounds.len());
        let round = self.round();
        if let Some((_, index)) = header
            && let Some(first) = round.transfers.get_mut(index)
            && first.slot == unit.slot
            && first.parts.iter().map(|part| part.len).sum::<u64>() == unit.at
        {
            first.parts.extend(parts);
            self.header = None;
            return;
        }
        round.transfers.push(Transfer { item, slot: unit.slot, at: unit.at, parts });
    }

    fn copy_out(&mut self, from: Bytes, target: &Spans, at: u64) {
        let mut offset = from.offset;
        for to in target.cut(at, from.len) {
            let from = Bytes { offset, len: to.len, ..from };
            self.round().copies.push(CopyRun { from, to });
            offset += to.len;
        }
    }

    fn round(&mut self) -> &mut Round {
        if self.rounds.is_empty() {
            self.rounds.push(Round::default());
        }
        let last = self.rounds.len() - 1;
        &mut self.rounds[last]
    }

    /// Staging memory, whole blocks, that is used once.
    fn take(&mut self, memory: usize, len: u64) -> u64 {
        let Some(used) = self.staging.get_mut(memory) else { return 0 };
        let offset = *used;
        *used += len.next_multiple_of(BLOCK);
        offset
    }

    /// Room in the ring; begins another round when there is none.
    fn take_ring(&mut self, len: u64) -> u64 {
        if self.ring + len > RING_BYTES && self.ring > 0 {
            self.rounds.push(Round::default());
            self.ring = 0;
        }
        let offset = self.ring;
        self.ring += len;
        self.staging[RING] = self.staging[RING].max(self.ring);
        offset
    }
}

/// Payloads are at most 1 GiB.
fn to_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use gcos_layout::checksum::crc32c;

    use super::super::spans::Span;
    use super::*;

    /// Carries plans out on plain memory.
    struct Machine {
        memories: Vec<Vec<u8>>,
        slots: HashMap<Location, Vec<u8>>,
    }

    impl Machine {
        fn new(plan: &Plan, segments: &[Vec<u8>]) -> Self {
            let staging = plan.staging.map(|len| vec![0xee; len as usize]);
            let memories = staging.into_iter().chain([vec![0; BLOCK_BYTES]]);
            let memories = memories.chain(segments.iter().cloned()).collect();
            Self { memories, slots: HashMap::new() }
        }

        fn at(&mut self, bytes: Bytes) -> &mut [u8] {
            &mut self.memories[bytes.memory][bytes.offset as usize..][..bytes.len as usize]
        }

        fn transfers(&mut self, round: &Round, write: bool) {
            for transfer in &round.transfers {
                let mut at = transfer.at as usize;
                for &part in &transfer.parts {
                    let len = part.len as usize;
                    assert!(part.len > 0 && part.len.is_multiple_of(4), "{transfer:?}");
                    let slot = self.slots.entry(transfer.slot).or_default();
                    slot.resize(slot.len().max(at + len), 0x77);
                    let mut data = slot[at..at + len].to_vec();
                    if write {
                        data.copy_from_slice(self.at(part));
                        self.slots.get_mut(&transfer.slot).unwrap()[at..at + len]
                            .copy_from_slice(&data);
                    } else {
                        self.at(part).copy_from_slice(&data);
                    }
                    at += len;
                }
                assert!((at - transfer.at as usize).is_multiple_of(BLOCK_BYTES), "{transfer:?}");
            }
        }

        fn copies(&mut self, round: &Round) {
            for copy in &round.copies {
                assert_eq!(copy.from.len, copy.to.len);
                let data = self.at(copy.from).to_vec();
                self.at(copy.to).copy_from_slice(&data);
            }
        }

        fn sums(&mut self, plan: &Plan) -> Vec<u32> {
            let mut grains = vec![Vec::new(); plan.grains];
            for run in &plan.runs {
                grains[run.grain].extend_from_slice(self.at(run.bytes));
            }
            grains.iter().map(|grain| crc32c(grain)).collect()
        }
    }

    fn random(rng: &mut fastrand::Rng, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        rng.fill(&mut out);
        out
    }

    /// Segments of `len` bytes together, at any alignment.
    fn segments(rng: &mut fastrand::Rng, len: usize) -> (Spans, Vec<Vec<u8>>) {
        let style = rng.u8(..4);
        let (mut spans, mut left) = (Vec::new(), len);
        while left > 0 {
            let take = match style {
                0 => left,
                1 => left.min(16_384),
                2 => left.min(rng.usize(1..100_000)),
                _ => left.min(rng.usize(1..100) * 4096),
            };
            let iova = match rng.u8(..8) {
                0 => None,
                1 => Some(rng.u64(1..1 << 30)),
                2 => Some(rng.u64(1..1 << 30) * 4),
                _ => Some(rng.u64(1..1 << 30) * 4096),
            };
            spans.push(Span { memory: SEGMENTS + spans.len(), len: take as u64, iova });
            left -= take;
        }
        let bytes = spans.iter().map(|span| vec![0x55; span.len as usize]).collect();
        (Spans::new(spans), bytes)
    }

    fn locations(shape: &Shape) -> (Vec<Location>, Location) {
        let at = |i: usize| Location { drive: i as u8 % 3, chunk: i as u32, block: 7 };
        ((0..shape.pieces()).map(at).collect(), at(1000))
    }

    /// Writes a payload by plan; what is then on the drives, and the checksums that were computed.
    fn put(
        rng: &mut fastrand::Rng,
        places: Places<'_>,
        payload: &[u8],
    ) -> (HashMap<Location, Vec<u8>>, Vec<u32>) {
        let (source, mut bytes) = segments(rng, payload.len());
        let mut at = 0;
        for segment in &mut bytes {
            let len = segment.len();
            segment.copy_from_slice(&payload[at..at + len]);
            at += len;
        }
        let mut plan = Plan::default();
        plan.write(places, &source).unwrap();
        let mut machine = Machine::new(&plan, &bytes);
        for round in &plan.rounds {
            machine.copies(round);
            machine.transfers(round, true);
        }
        let sums = machine.sums(&plan);
        (machine.slots, sums)
    }

    #[test]
    fn what_one_plan_writes_another_reads_with_the_same_checksums() {
        for seed in 0..60 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let len = match rng.u8(..3) {
                0 => rng.u32(1..10_000),
                1 => rng.u32(1..3 << 20),
                _ => rng.u32(1..45 << 20),
            };
            let shape = Shape::choose(len, 9, 2 << 20, rng.usize(1..5)).unwrap();
            let (pieces, head) = locations(&shape);
            let header_bytes = u64::from(shape.header_blocks(9)) * BLOCK;
            let places = Places { shape, pieces: &pieces, head, header_bytes };
            let payload = random(&mut rng, len as usize);
            let (mut slots, sums) = put(&mut rng, places, &payload);
            let expected: Vec<u32> = payload.chunks(GRAIN_BYTES as usize).map(crc32c).collect();
            assert_eq!(sums, expected, "seed {seed}");
            let header = random(&mut rng, header_bytes as usize);
            let slot = slots.entry(head).or_default();
            slot.resize(slot.len().max(header.len()), 0);
            slot[..header.len()].copy_from_slice(&header);
            let tail = header.len() + shape.tail_len() as usize;
            assert!(slot[tail..].iter().all(|&byte| byte == 0), "seed {seed}: padded with zeros");
            for whole in [true, false, false] {
                let from = if whole { 0 } else { rng.usize(..len as usize) };
                let take = if whole { len as usize } else { rng.usize(1..=len as usize - from) };
                read(&mut rng, places, &slots, (&header, &payload), from, take);
            }
        }
    }

    fn read(
        rng: &mut fastrand::Rng,
        places: Places<'_>,
        slots: &HashMap<Location, Vec<u8>>,
        (header, payload): (&[u8], &[u8]),
        from: usize,
        take: usize,
    ) {
        let (target, bytes) = segments(rng, take);
        let mut plan = Plan::default();
        plan.read(places, from as u64, &target, true).unwrap();
        let mut machine = Machine::new(&plan, &bytes);
        machine.slots.clone_from(slots);
        for round in &plan.rounds {
            machine.transfers(round, false);
            machine.copies(round);
        }
        let item = plan.items[0].clone();
        let sums = machine.sums(&plan);
        let grain = GRAIN_BYTES as usize;
        let expected: Vec<u32> = payload.chunks(grain).map(crc32c).collect();
        assert_eq!(sums[item.grains.clone()], expected[item.first_grain..][..item.grains.len()]);
        assert_eq!(item.first_grain, from / grain);
        assert_eq!(item.grains.len(), (from + take).div_ceil(grain) - from / grain);
        let at = item.header.unwrap() as usize;
        assert!(machine.memories[HEADERS][at..][..header.len()] == *header);
        let got: Vec<u8> = machine.memories[SEGMENTS..].concat();
        assert!(got == payload[from..from + take], "{from} {take}");
    }

    #[test]
    fn memory_on_the_way_is_bounded_whatever_the_payload() {
        let len = 200 << 20;
        let shape = Shape::choose(len, 0, 8 << 20, 1).unwrap();
        let (pieces, head) = locations(&shape);
        let places = Places { shape, pieces: &pieces, head, header_bytes: BLOCK };
        let target = Spans::new([Span { memory: SEGMENTS, len: len.into(), iova: None }]);
        let mut plan = Plan::default();
        plan.read(places, 0, &target, true).unwrap();
        assert_eq!(plan.staging[RING], RING_BYTES);
        assert_eq!(plan.rounds.len(), 7);
    }

    #[test]
    fn a_small_object_takes_one_request_and_no_copy() {
        let shape = Shape::choose(65_536, 9, 8 << 20, 1).unwrap();
        let (pieces, head) = locations(&shape);
        let places = Places { shape, pieces: &pieces, head, header_bytes: BLOCK };
        let target = Spans::new([Span { memory: SEGMENTS, len: 65_536, iova: Some(0x10_000) }]);
        let mut plan = Plan::default();
        plan.read(places, 0, &target, true).unwrap();
        let [round] = plan.rounds.as_slice() else { panic!("{plan:?}") };
        assert_eq!((round.transfers.len(), round.copies.len()), (1, 0));
        assert_eq!(plan.staging, [BLOCK, 0, 0]);
    }
}
