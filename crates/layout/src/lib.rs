//! Every byte that a device, a kernel or the disk sees: NVMe structures and the zoned on-media format.
