"""The plugin in a real LMCache engine."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import shutil
import threading
import time

import pytest

pytest.importorskip("lmcache")

import torch  # noqa: E402
from lmcache.observability import LMCStatsMonitor  # noqa: E402
from lmcache.utils import CacheEngineKey  # noqa: E402
from lmcache.v1.cache_controller.message import OpType  # noqa: E402

import gcos  # noqa: E402
import gcos.lmcache.backend  # noqa: E402, F401  LMCache sets a logger up anew when its module is imported.
import lmcache_rig as rig  # noqa: E402
from gcos.lmcache.announce import Announcer  # noqa: E402
from lmcache_rig import CHUNK, Engine, Lines, config, metadata  # noqa: E402

TOKENS = list(range(10 * CHUNK + 5))


@pytest.fixture(autouse=True)
def leaves_nothing(tmp_path):
    """Pools take their whole size on the disk."""
    yield
    shutil.rmtree(tmp_path, ignore_errors=True)


def on_loop(engine: Engine, coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, engine.manager.loop).result(timeout=20)


def keys_of(engine: Engine, tokens=TOKENS):
    return [key for _, _, key in engine.engine.token_database.process_tokens(tokens=torch.tensor(tokens))]


def test_what_is_stored_comes_back_byte_for_byte_with_a_short_last_chunk(tmp_path):
    with Engine(config(tmp_path)) as engine:
        engine.store(TOKENS)
        assert engine.lookup(TOKENS) == len(TOKENS)
        assert engine.retrieve(TOKENS) == len(TOKENS)
        assert (engine.connector.compared, engine.connector.mismatches) == (11, 0)
        assert engine.backend.counters["puts"] == 11
        assert engine.backend._store.stats().staged_bytes == 0, "LMCache's memory is copied"


def test_storing_again_stores_nothing_and_keeps_what_is_there(tmp_path):
    with Engine(config(tmp_path)) as engine:
        engine.store(TOKENS)
        engine.store(TOKENS)
        assert engine.backend.counters["puts"] == 11
        assert engine.backend.counters["puts_kept"] == 11
        assert engine.retrieve(TOKENS) == len(TOKENS)
        assert engine.connector.mismatches == 0


def test_after_a_restart_everything_is_there_and_nothing_differs(tmp_path):
    with Engine(config(tmp_path)) as engine:
        engine.store(TOKENS)
    with Engine(config(tmp_path, gib=None)) as engine:
        assert engine.lookup(TOKENS) == len(TOKENS)
        assert engine.retrieve(TOKENS) == len(TOKENS)
        assert (engine.connector.compared, engine.connector.mismatches) == (11, 0)


@pytest.mark.parametrize("extra", [{"batch_size": 3}, {"gcos_durability": "relaxed"}], ids=str)
def test_calls_are_split_and_acknowledged_as_the_configuration_says(tmp_path, extra):
    with Engine(config(tmp_path, extra=extra)) as engine:
        engine.store(TOKENS)
        assert engine.retrieve(TOKENS) == len(TOKENS)
        assert (engine.connector.compared, engine.connector.mismatches) == (11, 0)


@pytest.mark.parametrize("ahead", [0, 2])
def test_layers_come_back_one_by_one(tmp_path, ahead):
    settings = {"use_layerwise": True, "save_unfull_chunk": False}
    with Engine(config(tmp_path, extra={"prefetch_size": ahead}, **settings)) as engine:
        engine.store(TOKENS)
        assert engine.lookup(TOKENS) == 10 * CHUNK
        assert engine.retrieve(TOKENS) == 10 * CHUNK
        assert (engine.connector.compared, engine.connector.mismatches) == (10 * 4, 0)
        assert bool(engine.backend.counters["layers_read_ahead"]) == bool(ahead)
    with Engine(config(tmp_path, **settings)) as engine:
        assert engine.retrieve(TOKENS) == 10 * CHUNK
        assert engine.connector.mismatches == 0
        engine.backend._ahead.drop_all()
        rig.wait(lambda: not engine.backend._under_way)
        assert engine.manager.memcheck()
        manager = engine.backend.local_cpu_backend.memory_allocator.pin_allocator
        assert manager.num_active_allocations == 0, "memory is lost"


def test_a_layer_that_is_missing_is_a_miss_before_and_an_error_after_the_lookup(tmp_path):
    with Engine(config(tmp_path, use_layerwise=True)) as engine:
        engine.store(TOKENS[:CHUNK])
        (key,) = keys_of(engine, TOKENS[:CHUNK])
        layers = key.split_layers(4)
        assert engine.backend.contains(layers[0])
        assert engine.backend.remove(layers[2])
        assert not engine.backend.contains(layers[0]), "the engine would trust in all layers"
        with pytest.raises(LookupError, match="1 of 1"):
            on_loop(engine, engine.backend.batched_get_non_blocking("x", [layers[2]]))
        assert engine.lookup(TOKENS[:CHUNK], lookup_id="x", pin=True) == 0
        assert engine.backend._pins.held == 0, "nobody would give these pins back"


def test_a_chunk_whose_layers_are_partly_in_the_cpu_cache_is_not_pinned(tmp_path):
    with Engine(config(tmp_path, use_layerwise=True, local_cpu=True)) as engine:
        engine.store(TOKENS[:CHUNK])
        (key,) = keys_of(engine, TOKENS[:CHUNK])
        layers, cpu = key.split_layers(4), engine.backend.local_cpu_backend
        assert cpu.batched_contains(layers) == 4 and engine.backend.batched_contains(layers) == 4
        assert all(cpu.remove(layer) for layer in layers[2:])
        # The engine takes only what one backend has, and gives back nothing of what several have.
        assert engine.lookup(TOKENS[:CHUNK], lookup_id="x", pin=True) == 0
        assert not engine.engine.lookup_pins["x"]
        assert engine.backend._pins.held == 0, "nobody would give these pins back"
        assert all(cpu.remove(layer) for layer in layers[:2])
        assert engine.lookup(TOKENS[:CHUNK], lookup_id="y", pin=True) == CHUNK
        assert engine.backend._pins.held == 4
        engine.engine.lookup_unpin("y")
        assert engine.backend._pins.held == 0


def test_objects_of_another_layout_are_misses_and_are_not_stored(tmp_path):
    with Engine(config(tmp_path)) as engine:
        engine.store(TOKENS)
    # As many bytes to each token, by other heads: the keys of LMCache are the same.
    other = metadata(shape=(8, 2, CHUNK, 2, 64))
    with Engine(config(tmp_path), other) as engine:
        assert engine.lookup(TOKENS) == 0
        assert engine.retrieve(TOKENS) == 0
        engine.store(TOKENS)
        assert engine.retrieve(TOKENS) == len(TOKENS)
        assert engine.connector.mismatches == 0
        with Lines() as lines:
            keys = keys_of(engine)[:2]
            objs = [engine.manager.allocate([torch.Size(rig.SHAPE[1:2] + (4, CHUNK, 256))], [torch.bfloat16]) for _ in keys]
            assert engine.backend.batched_submit_put_task(keys, objs) is None
            assert engine.backend.counters["other_layouts"] == 2
            assert len(lines.of("WARNING")) == 1
            narrow = engine.manager.allocate(engine.data.get_shapes(CHUNK), engine.data.get_dtypes())
            narrow.set_used_size(narrow.get_size() // 2)
            assert engine.backend.batched_submit_put_task([keys[0]], [narrow]) is None
        for obj in [*objs, narrow]:
            assert obj.get_ref_count() == 1
            obj.ref_count_down()


def test_the_pool_evicts_and_what_is_left_is_right(tmp_path):
    with Engine(config(tmp_path, gib=0.03125, extra={"batch_size": 8})) as engine:
        sequences = [[number * 10_000 + token for token in range(20 * CHUNK)] for number in range(40)]
        for tokens in sequences:
            engine.store(tokens)
        stats = engine.backend._store.stats()
        assert stats.evicted > 0
        assert engine.retrieve(sequences[-1]) == 20 * CHUNK
        for tokens in sequences:
            engine.retrieve(tokens)
        assert engine.connector.mismatches == 0
        assert engine.retrieve(sequences[0]) == 0, "the oldest is still there"


def test_what_a_lookup_has_pinned_is_not_evicted_and_its_pins_are_given_back(tmp_path):
    with Engine(config(tmp_path, gib=0.03125)) as engine:
        engine.store(TOKENS)
        assert engine.lookup(TOKENS, lookup_id="request", pin=True) == len(TOKENS)
        assert engine.backend._pins.held == 11
        for number in range(1, 40):
            engine.store([number * 10_000 + token for token in range(20 * CHUNK)])
        assert engine.backend._store.stats().evicted > 0
        assert engine.retrieve(TOKENS) == len(TOKENS)
        engine.engine.lookup_unpin("request")
        assert engine.backend._pins.held == 0
        assert engine.backend._store.stats().pinned == 0
        assert engine.connector.mismatches == 0


def test_a_pool_without_room_drops_puts_and_says_so_once(tmp_path):
    with Engine(config(tmp_path, gib=0.03125)) as engine, Lines() as lines:
        for number in range(30):
            tokens = [number * 10_000 + token for token in range(20 * CHUNK)]
            engine.store(tokens)
            engine.lookup(tokens, lookup_id=str(number), pin=True)
        counters = engine.backend.counters
        assert counters["puts_dropped_full"] > 0
        assert counters["puts"] + counters["puts_dropped_full"] == 600
        assert engine.backend._store.stats().objects == counters["puts"]
        assert len(lines.of("WARNING")) == 1, lines.of("WARNING")
        (key,) = keys_of(engine, [-1] * CHUNK)
        obj = engine.manager.allocate(engine.data.get_shapes(CHUNK), engine.data.get_dtypes())
        (future,) = engine.backend.batched_submit_put_task([key], [obj])
        with pytest.raises(gcos.Full):
            future.result(timeout=20)
        with pytest.raises(gcos.Full):
            on_loop(engine, engine.backend.async_batched_submit_put_task([key], [obj]))
        obj.ref_count_down()
        assert not engine.backend.contains(key)
        assert engine.backend.local_cpu_backend.memory_allocator.pin_allocator.num_active_allocations == 0


def test_callbacks_come_once_per_key_and_their_exceptions_stay_where_they_are(tmp_path):
    with Engine(config(tmp_path)) as engine:
        keys = keys_of(engine)[:4]
        objs = [engine.manager.allocate(engine.data.get_shapes(CHUNK), engine.data.get_dtypes()) for _ in keys]
        called = []

        def callback(key: CacheEngineKey) -> None:
            called.append(key)
            assert not engine.backend.exists_in_put_tasks(key)
            raise ValueError("a callback that fails")

        futures = engine.backend.batched_submit_put_task(keys, objs, on_complete_callback=callback)
        for future in futures:
            future.result(timeout=20)
        assert called == keys
        assert [obj.get_ref_count() for obj in objs] == [1] * 4
        assert engine.backend.batched_contains(keys) == 4
        on_loop(engine, engine.backend.async_batched_submit_put_task(keys, objs))
        assert engine.backend.counters["puts_kept"] == 4
        for obj in objs:
            obj.ref_count_down()


def test_a_put_that_is_under_way_is_not_begun_again(tmp_path):
    with Engine(config(tmp_path)) as engine:
        keys = keys_of(engine)[:4]
        objs = [engine.manager.allocate(engine.data.get_shapes(CHUNK), engine.data.get_dtypes()) for _ in keys]
        held = engine.backend._putting
        held.update(engine.backend._name(key) for key in keys[:2])
        assert engine.backend.exists_in_put_tasks(keys[0]) and not engine.backend.exists_in_put_tasks(keys[2])
        (future,) = engine.backend.batched_submit_put_task(keys, objs)
        future.result(timeout=20)
        assert engine.backend.counters["puts_under_way_already"] == 2
        assert engine.backend.counters["puts"] == 2
        assert engine.backend.batched_contains(keys[2:]) == 2
        assert not engine.backend.contains(keys[0])
        held.clear()
        for obj in objs:
            assert obj.get_ref_count() == 1
            obj.ref_count_down()


def test_gets_without_blocking_give_the_leading_objects_and_end_the_pins_of_their_lookup(tmp_path):
    with Engine(config(tmp_path)) as engine:
        engine.store(TOKENS)
        keys, backend = keys_of(engine), engine.backend
        assert on_loop(engine, backend.batched_async_contains("one", keys, True)) == 11
        assert backend._pins.held == 11
        objs = on_loop(engine, backend.batched_get_non_blocking("one", keys))
        assert len(objs) == 11
        assert backend._pins.held == 0
        for obj, start in zip(objs, range(0, len(TOKENS), CHUNK)):
            assert rig.same(obj.tensor, rig.pattern(obj.tensor.shape, start))
            obj.ref_count_down()
        assert backend.remove(keys[3])
        assert on_loop(engine, backend.batched_async_contains("two", keys, True)) == 3
        backend.cancel_request("two")
        assert backend._pins.held == 0
        objs = on_loop(engine, backend.batched_get_non_blocking("three", keys))
        assert len(objs) == 3
        found = backend.batched_get_blocking(keys)
        assert [obj is not None for obj in found] == [True] * 3 + [False] + [True] * 7
        one = backend.get_non_blocking(keys[0]).result(timeout=20)
        assert backend.get_non_blocking(keys[3]) is None
        for obj in [*objs, one, *filter(None, found)]:
            obj.ref_count_down()
        assert backend.local_cpu_backend.memory_allocator.pin_allocator.num_active_allocations == 0


class Scheduler:
    """Hears what an asynchronous lookup has found."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    def send_response_to_scheduler(self, lookup_id: str, tokens: int) -> None:
        self.found[lookup_id] = tokens


