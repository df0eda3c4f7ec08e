"""The L2 adapter, by itself and under the storage manager of LMCache's multi-process server."""

from __future__ import annotations

import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys

import pytest

pytest.importorskip("lmcache")

import torch  # noqa: E402
from lmcache.v1.distributed.api import GroupedObjectKeys, MemoryLayoutDesc, ObjectKey, PrefetchTaskSpec  # noqa: E402
from lmcache.v1.distributed.config import (  # noqa: E402
    EvictionConfig,
    L1ManagerConfig,
    L1MemoryManagerConfig,
    StorageManagerConfig,
)
from lmcache.v1.distributed.internal_api import L2AdapterListener  # noqa: E402
from lmcache.v1.distributed.l2_adapters.config import L2AdaptersConfig  # noqa: E402
from lmcache.v1.distributed.l2_adapters.plugin_l2_adapter import PluginL2AdapterConfig  # noqa: E402
from lmcache.v1.distributed.storage_manager import StorageManager  # noqa: E402
from lmcache.v1.memory_allocators.host_memory_allocator import HostMemoryAllocator  # noqa: E402
from lmcache.v1.platform.event_notifier import consume_fd  # noqa: E402

import lmcache_rig as rig  # noqa: E402
from gcos.lmcache.l2 import GcosL2Adapter, decode, encode  # noqa: E402

SHAPE = torch.Size([2, 4, 16, 256])
LAYOUT = MemoryLayoutDesc([SHAPE], [torch.bfloat16])


@pytest.fixture(autouse=True)
def leaves_nothing(tmp_path):
    """Pools take their whole size on the disk."""
    yield
    shutil.rmtree(tmp_path, ignore_errors=True)


def key(number: int, salt: str = "", model: str = "org/model") -> ObjectKey:
    return ObjectKey(number.to_bytes(32, "big"), model, 0x01000100, 0, salt)


class Direct:
    """The adapter, called as the controllers call it."""

    def __init__(self, folder, gib: float = 0.0625, **more) -> None:
        self.adapter = GcosL2Adapter({"gcos_path": str(folder), "gcos_capacity_gb": gib, **more})
        self.memory = HostMemoryAllocator(16 << 20)

    def obj(self, number=None):
        made = self.memory.allocate([SHAPE], [torch.bfloat16])
        if number is not None:
            made.tensor.copy_(rig.pattern(SHAPE, number))
        return made

    def await_event(self, fd: int) -> None:
        assert select.select([fd], [], [], 20)[0], "no event in time"
        consume_fd(fd)

    def store(self, keys) -> dict:
        objs = [self.obj(int.from_bytes(k.chunk_hash, "big")) for k in keys]
        task = self.adapter.submit_store_task(keys, objs)
        self.await_event(self.adapter.get_store_event_fd())
        done = self.adapter.pop_completed_store_tasks()
        for obj in objs:
            obj.ref_count_down()
        return done[task]

    def lookup(self, keys) -> list[int]:
        task = self.adapter.submit_lookup_and_lock_task(keys, {0: LAYOUT})
        self.await_event(self.adapter.get_lookup_and_lock_event_fd())
        found = self.adapter.query_lookup_and_lock_result(task)
        assert self.adapter.query_lookup_and_lock_result(task) is None, "it is told once"
        return [at for at in range(len(keys)) if found.test(at)]

    def load(self, keys) -> list[bool]:
        objs = [self.obj() for _ in keys]
        task = self.adapter.submit_load_task(keys, objs)
        self.await_event(self.adapter.get_load_event_fd())
        found = self.adapter.query_load_result(task)
        for at, (k, obj) in enumerate(zip(keys, objs)):
            if found.test(at):
                assert rig.same(obj.tensor, rig.pattern(SHAPE, int.from_bytes(k.chunk_hash, "big")))
            obj.ref_count_down()
        return [found.test(at) for at in range(len(keys))]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.adapter.close()


