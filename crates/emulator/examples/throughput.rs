//! How fast the software controller is: 4 KiB commands per second and 1 MiB transfers against a
//! plain copy. `cargo run --release -p gcos-emulator --example throughput [FILE]`; FILE is created
//! with 1 GiB when it is missing.

#![expect(clippy::print_stdout, reason = "it prints its measurements")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gcos_emulator::{Config, Emulator, Medium};
use gcos_hw::{DmaSlice, FileIo, Function, MemoryRange, SharedMemory};
use gcos_layout::nvme::{
    AdminCommand, Aqa, CQE_BYTES, Cc, Csts, DataPointer, IoCommand, Register, SQE_BYTES,
    SglDescriptor, Sqe, cq_head_doorbell, sq_tail_doorbell,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ENTRIES: u32 = 256;
const TIME: Duration = Duration::from_secs(2);

struct Queue {
    qid: u16,
    sq: DmaSlice,
    cq: DmaSlice,
    tail: u32,
    head: u32,
    phase: bool,
}

struct Host {
    function: Arc<dyn Function>,
    admin: Queue,
}

impl Queue {
    fn new(function: &dyn Function, qid: u16) -> Result<Self> {
        let sq = function.dma().alloc(ENTRIES as usize * SQE_BYTES)?.as_dma();
        let cq = function.dma().alloc(ENTRIES as usize * CQE_BYTES)?.as_dma();
        Ok(Self { qid, sq, cq, tail: 0, head: 0, phase: true })
    }

    fn put(&mut self, sqe: Sqe) -> Result<()> {
        self.sq.write(self.tail as usize * SQE_BYTES, &sqe.to_bytes())?;
        self.tail = (self.tail + 1) % ENTRIES;
        Ok(())
    }

    /// Command identifier of the next completion, if there is one.
    fn peek(&mut self) -> Result<Option<u16>> {
        let last = self.cq.load_u32(self.head as usize * CQE_BYTES + 12, Ordering::Acquire)?;
        if (last >> 16 & 1 == 1) != self.phase {
            return Ok(None);
        }
        if last >> 17 != 0 {
            return Err(format!("command failed with status {:#x}", last >> 17).into());
        }
        self.head = (self.head + 1) % ENTRIES;
        self.phase ^= self.head == 0;
        Ok(Some(last as u16))
    }
}

impl Host {
    fn new(function: Arc<dyn Function>) -> Result<Self> {
        let admin = Queue::new(&*function, 0)?;
        function.write32(Register::Aqa.offset(), Aqa::new(ENTRIES, ENTRIES).0);
        function.write64(Register::Asq.offset(), admin.sq.iova());
        function.write64(Register::Acq.offset(), admin.cq.iova());
        let cc = Cc::default().with_en(true).with_iosqes(6).with_iocqes(4);
        function.write32(Register::Cc.offset(), cc.0);
        let mut spins = 0;
        while !Csts(function.read32(Register::Csts.offset())).rdy() {
            function.relax(spins);
            spins += 1;
        }
        Ok(Self { function, admin })
    }

    fn admin(&mut self, command: AdminCommand, prp1: u64) -> Result<()> {
        self.admin.put(command.encode(1, 0, DataPointer::Prp { prp1, prp2: 0 }))?;
        self.function.write32(sq_tail_doorbell(0, 4), self.admin.tail);
        let mut spins = 0;
        while self.admin.peek()?.is_none() {
            self.function.relax(spins);
            spins += 1;
        }
        self.function.write32(cq_head_doorbell(0, 4), self.admin.head);
        Ok(())
    }

    fn queue(&mut self, qid: u16) -> Result<Queue> {
        let queue = Queue::new(&*self.function, qid)?;
        let (entries, contiguous) = (ENTRIES, true);
        let cq = AdminCommand::CreateCq { qid, entries, vector: None, contiguous };
        self.admin(cq, queue.cq.iova())?;
        let sq = AdminCommand::CreateSq { qid, entries, cqid: qid, priority: 0, contiguous };
        self.admin(sq, queue.sq.iova())?;
        Ok(queue)
    }

    /// Keeps `depth` commands in flight for a while: commands per second.
    fn rate(
        &self,
        queue: &mut Queue,
        depth: u16,
        mut command: impl FnMut(u16) -> Sqe,
    ) -> Result<f64> {
        for cid in 0..depth {
            queue.put(command(cid))?;
        }
        self.function.write32(sq_tail_doorbell(queue.qid, 4), queue.tail);
        let start = Instant::now();
        let (mut done, mut spins) = (0u64, 0);
        while start.elapsed() < TIME {
            let mut any = false;
            while let Some(cid) = queue.peek()? {
                queue.put(command(cid))?;
                done += 1;
                any = true;
            }
            if any {
                self.function.write32(cq_head_doorbell(queue.qid, 4), queue.head);
                self.function.write32(sq_tail_doorbell(queue.qid, 4), queue.tail);
                spins = 0;
            } else {
                self.function.relax(spins);
                spins += 1;
            }
        }
        let rate = done as f64 / start.elapsed().as_secs_f64();
        let mut left = depth;
        while left > 0 {
            left -= u16::from(queue.peek()?.is_some());
            self.function.write32(cq_head_doorbell(queue.qid, 4), queue.head);
        }
        Ok(rate)
    }
}

/// One after the other through `span` bytes, in a slot of the buffer per command.
fn stream<'a>(
    data: &'a DmaSlice,
    bytes: u64,
    span: u64,
    write: bool,
) -> impl FnMut(u16) -> Sqe + 'a {
    let mut at = 0;
    move |cid| {
        let (slba, nlb, fua) = (at / 4096, (bytes / 4096) as u32, false);
        at = (at + bytes) % span;
        let address = data.iova() + u64::from(cid) * bytes;
        let pointer = DataPointer::Sgl(SglDescriptor::data(address, bytes as u32));
        let command = match write {
            true => IoCommand::Write { slba, nlb, fua },
            false => IoCommand::Read { slba, nlb, fua },
        };
        command.encode(cid, 1, pointer)
    }
}

