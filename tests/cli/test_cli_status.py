"""`bud-asgi serve --status`: the page below a path of the server, for keys of its own."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from cli_process import BUD_ASGI, KEY, UPSTREAM_KEY, environment, gateway_file, served

from bud_asgi.cli.serve.status import check_status, with_status_page
from bud_asgi.config import ConfigError, read_file

OPERATOR = "an-operators-key-of-the-page"
ENV = ("env:STATUS_KEY",)

OPTIONS = {
    "none": (None, (), 1, None),
    "a path and a key": ("/status", ENV, 1, None),
    "a deeper path": ("/ops/gateway-1/", ENV, 1, None),
    "a key without a page": (None, ENV, 1, "--status-key: meaningless without --status"),
    "no key": ("/status", (), 1, "--status: needs a key of its own: add --status-key env:NAME"),
    "the file in place of a path": ("gateway.toml", ENV, 1, "expected a path such as --status=/status"),
    "the root": ("/", ENV, 1, "expected a path"),
    "a query": ("/status?x", ENV, 1, "expected a path"),
    "a path of the API": ("/v1/messages", ENV, 1, "is a path of the Messages API"),
    "a health check": ("/readyz", ENV, 1, "or of a health check"),
    "workers": ("/status", ENV, 2, "cannot be combined with --workers"),
}


@pytest.mark.parametrize(("path", "keys", "workers", "expected"), OPTIONS.values(), ids=OPTIONS.keys())
def test_the_options(path: str | None, keys: tuple[str, ...], workers: int, expected: str | None) -> None:
    problems = " ".join(map(str, check_status(path, keys, workers)))
    assert (expected or "") in problems
    assert bool(problems) is bool(expected)


REFERENCES = {
    "env:SHORT": "at least 16 characters",
    "env:MISSING": "the environment variable MISSING is not set",
    "the-key-itself-in-plain": "expected a reference such as env:NAME or file:PATH, got a value that is not shown",
}


@pytest.mark.parametrize(("reference", "expected"), REFERENCES.items())
def test_a_key_is_a_reference_to_a_long_secret(
    reference: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", UPSTREAM_KEY)
    monkeypatch.setenv("SHORT", "short")
    messages = read_file(gateway_file(tmp_path)).app()
    with pytest.raises(ConfigError, match=expected) as raised:
        with_status_page(messages, "/status", (reference,))
    assert str(raised.value).startswith("--status-key: ")


def test_it_is_served_to_its_own_key_alone(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{OPERATOR}\n")
    options = ["--status", "--status-key", f"file:{tmp_path / 'key'}", "--status-key", "env:STATUS_KEY", "--port", "0"]
    command = [*BUD_ASGI, "serve", str(gateway_file(tmp_path)), *options]
    with served(command, environment(STATUS_KEY=f"{OPERATOR}-2")) as server:
        url = server.url
        assert httpx.get(f"{url}/v1/models", headers={"x-api-key": OPERATOR}).status_code == 401
        assert httpx.get(f"{url}/status").status_code == 401
        assert httpx.get(f"{url}/status", auth=("", KEY)).status_code == 401  # of a caller
        for key in (OPERATOR, f"{OPERATOR}-2"):
            page = httpx.get(f"{url}/status", auth=("", key))
            assert page.status_code == 200
        assert "<title>ready: bud-asgi</title>" in page.text
        report = httpx.get(f"{url}/status/status.json", headers={"x-api-key": OPERATOR}).json()
        assert (report["refusals"][0]["status"], report["refusals"][0]["count"]) == (401, 1)
        assert httpx.get(f"{url}/statuses").status_code == 404
        _, out, words = server.stop()
    assert OPERATOR not in out + words
    assert out.count("\n") == 2  # the requests for the page are not in the access log