@pytest.mark.parametrize("layers", [False, True], ids=["chunks", "layers"])
def test_an_asynchronous_lookup_loads_what_it_has_found_and_holds_nothing_afterwards(tmp_path, layers):
    tokens = TOKENS[: 10 * CHUNK]
    with Engine(config(tmp_path, enable_async_loading=True, use_layerwise=layers)) as engine:
        engine.store(tokens)
        backend, scheduler = engine.backend, Scheduler()
        engine.manager.async_lookup_server = scheduler
        lost = keys_of(engine, tokens)[7]
        for number, expected in ((1, 10), (2, 7)):
            request = f"request {number}"
            engine.engine.async_lookup_and_prefetch(request, tokens=tokens, pin=True)
            rig.wait(lambda: request in scheduler.found)
            assert scheduler.found[request] == expected * CHUNK
            assert backend._pins.held == 0
            if layers:
                # LMCache does not retrieve layers of an asynchronous lookup.
                engine.engine.cleanup_memory_objs(request)
            else:
                mask = engine.engine.retrieve(tokens=torch.tensor(tokens), req_id=request)
                assert int(mask.sum()) == expected * CHUNK
            assert backend.remove(lost.split_layers(4)[2] if layers else lost) == (number == 1)
        assert engine.connector.mismatches == 0
        assert backend.counters["layers_read_ahead"] == 0
        assert backend.local_cpu_backend.memory_allocator.pin_allocator.num_active_allocations == 0


