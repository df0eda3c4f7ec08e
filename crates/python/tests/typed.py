"""Uses of the package that must pass `mypy --strict`, and wrong ones that must not; never run."""

from __future__ import annotations

import asyncio
import mmap
from pathlib import Path

import gcos
from gcos import fileio, ops


def stores(path: Path) -> None:
    config: gcos.Config = gcos.Config.from_dict({"disk": {"number": 1, "paths": [str(path)]}})
    with gcos.Store.open(config, create=True, threads=2) as store:
        stored: bool = store.put("key", b"data", durability="relaxed", if_exists="keep", ttl=5)
        data: bytes | None = store.get(b"key")
        hit: bool = store.get_into("key", bytearray(4), offset=0)
        many: list[bool | gcos.GcosError] = store.put_many(["a"], [[b"one", memoryview(b"two")]])
        future: gcos.Future[bool] = store.submit_put("key", mmap.mmap(-1, 4096))
        batch: gcos.Future[list[bool | gcos.GcosError]] = store.submit_get_many(["a"], [bytearray(3)])
        with store.register(bytearray(8192)) as registration:
            pages: int = registration.nbytes
        view = memoryview(store.buffer(pages))
        view[:4] = b"data"
        info: gcos.ObjectInfo | None = store.info("key")
        length: int = info.len if info else 0
        names: list[tuple[bytes, int]] = list(store.keys("a", after=b"a"))
        objects: int = store.stats().objects + store.pool.drives + store.prefix(["a", b"b"])
        with store.serve_metrics() as server:
            address: str = server.address
        print(stored, data, hit, many, future, batch, length, names, objects, address, "key" in store)

        store.put(5, b"data")  # type: ignore[arg-type]
        store.put("key", 5)  # type: ignore[arg-type]
        store.put("key", b"data", durability="soon")  # type: ignore[arg-type]
        store.get_into("key")  # type: ignore[call-arg]
        wrong: str = store.get("key")  # type: ignore[assignment]
        print(wrong)


async def awaited(store: gcos.Store) -> bool:
    done: bool = await store.submit_put("key", b"data")
    both = await asyncio.gather(store.submit_put("a", b"1"), store.submit_put("b", b"2"))
    return done and all(both)


def files(address: int) -> None:
    io = fileio.GdsFileIO(enable_gds=True)
    direct: bool = io.get_storage_mode() == fileio.StorageMode.GDS_DIRECT
    written: bool = io.write_to_file_gds("file", address, 4096, 0, stream=0, cpu_buffer=None)
    moved: int = ops.gpu_file_write("file", address, 4096)
    print(direct, written, moved, io.last_error)


def errors() -> gcos.Status:
    try:
        raise gcos.Full("no room")
    except gcos.GcosError as error:
        return error.status
