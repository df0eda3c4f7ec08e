"""An LMCache engine without a GPU or a serving engine: what the tests of the connector share."""

from __future__ import annotations

import itertools
import logging
import time
from concurrent.futures import Future
from typing import Any, Iterator

import torch
from lmcache.observability import LMCStatsMonitor, PrometheusLogger
from lmcache.v1.cache_engine import LMCacheEngine
from lmcache.v1.cache_engine import LMCacheEngineBuilder
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.gpu_connector.gpu_connectors import VLLMPagedMemLayerwiseGPUConnector
from lmcache.v1.gpu_connector.mock_gpu_connector import MockGPUConnector
from lmcache.v1.metadata import LMCacheMetadata

import gcos

CHUNK = 16
#: Layers, keys and values, tokens, heads, their size: 64 KiB for a chunk of 16 tokens.
SHAPE = (4, 2, CHUNK, 4, 64)

_names = itertools.count()


def metadata(worker: int = 0, of: int = 1, shape: tuple = SHAPE, role: Any = None) -> LMCacheMetadata:
    return LMCacheMetadata("org/model", of, of, worker, worker, torch.bfloat16, shape, role=role, chunk_size=CHUNK)


def config(path: Any, gib: float = 0.0625, extra: dict | None = None, **more: Any) -> LMCacheEngineConfig:
    given = {
        "storage_plugin.gcos.module_path": "gcos.lmcache",
        "storage_plugin.gcos.class_name": "GcosBackend",
        **({"gcos_path": str(path), "gcos_capacity_gb": gib} if path is not None else {}),
        **(extra or {}),
    }
    settings = {"chunk_size": CHUNK, "local_cpu": False, "max_local_cpu_size": 0.03, "save_unfull_chunk": True, **more}
    return LMCacheEngineConfig.from_defaults(storage_plugins=["gcos"], extra_config=given, **settings)


def pattern(shape: Any, start: int, salt: int = 0) -> torch.Tensor:
    """The content of the tokens from ``start`` on."""
    made = torch.Generator().manual_seed(start * 1000 + salt)
    return torch.randint(-(2**15), 2**15, tuple(shape), generator=made, dtype=torch.int16).view(torch.bfloat16)


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.equal(left.view(torch.int16), right.view(torch.int16))


class Connector(MockGPUConnector):
    """Writes a pattern into what is stored, and compares what is retrieved with it."""

    def __init__(self, shape: tuple = SHAPE) -> None:
        super().__init__(shape)
        self.compared = self.mismatches = 0

    def batched_from_gpu(self, objs: Any, starts: Any, ends: Any, **_: Any) -> None:
        for obj, start in zip(objs, starts):
            obj.tensor.copy_(pattern(obj.tensor.shape, start))

    def batched_to_gpu(self, objs: Any, starts: Any, ends: Any, **_: Any) -> None:
        for obj, start in zip(objs, starts):
            self.compared += 1
            self.mismatches += not same(obj.tensor, pattern(obj.tensor.shape, start))


class LateStore:
    """A store whose gets of memory do not end in time."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get_many(self, names: Any, bufs: Any) -> list:
        return [gcos.Timeout("the drive still holds it") for _ in names]

    def submit_get_many(self, names: Any, bufs: Any) -> Future:
        ended: Future = Future()
        ended.set_result(self.get_many(names, bufs))
        return ended


class LayerConnector(VLLMPagedMemLayerwiseGPUConnector):
    """The same, layer by layer. Of the base it has only the name, which the engine asks for."""

    def __init__(self, shape: tuple = SHAPE) -> None:
        self.num_layers = shape[0]
        self.hidden_dim_size = shape[3] * shape[4]
        self.use_mla = False
        self.compared = self.mismatches = 0

    def batched_from_gpu(self, objs: Any, starts: Any, ends: Any, **_: Any) -> Iterator[None]:
        yield
        for layer in range(self.num_layers):
            for obj, start in zip(objs[layer], starts):
                obj.tensor.copy_(pattern(obj.tensor.shape, start, layer + 1))
            yield

    def batched_to_gpu(self, starts: Any, ends: Any, **_: Any) -> Iterator[None]:
        for layer in range(self.num_layers):
            objs = yield
            for obj, start in zip(objs, starts):
                self.compared += 1
                self.mismatches += not same(obj.tensor, pattern(obj.tensor.shape, start, layer + 1))
        yield
        yield


class Engine:
    """An engine with the plugin."""

    def __init__(self, settings: LMCacheEngineConfig, data: LMCacheMetadata | None = None) -> None:
        self.data = data or metadata()
        self.connector = (LayerConnector if settings.use_layerwise else Connector)(self.data.kv_shape)
        self.name = f"rig{next(_names)}"
        LMCStatsMonitor.DestroyInstance()
        PrometheusLogger._instance = None
        self.engine: LMCacheEngine = LMCacheEngineBuilder.get_or_create(
            self.name, settings, self.data, self.connector, lambda *a: None, lambda *a: None
        )
        self.engine.post_init()

    @property
    def manager(self) -> Any:
        return self.engine.storage_manager

    @property
    def backend(self) -> Any:
        return self.manager.storage_backends.get("gcos")

    def store(self, tokens: list[int]) -> None:
        if self.engine.use_layerwise:
            for _ in self.engine.store_layer(torch.tensor(tokens), kvcaches=[], req_id="r"):
                pass
        else:
            self.engine.store(tokens=torch.tensor(tokens))
        self.settle()

    def settle(self) -> None:
        """Waits until all puts have ended."""
        if self.backend is not None:
            wait(lambda: not self.backend._under_way)

    def retrieve(self, tokens: list[int]) -> int:
        """How many tokens came back."""
        if not self.engine.use_layerwise:
            return int(self.engine.retrieve(tokens=torch.tensor(tokens)).sum())
        *_, mask = self.engine.retrieve_layer(torch.tensor(tokens), kvcaches=[], req_id="r")
        return int(mask.sum())

    def lookup(self, tokens: list[int], **more: Any) -> int:
        return self.engine.lookup(tokens=tokens, **more)

    def close(self) -> None:
        LMCacheEngineBuilder.destroy(self.name)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def wait(condition: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


class Lines(logging.Handler):
    """What the connector logs."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.loggers = [logging.getLogger(name) for name in names or ("gcos.lmcache.backend", "gcos.lmcache.l2")]

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def of(self, level: str) -> list[str]:
        return [record.getMessage() for record in self.records if record.levelname == level]

    def __enter__(self) -> "Lines":
        for logger in self.loggers:
            logger.addHandler(self)
        return self

    def __exit__(self, *_: Any) -> None:
        for logger in self.loggers:
            logger.removeHandler(self)
