//! What the command creates is for its owner alone, whatever the umask says: a pool holds what people
//! have written.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use support::{GCOS, Place, Ran};

const MIB: u64 = 1 << 20;

/// As [`Place::run`], with a umask that takes nothing away.
fn run(place: &Place, args: &[&str]) -> Ran {
    let mut command = Command::new("sh");
    command.args(["-c", r#"umask 0; exec "$0" "$@""#, GCOS]).args(args);
    command.current_dir(place.folder.path()).env_remove("GCOS_CONFIG").env_remove("GCOS_LOG");
    Ran::new(command.output().unwrap())
}

fn mode(place: &Place, name: &str) -> u32 {
    place.path(name).metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn images_and_objects_in_files_are_for_their_owner_alone() {
    let place = Place::new(64 * MIB);
    run(&place, &["zone-format"]).expect(0);
    assert_eq!(mode(&place, "pool.img"), 0o600, "the image");
    std::fs::write(place.path("in"), b"somebody's words").unwrap();
    run(&place, &["put", "key", "in"]).expect(0);
    run(&place, &["get", "key", "--output", "out"]).expect(0);
    assert_eq!(std::fs::read(place.path("out")).unwrap(), b"somebody's words");
    assert_eq!(mode(&place, "out"), 0o600, "what a get wrote");
    assert_eq!(mode(&place, "pool.img"), 0o600, "the image after use");
}

#[test]
fn an_image_that_was_opened_to_others_on_purpose_stays_so() {
    let place = Place::new(64 * MIB);
    run(&place, &["zone-format"]).expect(0);
    let shared = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(place.path("pool.img"), shared).unwrap();
    run(&place, &["ls"]).expect(0);
    assert_eq!(mode(&place, "pool.img"), 0o640);
}
