use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gcos_engine::{
    Demotions, Ended, Engine, Extent, Geometry, IoError, IoErrorKind, Op, Request, Ticket,
    UnderWay, Way,
};
use gcos_hw::{DmaSlice, DmaSpace, OutOfBounds};
use parking_lot::Mutex;

/// Most bytes that are kept in memory instead of being written. A pool that is opened writes its superblocks
/// and what recovery mends; its checkpoints are written when it is closed.
const MOST: usize = 256 << 20;

/// A drive that stays as it is: what is written to it is kept in memory, for as long as this lives, and read
/// back from there. So a pool can be opened, and recovered, without a trace on its drives: for looking at it,
/// and for the source of a copy. Drop the store without closing it, which would write a checkpoint.
#[derive(Debug)]
pub struct Untouched {
    inner: Arc<dyn Engine>,
    geometry: Geometry,
    written: Arc<Written>,
}

/// Blocks that were written, by their offset.
type Written = Mutex<BTreeMap<u64, Box<[u8]>>>;

impl Untouched {
    /// Over each of these drives.
    #[must_use]
    pub fn over(drives: &[Arc<dyn Engine>]) -> Vec<Arc<dyn Engine>> {
        let over = |drive: &Arc<dyn Engine>| Arc::new(Self::new(Arc::clone(drive))) as _;
        drives.iter().map(over).collect()
    }

    fn new(inner: Arc<dyn Engine>) -> Self {
        let geometry =
            Geometry { volatile_cache: false, deallocate: false, ..inner.geometry().clone() };
        Self { inner, geometry, written: Arc::default() }
    }

    fn keep(&self, request: &Request) -> Result<(), IoError> {
        let fail = |kind, detail: String| Err(request.error(&self.geometry, kind, detail));
        let block = self.geometry.lba_bytes as usize;
        let mut written = self.written.lock();
        let mut position = 0;
        for offset in blocks(&request.extents, block) {
            if written.len() >= MOST / block && !written.contains_key(&offset) {
                let detail = format!(
                    "the drive is to stay as it is, and {MOST} bytes for it are in memory already"
                );
                return fail(IoErrorKind::Device, detail);
            }
            let mut bytes = vec![0; block].into_boxed_slice();
            let gathered = each_part(&request.segments, position, block, |slice, at, from, len| {
                bytes.get_mut(from..from + len).map_or(Ok(()), |part| slice.read(at, part))
            });
            if let Err(error) = gathered {
                return fail(IoErrorKind::Invalid, error.to_string());
            }
            written.insert(offset, bytes);
            position += block;
        }
        Ok(())
    }

    /// Whether some of what is there was written here.
    fn touches(&self, extents: &[Extent]) -> bool {
        let written = self.written.lock();
        let some = |e: &Extent| written.range(e.offset..e.offset.saturating_add(e.len)).next();
        extents.iter().any(|extent| some(extent).is_some())
    }
}

/// Offsets of all blocks of some extents, in order.
fn blocks(extents: &[Extent], block: usize) -> impl Iterator<Item = u64> {
    extents.iter().flat_map(move |e| (e.offset..e.offset.saturating_add(e.len)).step_by(block))
}

/// Does something with each part of `len` bytes of the segments, taken as one string, from `position` on:
/// with its slice, where it is there and among the bytes, and its length.
fn each_part(
    segments: &[DmaSlice],
    position: usize,
    len: usize,
    mut part: impl FnMut(&DmaSlice, usize, usize, usize) -> Result<(), OutOfBounds>,
) -> Result<(), OutOfBounds> {
    let end = position + len;
    let mut begin = 0;
    for slice in segments {
        let (from, to) = (begin.max(position), (begin + slice.len()).min(end));
        if from < to {
            part(slice, from - begin, from - position, to - from)?;
        }
        begin += slice.len();
    }
    Ok(())
}

impl Engine for Untouched {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn way(&self) -> Way {
        self.inner.way()
    }

    fn dma(&self) -> &Arc<DmaSpace> {
        self.inner.dma()
    }

    fn submit(&self, request: Request) -> Result<Box<dyn Ticket>, IoError> {
        if let Err(error) = request.check(&self.geometry) {
            return Err(request.error(&self.geometry, IoErrorKind::Invalid, error.to_string()));
        }
        match request.op {
            Op::Read if self.touches(&request.extents) => {
                let inner = self.inner.submit(request.clone())?;
                let (written, drive) = (Arc::clone(&self.written), self.geometry.clone());
                Ok(Box::new(Patched { inner: Some(inner), written, drive, request }))
            }
            Op::Read => self.inner.submit(request),
            Op::Write { .. } => self.keep(&request).map(|()| Ended::ticket(Ok(()))),
            Op::Flush | Op::Deallocate => Ok(Ended::ticket(Ok(()))),
        }
    }

    fn under_way(&self) -> UnderWay {
        self.inner.under_way()
    }

