//! A guest to type in: one drive, one more behind a root port, and a peer device. `guest SCENARIO` and
//! `gcos` are there; `exit` powers off.

use std::error::Error;

use gcos_qemu_tests::guest::{Boot, Drive};

const MIB: u64 = 1 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let pluggable = Drive::file(256 * MIB).behind_root_port();
    let boot = Boot::of("shell").drive(Drive::file(256 * MIB)).drive(pluggable).peer();
    Ok(boot.interactive()?)
}
