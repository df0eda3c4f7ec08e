//! A controller through VFIO, the driver on top.

use std::sync::Arc;
use std::time::Duration;

use gcos_hw::pci::PciAddress;
use gcos_hw::vfio::{PeerBar, VfioFunction, VfioSpace};
use gcos_hw::{DmaBuffer, DmaSlice, Function};
use gcos_nvme::{BlockRange, Completion, Controller, IoOp, IoRequest, Options};

use crate::raw::NSID;
use crate::report::{Trouble, ensure};
use crate::sysfs;

/// Deadline of each request.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// A controller of the guest, opened.
#[derive(Debug)]
pub(crate) struct Drive {
    pub(crate) controller: Arc<Controller>,
    pub(crate) function: Arc<VfioFunction>,
    pub(crate) space: Arc<VfioSpace>,
}

/// The options of these tests: one queue pair of the driver's, two to be driven here.
pub(crate) fn options(completion: Completion) -> Options {
    Options {
        lent_queue_pairs: 2,
        completion,
        max_transfer: 4 << 20,
        abort_timeout: Duration::from_millis(500),
        ..Options::default()
    }
}

/// The guest's first controller, bound to vfio-pci.
pub(crate) fn bound() -> Result<PciAddress, Trouble> {
    let address = sysfs::controller()?;
    if sysfs::driver(&address).as_deref() != Some("vfio-pci") {
        sysfs::bind(&address)?;
    }
    Ok(address)
}

/// The whole memory of the guest's peer device, as a controller reaches it.
pub(crate) fn peer_of(function: &VfioFunction) -> Result<(PeerBar, DmaBuffer), Trouble> {
    let address = sysfs::peer()?;
    sysfs::enable(&address)?;
    let bar = PeerBar::open(address, sysfs::PEER_BAR, false)?;
    let buffer = function.dma().adopt(Arc::clone(bar.memory()))?;
    Ok((bar, buffer))
}

impl Drive {
    /// Binds the guest's first controller to vfio-pci and opens it.
    pub(crate) fn first(completion: Completion) -> Result<Self, Trouble> {
        Self::open(bound()?, completion)
    }

    /// Opens a controller that is bound, in a space of its own.
    pub(crate) fn open(address: PciAddress, completion: Completion) -> Result<Self, Trouble> {
        Self::with(address, |_| Ok(options(completion)))
    }

    /// Opens a controller that is bound, in a space of its own, with options that may use its memory.
    pub(crate) fn with(
        address: PciAddress,
        options: impl FnOnce(&VfioFunction) -> Result<Options, Trouble>,
    ) -> Result<Self, Trouble> {
        let space = VfioSpace::open()?;
        let function = space.function(address)?;
        let options = options(&function)?;
        let controller = Controller::open(Arc::clone(&function) as Arc<dyn Function>, options)?;
        Ok(Self { controller, function, space })
    }

    /// Memory that the controller reaches.
    pub(crate) fn alloc(&self, len: usize) -> Result<DmaBuffer, Trouble> {
        Ok(self.controller.dma().alloc(len)?)
    }

    /// The whole memory of the guest's peer device, as the controller reaches it.
    pub(crate) fn peer(&self) -> Result<(PeerBar, DmaBuffer), Trouble> {
        peer_of(&self.function)
    }

    /// A request for the blocks at byte `offset`, as many as the memory holds.
    pub(crate) fn request(&self, op: IoOp, offset: u64, memory: DmaSlice) -> IoRequest {
        let lba = self.lba_bytes();
        let blocks = BlockRange { slba: offset / lba, blocks: memory.len() as u64 / lba };
        IoRequest {
            nsid: NSID,
            op,
            ranges: [blocks].into_iter().collect(),
            segments: [memory].into_iter().collect(),
            timeout: DEADLINE,
        }
    }

    /// Bytes of a block.
    pub(crate) fn lba_bytes(&self) -> u64 {
        self.controller.namespace(NSID).map_or(512, |n| u64::from(n.lba_bytes))
    }

    pub(crate) fn write(&self, offset: u64, memory: DmaSlice) -> Result<(), Trouble> {
        Ok(self.controller.run(self.request(IoOp::Write { fua: false }, offset, memory))?)
    }

    pub(crate) fn read(&self, offset: u64, memory: DmaSlice) -> Result<(), Trouble> {
        Ok(self.controller.run(self.request(IoOp::Read, offset, memory))?)
    }

    /// Writes, reads back and compares: whether the drive works.
    pub(crate) fn works(&self, seed: u64) -> Result<(), Trouble> {
        let (out, back) = (self.alloc(64 << 10)?.as_dma(), self.alloc(64 << 10)?.as_dma());
        fill(&out, seed)?;
        self.write(0, out)?;
        self.read(0, back.clone())?;
        check(&back, seed)
    }
}

/// Bytes that a seed stands for.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).fill(&mut bytes);
    bytes
}

/// Fills memory with what a seed stands for.
pub(crate) fn fill(memory: &DmaSlice, seed: u64) -> Result<(), Trouble> {
    Ok(memory.write(0, &pattern(seed, memory.len()))?)
}

/// Checks every byte of memory against what a seed stands for.
pub(crate) fn check(memory: &DmaSlice, seed: u64) -> Result<(), Trouble> {
    let mut got = vec![0; memory.len()];
    memory.read(0, &mut got)?;
    let expected = pattern(seed, memory.len());
    let wrong = got.iter().zip(&expected).position(|(a, b)| a != b);
    ensure(wrong.is_none(), || {
        let count = got.iter().zip(&expected).filter(|(a, b)| a != b).count();
        format!("{count} of {} bytes are wrong, the first at {wrong:?} (seed {seed})", got.len())
    })
}