def test_an_asynchronous_lookup_of_part_of_a_chunk_leaves_the_pins_of_others_alone(tmp_path):
    tokens = TOKENS[: 2 * CHUNK]
    with Engine(config(tmp_path, enable_async_loading=True, use_layerwise=True)) as engine:
        engine.store(tokens)
        backend, scheduler = engine.backend, Scheduler()
        engine.manager.async_lookup_server = scheduler
        first, second = (key.split_layers(4) for key in keys_of(engine, tokens))
        assert backend.remove(second[2])
        assert all(backend.pin(layer) for layer in second[:2])
        engine.engine.async_lookup_and_prefetch("request", tokens=tokens, pin=True)
        rig.wait(lambda: "request" in scheduler.found)
        assert scheduler.found["request"] == CHUNK
        engine.engine.cleanup_memory_objs("request")
        assert [backend._store.info(backend._name(layer)).pins for layer in first + second[:2]] == [0] * 4 + [1] * 2
        assert backend.unpin(second[0]) and backend.unpin(second[1]) and backend._pins.held == 0


def test_removal_keeps_what_is_pinned_unless_it_is_forced_and_clear_takes_all(tmp_path):
    with Engine(config(tmp_path)) as engine:
        engine.store(TOKENS)
        backend, keys = engine.backend, keys_of(engine)
        assert backend.pin(keys[0]) and not backend.remove(keys[0], force=False)
        assert backend.unpin(keys[0]) and not backend.unpin(keys[0])
        assert backend.remove(keys[0], force=False) and not backend.remove(keys[0])
        assert not backend.pin(keys[0])
        assert backend.batched_remove(keys[:3]) == 2
        assert engine.engine.clear(locations=["gcos"]) == len(TOKENS) - 3 * CHUNK
        assert backend._store.stats().objects == 0


