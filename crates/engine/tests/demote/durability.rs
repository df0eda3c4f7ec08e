//! What was completed before a way was left is made durable, or said not to be.

use super::*;
use gcos_cuda::Gpu;
use gcos_engine::device::{
    DeviceEngine, DeviceMemory, DeviceTransfer, HostDriven, MemoryOptions, Stream,
};

#[test]
fn a_flush_reaches_every_way_on_which_something_is_not_durable() {
    let rig = rig(&DemotionRules::default());
    rig.write(0, 1);
    rig.engine.demote("test");
    rig.write(4096, 2);
    rig.engine.run(Request::flush(SECOND)).unwrap();
    assert_eq!((rig.first.flushes(), rig.second.flushes()), (1, 1));
    rig.engine.run(Request::flush(SECOND)).unwrap();
    assert_eq!((rig.first.flushes(), rig.second.flushes()), (1, 2), "once is enough");
    // And back.
    rig.write(0, 3);
    rig.engine.promote(SECOND).unwrap();
    rig.engine.run(Request::flush(SECOND)).unwrap();
    assert_eq!((rig.first.flushes(), rig.second.flushes()), (2, 3));
    rig.emulator.power_cut(9);
}

#[test]
fn a_write_that_ends_on_a_way_after_it_was_left_is_made_durable_there() {
    let rig = rig(&DemotionRules::default());
    rig.first.slow(Duration::from_millis(30));
    let (slice, _) = rig.random(4096, 1);
    let ticket = rig.engine.submit(Request::write(0, slice, false, SECOND)).unwrap();
    rig.engine.demote("test");
    ticket.wait().unwrap();
    rig.engine.run(Request::flush(SECOND)).unwrap();
    assert_eq!(rig.first.flushes(), 1);
}

#[test]
fn what_cannot_be_made_durable_on_the_old_way_is_never_said_to_be() {
    for at in [At::Start, At::Before] {
        let rig = rig(&DemotionRules::default());
        rig.write(0, 1);
        rig.engine.demote("test");
        rig.first.fail("flush", at, IoErrorKind::Gone, 1);
        let error = rig.engine.run(Request::flush(SECOND)).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::Device, "{at:?}: the drive is not gone");
        // Later flushes of that way would succeed, and prove nothing.
        for _ in 0..3 {
            let error = rig.engine.run(Request::flush(SECOND)).unwrap_err();
            assert!(error.to_string().contains("may be lost"), "{error}");
        }
        let error = rig.engine.promote(SECOND).unwrap_err();
        assert!(error.to_string().contains("open the drive again"), "{error}");
        // What is durable by itself is.
        let (slice, bytes) = rig.random(4096, 2);
        rig.engine.run(Request::write(8192, slice, true, SECOND)).unwrap();
        assert!(rig.content(8192, 4096) == bytes);
        assert_eq!(rig.read(), Ok(()));
        assert!(rig.engine.shutdown(SECOND).is_err());
    }
}

#[test]
fn a_way_on_which_nothing_waits_for_a_flush_may_fail_it() {
    let rig = rig(&DemotionRules::default());
    rig.write(0, 1);
    rig.engine.run(Request::flush(SECOND)).unwrap();
    let (slice, _) = rig.random(4096, 2);
    rig.engine.run(Request::write(4096, slice, true, SECOND)).unwrap();
    rig.first.fail("", At::Before, IoErrorKind::Gone, u32::MAX);
    rig.engine.run(Request::flush(SECOND)).unwrap();
    assert_eq!(reason(&*rig.engine), Some(DemotionReason::Gone));
    rig.write(0, 3);
    rig.engine.run(Request::flush(SECOND)).unwrap();
    assert_eq!((rig.first.flushes(), rig.second.flushes()), (2, 1));
}

#[test]
fn a_flush_that_fails_where_something_waits_for_it_is_never_trusted_again() {
    let rig = rig(&DemotionRules::default());
    rig.write(0, 1);
    rig.first.fail("flush", At::Before, IoErrorKind::Media, 1);
    assert!(rig.engine.run(Request::flush(SECOND)).is_err());
    assert!(rig.engine.run(Request::flush(SECOND)).is_err());
    assert_eq!(rig.first.flushes(), 1);
    assert_eq!(reason(&*rig.engine), None, "and that is no reason to leave the way");
}

