"""Where `serve` listens: Unix sockets, inherited sockets, TLS, below a path; and what it reports if it cannot."""

from __future__ import annotations

import io
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
import trustme
from cli_process import BUD_ASGI, UPSTREAM_KEY, environment, gateway_file, served
from click.testing import CliRunner, Result

from bud_asgi import __version__
from bud_asgi.cli.commands import group
from bud_asgi.cli.listening import listen_on, listen_on_descriptor, listen_on_path
from bud_asgi.cli.serve.run import announce
from bud_asgi.config import read_file
from bud_asgi.server.head import below_root


@pytest.fixture
def folder() -> Generator[Path]:
    """A folder with a short path: that of a Unix socket has about a hundred characters."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_it_serves_on_a_unix_socket_below_a_path(folder: Path) -> None:
    path = folder / "gateway.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))  # its file stays, as after a crash
    command = [*BUD_ASGI, "serve", str(gateway_file(folder)), "--uds", str(path), "--root-path", "/llm/"]
    with served(command, environment()) as server:
        assert server.url == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o666
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://gateway") as client:
            urls = ("/healthz", "/llm/healthz", "/v1/models", "/llm/v1/models")
            assert [client.get(url).status_code for url in urls] == [200, 200, 401, 401]
        status, _, words = server.stop()
    assert status == 0, words
    assert f"bud-asgi {__version__} serves " in words
    assert not path.exists()


def test_it_serves_tls_on_an_inherited_socket(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    trusted = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, number = listener.getsockname()[1], listener.fileno()
        options = ["--fd", str(number), "--ssl-certfile", str(tmp_path / "both.pem")]
        command = [*BUD_ASGI, "serve", str(gateway_file(tmp_path)), *options]
        with subprocess.Popen(
            command, pass_fds=[number], stderr=subprocess.PIPE, text=True, env=environment()
        ) as process:
            try:
                url = f"https://127.0.0.1:{port}/healthz"
                assert httpx.get(url, verify=trusted, timeout=30, trust_env=False).status_code == 200
            finally:
                process.terminate()
                _, words = process.communicate(timeout=30)
    assert process.returncode == 0, words
    assert f"running on file descriptor {number} " in words


def serve(*options: str, **environ: str) -> Result:
    """Run the command in this process: it ends before a server starts."""
    env = {"ANTHROPIC_API_KEY": UPSTREAM_KEY, "BUD_ASGI_ALLOW_ANONYMOUS": "1", "BUD_ASGI_CONFIG": "", **environ}
    return CliRunner().invoke(group, ["serve", *options], env=env)


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        shown = serve("--port", str(port))
    assert (shown.exit_code, shown.stdout) == (3, "")
    assert shown.stderr == f"error: 127.0.0.1:{port}: address already in use; choose another with --port\n"


PLACES: dict[str, tuple[list[str], int, str]] = {
    "an address of another machine": (
        ["--host", "192.0.2.1", "--port", "0"],
        3,
        "error: 192.0.2.1:0: cannot assign requested address\n",
    ),
    "a descriptor that is not open": (["--fd", "999"], 3, "error: --fd 999: bad file descriptor\n"),
    "a folder that is not there": (["--uds", "/nope/x"], 3, "error: --uds /nope/x: no such file or directory\n"),
    "a key without a certificate": (
        ["--ssl-keyfile", "key.pem"],
        2,
        "error: --ssl-certfile: missing; the file of the certificate is required for TLS\n",
    ),
    "a certificate that is not there": (
        ["--ssl-certfile", "/nope.pem"],
        2,
        "error: --ssl-certfile: cannot read /nope.pem: No such file or directory\n",
    ),
    "a file that is not a certificate": (
        ["--ssl-certfile", __file__],
        2,
        f"error: --ssl-certfile: {__file__}: expected a certificate chain in PEM form, with its key\n",
    ),
    "a password in the command": (
        ["--ssl-certfile", __file__, "--ssl-keyfile-password", "CANARY"],
        2,
        "--ssl-keyfile-password: expected a reference such as env:NAME or file:PATH, got a value that is not shown\n",
    ),
    "two places": (["--uds", "x", "--fd", "3"], 2, "--uds and --fd cannot be combined\n"),
    "a path that does not begin with a slash": (["--root-path", "llm"], 2, "expected a path such as /llm\n"),
}


@pytest.mark.parametrize(("options", "status", "words"), PLACES.values(), ids=PLACES.keys())
def test_what_keeps_a_server_from_listening_is_one_line(options: list[str], status: int, words: str) -> None:
    shown = serve(*options)
    assert (shown.exit_code, shown.stdout) == (status, "")
    assert shown.stderr.endswith(words)
    assert "Traceback" not in shown.stderr
    assert "CANARY" not in shown.stderr


@pytest.mark.parametrize(
    ("password", "problem"),
    [
        ([], "missing; expected a reference such as env:NAME or file:PATH for the encrypted key"),
        (["--ssl-keyfile-password", "env:WRONG"], "wrong for the encrypted key"),
    ],
)
def test_an_encrypted_key_needs_its_password(password: list[str], problem: str, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    made = trustme.CA().issue_cert("127.0.0.1")
    key = serialization.load_pem_private_key(made.private_key_pem.bytes(), None)
    form, encryption = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"CANARY")
    (tmp_path / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, encryption))
    made.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    files = ["--ssl-certfile", str(tmp_path / "cert.pem"), "--ssl-keyfile", str(tmp_path / "key.pem")]
    shown = serve(*files, *password, WRONG="x")
    assert (shown.exit_code, shown.stderr) == (2, f"error: --ssl-keyfile-password: {problem}\n")


def test_a_unix_socket_of_a_running_server_is_not_taken(folder: Path) -> None:
    path = str(folder / "x.sock")
    first = listen_on_path(path)
    with pytest.raises(OSError, match="in use"):
        listen_on_path(path)
    first.close()
    assert not Path(path).exists()
    (folder / "file").write_text("kept")
    with pytest.raises(OSError, match="in use"):
        listen_on_path(str(folder / "file"))
    assert (folder / "file").read_text() == "kept"


def test_a_host_with_several_addresses_has_the_same_port_on_all() -> None:
    listening = listen_on("localhost", 0, "http")
    ports = {one.getsockname()[1] for one in listening.sockets}
    assert listening.address == f"http://localhost:{ports.pop()}"
    assert not ports
    listening.close()


def test_an_inherited_socket_keeps_its_family() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listening = listen_on_descriptor(listener.fileno())
        assert listening.sockets[0].family == socket.AF_INET  # TCP_NODELAY depends on it
        listening.close()
        listener.getsockname()  # still open


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/messages", "/llm/v1/messages"),
        ("/llm/v1/messages", "/llm/v1/messages"),
        ("/llm", "/llm"),
        ("/llmx/v1", "/llm/llmx/v1"),
        ("/", "/llm/"),
    ],
)
def test_a_root_path_is_added_unless_the_proxy_has_left_it(path: str, expected: str) -> None:
    scope = below_root("/llm", path, path.encode())
    assert scope == {"root_path": "/llm", "path": expected, "raw_path": expected.encode()}


def test_the_start_shows_what_is_served_in_the_form_of_check(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # a pipe
    file = gateway_file(tmp_path, more='models = ["gpt-*"]\n')
    caplog.set_level("INFO", "bud_asgi")
    route = '[[routes]]\nmodel = "claude-*"\nto = ["anthropic"]\n'
    file.write_text(file.read_text() + route)
    announce(read_file(file, environ={"ANTHROPIC_API_KEY": UPSTREAM_KEY}), "http://127.0.0.1:8000")
    assert [f"{record.levelname}: {record.getMessage()}" for record in caplog.records] == [
        f"INFO: bud-asgi {__version__} serves {file}:",
        "INFO: MODEL     PROVIDER   UPSTREAM MODEL  ADDRESS",
        "INFO: claude-*  anthropic  (as requested)  https://api.anthropic.com",
        "INFO: KEY  TEAM  MODELS",
        "INFO: me   -     gpt-*",
        "INFO: No limits.",
        f'WARNING: {file}:9: keys[0].models: no route serves "gpt-*"',
        "INFO: running on http://127.0.0.1:8000 (Ctrl-C stops it)",
    ]
