"""The L2 adapter for LMCache's multi-process server."""

from __future__ import annotations

import base64
import binascii
import threading
import time
from collections import Counter
from concurrent.futures import Future
from typing import Any, Callable, Mapping, Optional, Sequence

from lmcache.lmcache_native import Bitmap
from lmcache.logging import init_logger
from lmcache.v1.distributed.api import KeyEntry, KeyListPage, MemoryLayoutDesc, ObjectKey
from lmcache.v1.distributed.internal_api import L2AdapterListener, L2StoreResult
from lmcache.v1.distributed.l2_adapters.base import AdapterUsage, L2AdapterInterface, L2TaskId
from lmcache.v1.memory_management import MemoryObj
from lmcache.v1.platform.event_notifier import EventNotifier, create_event_notifier

import gcos
from gcos.lmcache.layout import KEY_BYTES_MAX
from gcos.lmcache.memory import PAGE, Registrations, buffer_of
from gcos.lmcache.options import Options, Worker
from gcos.lmcache.pins import Pins

logger = init_logger(__name__)

_PREFIX = b"lm2:"
#: Keys that are announced to a listener at once.
_ANNOUNCED = 1000
#: Least seconds between two counts of what is in the pool.
_COUNT_S = 10.0


def encode(key: ObjectKey) -> Optional[bytes]:
    """The key in the store; ``None`` where it is too long."""
    name = f"{key.model_name}@{key.kv_rank:08x}@{key.object_group_id:x}@{key.chunk_hash.hex()}@{key.cache_salt}"
    encoded = _PREFIX + name.encode()
    return encoded if len(encoded) <= KEY_BYTES_MAX else None


def decode(name: bytes) -> Optional[ObjectKey]:
    """LMCache's key in a key of the store; ``None`` where it is none of ours."""
    if not name.startswith(_PREFIX):
        return None
    try:
        model, rank, group, chunk, salt = name[len(_PREFIX) :].decode().split("@")
        return ObjectKey(bytes.fromhex(chunk), model, int(rank, 16), int(group, 16), salt)
    except ValueError:
        return None


class _Tasks:
    """Tasks of one kind: their results, and the event that tells of them."""

    def __init__(self) -> None:
        self.event: EventNotifier = create_event_notifier()
        self.under_way = 0
        self.done: dict[L2TaskId, Any] = {}


