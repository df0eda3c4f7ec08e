//! `gcos import-lmcache-gds`: files as LMCache's GDS backend leaves them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod support;

use std::path::{Path, PathBuf};

use support::Place;

const MIB: u64 = 1 << 20;
const SHAPE: [u64; 4] = [2, 4, 16, 32];

fn payload(seed: u64) -> Vec<u8> {
    let len = SHAPE.iter().product::<u64>() * 2;
    (0..len).map(|i| (i * 31 % 251) as u8 ^ seed as u8).collect()
}

fn header(shape: &[u64], bytes: u64, version: &str) -> Vec<u8> {
    let document = serde_json::json!({ "kvcache": {
        "dtype": "BF16", "shape": shape, "data_offsets": [0, bytes], "fmt": 1,
        "__metadata__": { "lmcache_version": version },
    }});
    let mut header = (4096u64 - 8).to_le_bytes().to_vec();
    header.extend(document.to_string().into_bytes());
    header.resize(4096, b' ');
    header
}

/// Writes an object; returns its data file.
fn object(root: &Path, hash: u64) -> PathBuf {
    let name = format!("org%2Fmodel%401%400%40{hash:x}%40bfloat16.kvcache.safetensors");
    let decimal = hash.to_string();
    let folder = root.join(&decimal[..2]).join(&decimal[2..4]);
    std::fs::create_dir_all(&folder).unwrap();
    let bytes = payload(hash);
    let header = header(&SHAPE, bytes.len() as u64, "1");
    let data = folder.join(name);
    std::fs::write(&data, [&header[..], &bytes].concat()).unwrap();
    std::fs::write(metadata(&data), header).unwrap();
    data
}

fn metadata(data: &Path) -> PathBuf {
    let name = data.file_name().unwrap().to_str().unwrap();
    data.with_file_name(format!("{name}.metadata"))
}

/// A formatted pool and a folder with `count` objects.
fn place(count: u64) -> (Place, PathBuf) {
    let place = Place::new(64 * MIB);
    place.run(&["zone-format"]).expect(0);
    let root = place.path("gds");
    for hash in 0..count {
        object(&root, 1_000_000 + hash);
    }
    (place, root)
}

fn import(place: &Place, code: i32, more: &[&str]) -> serde_json::Value {
    let arguments = [&["--json", "import-lmcache-gds", "gds"], more].concat();
    place.run(&arguments).expect(code).json()
}

/// What the connector asks for.
fn key(hash: u64) -> String {
    // The tag is that of KV_2LTD;bfloat16:2x4x*x32.
    format!("lm1:11d10a196779c71673590c5c11489d9b|org/model@1@0@{hash:x}@bfloat16")
}

#[test]
fn a_folder_without_files_of_the_gds_backend_is_a_mistake() {
    let (place, root) = place(0);
    std::fs::create_dir_all(root.join("00/01")).unwrap();
    std::fs::write(root.join("00/01/notes.txt"), "other").unwrap();
    let failed = place.run(&["--json", "import-lmcache-gds", "gds"]).expect(2).json();
    assert_eq!(failed["error"]["kind"], "usage");
    let message = failed["error"]["message"].as_str().unwrap();
    assert!(message.contains("kvcache.safetensors") && message.contains("gds_path"), "{message}");
}

#[test]
fn files_of_the_gds_backend_become_objects_under_the_keys_of_the_connector() {
    let (place, _) = place(20);
    let dry = import(&place, 0, &["--dry-run"]);
    assert_eq!((&dry["imported"], &dry["dry_run"]), (&20.into(), &true.into()));
    place.run(&["get", &key(1_000_000)]).expect(1);
    let ran = import(&place, 0, &[]);
    assert_eq!(
        (&ran["found"], &ran["imported"], &ran["there_already"]),
        (&20.into(), &20.into(), &0.into())
    );
    for hash in 1_000_000..1_000_020 {
        assert_eq!(place.run(&["get", &key(hash)]).expect(0).out, payload(hash));
    }
}

