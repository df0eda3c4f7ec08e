//! What can be typed, and what `--help` teaches. Values are checked here as far as they can be by
//! themselves; everything else belongs to the commands.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use gcos::hw::pci::{NAME_PREFIX, PciAddress};

use crate::key::Key;

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  the job found a problem: a miss, damage, bytes that differ
  2  it could not be done: usage, configuration, device

Examples:
  gcos quickstart                          see it work, in a temporary folder
  cp gcos.json.example gcos.json           then edit disk.paths
  gcos config check                        every mistake in it at once
  gcos zone-format                         make the pool
  gcos put model/layer0 kv.bin             store a file
  gcos get model/layer0 -o back.bin        and get it back, verified
  gcos fsck --data                         read and check everything

With a real drive (docs/hardware.md):
  gcos doctor                              what this machine lacks
  gcos devices                             which drives could be used
  sudo gcos bind 0000:c1:00.0 --as /dev/libnvm0 --user $USER

The configuration is --config FILE, else $GCOS_CONFIG, else ./gcos.json.";

/// LLM KV cache on raw NVMe drives.
#[derive(Debug, Parser)]
#[command(name = "gcos", version = gcos::version(), after_help = AFTER_HELP)]
#[command(arg_required_else_help = true, propagate_version = false, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Globals {
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print one JSON document on standard output, errors too
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say more on standard error (twice: much more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Print errors and what was asked for, nothing else
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// No progress bars (there are none anyway when standard error is no terminal)
    #[arg(long, global = true)]
    pub(crate) no_progress: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show that it works here: store, get killed, recover, verify, measure
    Quickstart(QuickstartArgs),
    /// Writes objects until it is killed (part of quickstart)
    #[command(hide = true)]
    QuickstartWriter(WriterArgs),
    /// Lay out a pool over the drives; creates missing image files
    ZoneFormat(FormatArgs),
    /// Check the pool, and repair what can be repaired
    Fsck(FsckArgs),
    /// Read every object at a limited rate and remove what is damaged
    Scrub(ScrubArgs),
    /// Store a file or standard input under a key
    Put(PutArgs),
    /// Get an object, verified, into a file or to standard output
    Get(GetArgs),
    /// List keys
    Ls(LsArgs),
    /// Show the pool, or one object
    Stat(StatArgs),
    /// Remove objects
    Rm(RmArgs),
    /// Copy the objects of one pool into another, verified
    CopyPool(CopyPoolArgs),
    /// Take over what LMCache's GDS backend has written into a folder
    ImportLmcacheGds(ImportLmcacheGdsArgs),
    /// Look at the configuration
    Config(ConfigArgs),
    /// List NVMe drives: who uses them, and which are fit for GCOS
    Devices(DevicesArgs),
    /// Take drives from the kernel, for the driver of GCOS
    Bind(BindArgs),
    /// Give drives back to the kernel
    Unbind(UnbindArgs),
    /// Look at the machine: what the driver of GCOS needs, what is missing, and the cure
    Doctor(DoctorArgs),
    /// Run a KV-cache trace against the pool and verify every byte
    Replay(ReplayArgs),
    /// Measure a path beside its own ceiling
    Bench(BenchArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write one for each command into a folder
    Man(ManArgs),
}

fn size(text: &str) -> Result<u64, gcos::units::UnitError> {
    gcos::units::parse_size(text)
}

fn duration(text: &str) -> Result<Duration, gcos::units::UnitError> {
    gcos::units::parse_duration(text)
}

#[derive(Debug, Args)]
pub(crate) struct QuickstartArgs {
    /// Size of the image file
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1GiB")]
    pub(crate) size: u64,
    /// Folder for image and configuration; a temporary one if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Keep what was made, to go on with it
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WriterArgs {
    #[arg(long)]
    pub(crate) objects: u64,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each drive is looked at first. One that holds anything is refused, and said what it holds, unless
--force is given. Erasing is confirmed on a terminal; without a terminal, give --yes.

Example: gcos zone-format --force --yes")]
pub(crate) struct FormatArgs {
    /// Erase what the drives hold
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
What was found is grouped by kind, the worst first, with what to do next at the end; notes are legal
states worth knowing. Nothing is written without --repair, and then only after a question on the
terminal or with --yes. A pool in use is refused. A repair that was cut short is run again.

A drive that has lost its metadata gets back what the rest of it proves and what verifies. Objects of
which only the header is left stay out: they may have been removed or replaced. --salvage brings them
back too.

Exit code 0: clean, or repaired. 1: damage was found and is still there. 2: not done, or not agreed to.

Examples:
  gcos fsck --data                 find everything
  gcos fsck --repair --dry-run     what a repair would do
  gcos fsck --data --repair --yes")]
pub(crate) struct FsckArgs {
    /// Read every object and verify its checksums too
    #[arg(long)]
    pub(crate) data: bool,
    /// Repair what can be repaired without inventing data
    #[arg(long)]
    pub(crate) repair: bool,
    /// Say what --repair would do, and write nothing
    #[arg(long, requires = "repair", conflicts_with = "yes")]
    pub(crate) dry_run: bool,
    /// Also bring back objects of which only the headers are left, removed ones among them
    #[arg(long, requires = "repair")]
    pub(crate) salvage: bool,
    /// Do not ask
    #[arg(long, short, requires = "repair")]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Opens the pool and reads what a get would read. An object that is damaged is read once more, then
removed and reported: it is a miss from then on. It may be interrupted at any time; what it found until
then is removed or found again. A process that serves a pool scrubs it by itself (Store::scrub).

Exit code 0: everything read was whole. 1: something was damaged, or could not be read.

Examples:
  gcos scrub
  gcos scrub --rate 500MiB --for 10m")]
pub(crate) struct ScrubArgs {
    /// Bytes to read a second at most
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64MiB")]
    pub(crate) rate: u64,
    /// End after this time
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub(crate) limit: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
An object that exists is kept, unless --replace is given. Without --relaxed the command returns when
the object survives power loss.

Examples:
  gcos put model/layer0 kv.bin --ttl 1h
  head -c 1M /dev/urandom | gcos put random
  gcos put hex:00ff10 kv.bin --replace")]
pub(crate) struct PutArgs {
    /// Key: text, or hex: and hexadecimal digits
    pub(crate) key: Key,
    /// File to store; `-` is standard input
    #[arg(default_value = "-")]
    pub(crate) file: PathBuf,
    /// Replace an object that exists
    #[arg(long)]
    pub(crate) replace: bool,
    /// Lifetime, for example 90s or 1h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) ttl: Option<Duration>,
    /// Acknowledge before it is durable (it becomes durable when the pool is closed in order)
    #[arg(long)]
    pub(crate) relaxed: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Files appear whole or not at all. Exit code 1 is a miss; the reason is on standard error.

Examples:
  gcos get model/layer0 -o kv.bin
  gcos get model/layer0 --offset 1MiB --len 64KiB | xxd | head")]
pub(crate) struct GetArgs {
    /// Key: text, or hex: and hexadecimal digits
    pub(crate) key: Key,
    /// Where to write; `-` is standard output
    #[arg(short, long, default_value = "-", value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// First byte to get
    #[arg(long, value_name = "BYTES", value_parser = size, default_value = "0")]
    pub(crate) offset: u64,
    /// Number of bytes to get; to the end if not given
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub(crate) len: Option<u64>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Keys are listed in order, control characters and what is not UTF-8 as escapes; --json prints such keys
so that they can be typed again.

Example: gcos ls model/ --long")]
pub(crate) struct LsArgs {
    /// Only keys that begin with this
    #[arg(default_value = "")]
    pub(crate) prefix: Key,
    /// Most keys to list
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Length, generation, drives and expiry too
    #[arg(short, long)]
    pub(crate) long: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatArgs {
    /// Key of an object; the pool if not given
    pub(crate) key: Option<Key>,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Keys
    #[arg(required = true)]
    pub(crate) keys: Vec<Key>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each pool is named by its configuration; the destination is formatted before (gcos zone-format). Every
object is verified by its checksums when it is read, and read back and compared once it is durable in the
destination. Objects that are there already with the same bytes are left alone, so a copy that was cut
short is run again. Lifetimes are kept, and so is the order in which objects would be evicted. Nothing is
written to the source but what opening a pool writes; nothing of the destination is evicted to make room.

Exit code 0: the destination has everything. 1: objects were damaged in the source, or differ in the
destination. 2: not done.

Examples:
  gcos copy-pool old.json new.json --dry-run
  gcos copy-pool old.json new.json
  gcos copy-pool old.json new.json --prefix model/ --replace")]
pub(crate) struct CopyPoolArgs {
    /// Configuration of the pool to copy from
    #[arg(value_name = "FROM.json")]
    pub(crate) from: PathBuf,
    /// Configuration of the pool to copy to
    #[arg(value_name = "TO.json")]
    pub(crate) to: PathBuf,
    /// Only keys that begin with this
    #[arg(long, value_name = "KEY", default_value = "")]
    pub(crate) prefix: Key,
    /// Replace objects of the destination that have other bytes
    #[arg(long)]
    pub(crate) replace: bool,
    /// Compare and say what would be copied; write nothing to the destination
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The folder is the one that gds_path names in LMCache's configuration. Each file becomes an object under the
key that the connector for LMCache asks for (docs/lmcache.md); the files are only read. Objects that are
there already are left alone, so an import that was cut short is run again; nothing is evicted to make room.

Exit code 0: everything is in the pool. 1: files could not be parsed, or LMCache had not finished them.
2: not done.

Examples:
  gcos import-lmcache-gds /mnt/gds/cache --dry-run
  gcos import-lmcache-gds /mnt/gds/cache")]
pub(crate) struct ImportLmcacheGdsArgs {
    /// Folder of LMCache's GDS backend
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// Read metadata and say what would be imported; write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read the configuration and list everything that is wrong with it
    Check,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Root sees more: whether somebody has claimed a drive, the serial numbers of drives that are bound,
and which process holds one.

Example: gcos devices --json")]
pub(crate) struct DevicesArgs {}

#[derive(Debug, Args)]
#[command(after_help = "\
Binding takes a drive away from the kernel: its block devices vanish until `gcos unbind`. No data on
it is read or erased. A drive that is mounted, swap space, part of a volume or open is refused. Doing
it twice does no harm. The binding is lost at a reboot, names are kept: `gcos bind --all`.

Examples:
  gcos bind 0000:c1:00.0 --as /dev/libnvm0 --user kv
  gcos bind 0000:c1:00.0 0000:c2:00.0          two drives of one IOMMU group
  gcos bind --all --yes --user kv              after a reboot

Exit code 1: with --all, some drives could not be bound.")]
pub(crate) struct BindArgs {
    /// PCI addresses, or recorded names
    #[arg(value_name = "DRIVE", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) drives: Vec<DriveArg>,
    /// Every drive that has a name
    #[arg(long, conflicts_with = "name")]
    pub(crate) all: bool,
    /// Name that the drive keeps, for disk.paths: /dev/libnvm and a number or word
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// User (name or number) that may drive it, without being root
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The drive goes back to the kernel's NVMe driver, and its name is forgotten. A drive that a process
still uses is refused.

Example: gcos unbind /dev/libnvm0")]
pub(crate) struct UnbindArgs {
    /// PCI addresses, or recorded names
    #[arg(value_name = "DRIVE", required = true)]
    pub(crate) drives: Vec<DriveArg>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit code 0: the driver of GCOS can be used here. 1: something that it needs is missing. What is
optional (GPU, cuFile, io_uring) never makes it 1.

Example: gcos doctor --json")]
pub(crate) struct DoctorArgs {}

/// A drive as it is typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DriveArg {
    Address(PciAddress),
    Name(String),
}

impl std::str::FromStr for DriveArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with(NAME_PREFIX) {
            return Ok(Self::Name(text.to_owned()));
        }
        let error = |error| format!("{error}, or a recorded name, such as {NAME_PREFIX}0");
        text.parse().map(Self::Address).map_err(error)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DurabilityArg {
    /// A put returns at once
    Relaxed,
    /// A put returns when it survives power loss
    Sync,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// Yes
    On,
    /// No
    Off,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A trace has one JSON object a line; of each the list hash_ids is used: the ids of the prompt's
blocks, equal ids being equal blocks. For each request the longest prefix that the pool holds is
fetched and verified against the bytes that its ids derive, and the rest is stored, all of a request
with one call. With --durability relaxed puts do not wait for the drive's cache; the pool is flushed
at the end. With --gpu the blocks lie in the memory of a GPU, which moves and checks them with the
drives where it can; see gpu.num in the configuration.

Exit code 1: some bytes were not those that were stored.

Example: gcos replay trace.jsonl --requests 1000 --block-bytes 64KiB")]
pub(crate) struct ReplayArgs {
    /// The trace
    pub(crate) trace: PathBuf,
    /// Bytes of one block
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "4096")]
    pub(crate) block_bytes: u64,
    /// Stop after this many requests
    #[arg(long, value_name = "N")]
    pub(crate) requests: Option<u64>,
    /// Requests at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: u16,
    /// When puts return; relaxed ones are flushed at the end
    #[arg(long, value_enum, default_value = "relaxed")]
    pub(crate) durability: DurabilityArg,
    /// Compare every byte fetched
    #[arg(long, value_enum, default_value = "on")]
    pub(crate) verify: Switch,
    /// Keep the blocks in the memory of this GPU, the first one if no number is given
    #[arg(long, value_name = "GPU", num_args = 0..=1, default_missing_value = "0")]
    pub(crate) gpu: Option<u16>,
    /// Fetch each block in so many layers, into pages of 16 KiB of the GPU's memory
    #[arg(long, value_name = "N", requires = "gpu", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) layers: Option<u16>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each figure stands beside the ceiling of its path: for memory one copy of the same bytes (memcpy, and
for objects one CRC-32C pass more), for a file plain direct I/O of the same size, with as many
requests in flight. Both are measured five times, in turn; what is printed are the medians.

Examples:
  gcos bench
  gcos bench --path emulated:/data/bench.img --size 1MiB,32MiB --qd 1,8
  gcos bench --path io_uring:/data/b posix:/data/b emulated:/data/b --size 4KiB,1MiB --qd 1,32
  gcos bench --path noop --size 4KiB --qd 32
  gcos bench --driver-cost
  gcos bench --gpu --size 4KiB,1MiB --qd 1,32")]
pub(crate) struct BenchArgs {
    /// What to measure: emulated:ram:SIZE, noop, or ways to a file that does not exist, one or several
    /// side by side: emulated:FILE, cufile:FILE (with data in the memory of GPU 0), io_uring:FILE,
    /// posix:FILE
    #[arg(long, value_name = "KIND", num_args = 1.., value_delimiter = ',',
          default_value = "emulated:ram:1GiB")]
    pub(crate) path: Vec<String>,
    /// Size of each file that is made for the run
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1GiB")]
    pub(crate) file_size: u64,
    /// Bytes of one request or object
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = size,
          default_value = "4KiB,64KiB,1MiB,8MiB,32MiB")]
    pub(crate) size: Vec<u64>,
    /// Requests (or objects) in flight for each thread
    #[arg(long, value_name = "DEPTHS", value_delimiter = ',', default_value = "1,8",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) qd: Vec<u16>,
    /// Threads
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', default_value = "1",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Vec<u16>,
    /// Time for each figure, in seconds (as long again for its ceiling)
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    pub(crate) seconds: f64,
    /// Only the cost of the driver: nanoseconds per command spent in submitting and in reaping
    #[arg(long)]
    pub(crate) driver_cost: bool,
    /// Measure a GPU instead (0 if no number is given): checksums and copies in its memory, and reads and
    /// writes through queues that it drives, beside the same through host queues
    #[arg(long, value_name = "NUMBER", num_args = 0..=1, default_missing_value = "0",
          conflicts_with_all = ["driver_cost", "path", "threads"])]
    pub(crate) gpu: Option<u16>,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Shell
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Folder for one page for each command; standard output if not given
    pub(crate) dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lists_and_units_parse() {
        let cli = Cli::try_parse_from(["gcos", "bench", "--size", "4KiB,1MiB", "--qd", "1,8"]);
        let Command::Bench(args) = cli.unwrap().command else { panic!("bench expected") };
        assert_eq!(args.size, [4096, 1 << 20]);
        assert_eq!(args.qd, [1, 8]);
        assert!(Cli::try_parse_from(["gcos", "bench", "--size", "4KB"]).is_err());
        assert!(Cli::try_parse_from(["gcos", "replay", "t", "--threads", "0"]).is_err());
    }
}
