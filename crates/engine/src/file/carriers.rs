use std::fmt;
use std::sync::Arc;

use gcos_hw::kernel::{Carrier, Pool, PoolOptions, Ring, RingOptions, Target};

/// Where an engine gets its ways to the kernel from: a place for tests to put faults in between.
pub trait Carriers: fmt::Debug {
    /// An io_uring with room for `depth` jobs.
    ///
    /// # Errors
    /// In words why there is none, and what to do.
    fn ring(&self, target: &Arc<Target>, depth: u32) -> Result<Arc<dyn Carrier>, String>;

    /// A pool of threads with room for `depth` jobs.
    fn pool(&self, target: &Arc<Target>, workers: usize, depth: u32) -> Arc<dyn Carrier>;
}

/// The kernel's own, with nothing in between.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelCarriers;

impl Carriers for KernelCarriers {
    fn ring(&self, target: &Arc<Target>, depth: u32) -> Result<Arc<dyn Carrier>, String> {
        let options = RingOptions { depth, ..RingOptions::default() };
        Ok(Arc::new(Ring::open(Arc::clone(target), options)?))
    }

    fn pool(&self, target: &Arc<Target>, workers: usize, depth: u32) -> Arc<dyn Carrier> {
        let options = PoolOptions { workers, depth: depth as usize, ..PoolOptions::default() };
        Arc::new(Pool::open(Arc::clone(target), options))
    }
}
