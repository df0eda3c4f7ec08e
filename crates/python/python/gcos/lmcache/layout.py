"""Which bytes an object of LMCache is: its layout, and the key that it is stored under.

An object is stored as its bytes alone. What the bytes mean is part of the key: the layout (memory format,
types, shapes without the number of tokens) is hashed into a tag that stands in front of LMCache's own key.
An engine asks for its own layout, so objects of another one are misses, never other bytes. The number of
tokens follows from the length.

``docs/lmcache.md`` defines the form of keys; ``gcos import-lmcache-gds`` writes the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Optional, Sequence

#: Longest key of the store, in bytes. What is longer is not stored.
KEY_BYTES_MAX = 1024

#: Stands for the number of tokens in a shape.
TOKENS = -1

_PREFIX = "lm1:"

#: Where the number of tokens stands in a shape, by memory format and number of dimensions.
_TOKEN_AXIS = {
    ("KV_2LTD", 4): 2,
    ("KV_T2D", 3): 0,
    ("KV_2TD", 3): 1,
    ("KV_MLA_FMT", 4): 2,
    ("KV_MLA_FMT", 2): 0,
}

_ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint64": 8,
    "uint32": 4,
    "uint16": 2,
    "uint8": 1,
    "bool": 1,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
}


def dtype_name(dtype: object) -> str:
    """The name of a torch type as it stands in a layout: ``bfloat16`` for ``torch.bfloat16``."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Layout:
    """Memory format, types and shapes of objects, without their number of tokens."""

    #: Name of LMCache's ``MemoryFormat``.
    format: str
    #: One entry per group of layers: name of the type, and the shape with :data:`TOKENS` in it.
    groups: tuple[tuple[str, tuple[int, ...]], ...]
    #: What stands in front of LMCache's key.
    tag: str = field(init=False)
    #: Bytes that one token takes, over all groups.
    token_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        text = self.text()
        digest = hashlib.sha256(text.encode()).hexdigest()[:32]
        object.__setattr__(self, "tag", _PREFIX + digest)
        object.__setattr__(self, "token_bytes", sum(map(_token_bytes, self.groups)))

    @classmethod
    def of(
        cls, format_name: str, shapes: Sequence[Sequence[int]], dtypes: Sequence[object]
    ) -> Optional["Layout"]:
        """The layout of objects with these shapes; ``None`` where it is none that can be stored."""
        groups = []
        for shape, dtype in zip(shapes, dtypes):
            axis = _TOKEN_AXIS.get((format_name, len(shape)))
            name = dtype_name(dtype)
            if axis is None or name not in _ITEM_BYTES:
                return None
            general = tuple(TOKENS if i == axis else int(n) for i, n in enumerate(shape))
            groups.append((name, general))
        return cls(format_name, tuple(groups)) if groups else None

    def text(self) -> str:
        """What is hashed into the tag, for example ``KV_2LTD;bfloat16:2x32x*x1024``."""
        groups = (
            name + ":" + "x".join("*" if n == TOKENS else str(n) for n in shape)
            for name, shape in self.groups
        )
        return ";".join([self.format, *groups])

    def shapes(self, tokens: int) -> list[list[int]]:
        """The shapes of an object of so many tokens."""
        return [[tokens if n == TOKENS else n for n in shape] for _, shape in self.groups]

    def tokens(self, length: int) -> Optional[int]:
        """How many tokens an object of ``length`` bytes has; ``None`` where that is no whole number."""
        tokens, rest = divmod(length, self.token_bytes)
        return tokens if tokens and not rest else None

    def tokens_of(
        self, format_name: str, shapes: Sequence[Sequence[int]], dtypes: Sequence[object]
    ) -> Optional[int]:
        """How many tokens an object with these shapes has; ``None`` where its layout is another."""
        if format_name != self.format or len(shapes) != len(self.groups):
            return None
        tokens = None
        for (name, general), shape, dtype in zip(self.groups, shapes, dtypes):
            if len(general) != len(shape) or dtype_name(dtype) != name:
                return None
            for expected, found in zip(general, shape):
                if expected == TOKENS:
                    if tokens not in (None, found):
                        return None
                    tokens = found
                elif expected != found:
                    return None
        return tokens or None

    def key(self, text: str) -> Optional[bytes]:
        """The key in the store of LMCache's key ``text``; ``None`` where it is too long to be stored."""
        key = f"{self.tag}|{text}".encode()
        return key if len(key) <= KEY_BYTES_MAX else None


def _token_bytes(group: tuple[str, tuple[int, ...]]) -> int:
    name, shape = group
    elements = 1
    for n in shape:
        elements *= 1 if n == TOKENS else n
    return elements * _ITEM_BYTES[name]


def key_text(key: bytes) -> Optional[str]:
    """LMCache's key in a key of the store; ``None`` for a key that is none of ours."""
    tag, bar, text = key.partition(b"|")
    if not bar or not tag.startswith(_PREFIX.encode()):
        return None
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


class EngineLayouts:
    """The layouts that an engine uses, from its configuration and metadata.

    Groups of layers may be registered after the backend is made, so the layouts are looked at again when
    they are.
    """

    def __init__(self, config: object, metadata: object) -> None:
        self._metadata = metadata
        self._layerwise = bool(getattr(config, "use_layerwise", False))
        self._blending = bool(getattr(config, "enable_blending", False))
        self._whole: tuple[object, Optional[Layout]] = (self, None)
        self._layer = self._layer_layout()

    @property
    def layers(self) -> int:
        """Number of layers of the model."""
        return int(self._metadata.kv_shape[0])  # type: ignore[attr-defined]

    @property
    def layerwise(self) -> bool:
        """Whether the engine stores each layer by itself."""
        return self._layerwise

    def current(self) -> Optional[Layout]:
        """The layout of what this engine stores: whole chunks, or single layers."""
        return self._layer if self._layerwise else self.whole()

    def whole(self) -> Optional[Layout]:
        """The layout of a chunk with all layers."""
        manager = getattr(self._metadata, "kv_layer_groups_manager", None)
        groups = getattr(manager, "kernel_groups", None) or None
        stamp = (id(manager), len(groups) if groups else 0)
        if self._whole[0] != stamp:
            shapes = self._metadata.get_shapes(1)  # type: ignore[attr-defined]
            dtypes = self._metadata.get_dtypes()  # type: ignore[attr-defined]
            self._whole = (stamp, Layout.of(self._format(False), shapes, dtypes))
        return self._whole[1]

    def of_key(self, key: object) -> Optional[Layout]:
        """The layout of the object of a key: one layer's, where the key is one layer's."""
        return self._layer if hasattr(key, "layer_id") else self.whole()

    def _format(self, layer: bool) -> str:
        if getattr(self._metadata, "use_mla", False):
            return "KV_MLA_FMT"
        if layer:
            return "KV_2TD" if self._blending else "KV_T2D"
        return "KV_2LTD"

    def _layer_layout(self) -> Optional[Layout]:
        shape = self._metadata.kv_shape  # type: ignore[attr-defined]
        hidden = int(shape[3]) * int(shape[4])
        format_name = self._format(True)
        one = {"KV_MLA_FMT": [1, hidden], "KV_2TD": [2, 1, hidden], "KV_T2D": [1, 2, hidden]}
        return Layout.of(format_name, [one[format_name]], [self._metadata.kv_dtype])  # type: ignore[attr-defined]
