//! What must hold, byte for byte.

use std::path::PathBuf;

use gcos_cuda::cufile::{Batch, BatchOp, CuFileStream};
use gcos_cuda::{GpuRange, Stream};
use gcos_engine::device::{CuFileUse, DeviceTransfer};
use gcos_engine::fileio::{GdsFileIo, GdsOptions};
use gcos_engine::{Engine, Request};
use serde_json::{Value, json};

use crate::rig::{DEADLINE, MIB, Outcome, Rig, TOGETHER, TRANSFER, compare, described, pattern};

/// What the file's engine has written arrives in GPU memory, and what is written from there arrives in the file.
pub(crate) fn engine(rig: &Rig, way: CuFileUse) -> Outcome<Value> {
    let device = rig.device(way)?;
    let stream = Stream::new(&rig.gpu)?;
    let buffers = rig.buffers()?;
    let read =
        |number: usize, buffer: &_| DeviceTransfer::read(rig.offset(number), Clone::clone(buffer));
    let all = buffers.iter().enumerate().map(|(number, buffer)| read(number, buffer)).collect();
    for result in device.start(&stream, all, DEADLINE)?.wait() {
        result?;
    }
    let mut out = vec![0; TRANSFER];
    for (number, buffer) in buffers.iter().enumerate() {
        buffer.copy_out(0, &mut out)?;
        compare("read by the engine", &out, &pattern(rig.offset(number), TRANSFER, 0))?;
    }
    // Another pattern from there, in the order of the stream, and durable; then the first again.
    let host = rig.file.dma().alloc(TRANSFER)?;
    for salt in [7, 0] {
        for (number, buffer) in buffers.iter().enumerate() {
            buffer.copy_in(0, &pattern(rig.offset(number), TRANSFER, salt))?;
        }
        let write = |number: usize, buffer: &_| {
            DeviceTransfer::write(rig.offset(number), Clone::clone(buffer), true)
        };
        let all = buffers.iter().enumerate().map(|(number, buffer)| write(number, buffer));
        for result in device.start(&stream, all.collect(), DEADLINE)?.wait() {
            result?;
        }
        for number in 0..TOGETHER {
            rig.file.run(Request::read(rig.offset(number), host.as_dma(), DEADLINE))?;
            host.as_dma().read(0, &mut out)?;
            compare("written by the engine", &out, &pattern(rig.offset(number), TRANSFER, salt))?;
        }
    }
    // Pieces off the pages.
    let odd = buffers[0].slice(516, 8192)?;
    let transfer = vec![DeviceTransfer::read(rig.offset(1) + 4096, odd.clone())];
    for result in device.start(&stream, transfer, DEADLINE)?.wait() {
        result?;
    }
    out.truncate(8192);
    odd.copy_out(0, &mut out)?;
    compare("read off the pages", &out, &pattern(rig.offset(1) + 4096, 8192, 0))?;
    let path = device.path().to_string();
    device.shutdown(DEADLINE)?;
    Ok(json!({ "path": path, "compared_bytes": 3 * TOGETHER * TRANSFER }))
}

/// Files of anybody: both modes, any offset and size, and addresses that are refused.
pub(crate) fn gds_file_io(rig: &Rig) -> Outcome<Value> {
    let stream = Stream::new(&rig.gpu)?;
    let path = PathBuf::from(format!("{}.any", rig.path.display()));
    let mut modes = Vec::new();
    for enable_gds in [true, false] {
        let library = rig.played.as_ref().map(|played| played.path().to_owned());
        let io =
            GdsFileIo::new(&rig.gpu, GdsOptions { enable_gds, library, ..GdsOptions::default() });
        for (size, offset) in [(16 * MIB, 0), (MIB + 4096, 8192), (100_000, 12_347), (8, 1)] {
            let bytes = pattern(offset, size, 3);
            rig.plain.copy_in(0, &bytes)?;
            let (from, into) =
                (rig.plain.device_address(), rig.plain.device_address() + (32 * MIB) as u64);
            let wrote = io.write_to_file(&path, from, size, offset, &stream, None)?;
            let read = io.read_file(&path, into, size, offset, &stream, None)?;
            let mut out = vec![0; size];
            rig.plain.copy_out(32 * MIB, &mut out)?;
            compare("read by GdsFileIo", &out, &bytes)?;
            let on_disk = std::fs::read(&path)?;
            compare("written by GdsFileIo", &on_disk[offset as usize..][..size], &bytes)?;
            modes.push(json!({
                "gds": enable_gds, "size": size, "offset": offset,
                "wrote": wrote.mode.name(), "read": read.mode.name(), "fallback": wrote.fallback,
            }));
        }
        let host = vec![0_u8; 4096];
        let refused = io.write_to_file(&path, host.as_ptr() as u64, 4096, 0, &stream, None);
        if refused.is_ok() {
            return Err("host memory was taken for the GPU's".into());
        }
    }
    std::fs::remove_file(&path)?;
    Ok(json!({ "transfers": modes }))
}

/// A batch of reads.
pub(crate) fn batch(rig: &Rig) -> Outcome<Value> {
    let cufile = rig.cufile.as_ref().ok_or("there is no cuFile")?;
    let handle = rig.handle()?;
    let mut batch = Batch::new(cufile, &rig.gpu, 32)?;
    let place = |tag: u64| rig.plain.slice(tag as usize * MIB, MIB);
    let mut ops = Vec::new();
    for tag in 0..32 {
        ops.push(BatchOp::read(tag, handle, &place(tag)?, (31 - tag) * MIB as u64, None)?);
    }
    batch.submit(ops)?;
    let mut ended = 0;
    let start = std::time::Instant::now();
    while ended < 32 {
        for done in batch.poll(1, DEADLINE)? {
            let moved = done.result?;
            if moved != MIB {
                return Err(format!("transfer {} moved {moved} bytes", done.tag).into());
            }
            ended += 1;
        }
        if start.elapsed() > DEADLINE {
            return Err(format!("{ended} of 32 have ended").into());
        }
    }
    let mut out = vec![0; MIB];
    for tag in 0..32 {
        place(tag)?.copy_out(0, &mut out)?;
        compare("read by a batch", &out, &pattern((31 - tag) * MIB as u64, MIB, 0))?;
    }
    Ok(json!({ "took_s": start.elapsed().as_secs_f64() }))
}

/// Transfers in the order of a stream.
pub(crate) fn stream(rig: &Rig) -> Outcome<Value> {
    let cufile = rig.cufile.as_ref().ok_or("there is no cuFile")?;
    let stream = Stream::new(&rig.gpu)?;
    let known = CuFileStream::register(cufile, &stream)?;
    let (first, second) = (rig.plain_part(0)?, rig.plain_part(1)?);
    stream.fill(&first, 0)?;
    stream.fill(&second, 0)?;
    let read = known.read(rig.handle()?, &first, rig.offset(2), None)?;
    stream.copy(&first, &second)?;
    let moved = read.wait(DEADLINE)?;
    stream.synchronize(DEADLINE)?;
    let mut out = vec![0; TRANSFER];
    second.copy_out(0, &mut out)?;
    compare("read in a stream and copied behind it", &out, &pattern(rig.offset(2), TRANSFER, 0))?;
    Ok(json!({ "moved": moved, "memory": described(&second) }))
}
