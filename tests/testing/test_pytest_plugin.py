"""The pytest plugin: its fixtures in a service's own tests, and what it costs where they are not used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import anthropic  # the tests that are run in this process do not have to import it, and what it needs, for each run
import fastapi.testclient
import pytest

import bud_asgi.testing.clients

_LOADED = (anthropic.AsyncAnthropic.messages, fastapi.testclient, bud_asgi.testing.clients)

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
SERVICE = ROOT / "examples" / "tested_service"
NAMES = ("ANTHROPIC_API_KEY", "BEDROCK_API_KEY", "OTHER_URL")

PLUGINS = (
    "-p",
    "_bud_asgi_pytest",
    "-p",
    "pytest_asyncio.plugin",
    "-p",
    "no:cacheprovider",
    "-o",
    "asyncio_default_fixture_loop_scope=function",
)
"""Those that a service needs. pytest loads the others as well, which takes seconds."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin's option sets variables for the whole process: a real key in one of them, and none in the others."""
    for name in NAMES:
        monkeypatch.setenv(name, "sk-ant-real")
    monkeypatch.delenv("BEDROCK_API_KEY")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def test_the_tests_of_the_example_pass(pytester: pytest.Pytester) -> None:
    pytester.inline_run(
        str(SERVICE), "--rootdir", str(SERVICE), "-c", str(SERVICE / "pyproject.toml"), *PLUGINS
    ).assertoutcome(passed=5)
    assert os.environ["ANTHROPIC_API_KEY"] == "placeholder"


def test_the_service_of_the_manual_passes_its_tests(pytester: pytest.Pytester) -> None:
    manual = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    files = re.findall(r"```\w+\n# ([a-z_.]+)\n(.*?)```", manual, re.DOTALL)
    assert [name for name, _ in files] == ["main.py", "conftest.py", "pyproject.toml", "test_main.py"]
    for name, content in files:
        Path(name).write_text(content, encoding="utf-8")
    pytester.inline_run(*PLUGINS).assertoutcome(passed=2)


def test_variables_are_set_before_the_first_conftest_is_imported(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nbud_asgi_env =\n    ANTHROPIC_API_KEY\n    OTHER_URL = redis://host?db=1\n")
    pytester.makeconftest("import os\nFOUND = os.environ['ANTHROPIC_API_KEY'], os.environ['OTHER_URL']")
    pytester.makepyfile(
        "import conftest\ndef test():\n    assert conftest.FOUND == ('placeholder', 'redis://host?db=1')"
    )
    pytester.inline_run(*PLUGINS).assertoutcome(passed=1)


CASES = """
import time
import pytest

from bud_asgi import Anonymous, Anthropic, MessagesApp, Route
from bud_asgi.testing import hang_mid_event

@pytest.fixture
def bud_app():
    providers = [Anthropic(api_key="real", name=name, base_url="http://127.0.0.1:1") for name in ("a", "b")]
    return MessagesApp(auth=Anonymous(), providers=providers, routes=[Route("*", to=["b"])])

def test_clients_alone_do_not_reach_the_real_service(bud_client):
    client = bud_client("ada")
    question = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    assert client.messages.create(**question).role == "assistant"

def test_a_stream_that_is_left_ends_at_the_upstream(bud_client, bud_upstream):
    bud_upstream.enqueue(hang_mid_event())
    question = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    with bud_client("ada").messages.stream(**question) as stream:
        assert next(iter(stream)).type == "message_start"
    assert bud_upstream.wait_aborted().replied > 0

def test_providers_come_back(bud_app, bud_upstream):
    assert [one.name for one in bud_app.providers] == ["a", "b"]
    assert {one.base_url for one in bud_app.providers} == {bud_upstream.base_url}

async def test_blocked(bud_watchdog):
    bud_watchdog.limit = 0.05
    time.sleep(0.4)
"""


def test_fixtures_in_a_service_with_two_providers(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(CASES)
    result = pytester.runpytest_inprocess(*PLUGINS, "-o", "asyncio_mode=auto")
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(
        ["*BlockedLoop: the event loop was blocked for more than 0.05 s by:", "*time.sleep(0.4)"]
    )


def test_without_an_app_the_error_says_what_to_define(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test(bud_upstream): pass")
    result = pytester.runpytest_inprocess(*PLUGINS)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*define a fixture named bud_app in conftest.py; it returns your MessagesApp"])


def test_pytest_loads_the_plugin_by_itself() -> None:
    (plugin,) = (one for one in entry_points(group="pytest11") if one.name == "bud_asgi")
    assert plugin.value == "_bud_asgi_pytest"


def test_the_plugin_imports_neither_the_package_nor_anything_that_pytest_does_not() -> None:
    program = (
        "import sys, pytest\nbefore = {*sys.modules}\nimport _bud_asgi_pytest\n"
        "print(sorted({*sys.modules} - before - {'_bud_asgi_pytest'}))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.strip() == "[]"
