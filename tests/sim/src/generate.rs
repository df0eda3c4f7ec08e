//! From a seed to a plan.

use fastrand::Rng;

use crate::plan::{
    CLIENTS, Decay, DriveKind, End, FIRST_SHARED, Fault, FaultKind, KEYS, OWN_KEYS, Op, Plan,
    Region, Round,
};

const MIB: u64 = 1 << 20;
/// Steps that it takes to format a drive, about.
const FORMAT_STEPS: u32 = 150;

/// What kind of trouble a history has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    /// Crashes and power cuts alone.
    Power,
    /// Commands that fail, hang and repeat.
    Commands,
    /// Data that is lost or wrong.
    Data,
    /// Metadata that is lost or wrong; drives that are missing.
    Metadata,
    /// So many small writes that the journal goes round, with few checkpoints.
    Long,
}

/// The plan of a seed.
#[must_use]
pub fn plan(seed: u64) -> Plan {
    let mut rng = Rng::with_seed(seed);
    let mood = match rng.u8(0..20) {
        0 => Mood::Long,
        1..10 => Mood::Power,
        10..14 => Mood::Commands,
        14..17 => Mood::Data,
        _ => Mood::Metadata,
    };
    let count = *pick(&mut rng, &[1, 1, 1, 2, 2, 3, 4]);
    // Objects so large that drives are full.
    let crowded = match mood {
        Mood::Long => false,
        Mood::Metadata => rng.bool(),
        _ => rng.u8(0..4) == 0,
    };
    let small = crowded || rng.u8(0..3) == 0;
    let drives: Vec<_> = (0..count).map(|_| drive(&mut rng, small)).collect();
    let clients = *pick(&mut rng, &[1, 1, 1, 2, 2, 3, CLIENTS]);
    let rounds = rng.usize(2..=4);
    let small_objects = rng.u8(0..3) > 0;
    let rounds = (0..rounds)
        .map(|at| Draw { rng: &mut rng, mood, count, clients, crowded, small_objects }.round(at))
        .collect();
    let chunk = *pick(&mut rng, &[256 << 10, 256 << 10, 512 << 10]);
    let patience = *pick(&mut rng, &[1, 2, 8]);
    let mut plan = Plan { seed, drives, chunk, patience, cut_format: None, rounds };
    // From numbers of their own, so that the rest of a seed's plan does not depend on them.
    let mut rng = Rng::with_seed(seed ^ 0x7711);
    if rng.u8(0..4) == 0 {
        grow_old(&mut plan, &mut rng);
    }
    plan.cut_format = (rng.u8(0..8) == 0).then(|| rng.u32(1..FORMAT_STEPS * u32::from(count)));
    plan
}

/// Gives some objects a time to live, and lets time pass.
fn grow_old(plan: &mut Plan, rng: &mut Rng) {
    for (at, round) in plan.rounds.iter_mut().enumerate() {
        if at > 0 && rng.bool() {
            round.asleep = rng.u8(1..30);
        }
        for ops in &mut round.clients {
            for mut op in std::mem::take(ops) {
                if let Op::Put { ttl, .. } = &mut op
                    && rng.bool()
                {
                    *ttl = *pick(rng, &[1, 2, 5, 20]);
                }
                ops.push(op);
                if rng.u8(0..6) == 0 {
                    ops.push(Op::Wait { seconds: *pick(rng, &[1, 2, 4, 10]) });
                }
            }
        }
    }
}

fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.usize(0..from.len())]
}

fn drive(rng: &mut Rng, small: bool) -> DriveKind {
    let lba_bytes = if rng.bool() { 512 } else { 4096 };
    DriveKind {
        bytes: if small { 6 * MIB } else { rng.u64(8..=12) * MIB },
        lba_bytes,
        atomic_bytes: if lba_bytes == 512 && rng.bool() { 512 } else { 4096 },
        max_transfer: *pick(rng, &[128 << 10, 512 << 10, 1 << 20]),
        sgl: rng.bool(),
        cache: rng.u8(0..8) > 0,
        deallocate: rng.u8(0..4) > 0,
    }
}

struct Draw<'a> {
    rng: &'a mut Rng,
    mood: Mood,
    count: u8,
    clients: u8,
    crowded: bool,
    small_objects: bool,
}

