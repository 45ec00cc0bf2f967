"""The examples in docs/testing.md run, and it documents everything that the package exports."""

import asyncio
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import bud_asgi.testing
from bud_asgi.testing.bedrock import Bedrock
from bud_asgi.testing.bedrock import faults as bedrock_faults
from bud_asgi.testing.vertex import Vertex
from bud_asgi.testing.vertex import faults as vertex_faults

_MANUAL = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
_SNIPPETS = re.findall(r"```python\n(?!# )(.*?)```", _MANUAL, re.DOTALL)


def _tests_of(snippet: str) -> list[Callable[[], Any]]:
    names: dict[str, Any] = {}
    exec(compile(snippet, "docs/testing.md", "exec"), names)
    return [value for name, value in names.items() if name.startswith("test_")]


@pytest.mark.parametrize("snippet", _SNIPPETS, ids=[re.findall(r"def (\w+)", snippet)[0] for snippet in _SNIPPETS])
def test_a_snippet_runs(snippet: str) -> None:
    (test,) = _tests_of(snippet)
    ran = test()
    if inspect.iscoroutine(ran):
        asyncio.run(ran)


def test_exported_names_are_sorted_and_documented() -> None:
    shown = bud_asgi.testing.__all__
    assert shown == sorted(shown)
    for name in shown:
        assert hasattr(bud_asgi.testing, name)
    functions = [name for name in shown if inspect.isfunction(getattr(bud_asgi.testing, name))]
    assert [name for name in functions if f"`{name}" not in _MANUAL] == []
    assert [name for name in functions if not getattr(bud_asgi.testing, name).__doc__] == []


@pytest.mark.parametrize("module", [bedrock_faults, vertex_faults])
def test_the_faults_of_the_clouds_are_documented(module: ModuleType) -> None:
    faults = [
        name
        for name, value in inspect.getmembers(module, inspect.isfunction)
        if value.__module__ == module.__name__ and not name.startswith("_") and value.__doc__
        if str(inspect.signature(value).return_annotation) in {"Reply", "Fault", "Callable[[Received], Reply]"}
    ]
    assert len(faults) >= 5
    assert [name for name in faults if f"`{name}" not in _MANUAL] == []


@pytest.mark.parametrize("service", [Bedrock, Vertex])
def test_the_parameters_of_the_clouds_are_documented(service: type) -> None:
    assert [name for name in inspect.signature(service).parameters if f"`{name}`" not in _MANUAL] == []