class Listener(L2AdapterListener):
    def __init__(self) -> None:
        self.keys: dict[ObjectKey, int] = {}
        self.accessed: list[ObjectKey] = []

    def on_l2_keys_stored(self, keys, sizes):
        self.keys.update(zip(keys, sizes))

    def on_l2_keys_accessed(self, keys):
        self.accessed += keys

    def on_l2_keys_deleted(self, keys):
        for k in keys:
            self.keys.pop(k, None)


@pytest.mark.parametrize("original", [key(7), key(8, "tenant:1"), ObjectKey(b"", "m", 0, 3), ObjectKey(b"\xff" * 32, "a/b-c_d.e", 2**32 - 1, 12, "x")])
def test_keys_of_the_server_survive_the_store(original):
    assert decode(encode(original)) == original


def test_keys_of_others_are_none():
    assert decode(b"lm1:x|y") is None
    assert decode(b"lm2:m@0@0") is None
    assert decode(b"lm2:m@zz@0@00@") is None
    assert encode(ObjectKey(b"", "m" * 2000, 0)) is None


def test_store_lookup_load_and_the_accounting_of_salts(tmp_path):
    with Direct(tmp_path) as direct:
        adapter, listener = direct.adapter, Listener()
        adapter.register_listener(listener)
        fds = {adapter.get_store_event_fd(), adapter.get_lookup_and_lock_event_fd(), adapter.get_load_event_fd()}
        assert len(fds) == 3
        keys = [key(n, "a" if n % 2 else "b") for n in range(8)]
        result = direct.store(keys)
        size = SHAPE.numel() * 2
        assert result.is_successful() and result.bytes_transferred() == 8 * size
        again = direct.store(keys)
        assert again.is_successful() and again.bytes_transferred() == 0
        usage = adapter.get_usage()
        assert usage.total_bytes_used == 8 * size
        assert dict(usage.bytes_by_cache_salt) == {"a": 4 * size, "b": 4 * size}
        assert 0 < usage.usage_fraction < 1 and adapter.supports_global_eviction
        assert listener.keys == {k: size for k in keys}
        assert direct.lookup([*keys[:3], key(99), keys[3]]) == [0, 1, 2, 4]
        assert adapter.report_status()["pins"] == 4
        assert direct.load([*keys[:3], key(99)]) == [True, True, True, False]
        assert listener.accessed == keys[:3]
        adapter.delete(keys[:1])
        assert keys[0] in listener.keys, "a pinned object was deleted"
        adapter.submit_unlock(keys[:4])
        assert adapter.report_status()["pins"] == 0
        adapter.delete([*keys[:2], key(99)])
        assert set(listener.keys) == set(keys[2:])
        assert adapter.get_usage().total_bytes_used == 6 * size
        assert adapter.report_status()["is_healthy"]
    assert not adapter.report_status()["is_healthy"]
    with pytest.raises(RuntimeError, match="closed"):
        adapter.submit_load_task([key(1)], [None])


def test_memory_of_a_load_that_did_not_end_in_time_is_never_given_out_again(tmp_path):
    with Direct(tmp_path) as direct:
        keys = [key(n) for n in range(3)]
        direct.store(keys)
        adapter, before = direct.adapter, direct.memory.allocator.num_active_allocations
        adapter._store, store = rig.LateStore(adapter._store), adapter._store
        assert direct.load(keys) == [False] * 3
        adapter._store = store
        assert adapter.counters["bytes_kept"] == 3 * SHAPE.numel() * 2
        assert direct.memory.allocator.num_active_allocations == before + 3
        assert direct.load(keys) == [True] * 3
        assert direct.memory.allocator.num_active_allocations == before + 3


