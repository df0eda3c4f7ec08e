use super::lane::Failure;
use super::*;
use gcos_cuda::cufile::CuFile;
use gcos_cuda::{CuFileFault, DeviceBuffer, DeviceMemory, MemoryOptions, PlayedCuFile};
use gcos_hw::kernel::{Direct, Target, TargetOptions, host_space};

use crate::FileOptions;
use crate::device::chunks::Chunk;
use crate::device::mover::until_ended;

const PAGE: usize = 4096;

fn read_of(offset: u64, into: &DeviceBuffer) -> (Piece, Arc<Moving>) {
    let parts = std::iter::once(into.slice(0, PAGE).unwrap()).collect();
    let state = Mutex::new(MovingState { left: 1, ..MovingState::default() });
    let end = Instant::now() + Duration::from_secs(20);
    let (fence, waker) = (Batch::new(1, None), std::thread::current());
    let moving = Arc::new(Moving { write: false, end, state, fence, waker });
    let chunk = Chunk { offset, len: PAGE, parts };
    (Piece { chunk, moving: Arc::clone(&moving) }, moving)
}

fn content(buffer: &DeviceBuffer) -> [u8; PAGE] {
    let mut out = [0; PAGE];
    buffer.copy_out(0, &mut out).unwrap();
    out
}

/// A read whose copies on the GPU are stuck, of as many pieces as there are transfers.
#[test]
fn what_may_still_be_copied_is_unfinished_whatever_else_failed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![7; 2 * PIECE_BYTES]).unwrap();
    let options = TargetOptions { direct: Direct::Prefer, ..TargetOptions::default() };
    let target = Target::open(file.path(), &options).unwrap();
    let (gpu, space) = (Gpu::played(), host_space().unwrap());
    let file = FileEngine::open(target, Arc::clone(&space), FileOptions::default()).unwrap();
    let memory = DeviceMemory::new(&gpu, &space, MemoryOptions::default()).unwrap();
    let played = PlayedCuFile::new().unwrap();
    let fd = file.target().fd().try_clone_to_owned().unwrap();
    let handle = CuFileHandle::register(&CuFile::open_at(played.path()).unwrap(), fd).unwrap();
    let staging = ByStaging::new(Arc::clone(&file) as _, &memory, 0, Vec::new()).unwrap();
    let budget = BufferBudget::of_mib(0);
    let rules = CuFileRules { workers: 2, falls_back: true, copy: Duration::from_millis(50) };
    let mover = ByCuFile::new(file, handle, &gpu, staging, &budget, rules).unwrap();
    let buffer = memory.alloc(2 * PIECE_BYTES, PAGE).unwrap();
    let read = |pieces: usize| {
        let into = buffer.slice(0, pieces * PIECE_BYTES).unwrap();
        until_ended(&mut *mover.submit(DeviceTransfer::read(0, into), COPY).unwrap())
    };
    let mut bytes = vec![0; 2 * PIECE_BYTES];
    for turn in 0..12 {
        // Of two pieces the drive fails one, before the other is being copied or meanwhile.
        let pieces = 1 + turn % 2;
        buffer.copy_in(0, &vec![1; 2 * PIECE_BYTES]).unwrap();
        let stall = gpu.stall_copies().unwrap();
        played.fault(CuFileFault::Skip, 1).unwrap();
        played.fault(CuFileFault::ReadErrno, 5).unwrap();
        let error = read(pieces).unwrap_err();
        assert!(pieces == 2 || error.kind == IoErrorKind::Unfinished, "{error}");
        assert_eq!(content(&buffer), [1; PAGE]);
        drop(stall);
        let late = error.kind == IoErrorKind::Unfinished;
        let begun = Instant::now();
        let patience = if late { COPY } else { Duration::from_millis(20) };
        let mut comes = false;
        while !comes && begun.elapsed() < patience {
            buffer.copy_out(0, &mut bytes).unwrap();
            comes = bytes.contains(&7);
        }
        assert_eq!(comes, late, "{error}");
        played.fault(CuFileFault::ReadErrno, 0).unwrap();
        read(2).unwrap();
        assert_eq!(content(&buffer), [7; PAGE]);
    }
}

#[test]
fn memory_that_a_copy_has_not_let_go_of_is_not_used_again() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [[1; PAGE], [2; PAGE]].concat()).unwrap();
    let options = TargetOptions { direct: Direct::Prefer, ..TargetOptions::default() };
    let target = Target::open(file.path(), &options).unwrap();
    let played = PlayedCuFile::new().unwrap();
    let fd = target.fd().try_clone_to_owned().unwrap();
    let handle = CuFileHandle::register(&CuFile::open_at(played.path()).unwrap(), fd).unwrap();
    let (gpu, space) = (Gpu::played(), host_space().unwrap());
    let memory = DeviceMemory::new(&gpu, &space, MemoryOptions::default()).unwrap();
    let [first, second] = [0; 2].map(|_| memory.alloc(PAGE, PAGE).unwrap());
    let stream = Stream::new(&gpu).unwrap();
    let mut lane = Lane {
        queue: Arc::default(),
        handle,
        stream: stream.clone(),
        own: UnmappedMemory::new(&gpu, PIECE_BYTES).unwrap(),
        registered: None,
        spoilt: false,
        patience: Duration::from_millis(30),
        _target: target,
    };

    let gate = stream.gate().unwrap();
    let (piece, late) = read_of(0, &first);
    piece.run(&mut lane);
    assert!(matches!(late.state.lock().failed, Some(Failure::Gpu(_))));
    lane.patience = COPY;
    let (piece, well) = read_of(PAGE as u64, &second);
    piece.run(&mut lane);
    assert!(well.state.lock().failed.is_none() && well.fence.is_finished());
    assert_eq!(content(&second), [2; PAGE]);

    // What comes late is what was asked for, not what the thread has read since.
    gate.open();
    stream.synchronize(COPY).unwrap();
    assert_eq!(content(&first), [1; PAGE]);
}
