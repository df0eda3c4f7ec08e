//! A kernel that really does not answer: a file on a file system that is frozen. Neither can it be told
//! to let go.

use std::fs;
use std::time::{Duration, Instant};

use gcos_engine::{Engine, IoErrorKind, Request};
use gcos_hw::HwError;
use gcos_hw::kernel::Direct;

use crate::rig::{
    BOTH, SECOND, Undo, alloc, by, bytes, fill, folder, image, loop_device, open, run, target,
};

#[test]
fn a_write_to_a_frozen_file_system_ends_at_its_deadline_and_lands_before_any_later_one() {
    let folder = folder();
    let Some((device, _detach)) = loop_device(&image(folder.path(), 64 << 20)) else { return };
    let at = folder.path().join("mounted");
    fs::create_dir(&at).unwrap();
    let (device, at) = (device.to_str().unwrap(), at.to_str().unwrap().to_owned());
    let mounted = run("mkfs.ext4", &["-q", device]).and_then(|_| run("mount", &[device, &at]));
    if mounted.is_none() {
        eprintln!("nothing can be mounted here: nothing was tested");
        return;
    }
    let _unmount = Undo("umount", vec!["--lazy".to_owned(), at.clone()]);
    for path in BOTH {
        let target = target(&image(at.as_ref(), 8 << 20), Direct::Prefer);
        let engine = open(&target, by(path));
        let mut page = engine.dma().alloc(4096).unwrap();
        fill(&page.as_dma(), 1);
        engine.run(Request::write(0, page.as_dma(), true, 20 * SECOND)).unwrap();
        if run("fsfreeze", &["--freeze", &at]).is_none() {
            eprintln!("nothing can be frozen here: nothing was tested");
            return;
        }
        let thaw = Undo("fsfreeze", vec!["--unfreeze".to_owned(), at.clone()]);
        let late = fill(&page.as_dma(), 2);
        let begun = Instant::now();
        let deadline = Duration::from_millis(200);
        let error = engine.run(Request::write(0, page.as_dma(), false, deadline)).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::Unfinished, "{error}");
        assert!(begun.elapsed() < 10 * SECOND, "{:?}", begun.elapsed());
        assert!(matches!(page.bytes_mut(), Err(HwError::Busy { .. })), "the kernel holds it");
        let other = alloc(&engine, 4096);
        let data = fill(&other.as_dma(), 3);
        let write = || engine.run(Request::write(0, other.as_dma(), true, 20 * SECOND));
        assert_eq!(write().unwrap_err().kind, IoErrorKind::Device);
        drop(thaw);
        let end = Instant::now() + 20 * SECOND;
        while write().is_err() {
            assert!(Instant::now() < end, "the kernel never ended it");
            std::thread::sleep(Duration::from_millis(5));
        }
        page.bytes_mut().unwrap();
        let back = alloc(&engine, 4096);
        engine.run(Request::read(0, back.as_dma(), SECOND)).unwrap();
        assert!(bytes(&back.as_dma()) == data && data != late);
        engine.shutdown(5 * SECOND).unwrap();
    }
}
