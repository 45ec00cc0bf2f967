"""The pages of docs/hosts and docs/servers: each program is served and called, and each command is run."""

from __future__ import annotations

import importlib.util
import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import anthropic
import pytest
from blacksheep import Application, Request, Response, Router
from host_apps import HOSTS, dispatcher
from hosting_kit import LONG, messages_app, server_process, web
from support.calls import UPSTREAM_KEY

from bud_asgi import hash_api_key
from bud_asgi.testing import StandIn, ThreadedStandIn
from bud_asgi.testing.server.serving import serving

DOCS = Path(__file__).parent.parent.parent.resolve() / "docs"
HASH = re.compile(r"sha256:[0-9a-f]{64}")
KEY = "YOUR_API_KEY"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def shell_lines(page: Path) -> list[str]:
    return "".join(blocks(page, "sh")).splitlines()


PAGES = [page for folder in ("hosts", "servers") for page in sorted((DOCS / folder).glob("*.md"))]


COMMAND_NAMES = {"uvicorn", "granian", "gunicorn", "hypercorn"}
FILE = re.compile(r"# (\w+\.py)\n")
"""The first line of a program that is another file beside the first one."""
PROGRAMS = {
    f"{page.parent.name}/{page.name}, {number}": program
    for page in PAGES
    for number, program in enumerate(blocks(page, "python"), 1)
    if not FILE.match(program)
}
COMMANDS = {
    f"{page.stem}: {line}": (blocks(page, "python"), line)
    for page in PAGES
    for line in shell_lines(page)
    if line.split()[0] in COMMAND_NAMES
}
"""The commands of each page, with the page's first program."""


@pytest.fixture(scope="module")
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANTHROPIC_API_KEY", UPSTREAM_KEY)
        yield stand_in


