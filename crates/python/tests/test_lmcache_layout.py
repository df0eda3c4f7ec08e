"""Layouts and keys: what ``docs/lmcache.md`` defines, and ``gcos import-lmcache-gds`` writes too."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from gcos.lmcache.layout import EngineLayouts, Layout, key_text  # noqa: E402

VECTORS = json.loads((Path(__file__).parent / "lmcache_keys.json").read_text())


def metadata(**more):
    shape = more.pop("kv_shape", (4, 2, 16, 2, 8))
    base = SimpleNamespace(kv_shape=shape, kv_dtype=torch.bfloat16, use_mla=False, kv_layer_groups_manager=None)
    base.get_shapes = lambda n: [torch.Size([shape[1], shape[0], n, shape[3] * shape[4]])]
    base.get_dtypes = lambda: [base.kv_dtype]
    vars(base).update(more)
    return base


def engine(**more):
    return SimpleNamespace(**{"use_layerwise": False, "enable_blending": False, **more})


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
def test_keys_are_those_of_the_document(vector):
    dtypes = [getattr(torch, name) for name in vector["dtypes"]]
    layout = Layout.of(vector["format"], vector["shapes"], dtypes)
    assert layout.text() == vector["layout"]
    assert layout.tag == vector["tag"]
    assert layout.key(vector["key"]) == vector["stored"].encode()
    assert key_text(layout.key(vector["key"])) == vector["key"]


def test_the_number_of_tokens_is_no_part_of_a_layout_and_follows_from_the_length():
    layouts = EngineLayouts(engine(), metadata())
    layout = layouts.current()
    assert layout.text() == "KV_2LTD;bfloat16:2x4x*x16"
    assert layout.tokens(16 * 2 * 4 * 16 * 2) == 16
    assert layout.tokens(5 * layout.token_bytes) == 5
    assert layout.tokens(5 * layout.token_bytes + 1) is None
    assert layout.tokens(0) is None
    assert layout.shapes(5) == [[2, 4, 5, 16]]


def test_layouts_differ_by_type_format_layers_and_width():
    base = EngineLayouts(engine(), metadata()).current()
    others = [
        EngineLayouts(engine(), metadata(kv_dtype=torch.float16)).current(),
        EngineLayouts(engine(), metadata(kv_shape=(5, 2, 16, 2, 8))).current(),
        EngineLayouts(engine(), metadata(kv_shape=(4, 2, 16, 2, 16))).current(),
        EngineLayouts(engine(use_layerwise=True), metadata()).current(),
        EngineLayouts(engine(use_layerwise=True, enable_blending=True), metadata()).current(),
        EngineLayouts(engine(), metadata(use_mla=True, kv_shape=(4, 1, 16, 1, 32))).current(),
    ]
    tags = {layout.tag for layout in [base, *others]}
    assert len(tags) == 1 + len(others)
    assert [layout.format for layout in others] == ["KV_2LTD", "KV_2LTD", "KV_2LTD", "KV_T2D", "KV_2TD", "KV_MLA_FMT"]


def test_only_objects_of_the_layout_match():
    layout = EngineLayouts(engine(), metadata()).current()
    good = ([torch.Size([2, 4, 9, 16])], [torch.bfloat16])
    assert layout.tokens_of("KV_2LTD", *good) == 9
    assert layout.tokens_of("KV_T2D", *good) is None
    assert layout.tokens_of("KV_2LTD", good[0], [torch.float16]) is None
    assert layout.tokens_of("KV_2LTD", [torch.Size([2, 4, 9, 17])], good[1]) is None
    assert layout.tokens_of("KV_2LTD", [torch.Size([2, 4, 0, 16])], good[1]) is None
    assert layout.tokens_of("KV_2LTD", good[0] * 2, good[1] * 2) is None


def test_groups_of_layers_that_are_registered_later_count():
    data = metadata()
    layouts = EngineLayouts(engine(), data)
    before = layouts.current()
    data.kv_layer_groups_manager = SimpleNamespace(kernel_groups=[1, 2])
    data.get_shapes = lambda n: [torch.Size([2, 3, n, 16]), torch.Size([2, 1, n, 8])]
    data.get_dtypes = lambda: [torch.bfloat16, torch.uint8]
    after = layouts.current()
    assert after.text() == "KV_2LTD;bfloat16:2x3x*x16;uint8:2x1x*x8"
    assert after.token_bytes == 2 * 3 * 16 * 2 + 2 * 8
    assert after.tag != before.tag
    assert after.tokens_of("KV_2LTD", [[2, 3, 7, 16], [2, 1, 7, 8]], data.get_dtypes()) == 7
    assert after.tokens_of("KV_2LTD", [[2, 3, 7, 16], [2, 1, 6, 8]], data.get_dtypes()) is None


def test_a_key_that_is_too_long_is_not_stored_under_another():
    layout = EngineLayouts(engine(), metadata()).current()
    room = 1024 - len(layout.tag) - 1
    assert len(layout.key("k" * room)) == 1024
    assert layout.key("k" * (room + 1)) is None


def test_keys_of_others_are_none_of_ours():
    assert key_text(b"lm2:model@0@0@00@") is None
    assert key_text(b"anything") is None
    assert key_text(b"lm1:0|\xff") is None
