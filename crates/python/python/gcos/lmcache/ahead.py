"""Reading layers before they are asked for."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from typing import Any, Callable, Optional, Sequence

#: Seconds after which a layer that nobody has asked for is given back.
_STALE_S = 2.0


class ReadAhead:
    """Keeps the next layers of the chunks whose layers are being read one after the other."""

    def __init__(self, depth: int, layers: int) -> None:
        self._depth = depth
        self._layers = layers
        self._lock = threading.Lock()
        self._ready: dict[tuple[Any, ...], tuple[Future, Callable[[Future], None], float]] = {}

    def take(self, keys: Sequence[Any]) -> Optional[Future]:
        """The objects of exactly these keys, if they are being read."""
        with self._lock:
            entry = self._ready.pop(tuple(keys), None)
        return entry[0] if entry else None

    def go_on(
        self,
        keys: Sequence[Any],
        read: Callable[[list[Any]], Optional[Future]],
        release: Callable[[Future], None],
    ) -> None:
        """Begins to read the layers that follow ``keys``, as far as there is memory for them.

        To be called on an event loop, which gives back what nobody asks for.
        """
        if not self._depth:
            return
        per_chunk = [key.split_layers(self._layers) for key in keys]
        last = min(keys[0].layer_id + self._depth, self._layers - 1)
        for layer in range(keys[0].layer_id + 1, last + 1):
            following = tuple(chunk[layer] for chunk in per_chunk)
            with self._lock:
                if following in self._ready:
                    continue
            reading = read(list(following))
            if reading is None:
                return
            with self._lock:
                self._ready[following] = (reading, release, time.monotonic())
            asyncio.get_running_loop().call_later(_STALE_S, self._drop_stale)

    def _drop_stale(self) -> None:
        # A little less than the time of the timer that calls this: clocks are read one after the other.
        self._drop(lambda since: time.monotonic() - since > _STALE_S * 0.99)

    def _drop(self, stale: Callable[[float], bool]) -> None:
        with self._lock:
            gone = [key for key, (_, _, since) in self._ready.items() if stale(since)]
            dropped = [self._ready.pop(key) for key in gone]
        for reading, release, _ in dropped:
            release(reading)

    def drop_all(self) -> None:
        """Gives everything back."""
        self._drop(lambda _: True)