#[test]
fn a_flush_that_was_under_way_when_another_failed_is_not_believed() {
    let rig = rig(&DemotionRules::default());
    rig.write(0, 1);
    rig.first.fail("flush", At::Before, IoErrorKind::Media, 1);
    let [one, other] = [0; 2].map(|_| rig.engine.submit(Request::flush(SECOND)).unwrap());
    assert_eq!(one.wait().unwrap_err().kind, IoErrorKind::Media);
    // The drive says that all is well: it has nothing left of what it could not write.
    let error = other.wait().unwrap_err();
    assert!(error.to_string().contains("may be lost"), "{error}");
}

#[test]
fn the_end_of_a_way_that_was_left_costs_the_way_in_use_no_time() {
    let rig = rig(&DemotionRules::default());
    rig.write(0, 1);
    rig.engine.demote("test");
    rig.write(4096, 1);
    rig.engine.run(Request::flush(SECOND)).unwrap();
    rig.first.slow(10 * SECOND);
    rig.second.slow(Duration::from_millis(100));
    rig.engine.shutdown(SECOND).unwrap();
}

#[test]
fn what_a_gpu_writes_counts_and_its_way_ends_with_the_demotion() {
    let rig = rig(&DemotionRules::default());
    let gpu = Gpu::played();
    let memory = DeviceMemory::new(&gpu, rig.drive.dma(), MemoryOptions::default()).unwrap();
    let device = HostDriven::new(Arc::clone(&rig.drive), Arc::clone(&memory)).unwrap();
    let host = Attached { engine: Arc::clone(&rig.drive), device: Arc::new(device) };
    let host: Arc<dyn Engine> = Arc::new(host);
    let (first, second) = (Faulty::new(&host, "first"), Faulty::new(&rig.drive, "second"));
    let ways: Vec<Arc<dyn Engine>> = vec![Arc::clone(&first) as _, second];
    let engine = DemotingEngine::new(ways, &DemotionRules::default()).unwrap();

    let (device, stream) = (engine.device(&gpu).unwrap(), Stream::new(&gpu).unwrap());
    let slice = memory.alloc(4096, 4096).unwrap().as_slice();
    let transfer = || vec![DeviceTransfer::write(0, slice.clone(), false)];
    stream.fill(&slice, 7).unwrap();
    let results = device.start(&stream, transfer(), SECOND).unwrap().wait();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    engine.demote("test");
    let error = device.start(&stream, transfer(), SECOND).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Demoted);
    assert!(engine.device(&gpu).is_none(), "the second way has none");
    engine.run(Request::flush(SECOND)).unwrap();
    assert_eq!(first.flushes(), 1, "for what the GPU wrote");
    engine.promote(SECOND).unwrap();
    device.start(&stream, transfer(), SECOND).unwrap().wait();
    device.shutdown(SECOND).unwrap();
}

/// An engine with a way for a GPU.
#[derive(Debug)]
struct Attached {
    engine: Arc<dyn Engine>,
    device: Arc<dyn DeviceEngine>,
}

impl Engine for Attached {
    fn geometry(&self) -> &gcos_engine::Geometry {
        self.engine.geometry()
    }

    fn dma(&self) -> &Arc<gcos_hw::DmaSpace> {
        self.engine.dma()
    }

    fn submit(
        &self,
        request: Request,
    ) -> Result<Box<dyn gcos_engine::Ticket>, gcos_engine::IoError> {
        self.engine.submit(request)
    }

    fn device(&self, _gpu: &Arc<Gpu>) -> Option<Arc<dyn DeviceEngine>> {
        Some(Arc::clone(&self.device))
    }

    fn shutdown(&self, deadline: Duration) -> Result<(), gcos_engine::IoError> {
        self.engine.shutdown(deadline)
    }
}
