//! What kind of controller to be.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use gcos_hw::{DmaSpace, HwError};
use gcos_layout::nvme::{Cns, IdentifyData};

use crate::{EmulatorError, FaultPlan, IovaTable, Medium, Observer};

/// How the controller gets its work done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Run {
    /// By threads of its own, on real time.
    #[default]
    Threads,
    /// By calls of [`Function::relax`](gcos_hw::Function::relax), one step each, on simulated
    /// time: which step comes next follows from the seed and the calls alone.
    Stepped {
        /// Decides the order of steps.
        seed: u64,
    },
}

/// One namespace; they lie one after the other on the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace {
    /// Bytes per logical block: 512 or 4096.
    pub lba_bytes: u32,
    /// Size in bytes, a multiple of 4096.
    pub bytes: u64,
}

/// What some controllers' namespaces are, and drivers must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// The namespace says that it belongs to another command set than NVM (2: Zoned Namespaces).
    CommandSet(u8),
    /// The namespace says that its blocks have so many bytes of metadata. I/O ignores them.
    Metadata(u16),
}

type ChangeIdentify = dyn Fn(Cns, u32, &mut IdentifyData) + Send + Sync;

/// Changes what Identify answers, before it is sent: the structure asked for, the NSID asked with, and
/// the answer. For controllers that lie, and for those that change.
#[derive(Clone)]
pub struct IdentifyHook(Arc<ChangeIdentify>);

impl IdentifyHook {
    /// A hook that calls `change`, on the controller's own thread.
    #[must_use]
    pub fn new(change: impl Fn(Cns, u32, &mut IdentifyData) + Send + Sync + 'static) -> Self {
        Self(Arc::new(change))
    }

    pub(crate) fn call(&self, cns: Cns, nsid: u32, data: &mut IdentifyData) {
        (self.0)(cns, nsid, data);
    }
}

impl fmt::Debug for IdentifyHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentifyHook")
    }
}

/// A volatile write cache that loses what was not flushed when power is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteCacheConfig {
    /// Bytes held at most; beyond that, blocks move to the medium, random ones first.
    pub capacity_bytes: u64,
    /// Seed of the cache's own write-back.
    pub seed: u64,
}

impl Default for WriteCacheConfig {
    fn default() -> Self {
        Self { capacity_bytes: 64 << 20, seed: 0 }
    }
}

/// A DMA address space, to be shared by controllers that reach the same memory.
#[derive(Debug, Clone)]
pub struct AddressSpace {
    /// What is mapped.
    pub table: Arc<IovaTable>,
    /// Hands out buffers that are mapped in the table.
    pub dma: Arc<DmaSpace>,
}

impl AddressSpace {
    /// An empty address space.
    ///
    /// # Errors
    /// [`HwError`] from [`IovaTable::space`].
    pub fn new() -> Result<Self, HwError> {
        let table = IovaTable::new();
        let dma = table.space()?;
        Ok(Self { table, dma })
    }
}

/// Configuration of an [`Emulator`](crate::Emulator).
#[derive(Clone)]
pub struct Config {
    /// What the namespaces are made of.
    pub medium: Arc<Medium>,
    /// The namespaces, NSID 1 first. Empty: one of 4096-byte blocks over the whole medium.
    pub namespaces: Vec<Namespace>,
    /// What is odd about namespaces, by NSID.
    pub oddities: Vec<(u32, Oddity)>,
    /// Changes what Identify answers.
    pub identify: Option<IdentifyHook>,
    /// CAP.CSS: bit 0 the NVM command set, bit 6 I/O command sets. Not 0.
    pub command_sets: u8,
    /// Largest transfer of one command in bytes, a power of two of 8192 or more; 0 is no limit.
    pub mdts: u64,
    /// Most I/O queue pairs granted, 1..=1024.
    pub max_queue_pairs: u16,
    /// Most entries of an I/O queue, 2..=65536.
    pub mqes: u32,
    /// A volatile write cache; `None` for a medium that is durable at once.
    pub write_cache: Option<WriteCacheConfig>,
    /// Bytes that reach the medium, or are lost, as one: a power of two from 512 to 65536.
    pub atomic_bytes: u32,
    /// Whether Compare, Write Zeroes and Dataset Management are supported.
    pub optional_commands: bool,
    /// Whether SGLs are supported.
    pub sgl: bool,
    /// Size of the controller memory buffer in bytes, a multiple of 4096; 0 for none.
    pub cmb_bytes: u64,
    /// Whether shadow doorbells are supported (Doorbell Buffer Config).
    pub shadow_doorbells: bool,
    /// Distance of neighbouring doorbells in bytes: a power of two, 4 or more.
    pub doorbell_stride: usize,
    /// Interrupt vectors, 1..=2048.
    pub interrupt_vectors: u16,
    /// Threads that carry out I/O commands; 0: the controller's own thread does. `None`: 0 for a
    /// medium in memory, 8 for a file.
    pub workers: Option<usize>,
    /// How long the controller's thread looks for work before it sleeps. Doorbells that are rung by
    /// plain stores ([`Emulator::doorbells`](crate::Emulator::doorbells)) wake nobody: while it sleeps
    /// they are noticed within a millisecond. A long time costs a processor.
    pub spin: Duration,
    /// Threads or steps.
    pub run: Run,
    /// Time from CC.EN = 1 to CSTS.RDY = 1.
    pub ready_delay: Duration,
    /// Serial number, at most 20 ASCII characters. Empty: made from the medium, so that no two
    /// controllers have the same.
    pub serial: String,
    /// Model number, at most 40 ASCII characters.
    pub model: String,
    /// What [`Function::name`](gcos_hw::Function::name) returns. Empty: made from the medium.
    pub name: String,
    /// An address space to share; `None` makes a new one.
    pub space: Option<AddressSpace>,
    /// Faults from the start.
    pub faults: FaultPlan,
    /// Told about every change of the medium.
    pub observer: Option<Observer>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("medium", &self.medium)
            .field("namespaces", &self.namespaces)
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// A controller of good defaults in front of `medium`.
    #[must_use]
    pub fn new(medium: Arc<Medium>) -> Self {
        Self {
            medium,
            namespaces: Vec::new(),
            oddities: Vec::new(),
            identify: None,
            command_sets: 1,
            mdts: 1 << 20,
            max_queue_pairs: 64,
            mqes: 1024,
            write_cache: None,
            atomic_bytes: 4096,
            optional_commands: true,
            sgl: true,
            cmb_bytes: 0,
            shadow_doorbells: false,
            doorbell_stride: 4,
            interrupt_vectors: 65,
            workers: None,
            spin: Duration::from_micros(30),
            run: Run::Threads,
            ready_delay: Duration::ZERO,
            serial: String::new(),
            model: "GCOS software NVMe controller".to_owned(),
            name: String::new(),
            space: None,
            faults: FaultPlan::default(),
            observer: None,
        }
    }

