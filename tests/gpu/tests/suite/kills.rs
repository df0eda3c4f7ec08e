//! Processes that die while their GPU drives queues.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_cuda::Gpu;
use gcos_emulator::{Action, Medium, Rule};
use gcos_engine::device::{DeviceEngine, DeviceTransfer};

use super::rig::{Choice, LONG, MEDIUM, Rig, all_good, content, random};

/// Names the image for the process that is to be killed.
const IMAGE: &str = "GCOS_TEST_KILL_IMAGE";
const NAME: &str = "kills::a_process_that_is_killed_leaves_gpu_and_drive_fit_for_use";
const LEN: usize = 1 << 20;

fn rig(gpu: &Arc<Gpu>, image: &Path) -> Rig {
    let medium = Medium::file(image, false).unwrap();
    Rig::new(gpu, Choice { medium: Some(medium), ..Choice::default() })
}

/// Writes, and then has commands in flight until it is killed.
fn be_killed(gpu: &Arc<Gpu>, image: &Path) -> ! {
    let rig = rig(gpu, image);
    let source = rig.random(LEN, 1).0;
    all_good(&rig.run(vec![DeviceTransfer::write(0, source.clone(), true)], LONG));
    rig.emulator.faults().add(Rule::io(Action::Hold).opcode(2).times(1));
    let (stuck, busy) = (rig.stream(), rig.stream());
    let read = vec![DeviceTransfer::read(0, rig.alloc(4096))];
    let _held = rig.engine.start(&stuck, read, LONG).unwrap();
    let end = Instant::now() + LONG;
    let mut told = false;
    while Instant::now() < end {
        let write = vec![DeviceTransfer::write(8 << 20, source.clone(), false)];
        let ticket = rig.engine.start(&busy, write, LONG).unwrap();
        if !told {
            told = true;
            println!("\nin flight");
        }
        all_good(&ticket.wait());
    }
    panic!("nobody has killed it");
}

pub(crate) fn a_process_that_is_killed_leaves_gpu_and_drive_fit_for_use(gpu: &Arc<Gpu>) {
    if let Some(image) = std::env::var_os(IMAGE) {
        be_killed(gpu, Path::new(&image));
    }
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let file = OpenOptions::new().write(true).create_new(true).open(&image).unwrap();
    file.set_len(MEDIUM).unwrap();
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([NAME, "--exact", "--nocapture"])
            .env(IMAGE, &image)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line == "in flight"));
        std::thread::sleep(Duration::from_millis(20 * round));
        // SIGKILL: nothing of it is told.
        child.kill().unwrap();
        assert!(child.wait().unwrap().code().is_none() && ready, "it ended by itself");
        // The image's lock, the GPU and its memory are free again.
        let rig = rig(gpu, &image);
        let target = rig.alloc(LEN);
        all_good(&rig.run(vec![DeviceTransfer::read(0, target.clone())], LONG));
        assert!(content(&target) == random(LEN, 1), "what was acknowledged is there");
        let (source, bytes) = rig.random(LEN, 2 + round);
        all_good(&rig.run(vec![DeviceTransfer::write(16 << 20, source, false)], LONG));
        assert!(rig.medium(16 << 20, LEN) == bytes);
    }
}
