//! How fast the CPU reaches GPU memory through the window, by each kind of access. Prints JSON.
#![expect(clippy::print_stdout, reason = "what it finds is its output")]

use std::error::Error;
use std::sync::atomic::Ordering;
use std::time::Instant;

use gcos_cuda::{Gpu, VramWindow};
use gcos_gpu_tests::samples::Samples;
use gcos_hw::{LineLoads, order_stores};
use serde_json::{Map, Value, json};

const ROUNDS: usize = 20_000;

fn measure(mut f: impl FnMut(usize)) -> Value {
    let mut nanoseconds = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let start = Instant::now();
        f(round);
        nanoseconds.push(start.elapsed().as_nanos() as u64);
    }
    Samples::new(nanoseconds).to_json()
}

fn main() -> Result<(), Box<dyn Error>> {
    let gpu = Gpu::open(0)?;
    let window = VramWindow::new(&gpu, 64 << 20)?;
    let memory = window.memory();
    let mut found = Map::new();
    found.insert("clock".into(), measure(|_| {}));
    let mut word = 0;
    let load = measure(|round| {
        word ^= memory.load_u64(round % 1000 * 64, Ordering::Acquire).unwrap_or(0);
    });
    found.insert("load of 8 bytes".into(), load);
    let mut bytes = vec![0; 4096];
    for lines in [1, 2, 4, 16, 64] {
        let out = &mut bytes[..lines * 64];
        for loads in LineLoads::ALL.into_iter().filter(|loads| loads.is_available()) {
            let times = measure(|round| {
                let at = round % 1000 * 4096;
                std::hint::black_box(memory.read_lines(loads, at, out).is_ok());
            });
            found.insert(format!("{lines} lines, {loads}"), times);
        }
        let times = measure(|round| {
            std::hint::black_box(memory.read(round % 1000 * 4096, out).is_ok());
        });
        found.insert(format!("{lines} lines, copied by the library"), times);
    }
    for lines in [1, 8, 64] {
        let times = measure(|round| {
            let written = memory.write(round % 1000 * 4096, &bytes[..lines * 64]);
            order_stores();
            std::hint::black_box(written.is_ok());
        });
        found.insert(format!("write of {lines} lines and a fence"), times);
    }
    let entry = measure(|round| {
        let at = round % 1000 * 64;
        order_stores();
        let _ = memory.store_u64(at, 1, Ordering::Relaxed);
        order_stores();
        let _ = memory.store_u64(at + 8, 2, Ordering::Release);
        order_stores();
    });
    found.insert("completion entry, two ordered stores".into(), entry);
    println!("{}", json!({ "gpu": gpu.name(), "word": word, "found": found }));
    Ok(())
}
