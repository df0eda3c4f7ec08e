//! What an object's bytes say of it.

use gcos_layout::checksum::crc32c;
use gcos_layout::media::{GRAIN_BYTES, ObjectHeader, PutRecord, Uuid};

use super::plan::Segment;
use crate::DiskError;

/// The first thing that is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    /// Header damaged, or not the one that the record means.
    Header(String),
    /// A field in which header and record differ.
    Mismatch(&'static str),
    /// Grains that do not fit their checksums.
    Grains {
        first: u32,
        count: u64,
    },
    /// A part that could not be read.
    Unreadable {
        detail: String,
        damage: bool,
    },
}

/// Takes one object's segments, the header first.
#[derive(Debug)]
pub(super) struct Verifier<'a> {
    index: usize,
    record: &'a PutRecord,
    pool: &'a Uuid,
    grains: Vec<u32>,
    verdict: Verdict,
}

impl<'a> Verifier<'a> {
    pub(super) fn new(index: usize, record: &'a PutRecord, pool: &'a Uuid) -> Self {
        Self { index, record, pool, grains: Vec::new(), verdict: Verdict::Good }
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn record(&self) -> &'a PutRecord {
        self.record
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.verdict.clone()
    }

    pub(super) fn take(&mut self, segment: &Segment, bytes: Result<&[u8], &DiskError>) {
        match (&self.verdict, bytes, segment.grain) {
            (Verdict::Header(_) | Verdict::Mismatch(_) | Verdict::Unreadable { .. }, _, _) => {}
            (_, Err(error), _) => {
                let (detail, damage) = (error.text(), error.is_damage());
                self.verdict = Verdict::Unreadable { detail, damage };
            }
            (_, Ok(bytes), None) => self.take_header(bytes),
            (_, Ok(bytes), Some(grain)) => {
                self.take_grains(grain, bytes.get(..segment.used).unwrap_or_default());
            }
        }
    }

    fn take_header(&mut self, bytes: &[u8]) {
        match ObjectHeader::decode(bytes) {
            Err(error) => self.verdict = Verdict::Header(error.to_string()),
            Ok((_, root)) if root != self.record.root => {
                let expected = self.record.root;
                let detail = format!("root {root:#010x}, the record states {expected:#010x}");
                self.verdict = Verdict::Header(detail);
            }
            Ok((header, _)) => {
                if let Some(field) = self.difference(&header) {
                    self.verdict = Verdict::Mismatch(field);
                }
                self.grains = header.grains;
            }
        }
    }

    fn difference(&self, header: &ObjectHeader) -> Option<&'static str> {
        let record = self.record;
        [
            ("pool", header.pool_uuid == *self.pool),
            ("key", header.key == record.key),
            ("generation", header.generation == record.generation),
            ("expiry", header.expiry == record.expiry),
            ("length or number of pieces", header.shape == record.shape),
            ("location of the head", header.head == record.head),
            ("location of a piece", header.pieces == record.pieces),
        ]
        .into_iter()
        .find_map(|(field, equal)| (!equal).then_some(field))
    }

    fn take_grains(&mut self, first: u32, bytes: &[u8]) {
        for (grain, bytes) in (first..).zip(bytes.chunks(GRAIN_BYTES as usize)) {
            if self.grains.get(grain as usize) == Some(&crc32c(bytes)) {
                continue;
            }
            self.verdict = match self.verdict {
                Verdict::Grains { first, count } => {
                    Verdict::Grains { first: first.min(grain), count: count + 1 }
                }
                _ => Verdict::Grains { first: grain, count: 1 },
            };
        }
    }
}