def test_after_a_restart_keys_are_listed_by_pages_and_announced(tmp_path):
    keys = [key(n, "salt", "org/model" if n % 3 else "other") for n in range(20)]
    with Direct(tmp_path) as direct:
        direct.store(keys)
    with Direct(tmp_path) as direct:
        listener = Listener()
        direct.adapter.register_listener(listener)
        assert set(listener.keys) == set(keys)
        assert dict(direct.adapter.get_usage().bytes_by_cache_salt) == {"salt": 20 * SHAPE.numel() * 2}
        seen, cursor = [], None
        while True:
            page = direct.adapter.list_l2_keys(page_size=7, cursor=cursor)
            assert len(page.entries) <= 7
            seen += [entry.key.to_object_key() for entry in page.entries]
            cursor = page.next_page_token
            if cursor is None:
                break
        assert sorted(seen, key=str) == sorted(keys, key=str)
        of_model = direct.adapter.list_l2_keys(model_name="other").entries
        assert {entry.key.to_object_key() for entry in of_model} == {k for k in keys if k.model_name == "other"}
        assert all(entry.size_bytes == SHAPE.numel() * 2 for entry in of_model)
        for page_size, cursor in ((0, None), (5, "nonsense"), (5, "!")):
            with pytest.raises(ValueError):
                direct.adapter.list_l2_keys(page_size=page_size, cursor=cursor)
        assert all(direct.load(keys))


def test_a_pool_without_room_fails_the_task_and_what_it_evicts_leaves_the_accounting(tmp_path, monkeypatch):
    monkeypatch.setattr("gcos.lmcache.l2._COUNT_S", 0.0)
    with Direct(tmp_path, gib=0.03125) as direct:
        for number in range(0, 600, 20):
            assert direct.store([key(n) for n in range(number, number + 20)]).is_successful()
        stats = direct.adapter._store.stats()
        assert stats.evicted > 0
        assert direct.adapter.get_usage().total_bytes_used == stats.payload_bytes
        present = [k for k in map(key, range(600)) if direct.lookup([k])]
        for number in range(1000, 1400, 20):
            more = [key(n) for n in range(number, number + 20)]
            result = direct.store(more)
            direct.lookup(more)
        assert not result.is_successful() and result.bytes_transferred() == 0
        assert direct.adapter.counters["puts_dropped_full"] > 0
        assert all(direct.load(present[:50]))


def test_what_the_pool_has_evicted_is_forgotten_when_it_is_to_be_deleted(tmp_path):
    with Direct(tmp_path) as direct:
        adapter, listener = direct.adapter, Listener()
        adapter.register_listener(listener)
        keys = [key(n, "a") for n in range(3)]
        direct.store(keys)
        size = SHAPE.numel() * 2
        assert adapter._store.remove(encode(keys[0])), "as the store does that makes room"
        adapter._count()
        assert adapter.get_usage().total_bytes_used == 2 * size
        direct.lookup(keys[2:])
        adapter.delete(keys)
        assert set(listener.keys) == {keys[2]}
        assert adapter.get_usage().total_bytes_used == size
        assert dict(adapter.get_usage().bytes_by_cache_salt) == {"a": size}
    adapter.delete(keys)
    assert set(listener.keys) == {keys[2]}, "a pool that is closed says nothing about what is there"


def test_a_wrong_configuration_is_one_plain_line(tmp_path):
    with rig.Lines() as lines, pytest.raises(RuntimeError, match="gcos_capacity_gb"):
        GcosL2Adapter({"gcos_path": str(tmp_path)})
    assert len(lines.of("ERROR")) == 1


@pytest.mark.parametrize("params", [{"log_level": "error"}, {"debug_mode": True}], ids=str)
def test_the_level_of_the_log_is_that_of_the_parameters(tmp_path, params):
    loggers = [logging.getLogger(f"gcos.lmcache{part}") for part in ("", ".l2", ".backend")]
    before = [logger.level for logger in loggers]
    try:
        with Direct(tmp_path, **params):
            expected = logging.DEBUG if "debug_mode" in params else logging.ERROR
            assert [logger.level for logger in loggers] == [expected] * 3
    finally:
        for logger, level in zip(loggers, before):
            logger.setLevel(level)


