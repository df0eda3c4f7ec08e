//! The ring on real files, and on pipes, which give nothing until somebody writes.

use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use super::*;
use crate::kernel::{Direct, TargetOptions, host_space};
use crate::{DmaBuffer, HwError};

const BLOCK: usize = 4096;
const SECOND: Duration = Duration::from_secs(1);

fn soon() -> Instant {
    Instant::now() + 30 * SECOND
}

fn alloc(len: usize) -> DmaBuffer {
    host_space().unwrap().alloc(len).unwrap()
}

fn file(bytes: u64) -> Arc<Target> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(bytes).unwrap();
    let options = TargetOptions { direct: Direct::Prefer, ..TargetOptions::default() };
    Target::open(file.path(), &options).unwrap()
}

/// A target that is one end of a pipe, and the other end.
fn pipe() -> (Arc<Target>, File) {
    let mut fds = [0; 2];
    // SAFETY: room for the two descriptors that the call stores.
    assert_eq!(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: fresh descriptors that nobody else owns.
    let [read, write] = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    (Arc::new(Target::of_test(read.into())), write.into())
}

fn job(op: JobOp, offset: u64, buffer: &DmaBuffer, batch: &Arc<Batch>) -> Job {
    let memory = std::iter::once(buffer.as_dma()).collect();
    Job { op, offset, len: buffer.len() as u64, memory, batch: Arc::clone(batch) }
}

fn run(ring: &Ring, op: JobOp, offset: u64, buffer: &DmaBuffer) -> io::Result<()> {
    let batch = Batch::new(1, None);
    ring.start(job(op, offset, buffer, &batch), soon())?;
    ring.go();
    assert!(ring.wait(&batch, soon()), "not done in time");
    batch.take_error().map_or(Ok(()), Err)
}

fn pattern(buffer: &DmaBuffer, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(buffer.len()).collect();
    buffer.as_dma().write(0, &bytes).unwrap();
    bytes
}

fn content(buffer: &DmaBuffer) -> Vec<u8> {
    let mut bytes = vec![0; buffer.len()];
    buffer.as_dma().read(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn what_is_written_is_read_back_in_pieces_of_any_size() {
    for most_bytes in [usize::MAX, BLOCK] {
        let options = RingOptions { depth: 4, most_bytes };
        let ring = Ring::open(file(1 << 20), options).unwrap();
        let (from, to) = (alloc(9 * BLOCK), alloc(9 * BLOCK));
        let bytes = pattern(&from, 1);
        run(&ring, JobOp::Write { durable: true }, 8192, &from).unwrap();
        run(&ring, JobOp::Sync, 0, &alloc(1)).unwrap();
        run(&ring, JobOp::Read, 8192, &to).unwrap();
        assert!(content(&to) == bytes);
        // The end of the file in the middle of a read.
        let error = run(&ring, JobOp::Read, (1 << 20) - 4096, &to).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[test]
fn many_threads_have_many_jobs_under_way_on_a_shallow_ring() {
    let ring = Ring::open(file(16 << 20), RingOptions { depth: 3, ..Default::default() }).unwrap();
    thread::scope(|scope| {
        for thread in 0..8u64 {
            let ring = &ring;
            scope.spawn(move || {
                for round in 0..20 {
                    let buffers: Vec<_> = (0..4).map(|_| alloc(BLOCK)).collect();
                    let at = |i: usize| ((thread * 20 + round) * 4 + i as u64) * BLOCK as u64;
                    let start = |op| {
                        let batch = Batch::new(4, None);
                        for (i, buffer) in buffers.iter().enumerate() {
                            ring.start(job(op, at(i), buffer, &batch), soon()).unwrap();
                        }
                        ring.go();
                        assert!(ring.wait(&batch, soon()));
                        assert!(batch.take_error().is_none());
                    };
                    let bytes: Vec<_> = buffers.iter().map(|b| pattern(b, round)).collect();
                    start(JobOp::Write { durable: false });
                    buffers.iter().for_each(|b| b.as_dma().fill(0, BLOCK, 0).unwrap());
                    start(JobOp::Read);
                    assert!(buffers.iter().zip(&bytes).all(|(b, bytes)| content(b) == *bytes));
                }
            });
        }
    });
    assert!(ring.is_idle());
}

#[test]
fn jobs_of_a_thread_that_has_ended_are_carried_out_all_the_same() {
    let target = file(4 << 20);
    let ring = Ring::open(target, RingOptions::default()).unwrap();
    let buffer = alloc(BLOCK);
    pattern(&buffer, 3);
    for _ in 0..10 {
        let batch = Batch::new(200, None);
        thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..100 {
                    let write = job(JobOp::Write { durable: true }, i * 4096, &buffer, &batch);
                    ring.start(write, soon()).unwrap();
                    // The kernel has threads of the caller do these.
                    ring.start(job(JobOp::Sync, 0, &buffer, &batch), soon()).unwrap();
                    ring.go();
                }
            });
        });
        assert!(ring.wait(&batch, soon()));
        assert!(batch.take_error().is_none());
    }
}

#[test]
fn jobs_go_to_the_kernel_together_and_those_without_room_do_not_wait_for_that() {
    let ring = Ring::open(file(1 << 20), RingOptions { depth: 4, ..Default::default() }).unwrap();
    let buffer = alloc(BLOCK);
    let queued = || {
        let _slots = ring.slots.lock();
        // SAFETY: nobody else uses the submission queue: the lock of the slots is held.
        unsafe { ring.ring.submission_shared() }.len()
    };
    for jobs in [3, 10] {
        let batch = Batch::new(jobs, None);
        for i in 0..jobs {
            ring.start(job(JobOp::Read, i as u64 * 4096, &buffer, &batch), soon()).unwrap();
            assert!(i >= 4 || queued() == i + 1, "the kernel was entered for one");
        }
        ring.go();
        assert_eq!(queued(), 0);
        assert!(ring.wait(&batch, soon()));
        assert!(batch.take_error().is_none());
    }
}

#[test]
fn a_kernel_that_does_not_answer_holds_the_memory_until_it_gives_up() {
    let (target, _write) = pipe();
    let ring = Ring::open(target, RingOptions::default()).unwrap();
    let mut buffer = alloc(BLOCK);
    let batch = Batch::new(1, None);
    ring.start(job(JobOp::Read, 0, &buffer, &batch), soon()).unwrap();
    let begun = Instant::now();
    assert!(!ring.wait(&batch, begun + Duration::from_millis(50)));
    assert!(begun.elapsed() >= Duration::from_millis(50) && begun.elapsed() < 10 * SECOND);
    assert!(matches!(buffer.bytes_mut(), Err(HwError::Busy { .. })));
    ring.cancel(&batch);
    assert!(ring.wait(&batch, soon()));
    assert_eq!(batch.take_error().unwrap().raw_os_error(), Some(libc::ECANCELED));
    buffer.bytes_mut().unwrap();
}

#[test]
fn no_room_until_the_deadline_is_an_error_and_the_job_is_given_back() {
    let (target, _write) = pipe();
    let ring = Ring::open(target, RingOptions { depth: 2, ..Default::default() }).unwrap();
    let batch = Batch::new(2, None);
    let buffers = [alloc(BLOCK), alloc(BLOCK)];
    for buffer in &buffers {
        ring.start(job(JobOp::Read, 0, buffer, &batch), soon()).unwrap();
    }
    let mut third = alloc(BLOCK);
    let late = Instant::now() + Duration::from_millis(30);
    let error = ring.start(job(JobOp::Read, 0, &third, &Batch::new(1, None)), late).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    third.bytes_mut().unwrap();
    ring.cancel(&batch);
    assert!(ring.drain(soon()));
}

#[test]
fn a_wait_ends_when_somebody_else_looks_after_the_completions() {
    let (target, mut write) = pipe();
    let ring = Ring::open(target, RingOptions::default()).unwrap();
    let buffers: Vec<_> = (0..4).map(|_| alloc(BLOCK)).collect();
    let batches: Vec<_> = buffers.iter().map(|_| Batch::new(1, None)).collect();
    for (buffer, batch) in buffers.iter().zip(&batches) {
        ring.start(job(JobOp::Read, 0, buffer, batch), soon()).unwrap();
    }
    thread::scope(|scope| {
        for batch in &batches {
            scope.spawn(|| assert!(ring.wait(batch, soon())));
        }
        for _ in &batches {
            thread::sleep(Duration::from_millis(5));
            io::Write::write_all(&mut write, &[7; BLOCK]).unwrap();
        }
    });
    assert!(buffers.iter().all(|buffer| content(buffer) == [7; BLOCK]));
}

#[test]
fn a_ring_that_is_dropped_takes_its_memory_back_first() {
    let (target, _write) = pipe();
    let ring = Ring::open(target, RingOptions::default()).unwrap();
    let mut buffer = alloc(BLOCK);
    let batch = Batch::new(1, None);
    ring.start(job(JobOp::Read, 0, &buffer, &batch), soon()).unwrap();
    drop(ring);
    assert!(batch.is_finished());
    buffer.bytes_mut().unwrap();
}

#[test]
fn a_file_can_be_had_again_as_soon_as_its_ring_is_dropped() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let options = TargetOptions { direct: Direct::Prefer, ..TargetOptions::default() };
    for _ in 0..50 {
        let ring = open(Target::open(file.path(), &options).unwrap());
        run(&ring, JobOp::Read, 0, &alloc(BLOCK)).unwrap();
    }
}

