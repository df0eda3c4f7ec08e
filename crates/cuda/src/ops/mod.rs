//! Checksums and copies by the GPU, of memory that it reaches.
//!
//! An operation is launched on a stream and returns at once with a ticket; what it says comes to lie in
//! pinned host memory, and the ticket looks there. Nothing blocks, and nothing is allocated once the first
//! operations have made their scratch memory. Dropping a ticket does not stop the work: memory that it
//! uses stays held until the stream has passed it.
//!
//! Ranges are checked when an operation is launched, against the memory that was handed over, so that no
//! kernel touches anything else. What a kernel reads is what lies there in the order of the stream.

mod checksum;
mod copy;
mod crc;
mod layout;
mod memory;
mod paged;
mod scratch;
mod ticket;

use std::sync::Arc;

pub use checksum::{ChecksumTicket, Run};
pub use copy::Copy;
pub use layout::{ObjectLayout, PageLayout};
pub use memory::Memory;
pub use paged::{Direction, PagedKv, Table};
pub use ticket::OpTicket;

use scratch::{Lease, Pool};
use ticket::Flight;

use crate::{Gpu, GpuError, Kernels, LaunchShape, Stream};

/// Threads of a block of the copy kernels.
const COPY_THREADS: u32 = 256;

/// Blocks and threads that a kernel is launched with.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Most blocks; further work is done in turns.
    most_blocks: u32,
    threads: u32,
}

impl Shape {
    /// As many blocks as the GPU runs at a time.
    fn of(kernels: &Kernels, name: &str, threads: u32, played: u32) -> Result<Self, GpuError> {
        Ok(match kernels.attributes(name, threads)? {
            Some(found) => Self {
                most_blocks: (found.blocks_per_multiprocessor * found.multiprocessors).max(1),
                threads,
            },
            // Threads of a played GPU are threads of the host: few.
            None => Self { most_blocks: 2, threads: played },
        })
    }
}

/// What computes checksums and copies on one GPU. Cheap to share.
#[derive(Debug)]
pub struct Ops {
    kernels: Arc<Kernels>,
    pool: Arc<Pool>,
    checksum: Shape,
    copy: Shape,
    paged: Shape,
}

impl Ops {
    /// With kernels that were loaded.
    ///
    /// # Errors
    /// As [`Kernels::attributes`].
    pub fn new(kernels: &Arc<Kernels>) -> Result<Arc<Self>, GpuError> {
        Ok(Arc::new(Self {
            pool: Pool::new(kernels.gpu()),
            checksum: Shape::of(kernels, checksum::KERNEL, checksum::THREADS, checksum::PLAYED)?,
            copy: Shape::of(kernels, copy::KERNEL, COPY_THREADS, 32)?,
            paged: Shape::of(kernels, paged::KERNEL, COPY_THREADS, 32)?,
            kernels: Arc::clone(kernels),
        }))
    }

    /// The GPU.
    #[must_use]
    pub fn gpu(&self) -> &Arc<Gpu> {
        self.kernels.gpu()
    }

    /// Launches a kernel whose parameter is `params` on `blocks` blocks, and keeps `held` until the stream
    /// has passed it.
    fn launch<H: Send + 'static>(
        &self,
        stream: &Stream,
        name: &str,
        (shape, blocks): (Shape, u32),
        params: &[u8],
        (lease, held): (Arc<Lease>, H),
    ) -> Result<Flight, GpuError> {
        let launch = LaunchShape { grid: blocks, block: shape.threads, shared_bytes: 0 };
        self.kernels.launch(stream, name, launch, params)?;
        stream.keep((held, Arc::clone(&lease)));
        // One word for the whole kernel: words of host memory that every block counts up cost half a
        // microsecond each, one after the other.
        stream.write_word(&lease.done()?, 1)?;
        Ok(Flight::new(stream.record()?, lease))
    }

    fn invalid(&self, what: &'static str, expected: &'static str, got: u64) -> GpuError {
        GpuError::Invalid { ordinal: self.gpu().ordinal(), what, expected, got }
    }
}
