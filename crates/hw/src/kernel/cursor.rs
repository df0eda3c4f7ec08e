//! What is left of a job: the kernel may move less than it was asked to.

use std::io;

use crate::OutOfBounds;
use crate::file::{IOV_MAX, advance};

use super::{Job, JobOp};

/// What is left of a transfer.
#[derive(Debug)]
pub(super) struct Cursor {
    /// Elements left, the first of them may be partly done. Boxed: the kernel reads them where they are.
    elements: Vec<libc::iovec>,
    /// Elements of `elements` that are done.
    done: usize,
    /// Where the next byte is on the target.
    offset: u64,
    left: u64,
    /// Most bytes to ask for at once.
    most: usize,
    /// The first element, cut to `most`.
    cut: Option<Box<libc::iovec>>,
}

// SAFETY: the pointers are into memory that the job beside it keeps alive; the cursor itself does not
// follow them.
unsafe impl Send for Cursor {}

/// How a call to the kernel ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The job is done, so or so.
    Ended(io::Result<()>),
    /// To be asked again for what is left.
    Again,
    /// As `Again`, but not at once.
    Later,
}

impl Cursor {
    /// The whole of a job; nothing for one without memory.
    pub(super) fn new(job: &Job, most: usize) -> Result<Self, OutOfBounds> {
        let mut elements = Vec::with_capacity(job.memory.len());
        let mut left = 0;
        for slice in job.memory.iter().filter(|slice| !slice.is_empty()) {
            let (memory, offset) = slice.memory();
            let base = memory.raw(offset, slice.len())?;
            elements.push(libc::iovec { iov_base: base.cast(), iov_len: slice.len() });
            left += slice.len() as u64;
        }
        Ok(Self { elements, done: 0, offset: job.offset, left, most, cut: None })
    }

    /// Where the next byte is on the target.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Elements to hand to one call. They stay where they are until the cursor is moved on or dropped.
    pub(super) fn elements(&mut self) -> &[libc::iovec] {
        let rest = self.elements.get(self.done..).unwrap_or_default();
        let rest = rest.get(..IOV_MAX).unwrap_or(rest);
        match rest.first() {
            Some(first) if self.left > self.most as u64 => {
                let iov_len = first.iov_len.min(self.most);
                let cut = Box::new(libc::iovec { iov_base: first.iov_base, iov_len });
                std::slice::from_ref(&**self.cut.insert(cut))
            }
            _ => rest,
        }
    }

    /// What the kernel's answer to a call for the rest of `job` means.
    pub(super) fn answer(&mut self, op: JobOp, result: Result<usize, i32>) -> Outcome {
        let moved = match result {
            Ok(moved) => moved,
            Err(libc::EINTR) => return Outcome::Again,
            Err(libc::EAGAIN) => return Outcome::Later,
            Err(errno) => return Outcome::Ended(Err(io::Error::from_raw_os_error(errno))),
        };
        if self.left == 0 || !matches!(op, JobOp::Read | JobOp::Write { .. }) {
            return Outcome::Ended(Ok(()));
        }
        if moved == 0 {
            let what = match op {
                JobOp::Read => "the file ends before: it has been cut short since it was opened",
                _ => "the kernel takes no bytes there",
            };
            return Outcome::Ended(Err(io::Error::new(io::ErrorKind::UnexpectedEof, what)));
        }
        self.offset = self.offset.saturating_add(moved as u64);
        self.left = self.left.saturating_sub(moved as u64);
        advance(self.elements.get_mut(self.done..).unwrap_or_default(), moved);
        while self.elements.get(self.done).is_some_and(|element| element.iov_len == 0) {
            self.done += 1;
        }
        if self.left == 0 { Outcome::Ended(Ok(())) } else { Outcome::Again }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Batch, host_space};

    fn job(lens: &[usize]) -> Job {
        let buffer = host_space().unwrap().alloc(lens.iter().sum::<usize>().max(1)).unwrap();
        let mut at = 0;
        let memory = lens.iter().map(|&len| {
            at += len;
            buffer.slice(at - len, len).unwrap()
        });
        let memory = memory.collect();
        let len = lens.iter().sum::<usize>() as u64;
        Job { op: JobOp::Read, offset: 1000, len, memory, batch: Batch::new(1, None) }
    }

    #[test]
    fn short_transfers_go_on_where_they_stopped() {
        let job = job(&[100, 50, 200]);
        let base = |i: usize| {
            let (memory, offset) = job.memory[i].memory();
            memory.address() + offset
        };
        let mut cursor = Cursor::new(&job, usize::MAX).unwrap();
        assert_eq!(cursor.elements().len(), 3);
        assert!(matches!(cursor.answer(job.op, Ok(120)), Outcome::Again));
        assert_eq!(cursor.offset(), 1120);
        let rest = cursor.elements();
        assert_eq!((rest.len(), rest[0].iov_len), (2, 30));
        assert_eq!(rest[0].iov_base as usize, base(1) + 20);
        assert!(matches!(cursor.answer(job.op, Err(libc::EINTR)), Outcome::Again));
        assert!(matches!(cursor.answer(job.op, Err(libc::EAGAIN)), Outcome::Later));
        assert!(matches!(cursor.answer(job.op, Ok(30)), Outcome::Again));
        assert_eq!(cursor.elements().len(), 1);
        assert!(matches!(cursor.answer(job.op, Ok(200)), Outcome::Ended(Ok(()))));
    }

    #[test]
    fn the_end_of_the_file_is_an_error_and_so_is_what_the_kernel_says() {
        let job = job(&[100]);
        let mut cursor = Cursor::new(&job, usize::MAX).unwrap();
        assert!(matches!(cursor.answer(job.op, Ok(0)), Outcome::Ended(Err(_))));
        let Outcome::Ended(Err(error)) = cursor.answer(job.op, Err(libc::EIO)) else { panic!() };
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn no_call_asks_for_more_than_the_most() {
        let job = job(&[100, 0, 50]);
        let mut cursor = Cursor::new(&job, 60).unwrap();
        let mut asked = Vec::new();
        loop {
            let lens: Vec<_> = cursor.elements().iter().map(|e| e.iov_len).collect();
            asked.push(lens.clone());
            match cursor.answer(job.op, Ok(lens.iter().sum())) {
                Outcome::Again => {}
                Outcome::Ended(result) => break result.unwrap(),
                Outcome::Later => panic!("not later"),
            }
        }
        assert_eq!(asked, [vec![60], vec![40], vec![50]]);
    }

    #[test]
    fn more_elements_than_a_call_takes_are_handed_over_in_turns() {
        let job = job(&[4; IOV_MAX + 3]);
        let mut cursor = Cursor::new(&job, usize::MAX).unwrap();
        assert_eq!(cursor.elements().len(), IOV_MAX);
        assert!(matches!(cursor.answer(job.op, Ok(4 * IOV_MAX)), Outcome::Again));
        assert_eq!(cursor.elements().len(), 3);
    }
}
