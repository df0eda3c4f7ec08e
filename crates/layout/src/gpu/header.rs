use std::fmt::Write;

use super::{CONSTANTS, RECORDS};

/// Hash over names, types, offsets and values of all that is shared: FNV-1a of 64 bits.
#[must_use]
pub fn layout_hash() -> u64 {
    let mut text = String::new();
    for record in RECORDS {
        let _ = write!(text, "{} {};", record.name, record.bytes);
        for field in record.fields {
            let _ = write!(text, "{} {} {};", field.name, field.c_type, field.offset);
        }
    }
    for constant in CONSTANTS {
        let _ = write!(text, "{} {};", constant.name, constant.value);
    }
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// The C++ header that defines the same records and numbers for the kernels.
#[must_use]
pub fn header() -> String {
    let mut out = String::from(
        "// Records that the host and the kernels share.\n\
         // Written by `cargo run -p gcos-layout --example kernel_header`: change crates/layout/src/gpu.\n\
         #pragma once\n\n\
         #include <cstddef>\n\
         #include <cstdint>\n\n\
         namespace gcos {\n\n",
    );
    let _ = writeln!(out, "// Compared with the host's when the kernels are loaded.");
    let _ = writeln!(out, "constexpr std::uint64_t kLayoutHash = {:#018x}ull;\n", layout_hash());
    for constant in CONSTANTS {
        let _ = writeln!(out, "// {}", constant.doc);
        let _ =
            writeln!(out, "constexpr std::uint32_t {} = {:#x}u;", constant.name, constant.value);
    }
    for record in RECORDS {
        out.push('\n');
        for line in record.doc {
            let _ = writeln!(out, "//{line}");
        }
        let _ = writeln!(out, "struct {} {{", record.name);
        for field in record.fields {
            for line in field.doc {
                let _ = writeln!(out, "  //{line}");
            }
            let _ = writeln!(out, "  {} {};", field.c_type, field.name);
        }
        let _ = writeln!(out, "}};");
        for field in record.fields {
            let _ = writeln!(
                out,
                "static_assert(offsetof({0}, {1}) == {2}, \"the host puts {0}.{1} there\");",
                record.name, field.name, field.offset
            );
        }
        let _ = writeln!(
            out,
            "static_assert(sizeof({0}) == {1}, \"the host takes {0} to be so long\");",
            record.name, record.bytes
        );
    }
    out.push_str("\n}  // namespace gcos\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Command, QueuePair};

    #[test]
    fn the_header_in_the_tree_is_the_one_that_the_records_give() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernels/gcos/abi.h");
        let found = std::fs::read_to_string(path).unwrap();
        assert!(
            found == header(),
            "kernels/gcos/abi.h is out of date: cargo run -p gcos-layout --example kernel_header"
        );
    }

    #[test]
    fn bytes_lie_where_the_header_says() {
        let command = Command { lba: 0x0102_0304_0506_0708, opcode: 2, ..Command::default() };
        let bytes = command.to_bytes();
        assert_eq!(bytes.len(), Command::BYTES);
        assert_eq!(bytes.first_chunk(), Some(&0x0102_0304_0506_0708_u64.to_le_bytes()));
        let opcode = Command::RECORD.fields.iter().find(|field| field.name == "opcode").unwrap();
        assert_eq!(bytes[opcode.offset..][..4], 2_u32.to_le_bytes());
    }

    #[test]
    fn every_field_is_naturally_aligned_and_every_record_is_unpadded() {
        for record in RECORDS {
            let mut at = 0;
            for field in record.fields {
                assert_eq!(field.offset, at, "{}.{}", record.name, field.name);
                at += if field.c_type.contains("64") { 8 } else { 4 };
            }
            assert_eq!(at, record.bytes, "{}", record.name);
        }
        assert!(QueuePair::BYTES.is_multiple_of(8));
    }
}
