"""LMCache over GCOS.

``gcos.lmcache.GcosBackend`` is a storage plugin for the LMCache engine, ``gcos.lmcache.GcosL2Adapter`` an
L2 adapter for its multi-process server. ``docs/lmcache.md`` says how they are configured.

LMCache is imported when one of both is asked for, not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcos.lmcache.backend import GcosBackend
    from gcos.lmcache.l2 import GcosL2Adapter

__all__ = ["GcosBackend", "GcosL2Adapter"]


def __getattr__(name: str) -> Any:
    if name == "GcosBackend":
        from gcos.lmcache.backend import GcosBackend

        return GcosBackend
    if name == "GcosL2Adapter":
        from gcos.lmcache.l2 import GcosL2Adapter

        return GcosL2Adapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