def test_memory_that_others_hold_makes_a_get_wait_and_then_miss_but_never_hang(tmp_path, monkeypatch):
    monkeypatch.setattr("gcos.lmcache.backend._ALLOCATE_S", 0.2)
    with Engine(config(tmp_path)) as engine:
        engine.store(TOKENS)
        held = []
        while (obj := engine.manager.allocate(engine.data.get_shapes(CHUNK), engine.data.get_dtypes(), busy_loop=False)):
            held.append(obj)
        assert engine.backend.batched_get_blocking(keys_of(engine)[:2]) == [None, None]
        assert engine.backend.counters["no_memory"] == 1
        timer = threading.Timer(0.05, lambda: [obj.ref_count_down() for obj in held])
        timer.start()
        (found,) = engine.backend.batched_get_blocking(keys_of(engine)[:1])
        timer.join()
        assert rig.same(found.tensor, rig.pattern(found.tensor.shape, 0))
        found.ref_count_down()


def test_memory_of_a_get_that_did_not_end_in_time_is_never_given_out_again(tmp_path):
    with Engine(config(tmp_path)) as engine:
        engine.store(TOKENS)
        backend, keys = engine.backend, keys_of(engine)
        allocator = backend.local_cpu_backend.memory_allocator.pin_allocator
        backend._store, store = rig.LateStore(backend._store), backend._store
        assert backend.batched_get_blocking(keys[:2]) == [None, None]
        assert on_loop(engine, backend.batched_get_non_blocking("x", keys[2:5])) == []
        assert engine.retrieve(TOKENS) == 0
        backend._store = store
        late = {obj.data_ptr for obj in backend._kept}
        assert len(late) == len(backend._kept) == allocator.num_active_allocations >= 5 + 11
        assert backend.counters["bytes_kept"] == sum(obj.get_size() for obj in backend._kept)
        held = []
        while (obj := engine.manager.allocate(engine.data.get_shapes(1), engine.data.get_dtypes(), busy_loop=False)):
            assert obj.data_ptr not in late
            held.append(obj)
        assert held
        for obj in held:
            obj.ref_count_down()
        assert engine.retrieve(TOKENS) == len(TOKENS) and not engine.connector.mismatches


