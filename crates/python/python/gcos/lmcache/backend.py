"""The storage plugin for the LMCache engine."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError, Future
from typing import Any, Callable, List, Optional, Sequence

import torch
from lmcache.logging import init_logger
from lmcache.utils import CacheEngineKey
from lmcache.v1.memory_management import MemoryFormat, MemoryObj
from lmcache.v1.storage_backend.abstract_backend import AllocatorBackendInterface, StoragePluginInterface

import gcos
from gcos.lmcache.announce import Announcer, parsed
from gcos.lmcache.ahead import ReadAhead
from gcos.lmcache.layout import EngineLayouts, Layout
from gcos.lmcache.memory import PAGE, DeviceArena, Registrations, arenas, buffer_of, close_before
from gcos.lmcache.options import Options, OptionError, Worker
from gcos.lmcache.pins import Pins

logger = init_logger(__name__)

OnComplete = Optional[Callable[[CacheEngineKey], None]]

#: Most seconds that a get waits for memory that others give back.
_ALLOCATE_S = 5.0
#: The same for a layer. Without it the engine's step fails, so it is worth waiting for.
_ALLOCATE_LAYER_S = 60.0
_ALLOCATE_STEP_S = 0.005
#: Seconds after which usage is reported while puts go on.
_REPORT_S = 0.25


class GcosBackend(StoragePluginInterface):
    """Keeps LMCache's objects in a pool of GCOS.

    The store's own index answers lookups; there is none here. Payloads move between LMCache's memory and
    the drives without a copy. A put is durable when its future is done without an error
    (``gcos_durability: sync``).
    """

    def __init__(
        self,
        config: Any = None,
        metadata: Any = None,
        local_cpu_backend: Any = None,
        loop: Optional[asyncio.AbstractEventLoop] = None,
        dst_device: str = "cpu",
    ) -> None:
        super().__init__(
            dst_device=dst_device,
            config=config,
            metadata=metadata,
            local_cpu_backend=local_cpu_backend,
            loop=loop,
        )
        #: What happened so far, by name.
        self.counters: Counter[str] = Counter()
        self._said: set[str] = set()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._under_way = 0
        self._closing = False
        self._closed = False
        self._putting: set[bytes] = set()
        #: Memory that drives may still write to.
        self._kept: list[MemoryObj] = []
        self._reported = 0.0
        self._store: Optional[gcos.Store] = None
        self._device: Optional[DeviceArena] = None
        self._metrics: Any = None
        try:
            self._open()
        except Exception as error:
            self._abandon()
            logger.error("GCOS is not used: %s", _sentence(error))
            raise RuntimeError(f"GCOS is not used: {_sentence(error)}") from error

    def __str__(self) -> str:
        return "GcosBackend"

    # -- Opening and closing

    def _open(self) -> None:
        metadata = self.metadata
        if self.config is None or metadata is None:
            raise OptionError("LMCache gave the plugin no configuration or metadata: version 0.5.6 or later is needed")
        worker = Worker(int(metadata.local_worker_id), max(1, int(metadata.local_world_size)))
        self._options = Options.read(self.config.extra_config, worker)
        self._options.set_log_level()
        for warning in self._options.warnings:
            logger.warning("%s", warning)
        self._layouts = EngineLayouts(self.config, metadata)
        if metadata.role == "scheduler":
            logger.warning(
                "GCOS answers no lookups in the scheduler's process: the pool is open in the worker's. "
                "Turn enable_scheduler_bypass_lookup off"
            )
            return
        if self.local_cpu_backend is None:
            raise OptionError("there is no local CPU backend to take memory from: set max_local_cpu_size above 0")
        if self._layouts.current() is None:
            raise OptionError("the layout of this engine's objects is one that GCOS does not know")
        self._store = gcos.Store.open(self._options.pool, create=True, threads=self._options.threads)
        self._pins = Pins(self._store)
        self._registrations = Registrations(self._store)
        self._register_memory()
        self._open_device_memory()
        self._ahead = ReadAhead(self._options.prefetch_size, self._layouts.layers)
        if self._options.metrics_address is not None:
            self._metrics = self._store.serve_metrics(self._options.metrics_address)
            logger.info("Metrics are at http://%s/metrics", self._metrics.address)
        self._announcer = Announcer(
            self.config, metadata, getattr(self.local_cpu_backend, "lmcache_worker", None), self._location()
        )
        self._announcer.restart(self._store, self._layouts.current())
        stats = self._store.stats()
        logger.info(
            "GCOS pool of %.1f GiB open with %d objects; %.1f MiB of memory registered",
            stats.capacity_bytes / (1 << 30),
            stats.objects,
            self._registrations.bytes / (1 << 20),
        )

    def _location(self) -> str:
        """The name under which the storage manager knows this backend."""
        extra = self.config.extra_config or {}
        for name in self.config.storage_plugins or []:
            if extra.get(f"storage_plugin.{name}.class_name") == type(self).__name__:
                return str(name)
        return str(self)

    def _register_memory(self) -> None:
        allocator = self.local_cpu_backend.get_memory_allocator()
        close_before(allocator, self._quiesce)
        for arena in arenas(allocator):
            try:
                self._registrations.add(arena.data_ptr(), arena.numel() * arena.element_size(), arena)
            except gcos.GcosError as error:
                self._once("register", "LMCache's memory could not be registered, so every byte is copied: %s", error)
        alignment = getattr(allocator, "align_bytes", PAGE)
        if alignment % PAGE:
            self._once(
                "alignment",
                "LMCache aligns its memory to %d bytes, so GCOS copies: set extra_config "
                "local_cpu.pinned_align_bytes to 4096",
                alignment,
            )
        if not self._registrations.bytes:
            self._once("arena", "LMCache's allocator %s has no memory to register, so every byte is copied", allocator)

    def _open_device_memory(self) -> None:
        mib = self._options.device_buffer_mib
        if not mib:
            return
        if not str(self.dst_device).startswith("cuda"):
            raise OptionError(f"gcos_device_buffer_mib is {mib}, but the device is {self.dst_device}: set it to 0")
        if self.config.local_cpu:
            raise OptionError(
                "gcos_device_buffer_mib does not go together with local_cpu: true, which would keep that memory; "
                "set one of both to 0 or false"
            )
        self._device = DeviceArena(self._store.device_buffer(self.dst_device, mib << 20))

    def _abandon(self) -> None:
        """Ends what a failed open has begun."""
        self._closed = self._closing = True
        store, self._store = self._store, None
        if store is not None:
            registrations = getattr(self, "_registrations", None)
            if registrations is not None:
                registrations.close()
            store.close()

    def _quiesce(self) -> bool:
        """Takes no more work and waits for what is under way. ``False`` when that does not end in time."""
        deadline = time.monotonic() + (self._options.close_timeout_s if self._store is not None else 0)
        with self._idle:
            if self._closed:
                return True
            self._closing = True
        self._ahead.drop_all()
        with self._idle:
            while self._under_way:
                left = deadline - time.monotonic()
                if left <= 0:
                    logger.error("GCOS still has %d transfers under way; LMCache's memory is kept", self._under_way)
                    return False
                self._idle.wait(left)
        self._registrations.close()
        return True

    def close(self) -> None:
        """Waits for I/O, gives pins back and closes the pool."""
        if self._store is None or self._closed:
            self._closed = True
            return
        quiet = self._quiesce()
        self._closed = True
        self._pins.release_all()
        self._announcer.close(self._options.close_timeout_s)
        if self._metrics is not None:
            self._metrics.close()
        self._device = None
        if quiet:
            self._store.close()
        logger.info("GCOS closed; %s", dict(self.counters))

    def _begin(self) -> bool:
        with self._lock:
            if self._closing or self._store is None:
                return False
            self._under_way += 1
            return True

    def _end(self) -> None:
        with self._idle:
            self._under_way -= 1
            if not self._under_way:
                self._idle.notify_all()

    # -- Keys

    def _name(self, key: CacheEngineKey) -> Optional[bytes]:
        """The key in the store, for objects of this engine's layout."""
        layout = self._layouts.of_key(key)
        if layout is None:
            return None
        name = layout.key(key.to_string())
        if name is None:
            self._count("keys_too_long")
            self._once("long", "the key %s is too long for GCOS; such objects are not stored", key.to_string())
        return name

    def _count(self, what: str, more: int = 1) -> None:
        with self._lock:
            self.counters[what] += more

    def _once(self, what: str, message: str, *args: Any) -> None:
        """A warning that is said once."""
        with self._lock:
            if what in self._said:
                return
            self._said.add(what)
        logger.warning(message, *args)

    def _leading(self, keys: Sequence[CacheEngineKey]) -> list[bytes]:
        """The keys in the store of the leading objects that are there."""
        if self._store is None or self._closing:
            return []
        names: list[bytes] = []
        for key in keys:
            name = self._name(key)
            if name is None:
                break
            names.append(name)
        return names[: self._store.prefix(names)]

    def contains(self, key: CacheEngineKey, pin: bool = False) -> bool:
        """Whether an object is there. For the first layer of a chunk: whether all its layers are."""
        if self._layouts.layerwise and getattr(key, "layer_id", None) == 0 and not pin:
            # The engine asks for the first layer alone and then trusts that the others are there.
            layers = key.split_layers(self._layouts.layers)
            return len(self._leading(layers)) == len(layers)
        return self._pin_leading([key], pin, None) == 1

    def batched_contains(self, keys: List[CacheEngineKey], pin: bool = False) -> int:
        """How many of the leading objects are there, in one call to the store."""
        if not pin or not keys or not hasattr(keys[0], "layer_id"):
            return self._pin_leading(keys, pin, None)
        # The engine asks for all layers of a chunk, and lets go of the pins only where one backend has them all.
        names = self._leading(keys)
        if keys[0].layer_id != 0 or not len(names) == len(keys) == self._layouts.layers:
            return len(names)
        return self._pins.take(names, None, together=len(names))

    async def batched_async_contains(self, lookup_id: str, keys: List[CacheEngineKey], pin: bool = False) -> int:
        """As :meth:`batched_contains`; pins are kept until the get of this lookup, or its end."""
        # LMCache takes whole chunks, and gives the pins of single layers back by itself: there must be none.
        together = self._layouts.layers if keys and hasattr(keys[0], "layer_id") else 1
        return self._pin_leading(keys, pin, lookup_id, together)

    def _pin_leading(
        self, keys: Sequence[CacheEngineKey], pin: bool, lookup_id: Optional[str], together: int = 1
    ) -> int:
        names = self._leading(keys)
        if not pin or not names:
            return len(names)
        return self._pins.take(names, lookup_id, together)

    def exists_in_put_tasks(self, key: CacheEngineKey) -> bool:
        """Whether a put of this key is under way."""
        name = self._name(key)
        with self._lock:
            return name in self._putting

    def pin(self, key: CacheEngineKey) -> bool:
        """Protects an object from eviction."""
        return self._pin_leading([key], True, None) == 1

    def unpin(self, key: CacheEngineKey) -> bool:
        """Takes one pin back."""
        name = self._name(key)
        return name is not None and self._store is not None and not self._closed and self._pins.give_back(name)

    def remove(self, key: CacheEngineKey, force: bool = True) -> bool:
        """Removes an object. Without ``force``, not one that is pinned."""
        name = self._name(key)
        if name is None or not self._begin():
            return False
        try:
            if not force:
                info = self._store.info(name)
                if info is None or info.pins:
                    return False
            self._pins.forget(name)
            if not self._store.remove(name):
                return False
        except gcos.GcosError as error:
            self._failed("removes_failed", "remove", error)
            return False
        finally:
            self._end()
        self._announcer.gone(key)
        return True

    def clear(self) -> int:
        """Removes everything that has this engine's layout. Returns the number of tokens removed."""
        layout = self._layouts.current()
        if layout is None or not self._begin():
            return 0
        tokens = 0
        try:
            for name, length in list(self._store.keys(prefix=layout.tag.encode() + b"|")):
                try:
                    self._pins.forget(name)
                    if not self._store.remove(name):
                        continue
                except gcos.GcosError as error:
                    self._failed("removes_failed", "remove", error)
                    continue
                tokens += layout.tokens(length) or 0
                key = parsed(name)
                if key is not None:
                    self._announcer.gone(key)
        finally:
            self._end()
        return tokens // self._layouts.layers if self._layouts.layerwise else tokens

    def cancel_request(self, req_id: str) -> None:
        """Gives the pins of a request back."""
        if self._store is not None and not self._closed:
            self._pins.end_lookup(req_id)

    # -- Puts

    def batched_submit_put_task(
        self,
        keys: Sequence[CacheEngineKey],
        objs: List[MemoryObj],
        transfer_spec: Any = None,
        on_complete_callback: OnComplete = None,
    ) -> Optional[List[Future]]:
        """Stores objects that are not there yet.

        A future is done without an error when its objects are durable; else it has the first error.
        """
        items = self._accept(keys, objs)
        if not items:
            return None
        step = self._options.batch_size or len(items)
        slices = [items[at : at + step] for at in range(0, len(items), step)]
        return [self._submit(part, on_complete_callback) for part in slices]

    async def async_batched_submit_put_task(
        self,
        keys: Sequence[CacheEngineKey],
        objs: List[MemoryObj],
        transfer_spec: Any = None,
        on_complete_callback: OnComplete = None,
    ) -> None:
        """As :meth:`batched_submit_put_task`; ends when the objects are durable, or all has ended and some failed."""
        futures = self.batched_submit_put_task(keys, objs, transfer_spec, on_complete_callback) or []
        for result in await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True):
            if result is not None:
                raise result

    def _accept(
        self, keys: Sequence[CacheEngineKey], objs: List[MemoryObj]
    ) -> list[tuple[bytes, CacheEngineKey, MemoryObj]]:
        """What is to be put. It counts as under way, and its memory is held."""
        if self._closing or self._store is None:
            return []
        items = []
        for key, obj in zip(keys, objs):
            name = self._name(key)
            if name is None or not self._is_ours(key, obj):
                continue
            with self._lock:
                under_way = name in self._putting
                self._putting.add(name)
            if under_way:
                self._count("puts_under_way_already")
                continue
            obj.ref_count_up()
            items.append((name, key, obj))
        return items

    def _is_ours(self, key: CacheEngineKey, obj: MemoryObj) -> bool:
        """Whether an object has the layout that gets of its key expect."""
        layout = self._layouts.of_key(key)
        meta = obj.metadata
        shapes = meta.shapes if meta.shapes else [meta.shape]
        dtypes = meta.dtypes if meta.dtypes else [meta.dtype]
        tokens = layout.tokens_of(meta.fmt.name, shapes, dtypes) if layout is not None else None
        # An object may have been narrowed to fewer bytes than its shapes say.
        if tokens is not None and layout.token_bytes * tokens == obj.get_size():
            return True
        self._count("other_layouts")
        self._once(
            "layout",
            "an object of the layout %s %s %s is not stored: this engine's is %s",
            meta.fmt.name,
            [tuple(shape) for shape in shapes],
            dtypes,
            layout.text() if layout else "none",
        )
        return False

    def _submit(self, items: list[tuple[bytes, CacheEngineKey, MemoryObj]], callback: OnComplete) -> Future:
        done: Future = Future()
        done.set_running_or_notify_cancel()
        if not self._begin():
            self._release_puts(items)
            done.set_exception(gcos.Closed("the GCOS pool is being closed: nothing is stored any more"))
            return done
        try:
            future = self._store.submit_put_many(
                [name for name, _, _ in items],
                [buffer_of(obj) for _, _, obj in items],
                if_exists="keep",
                durability=self._options.durability,
            )
        except Exception as error:
            self._failed("puts_failed", "put", error, len(items))
            self._release_puts(items)
            self._end()
            done.set_exception(error)
            return done
        future.add_done_callback(lambda ended: self._put_ended(ended, items, callback, done))
        return done

    def _put_ended(self, ended: Future, items: list, callback: OnComplete, done: Future) -> None:
        failed: Optional[BaseException] = None
        try:
            try:
                results = ended.result()
            except CancelledError:
                results = [gcos.Closed("the put has been given up, since the GCOS pool is being closed")] * len(items)
            except BaseException as error:
                results = [error] * len(items)
            failed = next((result for result in results if isinstance(result, BaseException)), None)
            self._release_puts(items)
            for (_, key, _), result in zip(items, results):
                if isinstance(result, BaseException):
                    full = isinstance(result, gcos.Full)
                    self._failed("puts_dropped_full" if full else "puts_failed", "put", result)
                    continue
                self._count("puts" if result else "puts_kept")
                if result:
                    self._announcer.admitted(key)
                _call(callback, key)
            if not self._closing:
                self._report_usage()
        except Exception as error:
            logger.warning("After a put: %s", error)
        finally:
            self._end()
            if failed is None:
                done.set_result(None)
            else:
                done.set_exception(failed)

    def _report_usage(self) -> None:
        """Reports usage, when the last put has ended, or now and then."""
        now = time.monotonic()
        if not self._putting or now - self._reported > _REPORT_S:
            self._reported = now
            self._announcer.usage(self._store)

    def _release_puts(self, items: list) -> None:
        with self._lock:
            self._putting.difference_update(name for name, _, _ in items)
        for _, _, obj in items:
            obj.ref_count_down()

    def _failed(self, counter: str, operation: str, error: BaseException, count: int = 1) -> None:
        self._count(counter, count)
        kind = type(error).__name__
        self._once(f"{operation} {kind}", "GCOS: a %s failed (said once for each kind): %s: %s", operation, kind, error)

    # -- Gets

    def get_blocking(self, key: CacheEngineKey) -> Optional[MemoryObj]:
        """An object, or ``None`` when there is none."""
        return self.batched_get_blocking([key])[0]

    def batched_get_blocking(self, keys: List[CacheEngineKey]) -> List[Optional[MemoryObj]]:
        """Objects, ``None`` for each that is not there."""
        if not keys or not self._begin():
            return [None] * len(keys)
        try:
            wanted = self._wanted(keys, gaps=True)
            objs = self._allocate(wanted, wait=True)
            found: list[Optional[MemoryObj]] = [None] * len(keys)
            step = self._options.batch_size or max(1, len(objs))
            for at in range(0, len(objs), step):
                part, into = wanted[at : at + step], objs[at : at + step]
                results = self._get_many([name for _, name, _, _ in part], into)
                for (place, _, _, _), obj, result in zip(part, into, results):
                    found[place] = self._arrived(obj, result)
            return found
        finally:
            self._end()

    def get_non_blocking(self, key: CacheEngineKey, location: Optional[str] = None) -> Optional[Future]:
        """A future of an object. ``None`` when there is none."""
        if self.loop is None or not self._leading([key]):
            return None

        async def first() -> Optional[MemoryObj]:
            objs = await self.batched_get_non_blocking("", [key])
            return objs[0] if objs else None

        return asyncio.run_coroutine_threadsafe(first(), self.loop)

    async def batched_get_non_blocking(
        self, lookup_id: str, keys: list[CacheEngineKey], transfer_spec: Any = None
    ) -> list[MemoryObj]:
        """The leading objects that are there. Raises for a layer that is not there in all chunks, or that there is
        no memory for: the engine counts on it by then, and would take what is in its memory for it."""
        # An asynchronous lookup asks for all layers of its chunks, and copes with fewer.
        layered = len({getattr(key, "layer_id", None) for key in keys} - {None}) == 1
        objs: list[MemoryObj] = []
        try:
            if self._begin():
                try:
                    objs = await self._read_leading(keys, layered)
                finally:
                    self._end()
        finally:
            if self._store is not None and not self._closed:
                self._pins.end_lookup(lookup_id)
        if layered and len(objs) < len(keys):
            for obj in objs:
                obj.ref_count_down()
            self._count("layers_missing")
            missing = len(keys) - len(objs)
            if self._closing:
                raise LookupError(f"{missing} of {len(keys)} objects of a layer are not read: GCOS is being closed")
            raise LookupError(f"{missing} of {len(keys)} objects of a layer are not in the GCOS pool any more")
        return objs

    async def _read_leading(self, keys: list[CacheEngineKey], layered: bool) -> list[MemoryObj]:
        ready = self._ahead.take(keys) if layered else None
        if ready is not None:
            self._ahead.go_on(keys, self._read_ahead, self._release_ahead)
            objs = await asyncio.wrap_future(ready)
            if len(objs) == len(keys):
                return objs
            for obj in objs:
                obj.ref_count_down()
        wanted = self._wanted(keys, gaps=False)
        if layered and len(wanted) == len(keys):
            objs = await self._allocate_layer(wanted)
        else:
            objs = self._allocate(wanted, wait=False)
            if len(objs) < len(wanted):
                objs = objs + await asyncio.to_thread(self._allocate, wanted[len(objs) :], True)
        if not objs:
            return []
        if layered and ready is None:
            # Only now: the layer that is asked for gets memory before those that will be.
            self._ahead.go_on(keys, self._read_ahead, self._release_ahead)
        results = await self._submit_get([name for _, name, _, _ in wanted[: len(objs)]], objs)
        return self._leading_arrived(objs, results)

    def _leading_arrived(self, objs: list[MemoryObj], results: Sequence[Any]) -> list[MemoryObj]:
        arrived: list[MemoryObj] = []
        for obj, result in zip(objs, results):
            kept = self._arrived(obj, result)
            if kept is None:
                break
            arrived.append(kept)
        behind = len(arrived) + 1
        for obj, result in zip(objs[behind:], results[behind:]):
            self._let_go(obj, result)
        return arrived

    def _read_ahead(self, keys: list[CacheEngineKey]) -> Optional[Future]:
        """Reads objects into memory that is free now. ``None`` when there is not enough."""
        wanted = self._wanted(keys, gaps=False)
        if len(wanted) < len(keys) or not self._begin():
            return None
        objs = self._allocate(wanted, wait=False, evict=False)
        if len(objs) < len(keys):
            for obj in objs:
                obj.ref_count_down()
            self._end()
            return None
        ready: Future = Future()
        ready.set_running_or_notify_cancel()

        def ended(reading: Future) -> None:
            try:
                ready.set_result(self._leading_arrived(objs, _results(reading, len(objs))))
            finally:
                self._end()

        try:
            reading = self._store.submit_get_many([name for _, name, _, _ in wanted], [buffer_of(o) for o in objs])
        except Exception:
            for obj in objs:
                obj.ref_count_down()
            self._end()
            return None
        reading.add_done_callback(ended)
        self._count("layers_read_ahead")
        return ready

    def _release_ahead(self, ready: Future) -> None:
        """Gives memory back that was read into ahead and that nobody has asked for."""

        def release(ended: Future) -> None:
            for obj in ended.result():
                obj.ref_count_down()

        self._count("layers_read_in_vain")
        ready.add_done_callback(release)

    def _wanted(self, keys: Sequence[CacheEngineKey], gaps: bool) -> list[tuple[int, bytes, Layout, int]]:
        """What is there of the keys: place, key in the store, layout and number of tokens."""
        wanted = []
        for place, key in enumerate(keys):
            name, layout = self._name(key), self._layouts.of_key(key)
            info = self._store.info(name) if name is not None else None
            tokens = layout.tokens(info.len) if info is not None and layout is not None else None
            if name is not None and layout is not None and tokens is not None:
                wanted.append((place, name, layout, tokens))
                continue
            self._count("misses")
            if not gaps:
                break
        return wanted

    def _allocate(
        self, wanted: Sequence[tuple[int, bytes, Layout, int]], wait: bool, evict: bool = True
    ) -> list[MemoryObj]:
        """Memory for as many of the leading ones as there is room for."""
        deadline = time.monotonic() + (_ALLOCATE_S if wait else 0)
        objs: list[MemoryObj] = []
        for _, _, layout, tokens in wanted:
            shape = _torch_shape(layout, tokens)
            obj = self._allocate_one(shape, evict)
            while obj is None and time.monotonic() < deadline and not self._closing:
                time.sleep(_ALLOCATE_STEP_S)
                obj = self._allocate_one(shape, evict)
            if obj is None:
                if evict and wait:
                    self._count("no_memory")
                    self._once("memory", "LMCache has no memory for a get of %d bytes", layout.token_bytes * tokens)
                break
            objs.append(obj)
        return objs

    async def _allocate_layer(self, wanted: Sequence[tuple[int, bytes, Layout, int]]) -> list[MemoryObj]:
        """Memory for all of them. Holds none while it waits, so that others come to the point of giving theirs back."""
        deadline = time.monotonic() + _ALLOCATE_LAYER_S
        while not self._closing:
            objs = self._allocate(wanted, wait=False)
            if len(objs) == len(wanted):
                return objs
            for obj in objs:
                obj.ref_count_down()
            if time.monotonic() > deadline:
                self._count("layers_no_memory")
                raise MemoryError(
                    f"LMCache has had no memory for {len(wanted)} objects of a layer for {_ALLOCATE_LAYER_S:g} seconds: "
                    "raise max_local_cpu_size, which has to hold all layers of what is retrieved at once, and "
                    "prefetch_size layers more"
                )
            await asyncio.sleep(_ALLOCATE_STEP_S)
        return []

    def _allocate_one(self, shape: tuple[tuple, tuple, MemoryFormat], evict: bool) -> Optional[MemoryObj]:
        # LMCache keeps these lists in the object.
        shapes, dtypes, fmt = list(shape[0]), list(shape[1]), shape[2]
        if self._device is not None:
            return self._device.allocate(shapes, dtypes, fmt)
        return self.local_cpu_backend.allocate(shapes, dtypes, fmt, eviction=evict, busy_loop=False)

    def _get_many(self, names: list[bytes], objs: list[MemoryObj]) -> Sequence[Any]:
        try:
            return self._store.get_many(names, [buffer_of(obj) for obj in objs])
        except gcos.GcosError as error:
            return [error] * len(names)

    async def _submit_get(self, names: list[bytes], objs: list[MemoryObj]) -> Sequence[Any]:
        """Reads without holding the loop up. The memory is not let go of before the drives are done with it."""
        try:
            reading = self._store.submit_get_many(names, [buffer_of(obj) for obj in objs])
        except Exception as error:
            return [error] * len(names)
        try:
            return await asyncio.shield(asyncio.wrap_future(reading))
        except asyncio.CancelledError:
            with self._lock:
                self._under_way += 1

            def release(ended: Future) -> None:
                for obj, result in zip(objs, _results(ended, len(objs))):
                    self._let_go(obj, result)
                self._end()

            reading.add_done_callback(release)
            raise
        except Exception as error:
            return [error] * len(names)

    def _arrived(self, obj: MemoryObj, result: Any) -> Optional[MemoryObj]:
        if result is True:
            self._count("gets")
            return obj
        self._let_go(obj, result)
        if isinstance(result, BaseException):
            self._failed("gets_failed", "get", result)
        else:
            self._count("misses")
        return None

    def _let_go(self, obj: MemoryObj, result: Any) -> None:
        """Gives the memory of a get back, unless a drive may still write to it: another object would lie there then."""
        if not isinstance(result, gcos.Timeout):
            obj.ref_count_down()
            return
        self._count("bytes_kept", obj.get_size())
        self._once("kept", "GCOS: memory of a get that did not end in time is used no more (said once): %s", result)
        with self._lock:
            self._kept.append(obj)

    def get_allocator_backend(self) -> AllocatorBackendInterface:
        """Where objects that are put lie: LMCache's host memory, from which drives read without a copy."""
        if self.local_cpu_backend is None:
            raise RuntimeError("there is no local CPU backend: set max_local_cpu_size above 0")
        return self.local_cpu_backend


@functools.lru_cache(maxsize=1024)
def _torch_shape(layout: Layout, tokens: int) -> tuple[tuple, tuple, MemoryFormat]:
    """Shapes, types and format of an object, as LMCache's allocators take them."""
    shapes = tuple(torch.Size(shape) for shape in layout.shapes(tokens))
    dtypes = tuple(getattr(torch, name) for name, _ in layout.groups)
    return shapes, dtypes, MemoryFormat[layout.format]


def _results(ended: Future, count: int) -> Sequence[Any]:
    try:
        return ended.result()
    except BaseException as error:
        return [error] * count


def _call(callback: OnComplete, key: CacheEngineKey) -> None:
    if callback is None:
        return
    try:
        callback(key)
    except Exception as error:
        logger.warning("on_complete_callback failed for key %s: %s", key, error)


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