@pytest.fixture
def logging_restored() -> Generator[None]:
    """Litestar configures the logging of the process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def adapted(program: str, upstream_url: str) -> str:
    """The program with the hash of our key, and with the stand-in as its upstream."""
    program = HASH.sub(hash_api_key(KEY), program)
    return program.replace('from_env("ANTHROPIC_API_KEY")', f'from_env("ANTHROPIC_API_KEY"), base_url="{upstream_url}"')


@contextmanager
def loaded(program: str, upstream_url: str, directory: Path) -> Generator[ModuleType]:
    """Import the program as a module."""
    (directory / "page_of_docs.py").write_text(adapted(program, upstream_url))
    spec = importlib.util.spec_from_file_location("page_of_docs", directory / "page_of_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]


def call(url: str) -> None:
    """Request a message and a stream with the official SDK."""
    with anthropic.Anthropic(base_url=f"{url}/llm", api_key=KEY, max_retries=0) as client:
        params: Any = {
            "model": "claude-haiku-4-5",
            "max_tokens": 9,
            "messages": [{"role": "user", "content": "Hello"}],
        }
        assert client.messages.create(**params).content
        with client.messages.stream(**params) as stream:
            assert stream.get_final_text()


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
@pytest.mark.usefixtures("logging_restored")
@pytest.mark.filterwarnings("error")
def test_each_program_serves_the_official_sdk_and_its_own_route(
    program: str, upstream: ThreadedStandIn, tmp_path: Path
) -> None:
    with loaded(program, upstream.base_url, tmp_path) as module, serving(module.app) as url:
        call(url)
        if hasattr(module, "home"):
            home = web.get(url)
            assert home.status_code == 200
            assert "the host's own page" in home.text
    upstream.wait_connections(0, LONG)


@pytest.mark.parametrize(("programs", "line"), COMMANDS.values(), ids=COMMANDS.keys())
def test_each_command_serves_the_first_program_of_its_page(
    programs: list[str], line: str, upstream: ThreadedStandIn, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text(adapted(programs[0], upstream.base_url))
    for program in programs[1:]:
        if named := FILE.match(program):
            (tmp_path / named[1]).write_text(program)
    command = [word.replace("8000", "{port}") for word in shlex.split(line)]
    with server_process(command, tmp_path, {}, cwd=tmp_path, ready="/llm/healthz") as server:
        call(server.url)
        server.terminate()
        server.wait()


def test_the_drain_command_of_granians_page_drains(upstream: ThreadedStandIn, tmp_path: Path) -> None:
    page = DOCS / "servers" / "granian.md"
    (curl,) = [line for line in shell_lines(page) if line.startswith("curl")]
    (program,) = blocks(page, "python")
    with loaded(program, upstream.base_url, tmp_path) as module, serving(module.app) as url:
        line = curl.replace("http://127.0.0.1:8000", url)
        subprocess.run(["sh", "-c", line], check=True, capture_output=True, timeout=30)
        assert web.get(f"{url}/llm/readyz").status_code == 503
        assert web.post(f"{url}/llm/v1/messages").status_code == 529


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_each_page_installs_what_its_programs_import(page: Path) -> None:
    lines = (line.replace("'.[server]'", ". uvicorn") for line in shell_lines(page) if line.startswith("pip install"))
    installed = " ".join(line for line in lines if line.startswith("pip install .")).split()[2:]
    imported = set(re.findall(r"^(?:from|import) (\w+)", "".join(blocks(page, "python")[:1]), re.MULTILINE))
    imported -= {"bud_asgi", "starlette", *sys.stdlib_module_names}
    servers = {line.split()[0] for line in shell_lines(page)} & COMMAND_NAMES
    assert installed[0] == "."
    assert imported | servers <= {re.sub(r"['\"]|\[.*", "", name) for name in installed}


def test_each_page_is_in_the_index_and_each_link_leads_to_a_page() -> None:
    link = re.compile(r"\]\(([\w./-]+\.md)\)")
    index = DOCS / "README.md"
    pages = {page for page in DOCS.rglob("*.md") if page != index and "node_modules" not in page.parts}
    assert pages <= {(DOCS / target).resolve() for target in link.findall(index.read_text())}
    for page in [index, *pages]:
        for target in link.findall(page.read_text()):
            assert (page.parent / target).exists(), (page, target)


def test_fastapis_dependencies_do_not_run_and_its_schema_does_not_list_the_mounted_app(
    upstream: ThreadedStandIn,
) -> None:
    from fastapi import Depends, FastAPI, HTTPException

    def refuse() -> None:
        raise HTTPException(418)

    host = FastAPI(dependencies=[Depends(refuse)])
    host.add_api_route("/own", lambda: "home")
    messages_app(upstream.base_url).install(host, "/llm")
    with serving(host) as url:
        assert web.get(f"{url}/own").status_code == 418
        assert web.post(f"{url}/llm/v1/messages").status_code == 401
        assert list(web.get(f"{url}/openapi.json").json()["paths"]) == ["/own"]


def test_a_guard_on_litestars_mount_refuses_in_litestars_format(upstream: ThreadedStandIn) -> None:
    from litestar import Litestar, asgi
    from litestar.connection import ASGIConnection
    from litestar.exceptions import NotAuthorizedException
    from litestar.handlers.base import BaseRouteHandler

    def guard(_connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        raise NotAuthorizedException("rejected")

    messages: Any = messages_app(upstream.base_url)
    mount = asgi("/llm", is_mount=True, copy_scope=True, guards=[guard])(messages)
    app: Any = Litestar([mount], lifespan=[messages.lifespan], logging_config=None)
    with serving(app) as url:
        refused = web.post(f"{url}/llm/v1/messages")
        assert refused.status_code == 401
        assert refused.json() == {"status_code": 401, "detail": "rejected"}


@pytest.mark.parametrize("name", ["BlackSheep", "Litestar", "Hypercorn's dispatcher", "Quart", "bare ASGI"])
def test_which_hosts_send_a_path_with_the_same_first_characters_to_the_mounted_app(
    name: str, upstream: ThreadedStandIn
) -> None:
    make, prefix, _before = HOSTS[name]
    with serving(make(messages_app(upstream.base_url), prefix)) as url:
        reply = web.get(f"{url}/llms")
        assert reply.status_code == 404
        assert ("not_found_error" in reply.text) == (name in {"BlackSheep", "Litestar", "Hypercorn's dispatcher"})


def test_quarts_hooks_do_not_run_for_the_mounted_app(upstream: ThreadedStandIn) -> None:
    from quart import Quart

    host: Any = Quart("host")

    @host.before_request
    async def refuse() -> tuple[str, int]:  # pyright: ignore[reportUnusedFunction]
        return "rejected", 418

    host.asgi_app = dispatcher(host.asgi_app, "/llm", messages_app(upstream.base_url))
    with serving(host) as url:
        assert web.get(f"{url}/own").status_code == 418
        assert web.post(f"{url}/llm/v1/messages").status_code == 401


def test_blacksheeps_middlewares_do_not_run_for_the_mounted_app(upstream: ThreadedStandIn) -> None:
    async def refuse(request: Request, handler: Any) -> Response:  # BlackSheep matches the parameters by name
        return Response(418)

    host: Any = Application(router=Router())
    host.router.add_get("/own", lambda: "home")
    host.middlewares.append(refuse)
    host.mount("/llm", messages_app(upstream.base_url))
    with serving(host) as url:
        assert web.get(f"{url}/own").status_code == 418
        assert web.post(f"{url}/llm/v1/messages").status_code == 401
