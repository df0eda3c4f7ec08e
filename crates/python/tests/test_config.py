"""Configurations."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import document

import gcos


def test_a_configuration_comes_from_a_file_text_or_a_dict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = document("emulated:ram:64MiB")
    path = tmp_path / "gcos.json"
    path.write_text(json.dumps(plain))
    configs = [
        gcos.Config.load(path),
        gcos.Config.load(str(path)),
        gcos.Config.parse(json.dumps(plain)),
        gcos.Config.from_dict(plain),
    ]
    monkeypatch.setenv("GCOS_CONFIG", str(path))
    configs.append(gcos.Config.load())
    assert all(config == configs[0] for config in configs)
    assert configs[0] != gcos.Config.from_dict(document("emulated:ram:32MiB", 32))
    assert configs[0] != 5
    for config in (configs[0], plain, path, str(path), None):
        with gcos.Store.open(config) as store:
            assert store.put("key", b"data")


def test_a_whole_configuration_goes_back_to_a_dict(tmp_path: Path) -> None:
    config = gcos.Config.from_dict(document("emulated:ram:64MiB", kernel_path={"force": "posix"}))
    whole = config.to_dict()
    assert whole["disk"]["paths"] == ["emulated:ram:64MiB"]
    assert whole["pool"]["io_deadline_ms"] == 10000
    assert whole["kernel_path"]["force"] == "posix"
    assert gcos.Config.from_dict(whole) == config


def test_every_problem_of_a_configuration_is_told_at_once() -> None:
    wrong = {"disk": {"number": 2, "paths": [], "capacity_bytes": -5}, "poool": {}}
    with pytest.raises(gcos.ConfigError) as caught:
        gcos.Config.from_dict(wrong)
    text = str(caught.value)
    assert "capacity_bytes" in text and "poool" in text
    assert isinstance(caught.value, ValueError)


def test_what_is_no_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(gcos.ConfigError):
        gcos.Config.load(tmp_path / "nothing")
    with pytest.raises(gcos.ConfigError):
        gcos.Config.parse("{")
    with pytest.raises(gcos.ConfigError):
        gcos.Config.from_dict({"disk": {1, 2}})
    for wrong in (5, ["x"], object(), 1.5):
        with pytest.raises(TypeError, match="gcos.Config"):
            gcos.Store.open(wrong)  # type: ignore[arg-type]


def test_the_environment_stands_above_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "gcos.json"
    path.write_text(json.dumps(document(os.fspath(tmp_path / "file"))))
    monkeypatch.setenv("GCOS_FORCE_PATH", "posix")
    assert gcos.Config.load(path).to_dict()["kernel_path"]["force"] == "posix"
    monkeypatch.setenv("GCOS_FORCE_PATH", "nonsense")
    with pytest.raises(gcos.ConfigError, match="GCOS_FORCE_PATH"):
        gcos.Config.load(path)


@pytest.mark.parametrize("threads", [0, -1, 257, 10**30])
def test_the_number_of_threads_is_checked(threads: int) -> None:
    with pytest.raises(gcos.InvalidArgument, match="threads: expected"):
        gcos.Store.open(document("emulated:ram:64MiB"), threads=threads)
