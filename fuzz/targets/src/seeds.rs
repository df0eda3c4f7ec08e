//! What fuzzing starts from: structures of a pool that the store wrote, the example configuration, and
//! inputs that are known to go far.

use crate::image::Base;
use crate::media::DRIVE;

/// Largest seed in bytes.
const MOST_BYTES: usize = 64 << 10;

/// Seeds of the target, each with a name; empty for a target that there is not.
#[must_use]
pub fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let seeds: Vec<Vec<u8>> = match target {
        "superblock" => structures("superblock", |bytes| bytes),
        "checkpoint" => {
            let with = |kind| move |bytes: Vec<u8>| [vec![kind], bytes].concat();
            let mut seeds = structures("checkpoint header", with(0));
            seeds.extend(structures("checkpoint page", with(1)));
            seeds
        }
        "journal" => structures("journal frame", |mut bytes| {
            bytes[40..48].copy_from_slice(&DRIVE[..8]);
            bytes
        }),
        "records" => structures("journal frame", |bytes| bytes[48..].to_vec()),
        "object_header" => structures("object header", |bytes| bytes),
        "config" => vec![
            include_bytes!("../../../gcos.json.example").to_vec(),
            br#"{"disk": {"number": 1, "paths": ["emulated:ram:64MiB"]}}"#.to_vec(),
            br#"{"disk": {"paths": ["/dev/libnvm0", "0000:c1:00.0", "a.img"], "number": 3}, "pool": {"meta_percent": 26}}"#
                .to_vec(),
        ],
        "sizes" => ["8MiB", "0", "18446744073709551615", "16777216 TiB", "90s", "7d", "0000:c1:00.0"]
            .map(|text| text.as_bytes().to_vec())
            .to_vec(),
        "names" => vec![NAMES.as_bytes().to_vec(), br#"{"version":1,"names":{}}"#.to_vec()],
        "image" => images(),
        "controller" => controllers(),
        "host" => hosts(),
        "capi" => calls(),
        _ => Vec::new(),
    };
    let trimmed = seeds.into_iter().map(trim).enumerate();
    trimmed.map(|(i, bytes)| (format!("seed-{i:02}"), bytes)).collect()
}

const NAMES: &str = r#"{
  "version": 1,
  "names": {
    "/dev/libnvm0": {
      "address": "0000:c1:00.0", "vendor": 5197, "device": 43018, "subsystem_vendor": 5197,
      "subsystem_device": 43018, "pci_serial": "00000000deadbeef", "serial": "S1", "model": "M"
    },
    "/dev/libnvm1": {
      "address": "10000:c2:1f.7", "vendor": 1, "device": 2, "subsystem_vendor": 3,
      "subsystem_device": 4
    }
  }
}
"#;

fn structures(kind: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) -> Vec<Vec<u8>> {
    let all = Base::get().structures();
    all.into_iter().filter(|(name, _)| *name == kind).map(|(_, bytes)| change(bytes)).collect()
}

/// Without the zeros at the end, which targets put back.
fn trim(mut bytes: Vec<u8>) -> Vec<u8> {
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(used.min(MOST_BYTES));
    bytes
}

/// One of each kind of change, with and without checksums put right.
fn images() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0], vec![2, 1], vec![4, 0]];
    for kind in 0..10u8 {
        for drive in [0, 0x80] {
            let how = [kind & 3 | (24 * (drive >> 7)), u8::from(kind != 5)];
            let change = [kind | drive, 0xff, 0, 40, 0, 3, 0xee, 1, 2, 3, 0, 0, 9, 0, 1, 0, 7, 7];
            seeds.push([&how[..], &change[..]].concat());
        }
    }
    seeds
}

/// A good controller, and ones that misbehave once, later and later.
fn controllers() -> Vec<Vec<u8>> {
    let good = vec![0; 8];
    let mut seeds = vec![good.clone()];
    for misbehaviour in [200u8, 214, 222, 230, 238, 241, 245, 248, 250, 255] {
        for after in [1, 7, 16, 30, 50, 80] {
            let mut seed = good.clone();
            seed.extend(vec![0; after]);
            seed.extend([misbehaviour, 1, 1, 1, 1]);
            seeds.push(seed);
        }
    }
    seeds
}

/// Every command with pointers of every kind, and some of the rest.
fn hosts() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for shape in [0u8, 1, 5, 24] {
        let mut seed = vec![shape, 0];
        for opcode in 0..6u8 {
            for pointer in [0, 200, 255] {
                // Queue, opcode, identifier, namespace, two addresses, kind, six dwords, work.
                seed.extend([0, 0, opcode, 0, 0, 0, 1, 0, 2, pointer, 0, 0, 0, 130, 0, 0]);
                seed.extend([130, 40]);
            }
        }
        for opcode in 0..12u8 {
            seed.extend([80, opcode, 0, 0, 0, 1, 0, 2, 0, 129, 0, 0, 0, 0, 0, 130, 40]);
        }
        seed.extend([170, 1, 4, 0, 3, 0, 4, 0, 5, 0, 6, 235, 239, 1, 241, 235, 244]);
        seeds.push(seed);
    }
    seeds
}

/// Each call once, then as programs mix them: with good arguments, and with handles, pointers and lengths of each wrong
/// kind.
fn calls() -> Vec<Vec<u8>> {
    // Call, handle, key, options, pointer, length, whether options are given.
    let put = |store, key, pointer| vec![0, store, key, 0, pointer, 0x40, 0x9c, 0];
    // Call, handle, key, exact, pointer, length, offset.
    let get = |store, key, pointer| vec![4, store, key, 201, pointer, 0x40, 0x9c];
    let exact = |key| vec![4, 0, key, 1, 0, 0, 0];
    let batch = |call: u8| [&[call, 0, 0, 3, 1, 2, 3][..], &[0, 9, 0, 1, 8, 0, 2, 7, 0]].concat();
    let others = [
        vec![9, 0, 1, 40],
        vec![10, 0, 1, 0],
        vec![11, 0, 1, 16, 0],
        vec![11, 0, 0, 0, 0x41],
        vec![11, 0, 0, 0, 3],
        vec![12, 0, 0, 32, 255, 0],
        vec![13, 0, 1, 0, 9, 0, 0],
        vec![14, 0, 3],
        vec![15],
        vec![15, 1],
    ];
    let mut seeds = vec![
        [put(0, 1, 0), exact(1), put(0, 2, 5), exact(2), batch(7), batch(8), get(0, 1, 0)].concat(),
        others.concat(),
        [put(0, 1, 0), others.concat(), exact(1), put(1, 1, 9), exact(1), others.concat()].concat(),
    ];
    for store in [250, 252, 254, 255] {
        seeds.push([vec![15, 15, 0], put(store, 1, 0), get(store, 1, 0)].concat());
    }
    for pointer in [248, 249, 250] {
        seeds.push([put(0, 1, 0), put(0, 1, pointer), get(0, 1, pointer), exact(1)].concat());
    }
    seeds
}
