//! A Linux guest whose NVMe controllers are behind an IOMMU: boots one scenario of the program
//! `guest` (`src/bin/guest`), follows its report and judges it.

mod boot;
mod cpio;
mod initrd;
mod monitor;
mod report;

pub use boot::{Boot, Drive, Guest, PEER_BYTES};
pub use cpio::Cpio;
pub use monitor::Monitor;
pub use report::{Case, Report, Verdict, kernel_complaints};
