//! The driver over a controller that lies, forgets, repeats itself, fails and goes.

mod hostile;
mod memory;

use std::sync::Arc;
use std::time::Duration;

use gcos_hw::{DmaBuffer, Function};
use gcos_nvme::{BlockRange, Controller, IoOp, IoRequest, Options};

use crate::input::Input;
pub use hostile::Hostile;
pub use memory::Mapped;

const TIMEOUT: Duration = Duration::from_millis(20);

/// Opens the controller, does I/O, resets it, does I/O, shuts it down.
pub fn controller(data: &[u8]) {
    let mut input = Input::new(data);
    let function = Hostile::new(&mut input);
    let buffer = function.dma().alloc(64 << 10).unwrap();
    let stopped = {
        let options = Options {
            io_queue_pairs: 2,
            queue_depth: 8,
            max_transfer: 128 << 10,
            admin_timeout: TIMEOUT,
            abort_timeout: TIMEOUT,
            ..Options::default()
        };
        function.begin_operation();
        let shared: Arc<dyn Function> = Arc::clone(&function) as _;
        if let Ok(controller) = Controller::open(shared, options) {
            work(&function, &controller, &buffer);
            function.begin_operation();
            let _ = controller.reset();
            work(&function, &controller, &buffer);
            function.begin_operation();
            let _ = controller.shutdown(Some(TIMEOUT));
        }
        function.begin_operation();
        function.is_stopped()
    };
    drop(buffer);
    // Where the controller has stopped, nothing is kept for it.
    assert!(!stopped || function.mapped().is_empty(), "memory of a stopped controller is kept");
}

fn work(function: &Hostile, controller: &Arc<Controller>, buffer: &DmaBuffer) {
    for nsid in controller.namespaces().iter().take(3).map(|namespace| namespace.nsid) {
        let pending: Vec<_> = requests(controller, nsid, buffer)
            .filter_map(|request| {
                function.begin_operation();
                controller.submit(request).ok()
            })
            .collect();
        for pending in pending {
            function.begin_operation();
            let _ = pending.wait();
        }
    }
    function.begin_operation();
    let _ = controller.health();
}

fn requests<'a>(
    controller: &'a Controller,
    nsid: u32,
    buffer: &'a DmaBuffer,
) -> impl Iterator<Item = IoRequest> + 'a {
    let lba = controller.namespace(nsid).map_or(0, |namespace| u64::from(namespace.lba_bytes));
    let kinds = [
        (IoOp::Read, 1),
        (IoOp::Write { fua: true }, 8),
        (IoOp::Flush, 0),
        (IoOp::Deallocate, 4),
        (IoOp::Read, 16),
        (IoOp::WriteZeroes { deallocate: true }, 3),
        (IoOp::Compare, 2),
    ];
    kinds.into_iter().filter_map(move |(op, blocks)| {
        let len = usize::try_from(blocks * lba).ok()?;
        let segments = match op.has_data() {
            true => vec![buffer.slice(0, len).ok().filter(|_| len > 0)?],
            false => Vec::new(),
        };
        let ranges: &[BlockRange] =
            if blocks == 0 { &[] } else { &[BlockRange { slba: 3, blocks }] };
        Some(IoRequest {
            nsid,
            op,
            ranges: ranges.iter().copied().collect(),
            segments: segments.into_iter().collect(),
            timeout: TIMEOUT,
        })
    })
}