    /// The namespaces, with the default filled in.
    pub(crate) fn namespaces(&self) -> Vec<Namespace> {
        if self.namespaces.is_empty() {
            return vec![Namespace { lba_bytes: 4096, bytes: self.medium.len() }];
        }
        self.namespaces.clone()
    }

    /// The serial number, with the default filled in.
    pub(crate) fn serial(&self) -> String {
        if self.serial.is_empty() {
            return format!("{:016X}", self.medium.identity());
        }
        self.serial.clone()
    }

    pub(crate) fn worker_count(&self) -> usize {
        match self.run {
            Run::Stepped { .. } => 0,
            Run::Threads => self.workers.unwrap_or(if self.medium.is_file() { 8 } else { 0 }),
        }
    }

    pub(crate) fn check(&self) -> Result<(), EmulatorError> {
        let bad = |field, expected, got| Err(EmulatorError::Config { field, expected, got });
        if self.mdts != 0 && (!self.mdts.is_power_of_two() || self.mdts < 8192) {
            return bad("mdts", "0 or a power of two of 8192 or more", self.mdts);
        }
        if !(1..=1024).contains(&self.max_queue_pairs) {
            return bad("max_queue_pairs", "1 to 1024", self.max_queue_pairs.into());
        }
        if !(2..=65_536).contains(&self.mqes) {
            return bad("mqes", "2 to 65536", self.mqes.into());
        }
        if !self.atomic_bytes.is_power_of_two() || !(512..=65_536).contains(&self.atomic_bytes) {
            return bad("atomic_bytes", "a power of two, 512 to 65536", self.atomic_bytes.into());
        }
        if !self.cmb_bytes.is_multiple_of(4096) {
            return bad("cmb_bytes", "a multiple of 4096", self.cmb_bytes);
        }
        let stride = self.doorbell_stride;
        if !stride.is_power_of_two() || !(4..=4096).contains(&stride) {
            return bad("doorbell_stride", "a power of two, 4 to 4096", stride as u64);
        }
        if !(1..=2048).contains(&self.interrupt_vectors) {
            return bad("interrupt_vectors", "1 to 2048", self.interrupt_vectors.into());
        }
        if self.workers.is_some_and(|workers| workers > 256) {
            return bad("workers", "at most 256", self.workers.unwrap_or(0) as u64);
        }
        self.check_namespaces()
    }

    fn check_namespaces(&self) -> Result<(), EmulatorError> {
        let mut need = 0u64;
        for namespace in self.namespaces() {
            if ![512, 4096].contains(&namespace.lba_bytes) {
                return Err(EmulatorError::Config {
                    field: "namespaces[].lba_bytes",
                    expected: "512 or 4096",
                    got: namespace.lba_bytes.into(),
                });
            }
            if namespace.bytes == 0 || !namespace.bytes.is_multiple_of(4096) {
                return Err(EmulatorError::Config {
                    field: "namespaces[].bytes",
                    expected: "a non-zero multiple of 4096",
                    got: namespace.bytes,
                });
            }
            need = need.saturating_add(namespace.bytes);
        }
        let have = self.medium.len();
        if need > have { Err(EmulatorError::Capacity { need, have }) } else { Ok(()) }
    }
}
