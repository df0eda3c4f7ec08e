"""The stub, the documentation of the functions, and the module are one."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import gcos
from gcos import _gcos, fileio, ops

STUB = Path(gcos.__file__).with_name("_gcos.pyi")
# What the interpreter adds to every class.
COMMON = set(dir(object)) | {"__module__", "__weakref__", "__doc__"}
# Methods of protocols that appear under other names, or in pairs.
SPOKEN = {"__new__", "__eq__", "__buffer__", "__release_buffer__"}


def stub() -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    return {name: node for name, node in found.items() if not name.startswith("_") or name == "__version__"}


def parameters(node: ast.FunctionDef) -> list[tuple[str, str, bool]]:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    first_default = len(positional) - len(arguments.defaults)
    found = [(one.arg, "positional", at >= first_default) for at, one in enumerate(positional)]
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    found += [(one.arg, "keyword", default is not None) for one, default in pairs]
    if arguments.kwarg:
        found.append((arguments.kwarg.arg, "rest", True))
    return found


def signature(function: Any) -> list[tuple[str, str, bool]]:
    kinds = {
        inspect.Parameter.POSITIONAL_ONLY: "positional",
        inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
        inspect.Parameter.KEYWORD_ONLY: "keyword",
        inspect.Parameter.VAR_KEYWORD: "rest",
    }
    return [
        (one.name, kinds[one.kind], one.default is not inspect.Parameter.empty or one.kind is one.VAR_KEYWORD)
        for one in inspect.signature(function).parameters.values()
    ]


def test_the_stub_lists_what_the_module_has() -> None:
    module = {name for name in dir(_gcos) if not name.startswith("_")} | {"__version__"}
    assert set(stub()) == module


def test_the_stub_of_each_class_lists_its_methods_and_their_parameters() -> None:
    compared = 0
    for name, node in stub().items():
        if isinstance(node, ast.FunctionDef):
            assert parameters(node) == signature(getattr(_gcos, name)), name
        if not isinstance(node, ast.ClassDef):
            continue
        cls = getattr(_gcos, name)
        functions = {one.name: one for one in node.body if isinstance(one, ast.FunctionDef)}
        assert set(functions) - SPOKEN == set(vars(cls)) - COMMON - SPOKEN, name
        for method, described in functions.items():
            decorators = {ast.unparse(one) for one in described.decorator_list}
            if "property" in decorators:
                assert inspect.isgetsetdescriptor(vars(cls)[method]), f"{name}.{method}"
                continue
            if method.startswith("__") and method not in ("__new__", "__dlpack__"):
                continue
            actual = signature(cls) if method == "__new__" else signature(getattr(cls, method))
            expected = parameters(described)
            if method == "__new__":
                expected = expected[1:]
            assert expected == actual, f"{name}.{method}"
            compared += 1
    assert compared > 40


def test_everything_public_is_documented() -> None:
    missing = []
    for module in (gcos, fileio, ops):
        assert module.__doc__
        for name in module.__all__:
            one = getattr(module, name)
            if isinstance(one, str):
                continue
            if not inspect.getdoc(one):
                missing.append(name)
            if inspect.isclass(one):
                members = [m for m in vars(one) if not m.startswith("_")]
                missing += [
                    f"{name}.{m}"
                    for m in members
                    if (callable(getattr(one, m)) or inspect.isgetsetdescriptor(vars(one)[m]))
                    and not inspect.getdoc(getattr(one, m))
                ]
    assert missing == []


def test_all_that_is_public_is_listed() -> None:
    public = {name for name in vars(gcos) if not name.startswith("_") and not inspect.ismodule(getattr(gcos, name))}
    assert public - {"annotations"} == set(gcos.__all__) - {"__version__"}
    assert sorted(gcos.__all__) == gcos.__all__