#[test]
fn files_of_a_weka_file_system_are_imported_too() {
    let (place, root) = place(1);
    let data = object(&root, 2_000_000);
    let weka = data.with_file_name("org%2Fmodel%401%400%401e8480%40bfloat16.weka1");
    std::fs::rename(metadata(&data), metadata(&weka)).unwrap();
    std::fs::rename(&data, &weka).unwrap();
    let ran = import(&place, 0, &[]);
    assert_eq!((&ran["found"], &ran["imported"]), (&2.into(), &2.into()));
    assert_eq!(place.run(&["get", &key(2_000_000)]).expect(0).out, payload(2_000_000));
    std::fs::remove_file(metadata(&weka)).unwrap();
    let ran = import(&place, 1, &[]);
    assert_eq!((&ran["found"], &ran["incomplete"]), (&1.into(), &1.into()));
}

#[test]
fn an_import_that_was_cut_short_is_run_again() {
    let (place, root) = place(5);
    import(&place, 0, &[]);
    object(&root, 2_000_000);
    let again = import(&place, 0, &[]);
    assert_eq!((&again["imported"], &again["there_already"]), (&1.into(), &5.into()));
    assert_eq!(place.run(&["get", &key(2_000_000)]).expect(0).out, payload(2_000_000));
}

#[test]
fn what_cannot_be_parsed_is_refused_and_named_and_the_rest_is_imported() {
    let (place, root) = place(1);
    let short = object(&root, 3_000_000);
    let whole = std::fs::read(&short).unwrap();
    std::fs::write(&short, &whole[..whole.len() - 1]).unwrap();
    let unfinished = object(&root, 3_000_001);
    std::fs::remove_file(metadata(&unfinished)).unwrap();
    let differs = object(&root, 3_000_002);
    std::fs::write(metadata(&differs), header(&[2, 4, 8, 64], 8192, "1")).unwrap();
    let newer = object(&root, 3_000_003);
    let header = header(&SHAPE, payload(0).len() as u64, "2");
    std::fs::write(metadata(&newer), &header).unwrap();
    std::fs::write(&newer, [&header[..], &payload(0)].concat()).unwrap();
    let odd = object(&root, 3_000_004);
    std::fs::rename(metadata(&odd), odd.with_file_name("odd.kvcache.safetensors.metadata"))
        .unwrap();
    std::fs::rename(&odd, odd.with_file_name("odd.kvcache.safetensors")).unwrap();
    let ran = import(&place, 1, &[]);
    assert_eq!(
        (&ran["imported"], &ran["refused"], &ran["incomplete"]),
        (&1.into(), &4.into(), &1.into())
    );
    let problems = ran["problems"].to_string();
    for part in [
        "3_000_000",
        "has version",
        "says something else",
        "is no key",
        "no metadata file",
        "wants",
    ] {
        let part = if part == "3_000_000" { "2dc6c0".to_owned() } else { part.to_owned() };
        assert!(problems.contains(&part), "{part}: {problems}");
    }
    let ls = place.run(&["--json", "ls"]).expect(0).json();
    assert_eq!(ls["objects"].as_array().unwrap().len(), 1);
}

#[test]
fn a_folder_that_is_not_there_and_a_pool_without_room_are_said() {
    let (place, _) = place(1);
    let ran = place.run(&["import-lmcache-gds", "nowhere"]).expect(2);
    assert!(ran.err.contains("nowhere"), "{}", ran.err);
    let small = Place::new(MIB * 8);
    small.run(&["zone-format"]).expect(0);
    let root = small.path("gds");
    for hash in 0..1000 {
        object(&root, 1_000_000 + hash);
    }
    let ran = small.run(&["import-lmcache-gds", "gds"]).expect(2);
    assert!(ran.err.contains("no room"), "{}", ran.err);
}
