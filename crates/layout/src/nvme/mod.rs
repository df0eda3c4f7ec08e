//! NVMe structures, as the controller and the host exchange them.
//!
//! Names are those of the specifications; "Base" means NVM Express Base Specification 2.0 and "NVM"
//! means NVM Express NVM Command Set Specification 1.0. All structures are little endian.
//! A number that the specification stores 0's based (0 means one) is converted by the codecs here;
//! the values that they take and give are plain counts.

#[macro_use]
mod bits;
mod admin;
mod command_error;
mod completion;
mod controller;
mod data_pointer;
mod descriptors;
mod event;
mod feature;
mod io;
mod log;
mod namespace;
mod range;
mod registers;
mod sgl;
mod smart;
mod status;
mod submission;

pub use admin::{AdminCommand, AdminOpcode, Cns, LogPage};
pub use command_error::CommandError;
pub use completion::Cqe;
pub use controller::{IdentifyController, Oncs, SglSupport};
pub use data_pointer::DataPointer;
pub use descriptors::{
    NamespaceDescriptor, encode_active_namespaces, encode_namespace_descriptors,
    parse_active_namespaces, parse_namespace_descriptors,
};
pub use event::{AsyncEvent, AsyncEventType};
pub use feature::{AsyncEventConfig, Feature, FeatureId, QueueCounts};
pub use io::{IoCommand, IoOpcode};
pub use log::{ErrorLogEntry, FirmwareSlotLog};
pub use namespace::{IdentifyNamespace, LbaFormat};
pub use range::DsmRange;
pub use registers::{
    Aqa, Cap, Cc, Cmbloc, Cmbmsc, Cmbsz, Crto, Csts, DOORBELLS, Register, ShutdownNotification,
    ShutdownStatus, Vs, cq_head_doorbell, sq_tail_doorbell,
};
pub use sgl::{SglDescriptor, SglKind};
pub use smart::{CriticalWarning, SmartLog};
pub use status::Status;
pub use submission::Sqe;

/// Size of every Identify data structure in bytes (Base, section 5.17).
pub const IDENTIFY_BYTES: usize = 4096;

/// An Identify data structure as transferred.
pub type IdentifyData = [u8; IDENTIFY_BYTES];

/// The NSID that means every namespace of the controller (Base, section 3.2.1.2).
pub const NSID_ALL: u32 = 0xFFFF_FFFF;

/// Size of a submission queue entry in bytes (Base, section 4.1; CC.IOSQES = 6).
pub const SQE_BYTES: usize = 64;

/// Size of a completion queue entry in bytes (Base, section 4.2; CC.IOCQES = 4).
pub const CQE_BYTES: usize = 16;

/// Logical blocks that one read, write or similar command can name (NVM, NLB field: 16 bits, 0's
/// based).
pub const MAX_BLOCKS: u32 = 65_536;

/// Ranges that one Dataset Management command can carry (NVM, NR field: 8 bits, 0's based).
pub const MAX_DSM_RANGES: usize = 256;