#[test]
fn what_was_given_up_while_it_was_not_with_the_kernel_does_not_go_there_again() {
    let (target, _write) = pipe();
    let ring = open(target);
    let mut buffer = alloc(BLOCK);
    let batch = Batch::new(1, None);
    let work = Work::new(job(JobOp::Read, 0, &buffer, &batch), usize::MAX).unwrap();
    let slot = ring.slots.lock().take(&mut Some(work)).unwrap();
    ring.slots.lock().later.push_back(slot);
    batch.give_up();
    ring.poll();
    assert!(batch.is_finished() && ring.is_idle());
    assert_eq!(batch.take_error().unwrap().raw_os_error(), Some(libc::ECANCELED));
    buffer.bytes_mut().unwrap();
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: room for the one timespec that the call fills.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn a_kernel_that_says_again_and_again_that_it_cannot_now_is_asked_at_intervals() {
    let (target, _write) = pipe();
    // SAFETY: a valid descriptor and no pointers.
    let set = unsafe { libc::fcntl(target.fd().as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    assert_eq!(set, 0);
    let ring = open(target);
    let buffer = alloc(BLOCK);
    let batch = Batch::new(1, None);
    ring.start(job(JobOp::Read, 0, &buffer, &batch), soon()).unwrap();
    let (wall, before) = (Duration::from_millis(400), processor_time());
    assert!(!ring.wait(&batch, Instant::now() + wall));
    let took = processor_time() - before;
    assert!(took < wall / 2, "{took:?} of {wall:?}");
    ring.cancel(&batch);
    assert!(ring.wait(&batch, soon()));
}

#[test]
fn memory_that_the_kernel_never_gives_back_is_never_given_to_others() {
    let (target, _write) = pipe();
    let mut ring = open(target);
    ring.drop_wait = Duration::from_millis(20);
    let mut buffer = alloc(BLOCK);
    let batch = Batch::new(1, None);
    // Lent, and the kernel does not know: it will never answer.
    let work = Work::new(job(JobOp::Read, 0, &buffer, &batch), usize::MAX).unwrap();
    assert!(ring.slots.lock().take(&mut Some(work)).is_some());
    drop(ring);
    assert!(!batch.is_finished());
    assert!(matches!(buffer.bytes_mut(), Err(HwError::Busy { .. })));
}

/// What the kernel's seccomp filters are made of: one instruction.
fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// Why there is no ring for a thread that may not make this call.
fn without(call: libc::c_long) -> String {
    let target = file(1 << 20);
    let refused = thread::spawn(move || {
        let errno = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        let mut program = [
            instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call as u32, 0, 1),
            instruction(libc::BPF_RET | libc::BPF_K, errno, 0, 0),
            instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
        ];
        let program = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
        // SAFETY: changes this thread alone, which ends with the test; the program lives over the call.
        unsafe {
            assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
            let mode = libc::SECCOMP_MODE_FILTER;
            assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program), 0);
        }
        Ring::open(target, RingOptions::default()).unwrap_err()
    });
    refused.join().unwrap()
}

#[test]
fn a_thread_that_may_not_use_io_uring_learns_why() {
    for call in [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter] {
        let reason = without(call);
        assert!(reason.contains("forbidden to this process"), "{reason}");
    }
    let reason = without(libc::SYS_io_uring_register);
    assert!(reason.contains("does not say what its io_uring can do"), "{reason}");
}

#[test]
fn a_deallocation_is_not_for_a_ring() {
    let ring = open(file(1 << 20));
    let batch = Batch::new(1, None);
    let error = ring.start(job(JobOp::Discard, 0, &alloc(BLOCK), &batch), soon()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    assert!(ring.target.fd().as_fd().try_clone_to_owned().is_ok());
}

fn open(target: Arc<Target>) -> Ring {
    Ring::open(target, RingOptions::default()).unwrap()
}
