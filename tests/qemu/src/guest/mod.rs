//! A Linux guest whose NVMe controllers are behind an IOMMU: boots one scenario of the program
//! `guest` (`src/bin/guest`), follows its report and judges it.

mod boot;
mod cpio;
mod drive;
mod initrd;
mod report;

pub use boot::{Boot, Guest, PEER_BYTES};
pub use cpio::Cpio;
pub use drive::Drive;
pub use report::{Case, Report, Verdict, kernel_complaints};
