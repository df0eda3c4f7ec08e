//! Writes `kernels/gcos/abi.h`.

use std::{fs, io};

fn main() -> io::Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernels/gcos/abi.h");
    fs::write(path, gcos_layout::gpu::header())
}
