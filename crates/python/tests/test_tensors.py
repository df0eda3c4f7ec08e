"""Tensors of torch and arrays of numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gcos


def test_tensors_of_torch_go_in_and_out(store: gcos.Store) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.uint8, torch.int64):
        tensor = torch.arange(10_000).to(dtype)
        assert store.put("key", tensor)
        back = torch.zeros_like(tensor)
        assert store.get_into("key", back) is True
        assert torch.equal(tensor, back)
    with_gradient = torch.ones(16, requires_grad=True)
    assert store.put("key", with_gradient)
    assert store.put("key", torch.nn.Parameter(with_gradient))


def test_part_of_a_tensor_is_a_tensor(store: gcos.Store) -> None:
    cache = torch.arange(2 * 4 * 1024, dtype=torch.int32).reshape(2, 4, 1024)
    assert store.put("layer", [cache[0, 1], cache[1, 1]])
    back = torch.zeros_like(cache)
    assert store.get_into("layer", [back[0, 1], back[1, 1]])
    assert torch.equal(back[:, 1], cache[:, 1])
    assert back[:, 0].sum() == 0


def test_tensors_that_cannot_be_used_are_refused(ram: gcos.Store) -> None:
    square = torch.zeros(64, 64)
    with pytest.raises(gcos.InvalidArgument, match="contiguous"):
        ram.put("key", square.t())
    with pytest.raises(gcos.InvalidArgument, match="contiguous"):
        ram.put("key", square[:, 0])
    with pytest.raises(gcos.InvalidArgument, match="at least 1"):
        ram.put("key", torch.zeros(0))
    with pytest.raises(gcos.InvalidArgument, match='"meta"'):
        ram.put("key", torch.zeros(4, device="meta"))
    freed = torch.zeros(64)
    freed.untyped_storage().resize_(0)
    with pytest.raises(gcos.InvalidArgument, match="freed"):
        ram.put("key", freed)
    with pytest.raises((gcos.GcosError, TypeError, RuntimeError)):
        ram.put("key", torch.zeros(4, 4).to_sparse())
    ram.put("key", torch.zeros(8))
    with pytest.raises(gcos.WrongSize, match="32 bytes"):
        ram.get_into("key", torch.zeros(9))


def test_buffers_of_the_store_become_tensors_without_a_copy(store: gcos.Store) -> None:
    buffer = store.buffer(1 << 20)
    for tensor in (torch.frombuffer(buffer, dtype=torch.float32), torch.from_dlpack(buffer)):
        assert tensor.data_ptr() == buffer.data_ptr()
        tensor.fill_(7)
        before = store.stats().staged_bytes
        assert store.put("key", tensor)
        assert store.get_into("key", tensor)
        assert store.stats().staged_bytes == before
    array = np.from_dlpack(buffer)
    assert array.ctypes.data == buffer.data_ptr()


def test_a_registered_tensor_moves_without_a_copy(store: gcos.Store) -> None:
    pool = torch.zeros(8 << 20, dtype=torch.uint8)
    with store.register(pool) as registration:
        start = registration.ptr - pool.data_ptr()
        pages = pool[start : start + (1 << 20)]
        pages.fill_(9)
        before = store.stats().staged_bytes
        assert store.put("key", pages)
        assert store.get_into("key", pool[start + (2 << 20) : start + (3 << 20)])
        assert store.stats().staged_bytes == before
        assert pool[start + (2 << 20)] == 9


def test_arrays_of_numpy_go_in_and_out(store: gcos.Store) -> None:
    array = np.arange(10_000, dtype=np.float64).reshape(100, 100)
    assert store.put("key", array)
    back = np.zeros_like(array)
    assert store.get_into("key", back)
    assert np.array_equal(array, back)
    back.flags.writeable = False
    with pytest.raises(gcos.InvalidArgument, match="read-only"):
        store.get_into("key", back)
    with pytest.raises(gcos.InvalidArgument, match="contiguous"):
        store.put("key", array[:, ::2])
    with pytest.raises(gcos.InvalidArgument, match="contiguous"):
        store.put("key", np.asfortranarray(array))


def test_torch_is_not_loaded_by_gcos(run) -> None:  # type: ignore[no-untyped-def]
    done = run(
        """
        import sys, gcos
        store = gcos.Store.open({"disk": {"number": 1, "paths": ["emulated:ram:64MiB"], "capacity_bytes": 64 << 20}})
        store.put("key", b"data")
        store.close()
        print(sorted(name for name in ("torch", "numpy", "lmcache") if name in sys.modules))
        """
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