impl Draw<'_> {
    fn round(mut self, at: usize) -> Round {
        if self.mood == Mood::Long {
            return self.long_round(at);
        }
        let ops = self.rng.usize(5..=40);
        let clients: Vec<Vec<Op>> = (0..self.clients)
            .map(|client| {
                (0..ops / usize::from(self.clients) + 1).map(|_| self.op(client)).collect()
            })
            .collect();
        let total = clients.iter().map(Vec::len).sum::<usize>() as u32;
        let first = at == 0;
        let decay = if first { Vec::new() } else { self.decay() };
        let missing = match self.mood {
            Mood::Metadata if !first && self.count > 1 && self.rng.bool() => {
                1 << self.rng.u8(0..self.count)
            }
            _ => 0,
        };
        let cut = self.rng.u8(0..6) == 0;
        Round {
            asleep: 0,
            decay,
            missing,
            rotate: self.rng.u8(0..self.count),
            cut_open: cut.then(|| self.rng.u32(1..3000)),
            faults: self.faults(total),
            end: self.end(total),
            clients,
        }
    }

    /// A round that goes round the journal of a drive, with two checkpoints at its beginning.
    fn long_round(&mut self, at: usize) -> Round {
        let ops = self.rng.usize(250..400);
        let mut own: Vec<Op> = (0..ops)
            .map(|_| match self.rng.u8(0..12) {
                0 => Op::Remove { key: self.own(0), sync: true },
                1 => Op::Get { key: self.own(0) },
                _ => Op::Put {
                    key: self.own(0),
                    len: 700,
                    sync: true,
                    keep: false,
                    pin: false,
                    direct: false,
                    ttl: 0,
                },
            })
            .collect();
        own.insert(5, Op::Checkpoint);
        own.insert(self.rng.usize(10..100), Op::Checkpoint);
        let drive = self.rng.u8(0..self.count);
        Round {
            asleep: 0,
            decay: if at > 0 { vec![(drive, Decay::OneCheckpoint)] } else { Vec::new() },
            missing: 0,
            rotate: 0,
            cut_open: None,
            clients: vec![own],
            faults: Vec::new(),
            end: End::PowerAtStep(self.rng.u32(2000..8000)),
        }
    }

    fn end(&mut self, ops: u32) -> End {
        // A close is when it shows whether space was lost to operations that failed.
        if self.mood == Mood::Commands && self.rng.bool() {
            return End::Close;
        }
        match self.rng.u8(0..10) {
            0 => End::Close,
            1 => End::Drop,
            2 => End::Kill(self.rng.u32(1..ops * 60)),
            3..8 => End::PowerAtStep(self.rng.u32(1..ops * 60)),
            _ => End::PowerAtWrite(self.rng.u8(0..self.count), self.rng.u32(1..ops * 2)),
        }
    }

    fn key(&mut self, client: u8) -> u8 {
        match self.rng.u8(0..5) {
            0 => self.rng.u8(FIRST_SHARED..KEYS),
            _ => self.own(client),
        }
    }

    fn own(&mut self, client: u8) -> u8 {
        client * OWN_KEYS + self.rng.u8(0..OWN_KEYS)
    }

    fn len(&mut self) -> u32 {
        if self.crowded && self.rng.u8(0..4) > 0 {
            return match self.rng.u8(0..8) {
                0 => self.rng.u32(2_100_000..2_600_000),
                1 => 250_000,
                2 | 3 => *pick(self.rng, &[3_000, 20_000, 60_000]),
                _ => self.rng.u32(40_000..700_000),
            };
        }
        // Objects of one size follow one another in the same place.
        if self.rng.u8(0..3) == 0 {
            return *pick(self.rng, &[700, 3_000, 5_000, 20_000]);
        }
        let large = if self.small_objects { 30 } else { 8 };
        match self.rng.u32(0..large + 20) {
            0..4 => self.rng.u32(60_000..600_000),
            4 => self.rng.u32(600_000..2_600_000),
            5 => *pick(self.rng, &[1, 4096, 65_536, 131_072, 262_144, 258_048]),
            6..9 => self.rng.u32(4_000..60_000),
            _ => self.rng.u32(1..6_000),
        }
    }

    fn op(&mut self, client: u8) -> Op {
        let sync = self.rng.u8(0..4) > 0;
        match self.rng.u8(0..42) {
            0..15 => Op::Put {
                key: self.key(client),
                len: self.len(),
                sync,
                keep: self.rng.u8(0..8) == 0,
                pin: self.rng.u8(0..if self.crowded { 4 } else { 12 }) == 0,
                direct: self.rng.u8(0..3) == 0,
                ttl: 0,
            },
            15..18 => {
                let mut items: Vec<(u8, u32)> =
                    (0..self.rng.usize(2..5)).map(|_| (self.key(client), self.len())).collect();
                items.sort_unstable();
                items.dedup_by_key(|item| item.0);
                Op::PutMany { items, sync }
            }
            18..24 => Op::Get { key: self.key(client) },
            24..27 => Op::GetRange {
                key: self.key(client),
                from: self.rng.u16(0..1000),
                part: self.rng.u16(1..=1000),
            },
            27..29 => {
                Op::GetMany { keys: (0..self.rng.usize(2..5)).map(|_| self.key(client)).collect() }
            }
            29..34 => Op::Remove { key: self.key(client), sync },
            34 => Op::Pin { key: self.own(client) },
            35 => Op::Unpin { key: self.own(client) },
            36 => Op::Flush,
            37..40 => Op::Checkpoint,
            _ => Op::Maintain,
        }
    }

    fn region(&mut self) -> Region {
        match self.mood {
            Mood::Metadata => *pick(self.rng, &[Region::Journal, Region::Checkpoints]),
            _ => Region::Data,
        }
    }

    fn faults(&mut self, ops: u32) -> Vec<Fault> {
        let most = if self.mood == Mood::Power { 1 } else { 4 };
        let mut faults: Vec<Fault> = Vec::new();
        for _ in 0..self.rng.usize(0..most) {
            let kind = self.fault();
            let (drive, after) = (self.rng.u8(0..self.count), self.rng.u32(0..ops));
            // What comes back wrong twice is damage.
            let wrong = |kind| matches!(kind, FaultKind::CorruptRead(_));
            if !wrong(kind) || !faults.iter().any(|fault| wrong(fault.kind)) {
                faults.push(Fault { drive, after, kind });
            }
        }
        faults
    }

    fn fault(&mut self) -> FaultKind {
        use FaultKind as F;
        let region = self.region();
        match self.mood {
            Mood::Power | Mood::Long => F::Delay(100),
            Mood::Commands => match self.rng.u8(0..17) {
                14.. => F::WriteError(Region::Data),
                0 | 1 => F::LoseCompletion,
                2 => F::DuplicateCompletion,
                3 => F::WrongCommand,
                4 => F::Hold,
                5 => F::Delay(self.rng.u32(1..60_000)),
                6 => F::WriteError(Region::Data),
                7 => F::WriteError(Region::Journal),
                8 => F::WriteError(Region::Checkpoints),
                9 => F::FlushError,
                10 => F::Stick,
                11 => F::Fatal,
                12 => F::CorruptRead(Region::Data),
                _ => F::Remove,
            },
            Mood::Data => match self.rng.u8(0..6) {
                0 => F::CorruptRead(region),
                1 => F::Unreadable(self.rng.u16(0..1000)),
                2 => F::LostWrite(region),
                3 => F::Misdirected(self.rng.u32(1..200)),
                4 => F::RotsAfterWrite(region),
                _ => F::Delay(self.rng.u32(1..1000)),
            },
            Mood::Metadata => match self.rng.u8(0..5) {
                0 => F::LostWrite(region),
                1 => F::RotsAfterWrite(region),
                2 => F::LyingFlush,
                3 => F::Remove,
                _ => F::Delay(self.rng.u32(1..1000)),
            },
        }
    }

    fn decay(&mut self) -> Vec<(u8, Decay)> {
        let drive = self.rng.u8(0..self.count);
        let some = self.rng.u8(1..12);
        let decay = match (self.mood, self.rng.u8(0..8)) {
            (Mood::Power | Mood::Commands, 0 | 1) => Decay::OneCheckpoint,
            (Mood::Power | Mood::Commands, 2) => Decay::Superblocks(self.rng.u8(1..=2)),
            (Mood::Data, 0 | 1) => Decay::Rot(Region::Data, some),
            (Mood::Data, 2 | 3) => Decay::Stale(Region::Data, some),
            (Mood::Metadata, 0) => Decay::Rot(self.region(), some),
            (Mood::Metadata, 1) => Decay::Stale(self.region(), some),
            (Mood::Metadata, 2) => Decay::Rollback,
            (Mood::Metadata, 3) => Decay::Splice,
            (Mood::Metadata, 4) => Decay::Superblocks(3),
            _ => return Vec::new(),
        };
        vec![(drive, decay)]
    }
}
