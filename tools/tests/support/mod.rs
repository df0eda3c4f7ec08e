//! A folder with a configuration, and the built command in it.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

pub(crate) const GCOS: &str = env!("CARGO_BIN_EXE_gcos");

/// What a run left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn new(output: Output) -> Self {
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { code: output.status.code().unwrap_or(-1), out: output.stdout, err }
    }

    /// Checks the exit code.
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.text(), self.err);
        self
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Standard output, which must be one JSON document.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
}

impl Place {
    /// A configuration of one image of `bytes` bytes, `pool.img`, that is not there yet.
    pub(crate) fn new(bytes: u64) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        place.configure(&["emulated:pool.img"], bytes);
        place
    }

    pub(crate) fn configure(&self, paths: &[&str], bytes: u64) {
        let config = serde_json::json!({
            "disk": { "number": paths.len(), "paths": paths, "capacity_bytes": bytes },
            "zone_chunk_size_kb": { "sb": 64, "meta": 64, "data": 1024 },
        });
        std::fs::write(self.path("gcos.json"), config.to_string()).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(GCOS);
        command.args(args).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env_remove("GCOS_CONFIG").env_remove("GCOS_LOG");
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        Ran::new(self.command(args).output().unwrap())
    }

    /// A formatted pool.
    pub(crate) fn formatted(bytes: u64) -> Self {
        let place = Self::new(bytes);
        place.run(&["zone-format"]).expect(0);
        place
    }
}
