//! Rigs that put QEMU's NVMe controller under the driver: without a guest (`qtest`), and in a guest
//! whose kernel has it behind an IOMMU (`guest`).

pub mod guest;
pub mod machine;
pub mod qmp;
pub mod qtest;
pub mod tools;