class GcosL2Adapter(L2AdapterInterface):
    """Keeps the server's objects in a pool of GCOS.

    ``adapter_params`` takes the keys that ``extra_config`` takes for the engine's plugin, and uses those that
    ``docs/lmcache.md`` says.
    """

    def __init__(self, params: Mapping[str, Any], l1_memory_desc: Any = None) -> None:
        try:
            self._options = Options.read(params, Worker())
            self._options.set_log_level()
            store = gcos.Store.open(self._options.pool, create=True, threads=self._options.threads)
        except Exception as error:
            sentence = " ".join(str(error).split())
            logger.error("GCOS is not used: %s", sentence)
            raise RuntimeError(f"GCOS is not used: {sentence}") from error
        for warning in self._options.warnings:
            logger.warning("%s", warning)
        super().__init__(max_capacity_bytes=int(store.stats().capacity_bytes))
        #: What happened so far, by name.
        self.counters: Counter[str] = Counter()
        self._store = store
        self._pins = Pins(store)
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._closing = self._closed = False
        self._next_task = 0
        self._stores, self._lookups, self._loads = _Tasks(), _Tasks(), _Tasks()
        self._registrations = Registrations(store)
        self._counted_at = (-_COUNT_S, 0)
        self._metrics = None
        self._register(l1_memory_desc)
        self._count()
        if self._options.metrics_address is not None:
            self._metrics = store.serve_metrics(self._options.metrics_address)

    def _register(self, desc: Any) -> None:
        if desc is None:
            return
        if desc.align_bytes % PAGE:
            logger.warning("L1 aligns its memory to %d bytes, so GCOS copies: set --l1-align-bytes to 4096", desc.align_bytes)
        try:
            self._registrations.add(desc.ptr, desc.stable_registration_size or desc.size, None)
        except gcos.GcosError as error:
            logger.warning("L1's memory could not be registered, so every byte is copied: %s", error)

    # -- Events

    def get_store_event_fd(self) -> int:
        """Is readable when a store task has ended."""
        return self._stores.event.fileno()

    def get_lookup_and_lock_event_fd(self) -> int:
        """Is readable when a lookup has ended."""
        return self._lookups.event.fileno()

    def get_load_event_fd(self) -> int:
        """Is readable when a load has ended."""
        return self._loads.event.fileno()

    def _begin(self, tasks: _Tasks) -> L2TaskId:
        with self._lock:
            if self._closing:
                raise RuntimeError("the GCOS L2 adapter is closed")
            task = self._next_task
            self._next_task += 1
            tasks.under_way += 1
            return task

    def _finish(self, tasks: _Tasks, task: L2TaskId, result: Any) -> None:
        with self._idle:
            tasks.done[task] = result
            tasks.under_way -= 1
            if not self._closed:
                tasks.event.notify()
            self._idle.notify_all()

    # -- Stores

    def submit_store_task(self, keys: list[ObjectKey], objects: list[MemoryObj]) -> L2TaskId:
        """Stores objects. The task has ended when they are durable."""
        _check(keys, objects)
        task = self._begin(self._stores)
        names = [encode(key) for key in keys]
        items = [(key, name, obj) for key, name, obj in zip(keys, names, objects) if name is not None]
        self.counters["keys_too_long"] += len(keys) - len(items)

        def ended(results: Sequence[Any]) -> None:
            self._stored(task, items, results, complete=len(items) == len(keys))

        self._run(
            lambda: self._store.submit_put_many(
                [name for _, name, _ in items],
                [buffer_of(obj) for _, _, obj in items],
                if_exists="keep",
                durability=self._options.durability,
            ),
            len(items),
            ended,
        )
        return task

    def _stored(self, task: L2TaskId, items: list, results: Sequence[Any], complete: bool) -> None:
        written: list[tuple[ObjectKey, int]] = []
        for (key, _, obj), result in zip(items, results):
            if result is True:
                written.append((key, obj.get_size()))
                self.counters["puts"] += 1
            elif result is False:
                self.counters["puts_kept"] += 1
            else:
                complete = False
                self._failed("puts_dropped_full" if isinstance(result, gcos.Full) else "puts_failed", result)
        if written:
            _quietly(lambda: self._notify_keys_stored([k for k, _ in written], [size for _, size in written]))
        self._finish(self._stores, task, L2StoreResult(complete, sum(size for _, size in written)))

    def pop_completed_store_tasks(self) -> dict[L2TaskId, L2StoreResult]:
        """Results of the store tasks that have ended since the last call."""
        with self._lock:
            done, self._stores.done = self._stores.done, {}
        return done

    # -- Lookups

    def submit_lookup_and_lock_task(
        self, keys: list[ObjectKey], group_layout_descs: dict[int, MemoryLayoutDesc]
    ) -> L2TaskId:
        """Pins what is there. The store's index is in memory, so this has ended when it returns."""
        if not keys:
            raise ValueError("keys must not be empty")
        task = self._begin(self._lookups)
        bitmap = Bitmap(len(keys))
        try:
            for at, key in enumerate(keys):
                name = encode(key)
                if name is not None and self._pins.take([name], None):
                    bitmap.set(at)
        finally:
            self._finish(self._lookups, task, bitmap)
        return task

    def query_lookup_and_lock_result(self, task_id: L2TaskId) -> Optional[Bitmap]:
        """What a lookup has found and pinned; once."""
        with self._lock:
            return self._lookups.done.pop(task_id, None)

    def submit_unlock(self, keys: list[ObjectKey]) -> None:
        """Takes one pin of each object back."""
        if self._closed:
            return
        for name in map(encode, keys):
            if name is not None:
                self._pins.give_back(name)

    # -- Loads

    def submit_load_task(self, keys: list[ObjectKey], objects: list[MemoryObj]) -> L2TaskId:
        """Reads objects into the memory given."""
        _check(keys, objects)
        task = self._begin(self._loads)
        items = [(at, name, objects[at]) for at, name in enumerate(map(encode, keys)) if name is not None]

        def ended(results: Sequence[Any]) -> None:
            bitmap = Bitmap(len(keys))
            accessed = []
            for (at, _, obj), result in zip(items, results):
                if result is True:
                    bitmap.set(at)
                    accessed.append(keys[at])
                    continue
                if isinstance(result, gcos.Timeout):
                    # A drive may still write there. The server gives no memory out again that is not valid.
                    self.counters["bytes_kept"] += obj.get_size()
                    obj.invalidate()
                if isinstance(result, BaseException):
                    self._failed("gets_failed", result)
                else:
                    self.counters["misses"] += 1
            self.counters["gets"] += len(accessed)
            if accessed:
                _quietly(lambda: self._notify_keys_accessed(accessed))
            self._finish(self._loads, task, bitmap)

        self._run(
            lambda: self._store.submit_get_many([name for _, name, _ in items], [buffer_of(obj) for _, _, obj in items]),
            len(items),
            ended,
        )
        return task

    def query_load_result(self, task_id: L2TaskId) -> Optional[Bitmap]:
        """Which objects of a load have arrived; once."""
        with self._lock:
            return self._loads.done.pop(task_id, None)

    def _run(self, submit: Callable[[], Future], count: int, ended: Callable[[Sequence[Any]], None]) -> None:
        """Submits, and has ``ended`` called with one result for each item in any case."""
        try:
            future = submit()
        except Exception as error:
            ended([error] * count)
            return

        def finish(done: Future) -> None:
            try:
                results: Sequence[Any] = done.result()
            except BaseException as error:
                results = [error] * count
            ended(results)

        future.add_done_callback(finish)

    def _failed(self, counter: str, error: BaseException) -> None:
        first = not self.counters[counter]
        self.counters[counter] += 1
        if first:
            logger.warning("GCOS: %s (said once): %s: %s", counter, type(error).__name__, error)

    # -- What is there

    def delete(self, keys: list[ObjectKey]) -> None:
        """Removes objects, except pinned ones. What is not there, since the store has evicted it, is forgotten."""
        gone: list[tuple[ObjectKey, int]] = []
        for key in keys:
            name = encode(key)
            if name is None or self._closing:
                continue
            info = self._store.info(name)
            if info is not None and info.pins:
                continue
            try:
                removed = info is not None and self._store.remove(name)
            except gcos.GcosError as error:
                self._failed("removes_failed", error)
                continue
            # LMCache would name what is not there for removal again and again. get_usage counts without it.
            gone.append((key, info.len if removed else 0))
        if gone:
            _quietly(lambda: self._notify_keys_deleted([k for k, _ in gone], [size for _, size in gone]))

    def list_l2_keys(
        self, model_name: Optional[str] = None, page_size: int = 500, cursor: Optional[str] = None
    ) -> KeyListPage:
        """A page of the keys that are there, in the order of the store."""
        if page_size <= 0:
            raise ValueError(f"page_size is {page_size}: use 1 or more")
        try:
            after = base64.urlsafe_b64decode(cursor.encode()) if cursor is not None else None
        except (binascii.Error, ValueError):
            after = b""
        if after is not None and not after.startswith(_PREFIX):
            raise ValueError(f"cursor {cursor!r} is none of this adapter's")
        prefix = _PREFIX + (model_name.encode() + b"@" if model_name is not None else b"")
        entries: list[KeyEntry] = []
        last = None
        for name, length in self._store.keys(prefix=prefix, after=after):
            key = decode(name)
            if key is None:
                continue
            if len(entries) == page_size:
                return KeyListPage(tuple(entries), base64.urlsafe_b64encode(last).decode())
            entries.append(KeyEntry(key.to_encoded_object_key(), length))
            last = name
        return KeyListPage(tuple(entries), None)

    def _all(self) -> Sequence[tuple[ObjectKey, int]]:
        found = ((decode(name), length) for name, length in self._store.keys(prefix=_PREFIX))
        return [(key, length) for key, length in found if key is not None]

    def _count(self) -> None:
        """Sets the bytes used by each salt from what is there."""
        total, salts = 0, Counter[str]()
        for key, length in self._all():
            total += length
            salts[key.cache_salt] += length
        with self._usage_lock:
            self._total_bytes_used = total
            self._bytes_by_cache_salt = dict(salts)
        self._counted_at = (time.monotonic(), self._store.stats().evicted)

    def get_usage(self) -> AdapterUsage:
        """Bytes used and bytes of room.

        The store evicts by itself when it is nearly full, and says how much but not what, so what is there is
        counted again then.
        """
        when, evicted = self._counted_at
        if not self._closing and time.monotonic() - when >= _COUNT_S and self._store.stats().evicted != evicted:
            self._count()
        return super().get_usage()

    def register_listener(self, listener: L2AdapterListener) -> None:
        """Adds a listener and tells it what is there already."""
        super().register_listener(listener)
        there = self._all()
        for at in range(0, len(there), _ANNOUNCED):
            part = there[at : at + _ANNOUNCED]
            _quietly(lambda: listener.on_l2_keys_stored([key for key, _ in part], [size for _, size in part]))

    def report_status(self) -> dict:
        """State and figures of the adapter."""
        status: dict[str, Any] = {"is_healthy": not self._closing, "type": type(self).__name__}
        with self._lock:
            for name, tasks in (("store", self._stores), ("lookup", self._lookups), ("load", self._loads)):
                status[f"{name}_inflight_task_count"] = tasks.under_way
                status[f"completed_{name}_task_count"] = len(tasks.done)
        status["counters"] = dict(self.counters)
        status["pins"] = self._pins.held
        status["registered_bytes"] = self._registrations.bytes
        if not self._closing:
            stats = self._store.stats()
            status["is_healthy"] = stats.drives_online > 0
            status["store"] = stats.to_dict()
        return status

    def close(self) -> None:
        """Waits for I/O, gives pins back and closes the pool."""
        deadline = time.monotonic() + self._options.close_timeout_s
        with self._idle:
            if self._closed:
                return
            self._closing = True
            while any(tasks.under_way for tasks in (self._stores, self._lookups, self._loads)):
                left = deadline - time.monotonic()
                if left <= 0:
                    logger.error("GCOS still has transfers under way; its pool is left open")
                    break
                self._idle.wait(left)
            quiet = not any(tasks.under_way for tasks in (self._stores, self._lookups, self._loads))
            self._closed = True
        self._pins.release_all()
        if self._metrics is not None:
            self._metrics.close()
        if quiet:
            self._registrations.close()
            self._store.close()
        for tasks in (self._stores, self._lookups, self._loads):
            tasks.event.close()


def _check(keys: Sequence[Any], objects: Sequence[Any]) -> None:
    if not keys or len(keys) != len(objects):
        raise ValueError(f"{len(keys)} keys and {len(objects)} objects: use as many of both, at least one")


def _quietly(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception as error:
        logger.warning("A listener of the GCOS L2 adapter failed: %s", error)