def test_a_layer_waits_for_memory_longer_and_says_then_that_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr("gcos.lmcache.backend._ALLOCATE_S", 0.1)
    with Engine(config(tmp_path, use_layerwise=True)) as engine:
        backend, tokens = engine.backend, TOKENS[: 2 * CHUNK]
        engine.store(tokens)
        layer = [key.split_layers(4)[1] for key in keys_of(engine, tokens)]
        shape = torch.Size([CHUNK, 2, 256])
        held = []
        while (obj := engine.manager.allocate(shape, torch.bfloat16, busy_loop=False)) is not None:
            held.append(obj)
        # There is room for one of both.
        held.pop().ref_count_down()
        timer = threading.Timer(0.5, held.pop().ref_count_down)
        timer.start()
        found = on_loop(engine, backend.batched_get_non_blocking("x", layer))
        timer.join()
        for obj, start in zip(found, (0, CHUNK), strict=True):
            assert rig.same(obj.tensor, rig.pattern(obj.tensor.shape, start, 2))
        assert not backend.counters["layers_no_memory"] and not backend.counters["layers_missing"]
        monkeypatch.setattr("gcos.lmcache.backend._ALLOCATE_LAYER_S", 0.1)
        with pytest.raises(MemoryError, match="raise max_local_cpu_size"):
            on_loop(engine, backend.batched_get_non_blocking("x", layer))
        assert backend.counters["layers_no_memory"] == 1 and not backend.counters["layers_missing"]
        backend._ahead.drop_all()
        rig.wait(lambda: not backend._under_way)
        for obj in held + found:
            obj.ref_count_down()
        assert backend.local_cpu_backend.memory_allocator.pin_allocator.num_active_allocations == 0


