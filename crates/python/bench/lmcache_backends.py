"""GCOS beside LMCache's own storage backends, on one file system, through the calls that LMCache makes.

    python crates/python/bench/lmcache_backends.py FOLDER [--json FILE]

FOLDER lies on the file system to be measured (about 8 GiB are needed). Every backend runs in a process of its
own: objects of one size are put (`batched_submit_put_task`) and got (`batched_get_blocking`). Gets are calls of as
many objects as are to be in flight; puts are calls of half as many, two under way, as LMCache's store returns
before its objects are stored. All go past the page cache. GCOS acknowledges what is durable and verifies
checksums; the others do neither, which is why a row `GCOS, relaxed` acknowledges what can be read, as they do.
`fio` runs between them with the same block size and depth, and once more with an fdatasync behind each write.

`RustRawBlockBackend` wants the package lmcache-rust-raw-block-io and is left out where there is none.
`GdsBackend` needs a GPU (its constructor asserts one); `lmcache_gpu.py` measures it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

MIB = 1 << 20
#: Bytes of an object, objects in flight, objects of a turn.
POINTS = [(32 * MIB, 1, 32), (32 * MIB, 8, 48), (MIB, 1, 768), (MIB, 8, 1024)]
BACKENDS = ["GCOS", "GCOS, relaxed", "LocalDiskBackend", "RustRawBlockBackend"]
RESTART_OBJECTS = 10_000
RESTART_BYTES = 64 << 10
POOL_GIB = 2
WARM_GIB = 0.25
WAIT_S = 120


def shape_of(size: int) -> tuple[int, ...]:
    """A model whose chunks have so many bytes: layers, keys and values, tokens, heads, their size."""
    layers = 32 if size >= MIB else 1
    tokens = size // (layers * 2 * 1024 * 2)
    return (layers, 2, tokens, 8, 128)


class Rig:
    """One backend with LMCache's host memory around it."""

    def __init__(self, name: str, folder: Path, size: int, memory_gib: float) -> None:
        import torch
        from lmcache.v1.config import LMCacheEngineConfig
        from lmcache.v1.metadata import LMCacheMetadata
        from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend

        self.torch, self.name, self.size = torch, name, size
        shape = shape_of(size)
        self.metadata = LMCacheMetadata("bench", 1, 1, 0, 0, torch.bfloat16, shape, chunk_size=shape[2])
        extra, more = self._settings(folder)
        self.config = LMCacheEngineConfig.from_defaults(
            chunk_size=shape[2], local_cpu=False, max_local_cpu_size=memory_gib, extra_config=extra, **more
        )
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.cpu = LocalCPUBackend(self.config, self.metadata, "cpu")
        begin = time.perf_counter()
        self.backend = self._make()
        self.open_s = time.perf_counter() - begin

    def _settings(self, folder: Path) -> tuple[dict, dict]:
        gib = WARM_GIB if folder.name == "warm" else POOL_GIB
        if self.name.startswith("GCOS"):
            durability = "relaxed" if self.name.endswith("relaxed") else "sync"
            path = str(folder / "pool.gcos")
            return {"gcos_path": path, "gcos_capacity_gb": gib, "gcos_durability": durability}, {}
        if self.name == "LocalDiskBackend":
            (folder / "disk").mkdir(exist_ok=True)
            extra = {"use_odirect": True, "disk_io_threads": 8}
            return extra, {"local_disk": str(folder / "disk"), "max_local_disk_size": float(gib)}
        return {
            "rust_raw_block.device_path": str(folder / "raw.img"),
            "rust_raw_block.capacity_bytes": int(gib * (1 << 30)),
            "rust_raw_block.use_odirect": True,
            "rust_raw_block.io_engine": "io_uring",
        }, {}

    def _make(self):
        if self.name.startswith("GCOS"):
            from gcos.lmcache import GcosBackend

            return GcosBackend(self.config, self.metadata, self.cpu, self.loop, "cpu")
        if self.name == "LocalDiskBackend":
            from lmcache.v1.storage_backend.local_disk_backend import LocalDiskBackend

            return LocalDiskBackend(self.config, self.loop, self.cpu, "cpu", None, self.metadata)
        from lmcache.v1.storage_backend.plugins.rust_raw_block_backend import RustRawBlockBackend

        return RustRawBlockBackend(self.config, self.metadata, self.cpu, self.loop, "cpu")

    def key(self, number: int):
        from lmcache.utils import CacheEngineKey

        return CacheEngineKey("bench", 1, 0, 0x5EED000000000000 + number, self.torch.bfloat16)

    def content(self, number: int):
        """What the object of a number holds."""
        made = self.torch.Generator().manual_seed(number)
        return self.torch.randint(-(2**15), 2**15, (self.size // 2,), generator=made, dtype=self.torch.int16)

    def allocate(self):
        shapes, dtypes = self.metadata.get_shapes(), self.metadata.get_dtypes()
        obj = self.cpu.allocate(shapes, dtypes, busy_loop=False)
        assert obj is not None, "too little host memory"
        return obj

    def put(self, numbers: list[int], objs: list) -> None:
        """Puts objects and waits for all of them."""
        self.begin_put(numbers, objs)()

    def begin_put(self, numbers: list[int], objs: list):
        """Puts objects; returns what waits for all of them."""
        keys = [self.key(number) for number in numbers]
        missing, done = set(keys), threading.Event()
        lock = threading.Lock()

        def complete(key) -> None:
            with lock:
                missing.discard(key)
                if not missing:
                    done.set()

        self.backend.batched_submit_put_task(keys, objs, on_complete_callback=complete)

        def wait() -> None:
            assert done.wait(WAIT_S), f"{len(missing)} of {len(keys)} puts did not end"

        return wait

    def get(self, numbers: list[int]) -> list:
        found = self.backend.batched_get_blocking([self.key(number) for number in numbers])
        assert all(obj is not None for obj in found), "a miss"
        return found

    def remove(self, numbers) -> None:
        # LocalDiskBackend counts its bytes in eviction alone, so after removals it believes to be full.
        self.backend.batched_remove([self.key(number) for number in numbers])
        if self.name == "LocalDiskBackend":
            self.backend.current_cache_size = 0.0

    def close(self) -> None:
        self.backend.close()
        self.loop.call_soon_threadsafe(self.loop.stop)


def drop_caches() -> None:
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        pass


class Clock:
    """Wall and processor time of a span of this process."""

    def __enter__(self) -> "Clock":
        self._cpu, self._wall = self._used(), time.perf_counter()
        return self

    def __exit__(self, *_) -> None:
        self.wall = time.perf_counter() - self._wall
        self.cpu = self._used() - self._cpu

    @staticmethod
    def _used() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime


def measure(name: str, folder: Path, point: tuple[int, int, int], first: bool) -> dict:
    """One backend at one point."""
    size, depth, count = point
    rig = Rig(name, folder, size, memory_gib=max(2 * depth * size, 64 * MIB) / (1 << 30))
    objs = [rig.allocate() for _ in range(depth)]
    for number, obj in enumerate(objs):
        obj.tensor.view(rig.torch.int16).view(-1).copy_(rig.content(number))
    batches = [list(range(at, min(at + depth, count))) for at in range(0, count, depth)]

    def put_all() -> None:
        half = max(1, depth // 2)
        under_way: list = []
        for at in range(0, count, half):
            if len(under_way) * half >= depth:
                under_way.pop(0)()
            numbers = list(range(at, min(at + half, count)))
            under_way.append(rig.begin_put(numbers, [objs[number % depth] for number in numbers]))
        for wait in under_way:
            wait()

    if first:
        # Blocks of a new file are written once before anything is measured.
        put_all()
        rig.remove(range(count))
    drop_caches()
    with Clock() as put:
        put_all()
    drop_caches()
    with Clock() as get:
        for batch in batches:
            for obj in rig.get(batch):
                obj.ref_count_down()
    mismatches = 0
    for batch in batches[:: max(1, len(batches) // 8)]:
        for number, obj in zip(batch, rig.get(batch)):
            same = rig.torch.equal(obj.tensor.view(rig.torch.int16).view(-1), rig.content(number % depth))
            mismatches += not same
            obj.ref_count_down()
    staged = rig.backend._store.stats().staged_bytes if name.startswith("GCOS") else 0
    rig.remove(range(count))
    for obj in objs:
        obj.ref_count_down()
    rig.close()
    gigabytes = size * count / 1e9
    return {
        "size": size,
        "depth": depth,
        "put_gb_s": gigabytes / put.wall,
        "get_gb_s": gigabytes / get.wall,
        "put_cpu_s_per_gb": put.cpu / gigabytes,
        "get_cpu_s_per_gb": get.cpu / gigabytes,
        "mismatches": mismatches,
        "staged_bytes": staged,
    }


def fill(name: str, folder: Path) -> dict:
    """Puts what a restart finds."""
    rig = Rig(name, folder, RESTART_BYTES, memory_gib=0.0625)
    objs = [rig.allocate() for _ in range(64)]
    with Clock() as clock:
        for at in range(0, RESTART_OBJECTS, 64):
            numbers = list(range(at, min(at + 64, RESTART_OBJECTS)))
            for number, obj in zip(numbers, objs):
                obj.tensor.view(rig.torch.int16).view(-1)[0] = number
            rig.put(numbers, objs[: len(numbers)])
    for obj in objs:
        obj.ref_count_down()
    rig.close()
    return {"objects_s": RESTART_OBJECTS / clock.wall}


def restart(name: str, folder: Path) -> dict:
    """How long after its constructor is called a backend gives the first object back, and how many it has."""
    # Imports are no part of it.
    Rig(name, folder / "warm", RESTART_BYTES, memory_gib=0.0625).close()
    begin = time.perf_counter()
    rig = Rig(name, folder, RESTART_BYTES, memory_gib=0.0625)
    number = RESTART_OBJECTS - 1
    found = rig.backend.batched_get_blocking([rig.key(number)])[0]
    took = time.perf_counter() - begin
    right = found is not None and int(found.tensor.view(rig.torch.int16).view(-1)[0]) == number
    there = sum(rig.backend.contains(rig.key(number)) for number in range(RESTART_OBJECTS))
    if found is not None:
        found.ref_count_down()
    rig.close()
    return {"first_hit_s": took if right else None, "objects": there}


def fio(folder: Path, size: int, depth: int, write: bool, sync: bool = False) -> float:
    """What the file system gives, in GB/s; with ``sync``, when each write is made durable by itself."""
    mode = "write" if write else "read"
    arguments = [
        "fio", "--name=ceiling", f"--filename={folder / 'fio'}", "--size=1g", f"--bs={size}", f"--iodepth={depth}",
        "--ioengine=io_uring", "--direct=1", f"--rw={mode}", "--runtime=2", "--time_based", "--output-format=json",
    ]  # fmt: skip
    arguments += ["--fdatasync=1"] if sync else []
    ran = subprocess.run(arguments, capture_output=True, check=True, timeout=WAIT_S)
    return json.loads(ran.stdout)["jobs"][0][mode]["bw_bytes"] / 1e9


def one_pass() -> float:
    """Processor seconds that it takes to read a GB of memory once: the least that checksums cost."""
    import ctypes

    size, piece = 64 * MIB, MIB // 4
    memory, into = ctypes.create_string_buffer(b"\1" * size, size), ctypes.create_string_buffer(piece)
    at = ctypes.addressof(memory)
    with Clock() as clock:
        for offset in range(0, size, piece):
            ctypes.memmove(into, at + offset, piece)
    return clock.cpu / (size / 1e9)


def child(arguments: list[str]) -> dict:
    environment = {**os.environ, "LMCACHE_TRACK_USAGE": "false", "LMCACHE_LOG_LEVEL": "ERROR"}
    command = [sys.executable, __file__, *arguments]
    ran = subprocess.run(command, capture_output=True, timeout=600, env=environment)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {ran.stderr.decode()[-2000:]}")
    return json.loads(ran.stdout.splitlines()[-1])


def have_raw_block() -> bool:
    try:
        import lmcache_rust_raw_block_io  # noqa: F401
    except ImportError:
        return False
    return True


def make_raw_files(folder: Path, backends: list[str]) -> None:
    """New files for the backend that wants one, empty: it reads no index of other objects then."""
    if "RustRawBlockBackend" not in backends:
        return
    for place, gib in ((folder / "RustRawBlockBackend", POOL_GIB), (folder / "RustRawBlockBackend/warm", WARM_GIB)):
        with open(place / "raw.img", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, int(gib * (1 << 30)))


def everything(folder: Path, turns: int, backends: list[str], with_restart: bool) -> dict:
    rows: dict[str, dict[str, list[dict]]] = {}
    ceilings: dict[str, dict[str, list[float]]] = {}
    # Both durabilities of GCOS use one file.
    places = {name: folder / name.split(",")[0] for name in backends}
    for place in places.values():
        (place / "warm").mkdir(parents=True, exist_ok=True)
    make_raw_files(folder, backends)
    for turn in range(turns):
        for index, (size, depth, _) in enumerate(POINTS):
            at = f"{size // MIB} MiB x{depth}"
            ceiling = ceilings.setdefault(at, {"put": [], "get": [], "sync": []})
            ceiling["put"].append(fio(folder, size, depth, True))
            ceiling["get"].append(fio(folder, size, depth, False))
            ceiling["sync"].append(fio(folder, size, depth, True, sync=True))
            for name in backends:
                ran = child([str(places[name]), "--one", name, "--point", str(index), *(["--first"] * (turn == 0))])
                rows.setdefault(at, {}).setdefault(name, []).append(ran)
                print(f"{at} {name}: {ran['put_gb_s']:.2f} {ran['get_gb_s']:.2f} GB/s", file=sys.stderr)
    (folder / "fio").unlink(missing_ok=True)
    median = statistics.median
    table = []
    for at, by_name in rows.items():
        for name, ran in by_name.items():
            row = {"point": at, "backend": name}
            for field in ("put_gb_s", "get_gb_s", "put_cpu_s_per_gb", "get_cpu_s_per_gb"):
                row[field] = round(median(one[field] for one in ran), 4)
            for operation in ("put", "get"):
                row[f"{operation}_of_fio"] = round(row[f"{operation}_gb_s"] / median(ceilings[at][operation]), 3)
            row["mismatches"] = sum(one["mismatches"] for one in ran)
            row["staged_bytes"] = sum(one["staged_bytes"] for one in ran)
            table.append(row)
        row = {"point": at, "backend": "fio"}
        row.update({f"{op}_gb_s": round(median(ceilings[at][op]), 4) for op in ("put", "get")})
        table.append(row)
        table.append({"point": at, "backend": "fio, fdatasync", "put_gb_s": round(median(ceilings[at]["sync"]), 4)})
    memory = round(median(one_pass() for _ in range(5)), 4)
    result = {"turns": turns, "one_pass_over_memory_cpu_s_per_gb": memory, "table": table}
    if with_restart:
        result["restart"] = {}
        for name in backends:
            if name == "GCOS, relaxed":
                continue
            for pool in places[name].glob("*.gcos"):
                pool.unlink()
            make_raw_files(folder, [name])
            place = str(places[name])
            filled = child([place, "--one", name, "--phase", "fill"])
            result["restart"][name] = {**filled, **child([place, "--one", name, "--phase", "restart"])}
            print(f"restart {name}: {result['restart'][name]}", file=sys.stderr)
    for place in set(places.values()):
        shutil.rmtree(place)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, help="write the result here, too")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--backends", nargs="*", default=BACKENDS)
    parser.add_argument("--no-restart", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--point", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    parser.add_argument("--first", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        if given.phase:
            result = {"fill": fill, "restart": restart}[given.phase](given.one, given.folder)
        else:
            result = measure(given.one, given.folder, POINTS[given.point], given.first)
        print(json.dumps(result))
        sys.stdout.flush()
        os._exit(0)
    backends = [name for name in given.backends if name != "RustRawBlockBackend" or have_raw_block()]
    given.folder.mkdir(parents=True, exist_ok=True)
    result = everything(given.folder, given.turns, backends, not given.no_restart)
    text = json.dumps(result, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