class Manager:
    """LMCache's own storage manager, with this adapter as its L2."""

    def __init__(self, folder) -> None:
        adapter = PluginL2AdapterConfig.from_dict(
            {
                "module_path": "gcos.lmcache",
                "class_name": "GcosL2Adapter",
                "adapter_params": {"gcos_path": str(folder), "gcos_capacity_gb": 0.0625},
            }
        )
        memory = L1MemoryManagerConfig(size_in_bytes=16 << 20, use_lazy=False, shm_name="")
        self.manager = StorageManager(
            StorageManagerConfig(
                L1ManagerConfig(memory), EvictionConfig("LRU"), l2_adapter_config=L2AdaptersConfig([adapter])
            )
        )
        ((_, self.adapter),) = self.manager.l2_adapters()

    def store(self, keys) -> None:
        objs = self.manager.reserve_write(keys, LAYOUT)
        assert len(objs) == len(keys)
        for k, obj in objs.items():
            obj.tensor.copy_(rig.pattern(SHAPE, int.from_bytes(k.chunk_hash, "big")))
        self.manager.finish_write(keys)
        rig.wait(lambda: all(self.adapter._store.contains(encode(k)) for k in keys))
        rig.wait(lambda: not self.adapter.report_status()["store_inflight_task_count"])

    def prefetch(self, keys) -> int:
        """How many of the leading keys came from L2, compared byte by byte."""
        handle = self.manager.submit_prefetch_task(PrefetchTaskSpec([GroupedObjectKeys(keys, 0, LAYOUT)]))
        assert self.manager.wait_prefetch_status(handle, 20)
        result = self.manager.query_prefetch_status(handle)
        hits = [k for at, k in enumerate(keys) if result.hit_cells[0].test(at)]
        if hits:
            with self.manager.read_prefetched_results(hits) as objs:
                for k, obj in zip(hits, objs):
                    assert rig.same(obj.tensor, rig.pattern(SHAPE, int.from_bytes(k.chunk_hash, "big")))
            self.manager.finish_read_prefetched(hits)
        return result.l2_hit_count

    def forget(self, keys) -> None:
        """Leaves L2 alone with them."""
        rig.wait(lambda: self.manager.delete_l1_keys(keys)[1] == 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.manager.close()


def test_the_storage_manager_of_the_server_stores_and_prefetches_through_it_across_a_restart(tmp_path):
    keys = [key(n) for n in range(40)]
    with Manager(tmp_path) as manager:
        manager.store(keys)
        manager.forget(keys)
        assert manager.prefetch(keys) == 40
        rig.wait(lambda: not manager.adapter.report_status()["pins"])
        assert manager.adapter._store.stats().staged_bytes == 0, "L1's memory is copied"
    with Manager(tmp_path) as manager:
        assert manager.prefetch(keys) == 40
        manager.forget(keys)
        manager.adapter.delete([keys[20]])
        assert manager.prefetch(keys) == 20, "the prefix ends where an object is missing"
        rig.wait(lambda: not manager.adapter.report_status()["pins"])
        assert manager.manager.get_l2_usages()


def test_the_server_starts_with_it_and_ends_in_order(tmp_path):
    adapter = {
        "type": "plugin",
        "module_path": "gcos.lmcache",
        "class_name": "GcosL2Adapter",
        "adapter_params": {"gcos_path": str(tmp_path), "gcos_capacity_gb": 0.0625},
    }
    with Direct(tmp_path) as direct:
        direct.store([key(1), key(2)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lmcache.v1.multiprocess.server", "--port", str(port), "--l1-size-gb", "0.0625"]
    command += ["--eviction-policy", "LRU", "--disable-metrics", "--l2-adapter", json.dumps(adapter)]
    environment = {**os.environ, "LMCACHE_TRACK_USAGE": "false"}
    log = tmp_path / "log"
    with open(log, "wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        rig.wait(lambda: server.poll() is not None or "cache server is running..." in log.read_text(), 90)
        assert server.poll() is None, log.read_text()[-2000:]
        with pytest.raises(RuntimeError, match="GCOS is not used"):
            Direct(tmp_path)
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)
    finally:
        server.kill()
        server.wait()
    assert "GCOS is not used" not in log.read_text()
    with Direct(tmp_path) as direct:
        assert direct.load([key(1), key(2)]) == [True, True]
