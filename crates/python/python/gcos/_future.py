"""What is submitted to a store, to be waited for."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Generator
from typing import Any, TypeVar

T = TypeVar("T")


class Future(concurrent.futures.Future[T]):
    """A :class:`concurrent.futures.Future` that can also be awaited.

    ``cancel()`` succeeds while the work has not begun. Done callbacks run on a thread of the store: they may call the
    store and submit to it, but should not wait for other futures, whose threads may be as busy as theirs.
    """

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.wrap_future(self).__await__()