/// Copies between two areas of `span` bytes, 1 MiB at a time: bytes per second.
fn memcpy(span: usize, slots: usize) -> Result<f64> {
    let (from, to) = (SharedMemory::anonymous(span)?, SharedMemory::anonymous(slots << 20)?);
    from.fill(0, span, 1)?;
    to.fill(0, to.len(), 1)?;
    let start = Instant::now();
    let mut done = 0usize;
    while start.elapsed() < TIME {
        to.copy_from((done % slots) << 20, &from, (done << 20) % span, 1 << 20)?;
        done += 1;
    }
    Ok((done << 20) as f64 / start.elapsed().as_secs_f64())
}

/// Reads a file with `depth` threads, 1 MiB at a time: bytes per second.
fn plain_file(path: &Path, span: u64, depth: u64) -> Result<f64> {
    let io = FileIo::open(path, true)?;
    let start = Instant::now();
    let done: u64 = std::thread::scope(|scope| -> std::io::Result<u64> {
        let run = |index: u64| -> std::io::Result<u64> {
            let memory = SharedMemory::anonymous(1 << 20).map_err(std::io::Error::other)?;
            let range = [MemoryRange { memory: Arc::new(memory), offset: 0, len: 1 << 20 }];
            let mut done = 0;
            while start.elapsed() < TIME {
                io.read_at(&range, ((done * depth + index) << 20) % span)?;
                done += 1;
            }
            Ok(done)
        };
        let threads: Vec<_> = (0..depth).map(|index| scope.spawn(move || run(index))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, std::io::Result<u64>>| {
            thread.join().map_err(|_| std::io::Error::other("reader panicked"))?
        };
        threads.into_iter().map(join).sum()
    })?;
    Ok((done << 20) as f64 / start.elapsed().as_secs_f64())
}

fn measure(name: &str, medium: Arc<Medium>, span: u64) -> Result<()> {
    let direct = medium.is_file();
    let emulator = Emulator::new(Config::new(medium))?;
    let mut host = Host::new(emulator.function())?;
    let mut queue = host.queue(1)?;
    let data = host.function.dma().alloc(32 << 20)?.as_dma();
    data.fill(0, data.len(), 1)?;
    if !direct {
        // Fill the medium, so that reads copy real pages.
        host.rate(&mut queue, 16, stream(&data, 1 << 20, span, true))?;
    }
    for (what, bytes, depth) in [("4 KiB", 4096, 1), ("4 KiB", 4096, 128), ("1 MiB", 1 << 20, 8)] {
        for write in [false, true] {
            let rate = host.rate(&mut queue, depth, stream(&data, bytes, span, write))?;
            let verb = if write { "write" } else { "read" };
            println!(
                "{name} {what} {verb:5} depth {depth:3}: {:9.0} commands/s {:7.2} GB/s",
                rate,
                rate * bytes as f64 / 1e9
            );
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let span = 256u64 << 20;
    println!("memcpy 1 MiB: {:.2} GB/s", memcpy(span as usize, 8)? / 1e9);
    measure("ram", Medium::ram(span)?, span)?;
    println!("memcpy 1 MiB: {:.2} GB/s", memcpy(span as usize, 8)? / 1e9);
    if let Some(path) = std::env::args_os().nth(1) {
        let path = Path::new(&path);
        let span = 1u64 << 30;
        if !path.exists() {
            let memory = Arc::new(SharedMemory::anonymous(1 << 20)?);
            memory.fill(0, 1 << 20, 7)?;
            std::fs::File::create(path)?.set_len(span)?;
            let io = FileIo::open(path, true)?;
            for at in 0..span >> 20 {
                let range = MemoryRange { memory: Arc::clone(&memory), offset: 0, len: 1 << 20 };
                io.write_at(&[range], at << 20)?;
            }
            io.sync()?;
        }
        println!("file 1 MiB O_DIRECT, 8 threads: {:.2} GB/s", plain_file(path, span, 8)? / 1e9);
        measure("file", Medium::file(path, true)?, span)?;
        println!("file 1 MiB O_DIRECT, 8 threads: {:.2} GB/s", plain_file(path, span, 8)? / 1e9);
    }
    Ok(())
}
