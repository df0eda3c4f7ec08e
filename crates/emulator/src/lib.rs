//! An NVMe controller in software, at register level, with a fault plan.
