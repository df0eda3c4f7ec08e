//! The store on a file of its own: objects come and go between GPU memory and the file, and are compared.

use std::path::PathBuf;
use std::sync::Arc;

use gcos_cuda::Stream;
use gcos_engine::device::{Attached, CuFileUse, FileDeviceOptions, file_device};
use gcos_engine::{Engine, FileEngine, FileOptions};
use gcos_hw::kernel::{Direct, Target, TargetOptions, host_space};
use gcos_store::{FormatOptions, LayerSink, OpenOptions, PutOptions, Store, format};
use serde_json::{Value, json};

use crate::rig::{DEADLINE, MIB, Outcome, Rig, compare, pattern};

/// Bytes of the file.
const BYTES: u64 = 512 << 20;
/// Objects under way together, and the size of each: within a block, whole blocks, and neither.
const ROUNDS: [(usize, usize); 4] = [(8, 1000), (1, 64 << 10), (8, MIB), (8, 5 * MIB + 7)];

/// Puts, gets and gets in layers, with the file moved this way.
pub(crate) fn objects(rig: &Rig, way: CuFileUse) -> Outcome<Value> {
    let path = PathBuf::from(format!("{}.objects", rig.path.display()));
    let file = std::fs::File::create(&path)?;
    gcos_hw::allocate(&file, BYTES)?;
    drop(file);
    let moved = on_file(rig, way, &path);
    std::fs::remove_file(&path)?;
    moved
}

fn on_file(rig: &Rig, way: CuFileUse, path: &std::path::Path) -> Outcome<Value> {
    let options = TargetOptions { direct: Direct::Require, read_only: false };
    let target = Target::open(path, &options)?;
    let engine = FileEngine::open(target, host_space()?, FileOptions::default())?;
    let options = FileDeviceOptions {
        cufile: way,
        library: rig.played.as_ref().map(|played| played.path().to_owned()),
        ..FileDeviceOptions::default()
    };
    let device = file_device(&engine, &rig.memory, &options)?;
    let drive = Attached::new(engine as Arc<dyn Engine>);
    drive.attach(Arc::clone(&device));
    let drives = vec![drive as Arc<dyn Engine>];
    format(&drives, &FormatOptions::default())?;
    let store = Store::open(drives, OpenOptions { io_deadline: DEADLINE, ..Default::default() })?;
    let stream = Stream::new(&rig.gpu)?;
    let mut compared = 0;
    for (count, len) in ROUNDS {
        // The pattern is made of whole words.
        let content = |n: usize| {
            let mut bytes = pattern((n * len) as u64, len.next_multiple_of(8), 11);
            bytes.truncate(len);
            bytes
        };
        let keys: Vec<_> = (0..count).map(|n| format!("{len}-{n}").into_bytes()).collect();
        let mut buffers = Vec::new();
        for n in 0..count {
            let buffer = store.device_buffer(&rig.gpu, len)?;
            buffer.copy_in(0, &content(n))?;
            buffers.push(buffer);
        }
        let items = || keys.iter().zip(&buffers).map(|(key, buffer)| (&key[..], buffer.into()));
        for result in store.put_many_on(&stream, items(), &PutOptions::default()) {
            result?;
        }
        let mut check = |what: &str| -> Outcome<()> {
            let mut got = vec![0; len];
            for (n, buffer) in buffers.iter().enumerate() {
                buffer.copy_out(0, &mut got)?;
                compare(what, &got, &content(n))?;
                buffer.copy_in(0, &vec![0; len])?;
                compared += len;
            }
            Ok(())
        };
        // What a put leaves of its source, which is then wiped.
        check("put")?;
        for lookup in store.get_on(&stream, items())?.wait() {
            if !lookup?.is_hit() {
                return Err(format!("an object of {len} bytes is a miss").into());
            }
        }
        check("got")?;
        let names: Vec<_> = keys.iter().map(|key| &key[..]).collect();
        let part = |layer: LayerSink, n: usize| layer.part(n, 0, &buffers[n]);
        let layer = (0..names.len()).fold(LayerSink::default(), part);
        for layer in store.get_layers(&stream, &names, vec![layer], 2)? {
            if !layer.is_hit() {
                return Err(format!("in layers: {layer:?}").into());
            }
        }
        check("got in layers")?;
    }
    let fallbacks = store.stats().device_fallbacks;
    let path = device.path().to_string();
    store.close()?;
    if fallbacks > 0 {
        return Err(format!("{fallbacks} transfers went another way than {path}").into());
    }
    Ok(json!({ "path": path, "compared_bytes": compared }))
}