@pytest.mark.parametrize(
    ("extra", "path", "says"),
    [
        ({}, None, "neither gcos_config"),
        ({"gcos_config": "/nowhere/gcos.json"}, None, "no file"),
        ({"gcos_config": {"disk": {"number": 2, "paths": ["a"], "capacity_bytes": 1 << 26}}}, None, "disk.number"),
        ({"gcos_capacity_gb": None}, "new.gcos", "gcos_capacity_gb is missing"),
        ({"gcos_capacity_gb": "much"}, "new.gcos", "use a number"),
        ({"use_direct_io": "perhaps"}, "new.gcos", "use true or false"),
        ({"gcos_device_buffer_mib": 64}, "new.gcos", "set it to 0"),
        ({"log_level": "LOUD"}, "new.gcos", "DEBUG"),
        ({"batch_size": -1}, "new.gcos", "whole number"),
        ({"gcos_durability": "perhaps"}, "new.gcos", "sync or relaxed"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_wrong_configuration_is_one_plain_line_and_the_engine_goes_on_without(tmp_path, extra, path, says):
    path = tmp_path / path if path else None
    with Lines() as lines, Engine(config(path, extra=extra, local_cpu=True)) as engine:
        errors = lines.of("ERROR")
        assert len(errors) == 1 and says in errors[0] and "\n" not in errors[0], errors
        assert engine.backend is None
        engine.store(TOKENS)
        assert engine.retrieve(TOKENS) == len(TOKENS)
        assert engine.connector.mismatches == 0


def test_a_pool_that_is_open_elsewhere_is_said_in_one_line(tmp_path):
    with Engine(config(tmp_path)) as first, Lines() as lines:
        with Engine(config(tmp_path)) as second:
            assert second.backend is None and first.backend is not None
        assert len(lines.of("ERROR")) == 1


def test_keys_that_are_misspelt_are_pointed_out(tmp_path):
    with Lines() as lines, Engine(config(tmp_path, extra={"gcos_queue_dept": 64})) as engine:
        assert engine.backend is not None
        (warning,) = [line for line in lines.of("WARNING") if "gcos_queue_dept" in line]
        assert "'gcos_queue_depth'" in warning


def test_the_scheduler_opens_no_pool(tmp_path):
    with Engine(config(tmp_path), metadata(role="scheduler")) as engine:
        assert engine.backend._store is None
        assert engine.lookup(TOKENS) == 0
    assert not list(tmp_path.iterdir())


def test_single_keys_stand_above_the_configuration_of_the_pool(tmp_path):
    pool = {"disk": {"number": 1, "paths": [str(tmp_path / "pool")], "capacity_bytes": 1 << 27}}
    file = tmp_path / "gcos.json"
    file.write_text(json.dumps(pool))
    extra = {"gcos_queue_num": 100, "gcos_queue_depth": 64, "use_direct_io": False, "use_cufile": "false"}
    for given in (str(file), pool):
        with Engine(config(None, extra={**extra, "gcos_config": given})) as engine:
            used = engine.backend._options.pool
            assert used["namespace"]["cpu"] | {"qps": 100, "queue_depth": 64} == used["namespace"]["cpu"]
            assert used["kernel_path"] | {"use_direct_io": False, "use_cufile": False, "queue_depth": 64} == used["kernel_path"]
            engine.store(TOKENS)
            assert engine.retrieve(TOKENS) == len(TOKENS)


def work(folder: str, drives: list[str], worker: int, results) -> None:
    pool = {"disk": {"number": len(drives), "paths": drives, "capacity_bytes": 1 << 26}}
    settings = config(None, extra={"gcos_config": pool})
    with Engine(settings, metadata(worker, 2)) as engine:
        if engine.backend is None:
            results.put((worker, None, 0, 0))
            return
        engine.store(TOKENS)
        got = engine.retrieve(TOKENS)
        results.put((worker, engine.backend._options.pool["disk"]["paths"], got, engine.connector.mismatches))


@pytest.mark.parametrize("names", [["a", "b", "c"], ["pool-{worker}"]], ids=["shares", "a file each"])
def test_two_workers_have_a_pool_each(tmp_path, names):
    drives = [str(tmp_path / name) for name in names]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=work, args=(str(tmp_path), drives, n, results)) for n in range(2)]
    for worker in workers:
        worker.start()
    found = sorted(results.get(timeout=90) for _ in workers)
    for worker in workers:
        worker.join(timeout=60)
    of = [[path.replace("{worker}", str(n)) for path in (drives[n::2] if len(drives) > 1 else drives)] for n in range(2)]
    assert found == [(n, of[n], len(TOKENS), 0) for n in range(2)]


@pytest.mark.parametrize("drives", [["only"], ["a", "b-{worker}"]])
def test_workers_that_would_share_a_drive_are_refused(tmp_path, drives):
    pool = {"disk": {"number": len(drives), "paths": [str(tmp_path / d) for d in drives], "capacity_bytes": 1 << 26}}
    with Lines() as lines, Engine(config(None, extra={"gcos_config": pool}), metadata(1, 2)) as engine:
        assert engine.backend is None
        (error,) = lines.of("ERROR")
        assert "{worker}" in error


class Worker:
    """Hears what LMCache's controller is told about keys."""

    def __init__(self) -> None:
        self.admitted: set = set()
        self.gone: set = set()

    def put_msg(self, message) -> None:
        for operation in message.operations:
            (self.admitted if operation.op_type == OpType.ADMIT else self.gone).add(operation.key)


def test_usage_and_keys_are_announced_again_after_a_restart(tmp_path):
    with Engine(config(tmp_path)) as engine:
        engine.store(TOKENS)
        expected = {key.chunk_hash for key in keys_of(engine)}
        payload = engine.backend._store.stats().payload_bytes

    with Engine(config(tmp_path)) as engine:
        assert LMCStatsMonitor.GetOrCreate().local_storage_usage_bytes == payload
        worker = Worker()
        announcer = Announcer(engine.backend.config, engine.data, worker, "gcos")
        announcer.restart(engine.backend._store, engine.backend._layouts.current())
        rig.wait(lambda: worker.admitted == expected)
        announcer.close(5)


class Stubborn:
    """A store that fails to remove one key."""

    def __init__(self, store, name: bytes) -> None:
        self._store, self._name = store, name

    def remove(self, name: bytes) -> bool:
        if name == self._name:
            raise gcos.Io("the drive does not answer")
        return self._store.remove(name)

    def __getattr__(self, name: str):
        return getattr(self._store, name)


@pytest.mark.parametrize("layers", [False, True], ids=["chunks", "layers"])
def test_clear_announces_what_it_has_removed_and_goes_on_after_an_error(tmp_path, layers):
    tokens = TOKENS[: 4 * CHUNK]
    with Engine(config(tmp_path, use_layerwise=layers)) as engine:
        engine.store(tokens)
        backend, worker = engine.backend, Worker()
        backend._announcer = Announcer(backend.config, engine.data, worker, "gcos")
        kept, *others = keys_of(engine, tokens)
        first = kept.split_layers(4)[0] if layers else kept
        assert backend.pin(others[0].split_layers(4)[0] if layers else others[0])
        store = backend._store
        backend._store = Stubborn(store, backend._name(first))
        try:
            # Of the tokens of a chunk, one layer's are a quarter.
            assert backend.clear() == (4 * CHUNK - CHUNK // 4 if layers else 3 * CHUNK)
        finally:
            backend._store = store
        assert store.stats().objects == 1 and backend.contains(first, True) and backend.unpin(first)
        assert backend.counters["removes_failed"] == 1
        assert backend._pins.held == 0, "of an object that is gone"
        expected = {key.chunk_hash for key in ([kept] if layers else []) + others}
        rig.wait(lambda: worker.gone == expected)


def test_closing_with_puts_under_way_loses_none_of_them(tmp_path):
    engine = Engine(config(tmp_path))
    engine.engine.store(tokens=torch.tensor(TOKENS))
    engine.close()
    with Engine(config(tmp_path)) as engine:
        assert engine.retrieve(TOKENS) == len(TOKENS)
        assert engine.connector.mismatches == 0


def test_many_threads_at_once_see_right_bytes_or_misses_and_lose_no_memory(tmp_path):
    with Engine(config(tmp_path, gib=0.03125)) as engine:
        backend, problems = engine.backend, []
        shapes, dtypes = engine.data.get_shapes(CHUNK), engine.data.get_dtypes()
        key = lambda number: CacheEngineKey("org/model", 1, 0, number, torch.bfloat16)  # noqa: E731
        contents = {number: rig.pattern(shapes[0], number) for number in range(700)}
        ends = time.monotonic() + 4

        def goes_on() -> bool:
            now = time.monotonic()
            return now < ends or (now < ends + 30 and not backend._store.stats().evicted)

        def work(seed: int) -> None:
            chance = random.Random(seed)
            hits = 0
            try:
                while goes_on():
                    numbers = chance.sample(range(700), 6)
                    what = chance.random()
                    if what < 0.5:
                        objs = [engine.manager.allocate(shapes, dtypes, busy_loop=False) for _ in numbers]
                        pairs = [(n, obj) for n, obj in zip(numbers, objs) if obj is not None]
                        for number, obj in pairs:
                            obj.tensor.copy_(contents[number])
                        backend.batched_submit_put_task([key(n) for n, _ in pairs], [obj for _, obj in pairs])
                        for _, obj in pairs:
                            obj.ref_count_down()
                    elif what < 0.9:
                        for number, obj in zip(numbers, backend.batched_get_blocking([key(n) for n in numbers])):
                            if obj is not None:
                                hits += 1
                                if not rig.same(obj.tensor, contents[number]):
                                    problems.append(f"object {number} has other bytes")
                                obj.ref_count_down()
                    elif what < 0.95:
                        backend.unpin(key(numbers[0])) if backend.pin(key(numbers[0])) else None
                    else:
                        backend.remove(key(numbers[0]), force=bool(numbers[1] % 2))
                if not hits:
                    problems.append("no hit at all")
            except Exception as error:
                problems.append(repr(error))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        engine.settle()
        assert problems == []
        assert backend._store.stats().evicted > 0
        assert backend._store.stats().pinned == 0
        assert backend.local_cpu_backend.memory_allocator.pin_allocator.num_active_allocations == 0
        assert engine.manager.memcheck()


def test_gets_go_into_memory_of_the_store_where_there_is_some_and_it_comes_back(tmp_path):
    from gcos.lmcache.memory import PAGE, DeviceArena

    with Engine(config(tmp_path)) as engine:
        engine.store(TOKENS)
        # Memory of the host in the place of a GPU's: the way of an object is the same.
        arena = engine.backend._device = DeviceArena(engine.backend._store.buffer(4 << 20))
        found = engine.backend.batched_get_blocking(keys_of(engine))
        base = arena.tensor.data_ptr()
        for obj, start in zip(found, range(0, len(TOKENS), CHUNK)):
            assert base <= obj.data_ptr < base + (4 << 20) and obj.data_ptr % PAGE == 0
            assert obj.parent() is arena
            assert rig.same(obj.tensor, rig.pattern(obj.tensor.shape, start))
        assert engine.backend._store.stats().staged_bytes == 0
        # What lies there can be put again.
        for future in engine.backend.batched_submit_put_task(keys_of(engine, TOKENS[::-1])[:3], found[:3]):
            future.result(timeout=20)
        assert engine.backend.counters["puts"] == 14
        for obj in found:
            obj.ref_count_down()
        assert engine.retrieve(TOKENS) == len(TOKENS)
        assert engine.connector.mismatches == 0
        assert arena.allocator.num_active_allocations == 0 and arena.memcheck()


def test_the_backend_is_closed_and_made_anew_while_the_engine_runs(tmp_path):
    with Engine(config(tmp_path)) as engine:
        engine.store(TOKENS)
        first = engine.backend
        assert engine.manager.recreate_backend("gcos") == {"gcos": "GcosBackend"}
        assert engine.backend is not first
        assert first.batched_get_blocking(keys_of(engine)[:2]) == [None, None]
        assert first.batched_contains(keys_of(engine)) == 0 and not first.unpin(keys_of(engine)[0])
        assert engine.retrieve(TOKENS) == len(TOKENS)
        assert engine.connector.mismatches == 0
        assert engine.backend._store.stats().staged_bytes == 0


def flags_of(address: int) -> list[str]:
    """What the kernel has noted of the memory at an address."""
    inside = False
    for line in open("/proc/self/smaps"):
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            start, end = (int(part, 16) for part in first.split("-"))
            inside = start <= address < end
        elif inside and first == "VmFlags:":
            return line.split()[1:]
    return []


def test_the_memory_of_lmcache_is_advised_to_be_of_huge_pages(tmp_path):
    from gcos.lmcache.memory import advise_huge

    with Engine(config(tmp_path)) as engine:
        arena = engine.backend.local_cpu_backend.memory_allocator.buffer
        assert "hg" in flags_of(arena.data_ptr() + arena.numel() // 2)
    assert not advise_huge(4096, 4096)
    assert not advise_huge(0, 1 << 40), "nothing is there"


def test_metrics_are_served_where_they_are_asked_for(tmp_path):
    if not hasattr(gcos.Store, "serve_metrics"):
        pytest.fail("the store has no serve_metrics")
    from urllib.request import urlopen

    with Engine(config(tmp_path, extra={"gcos_metrics_address": "127.0.0.1:0"})) as engine:
        engine.store(TOKENS)
        text = urlopen(f"http://{engine.backend._metrics.address}/metrics", timeout=10).read().decode()
        assert "gcos_" in text
