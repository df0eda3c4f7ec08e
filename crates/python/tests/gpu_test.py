"""Memory of a GPU. Needs one, with torch and libcufile; leaves nothing behind.

    python -m pytest crates/python/tests/gpu_test.py
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import MIB, document

import gcos
from gcos import fileio, ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA here"),
]

GPU = {"num": 1, "qps": 2, "queue_depth": 256, "fallback": True}


@pytest.fixture(params=["ram", "image", "file"])
def pool(request: pytest.FixtureRequest, folder: Path) -> Iterator[gcos.Store]:
    """Stores whose drives lend queues to a GPU, where they have any."""
    path = {
        "ram": "emulated:ram:512MiB",
        "image": f"emulated:{folder / 'image'}",
        "file": str(folder / "file"),
    }[request.param]
    config = document(path, 512, namespace={"gpu": GPU})
    config["disk"]["reserve_max_queue_pair_num"] = 16
    store = gcos.Store.open(config, create=True)
    yield store
    store.close()


def some(count: int, seed: int = 0) -> torch.Tensor:
    """Bytes that are not like others."""
    generator = torch.Generator(device="cuda").manual_seed(seed)
    return torch.randint(0, 256, (count,), dtype=torch.uint8, device="cuda", generator=generator)


def test_tensors_of_a_gpu_go_in_and_out(pool: gcos.Store) -> None:
    for count in (1, 511, 4096, 65536 + 5, 8 * MIB, 3 * MIB + 12345):
        data = some(count, count)
        assert pool.put("key", data) is True
        back = torch.zeros_like(data)
        assert pool.get_into("key", back) is True
        assert torch.equal(data, back)
        # The same bytes by way of the host, in both directions.
        assert pool.get("key") == data.cpu().numpy().tobytes()
        pool.put("host", data.cpu())
        back.zero_()
        assert pool.get_into("host", back)
        assert torch.equal(data, back)
    stats = pool.stats()
    assert stats.device_gets + stats.device_fallbacks > 0


def test_many_tensors_and_segments_at_once(pool: gcos.Store) -> None:
    data = [some(100_000 + 4096 * i, i) for i in range(32)]
    keys = [f"{i}" for i in range(32)]
    assert pool.put_many(keys, data) == [True] * 32
    assert pool.put_many(keys, data, if_exists="keep") == [False] * 32
    back = [torch.zeros_like(one) for one in data]
    assert pool.get_many(keys, back) == [True] * 32
    assert all(torch.equal(a, b) for a, b in zip(data, back, strict=True))
    cache = some(16 * 65536).reshape(16, 65536)
    pages = [cache[i] for i in (3, 1, 7)]
    assert pool.put("pages", pages)
    other = torch.zeros_like(cache)
    assert pool.get_into("pages", [other[i] for i in (3, 1, 7)])
    assert torch.equal(other[[3, 1, 7]], cache[[3, 1, 7]])
    assert other[0].sum() == 0


def test_host_and_gpu_go_together_in_a_batch(pool: gcos.Store) -> None:
    data = some(100_000)
    results = pool.put_many(["gpu", "host"], [data, b"host"])
    assert results == [True, True]
    back, host = torch.zeros_like(data), bytearray(4)
    hit, also, miss = pool.get_many(["gpu", "host", "none"], [back, host, torch.zeros_like(data)])
    assert (hit, also, miss) == (True, True, False)
    assert torch.equal(data, back) and host == b"host"
    wrong, right = pool.get_many(["gpu", "gpu"], [torch.zeros(5, device="cuda"), back])
    assert isinstance(wrong, gcos.WrongSize) and right is True


def test_part_of_an_object_comes_to_a_gpu(pool: gcos.Store) -> None:
    data = some(4 * MIB)
    pool.put("key", data)
    for offset, count in ((0, 4096), (65536, MIB), (12345, 54321)):
        back = torch.zeros(count, dtype=torch.uint8, device="cuda")
        assert pool.get_into("key", back, offset=offset) is True
        assert torch.equal(back, data[offset : offset + count])
    assert pool.get_into("nothing", back, offset=0) is False
    with pytest.raises(gcos.WrongSize):
        pool.get_into("key", back, offset=4 * MIB - 5)


def test_a_put_comes_after_the_work_before_it_in_its_stream(pool: gcos.Store) -> None:
    side = torch.cuda.Stream()
    for turn, stream in enumerate((side, side.cuda_stream, None)):
        data = torch.zeros(MIB, dtype=torch.uint8, device="cuda")
        torch.cuda.synchronize()
        with torch.cuda.stream(side):
            torch.cuda._sleep(200_000_000)
            data.fill_(turn + 1)
            assert pool.put("key", data, stream=stream)
            back = torch.zeros_like(data)
            torch.cuda._sleep(50_000_000)
            back.fill_(99)
            assert pool.get_into("key", back, stream=stream)
        assert pool.get("key") == bytes([turn + 1]) * MIB
        assert int(back.sum(dtype=torch.int64)) == (turn + 1) * MIB


def test_memory_of_the_store_on_a_gpu_needs_no_copy(pool: gcos.Store) -> None:
    buffer = pool.device_buffer("cuda:0", 4 * MIB)
    assert (buffer.nbytes, buffer.device, len(buffer)) == (4 * MIB, "cuda:0", 4 * MIB)
    tensors = [torch.from_dlpack(buffer), torch.as_tensor(buffer, device="cuda")]
    for tensor in tensors:
        assert tensor.data_ptr() == buffer.data_ptr()
    tensors[0].copy_(some(4 * MIB))
    torch.cuda.synchronize()
    assert pool.put("whole", buffer)
    assert pool.put("part", tensors[0][MIB : 2 * MIB])
    expected = tensors[0].clone()
    tensors[0].zero_()
    torch.cuda.synchronize()
    assert pool.get_into("whole", buffer)
    assert torch.equal(tensors[1], expected)
    assert pool.get_into("part", tensors[1][:MIB])
    assert torch.equal(tensors[0][:MIB], expected[MIB : 2 * MIB])
    # A tensor keeps the memory.
    del buffer
    gc.collect()
    tensors[0].fill_(5)
    assert int(tensors[1].sum(dtype=torch.int64)) == 5 * 4 * MIB


def test_memory_of_a_gpu_by_its_address(pool: gcos.Store) -> None:
    data = some(MIB)
    torch.cuda.synchronize()
    assert pool.put("key", gcos.Memory(data.data_ptr(), MIB, data, device="cuda:0"))
    assert pool.get("key") == data.cpu().numpy().tobytes()
    host = torch.zeros(MIB, dtype=torch.uint8)
    for wrong in (
        gcos.Memory(host.data_ptr(), MIB, host, device="cuda:0"),
        gcos.Memory(0x1000, MIB, device="cuda"),
        gcos.Memory(data.data_ptr(), 1 << 40, device="cuda"),
    ):
        with pytest.raises(gcos.InvalidArgument, match="expected"):
            pool.put("wrong", wrong)
    with pytest.raises(gcos.Gpu):
        pool.put("wrong", gcos.Memory(data.data_ptr(), MIB, device=f"cuda:{torch.cuda.device_count()}"))
    with pytest.raises(gcos.InvalidArgument, match="contiguous"):
        pool.put("wrong", some(4096).reshape(64, 64).t())


def test_futures_with_tensors_of_a_gpu(pool: gcos.Store) -> None:
    async def work() -> None:
        data = [some(MIB, i) for i in range(8)]
        stored = await asyncio.gather(*(pool.submit_put(f"{i}", one) for i, one in enumerate(data)))
        assert stored == [True] * 8
        back = [torch.zeros_like(one) for one in data]
        assert await pool.submit_get_many([f"{i}" for i in range(8)], back) == [True] * 8
        assert all(torch.equal(a, b) for a, b in zip(data, back, strict=True))

    asyncio.run(work())
    # Nobody but the store holds the tensor.
    futures = [pool.submit_put(f"{i}", torch.full((MIB,), i, dtype=torch.uint8, device="cuda")) for i in range(16)]
    gc.collect()
    assert all(future.result(60) for future in futures)
    for i in range(16):
        assert pool.get(f"{i}") == bytes([i]) * MIB


@pytest.mark.parametrize("way", ["cufile", "io_uring", "posix"])
def test_a_pool_passes_between_the_driver_and_the_kernel(folder: Path, way: str) -> None:
    by_driver = document(f"emulated:{folder / 'image'}", 512, namespace={"gpu": GPU})
    by_driver["disk"]["reserve_max_queue_pair_num"] = 16
    by_kernel = document(
        str(folder / "image"), 512, namespace={"gpu": {"num": 1}}, kernel_path={"force": way}
    )
    data = {f"{size}": some(size, size) for size in (1, 4096, 100_001, 5 * MIB)}
    for turn, config in enumerate((by_driver, by_kernel, by_driver)):
        store = gcos.Store.open(config, create=turn == 0)
        for key, one in data.items():
            if turn > 0:
                back = torch.zeros_like(one)
                assert store.get_into(key, back) is True
                assert torch.equal(back, one), (turn, key)
            # The next turn finds what this one has written.
            one.add_(1)
            assert store.put(key, one, if_exists="replace") is True
        # The software controller cannot move an image's blocks to and from the GPU's own memory.
        assert turn != 1 or store.stats().device_fallbacks == 0
        store.close()


@pytest.mark.parametrize("enable_gds", [True, False])
def test_files_of_anybody(enable_gds: bool, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    io = fileio.GdsFileIO(enable_gds=enable_gds)
    assert enable_gds or io.get_storage_mode() is fileio.StorageMode.STAGING
    assert io.get_storage_mode() is not fileio.StorageMode.STAGING or io.get_reason()
    path = folder / "anybody"
    for size, offset in ((4 * MIB, 0), (12345, 777), (65536, 8 * MIB)):
        data = some(size, size)
        stream = torch.cuda.current_stream().cuda_stream
        assert io.write_to_file_gds(str(path), data.data_ptr(), size, offset, stream, cpu_buffer=None)
        assert path.read_bytes()[offset : offset + size] == data.cpu().numpy().tobytes()
        back = torch.zeros_like(data)
        assert io.read_file_to_gds(
            file_path=path, gpu_ptr=back.data_ptr(), size=size, file_offset=offset, stream=stream
        )
        assert torch.equal(data, back)
    assert io.read_file_to_gds(folder / "nothing", back.data_ptr(), 4096) is False
    assert isinstance(io.last_error, gcos.GcosError)
    assert io.read_file_to_gds(path, back.data_ptr(), 4096, 1 << 40) is False
    assert isinstance(io.last_error, gcos.WrongSize)
    with pytest.raises(gcos.InvalidArgument):
        io.write_to_file_gds(path, 4096, 10)


def test_the_functions_of_lmcache(folder: Path) -> None:
    assert ops.initialize_gcos() is True
    path = folder / "ops"
    assert ops.create_file(path, 4 * MIB) is True
    data = some(MIB)
    assert ops.gpu_file_write(path, data.data_ptr(), MIB, 4096) == MIB
    back = torch.zeros_like(data)
    assert ops.gpu_file_read(path, back.data_ptr(), MIB, 4096) == MIB
    assert torch.equal(data, back)
    assert path.stat().st_size == 4 * MIB
    with pytest.raises(gcos.WrongSize):
        ops.gpu_file_read(path, back.data_ptr(), MIB, 1 << 40)
