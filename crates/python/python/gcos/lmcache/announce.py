"""Says to LMCache's controller which objects are there, and to its monitor how much they take."""

from __future__ import annotations

import threading
from typing import Any, Optional

from lmcache.logging import init_logger
from lmcache.observability import LMCStatsMonitor
from lmcache.utils import CacheEngineKey, parse_cache_key
from lmcache.v1.cache_controller.message import OpType
from lmcache.v1.storage_backend.batched_message_sender import BatchedMessageSender

from gcos.lmcache.layout import Layout, key_text

logger = init_logger(__name__)


class Announcer:
    """Messages about keys and usage. Without a worker of the controller there are none about keys."""

    def __init__(self, config: Any, metadata: Any, worker: Any, location: str) -> None:
        self._monitor = LMCStatsMonitor.GetOrCreate()
        self._sender: Optional[BatchedMessageSender] = None
        if worker is not None:
            self._sender = BatchedMessageSender(
                metadata=metadata, config=config, location=location, lmcache_worker=worker
            )
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def admitted(self, key: CacheEngineKey) -> None:
        """An object of this key is there now."""
        self._send(OpType.ADMIT, key)

    def gone(self, key: CacheEngineKey) -> None:
        """There is no object of this key any more."""
        self._send(OpType.EVICT, key)

    def _send(self, op: OpType, key: CacheEngineKey) -> None:
        if self._sender is not None:
            self._sender.add_kv_op(op_type=op, key=key.chunk_hash)

    def usage(self, store: Any) -> None:
        """Reports how many bytes the pool's objects take."""
        self._monitor.update_local_storage_usage(store.stats().payload_bytes)

    def restart(self, store: Any, layout: Optional[Layout]) -> None:
        """Reports usage, and in the background every object that is there from before."""
        self.usage(store)
        if self._sender is None or layout is None:
            return
        self._thread = threading.Thread(
            target=self._announce_all, args=(store, layout), name="gcos-announce", daemon=True
        )
        self._thread.start()

    def _announce_all(self, store: Any, layout: Layout) -> None:
        count = 0
        try:
            for name, _ in store.keys(prefix=layout.tag.encode() + b"|"):
                if self._stop.is_set():
                    return
                key = parsed(name)
                if key is not None:
                    self.admitted(key)
                    count += 1
            logger.info("Announced %d objects that were in the pool before", count)
        except Exception as error:
            logger.warning("Objects from before could not be announced: %s", error)

    def close(self, timeout_s: float) -> None:
        """Ends the messages."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=timeout_s)
        if self._sender is not None:
            self._sender.close()


def parsed(name: bytes) -> Optional[CacheEngineKey]:
    """LMCache's key in a key of the store; ``None`` where it is none."""
    text = key_text(name)
    if text is None:
        return None
    try:
        return parse_cache_key(text)
    except (KeyError, ValueError):
        return None
