"""The pins that lookups of LMCache hold."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any, Optional, Sequence


class Pins:
    """Counts the pins taken, so that each is given back once."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._held: Counter[bytes] = Counter()
        self._lookups: dict[str, list[bytes]] = {}

    def take(self, names: Sequence[bytes], lookup_id: Optional[str], together: int = 1) -> int:
        """Pins the leading objects that are there, and says how many.

        Of each ``together`` objects in a row all are pinned or none. With ``lookup_id`` the pins end with
        :meth:`end_lookup`, else each with :meth:`give_back`.
        """
        taken = []
        for name in names[: len(names) // together * together]:
            if not self._store.pin(name):
                break
            taken.append(name)
        for name in taken[len(taken) // together * together :]:
            self._store.unpin(name)
        del taken[len(taken) // together * together :]
        with self._lock:
            self._held.update(taken)
            if lookup_id is not None:
                self._lookups.setdefault(lookup_id, []).extend(taken)
        return len(taken)

    def give_back(self, name: bytes) -> bool:
        """Takes one pin back. ``False`` when none is held."""
        with self._lock:
            if not self._held[name]:
                del self._held[name]
                return False
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]
        return bool(self._store.unpin(name))

    def forget(self, name: bytes) -> None:
        """The object is removed, and its pins with it."""
        with self._lock:
            del self._held[name]

    def end_lookup(self, lookup_id: str) -> None:
        """Gives back what a lookup holds."""
        with self._lock:
            names = self._lookups.pop(lookup_id, [])
        for name in names:
            self.give_back(name)

    @property
    def held(self) -> int:
        """Pins that are held."""
        with self._lock:
            return sum(self._held.values())

    def release_all(self) -> None:
        """Gives everything back."""
        with self._lock:
            held, self._held = self._held, Counter()
            self._lookups.clear()
        for name, count in held.items():
            for _ in range(count):
                self._store.unpin(name)