    fn demotions(&self) -> Demotions {
        self.inner.demotions()
    }

    fn promote(&self, deadline: Duration) -> Result<(), IoError> {
        self.inner.promote(deadline)
    }

    fn shutdown(&self, deadline: Duration) -> Result<(), IoError> {
        self.inner.shutdown(deadline)
    }
}

/// A read of which the drive does not have everything.
#[derive(Debug)]
struct Patched {
    inner: Option<Box<dyn Ticket>>,
    written: Arc<Written>,
    drive: Geometry,
    request: Request,
}

impl Patched {
    /// Puts what was written over what the drive has.
    fn patch(&self) -> Result<(), IoError> {
        let block = self.drive.lba_bytes as usize;
        let written = self.written.lock();
        let all = blocks(&self.request.extents, block).zip((0..).step_by(block));
        for (bytes, position) in all.filter_map(|(offset, at)| Some((written.get(&offset)?, at))) {
            let put = each_part(&self.request.segments, position, block, |slice, at, from, len| {
                bytes.get(from..from + len).map_or(Ok(()), |part| slice.write(at, part))
            });
            put.map_err(|error| {
                self.request.error(&self.drive, IoErrorKind::Invalid, error.to_string())
            })?;
        }
        Ok(())
    }
}

impl Ticket for Patched {
    fn poll(&mut self) -> Option<Result<(), IoError>> {
        let result = self.inner.as_mut()?.poll()?;
        self.inner = None;
        Some(result.and_then(|()| self.patch()))
    }

    fn wait(mut self: Box<Self>) -> Result<(), IoError> {
        self.inner.take().map_or(Ok(()), |inner| inner.wait())?;
        self.patch()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, open_drives};

    const SOON: Duration = Duration::from_secs(20);
    const BLOCK: u64 = 4096;

    fn drive() -> Arc<dyn Engine> {
        let text = r#"{"disk": {"number": 1, "paths": ["emulated:ram:64MiB"],
            "capacity_bytes": 67108864, "block_size": 4096}}"#;
        open_drives(&Config::parse(text, "test").unwrap(), false).unwrap().engines.remove(0)
    }

    /// Reads or writes blocks, from or to segments of odd lengths.
    fn transfer(engine: &dyn Engine, op: Op, extents: &[(u64, u64)], bytes: &mut [u8]) {
        let buffer = engine.dma().alloc(bytes.len()).unwrap();
        let cut = 1028.min(bytes.len());
        let segments = [buffer.slice(0, cut), buffer.slice(cut, bytes.len() - cut)];
        let segments = segments.into_iter().map(Result::unwrap).collect();
        buffer.as_dma().write(0, bytes).unwrap();
        let extent = |&(at, blocks)| Extent { offset: at * BLOCK, len: blocks * BLOCK };
        let extents = extents.iter().map(extent).collect();
        let request = Request { op, extents, segments, deadline: SOON };
        let mut ticket = engine.submit(request).unwrap();
        // Either way of waiting.
        match op {
            Op::Read => loop {
                if let Some(result) = ticket.poll() {
                    break result.unwrap();
                }
            },
            _ => ticket.wait().unwrap(),
        }
        buffer.as_dma().read(0, bytes).unwrap();
    }

    #[test]
    fn what_is_written_is_read_back_and_the_drive_has_none_of_it() {
        let drive = drive();
        let write = Op::Write { fua: true };
        transfer(&*drive, write, &[(0, 8)], &mut [1; 8 * BLOCK as usize]);
        let untouched = Untouched::over(&[Arc::clone(&drive)]).remove(0);
        assert!(!untouched.geometry().volatile_cache && !untouched.geometry().deallocate);
        let mut bytes: Vec<u8> = (0..2 * BLOCK).map(|i| (i % 251) as u8 + 2).collect();
        transfer(&*untouched, write, &[(5, 1), (2, 1)], &mut bytes);
        untouched.run(Request::flush(SOON)).unwrap();
        let extents = [Extent { offset: 0, len: 8 * BLOCK }];
        untouched.run(Request::deallocate(extents, SOON)).unwrap();
        let (first, second) = bytes.split_at(BLOCK as usize);
        let mut found = vec![0; 8 * BLOCK as usize];
        // In another order than they lie in.
        transfer(&*untouched, Op::Read, &[(4, 4), (0, 4)], &mut found);
        let mut expected = vec![1; 8 * BLOCK as usize];
        expected[4096..8192].copy_from_slice(first);
        expected[6 * 4096..7 * 4096].copy_from_slice(second);
        assert!(found == expected);
        transfer(&*drive, Op::Read, &[(0, 8)], &mut found);
        assert!(found.iter().all(|&byte| byte == 1), "the drive is as it was");
        untouched.shutdown(SOON).unwrap();
        let page = untouched.dma().alloc(4096).unwrap();
        assert!(untouched.run(Request::read(0, page.as_dma(), SOON)).is_err());
    }
}
