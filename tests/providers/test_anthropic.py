"""The Anthropic provider: the requests that it encodes, its base URL, its credentials."""

from __future__ import annotations

import json
import ssl
import traceback

import pytest
from support.bodies import body, decode

from bud_asgi.http import HttpReply, HttpRequest, Origin, Timeouts, header_block
from bud_asgi.protocol.headers import merge_headers
from bud_asgi.providers import Anthropic, ProviderRequest
from bud_asgi.secret import Secret

KEY = "sk-ant-very-secret"
HEADERS = merge_headers(
    [
        (b"Host", b"gateway"),
        (b"Authorization", b"Bearer client"),
        (b"X-Api-Key", b"client"),
        (b"Cookie", b"a=b"),
        (b"Content-Type", b"text/plain"),
        (b"Content-Length", b"1"),
        (b"Accept-Encoding", b"gzip"),
        (b"User-Agent", b"Anthropic/Python"),
        (b"Anthropic-Version", b"2023-06-01"),
        (b"Anthropic-Beta", b"a"),
        (b"anthropic-beta", b"b"),
    ]
)


def written(provider: Anthropic, sent: bytes, model: str | None = None) -> HttpRequest:
    return provider.encode(ProviderRequest(decode(sent), HEADERS, model)).request


def test_the_request_is_sent_unchanged() -> None:
    sent = body(b', "stream" : true')
    request = written(Anthropic(api_key=KEY), sent)
    assert request.body is sent
    assert (request.method, request.target) == (b"POST", b"/v1/messages")
    assert tuple(request.headers) == (
        (b"accept", b"application/json"),
        (b"accept-encoding", b"identity"),
        (b"content-type", b"application/json"),
        (b"user-agent", b"bud_asgi"),
        (b"anthropic-version", b"2023-06-01"),
        (b"anthropic-beta", b"a,b"),
    )
    assert (request.origin.host, request.origin.port) == ("api.anthropic.com", 443)
    assert request.origin.tls is not None
    assert request.origin.tls.verify_mode == ssl.CERT_REQUIRED
    assert request.origin.tls.check_hostname
    assert request.timeouts == Timeouts(5.0, 600.0, 300.0)


def test_every_request_has_the_same_origin_so_that_connections_are_shared() -> None:
    provider = Anthropic(api_key=KEY)
    assert written(provider, body()).origin is written(provider, body()).origin


def test_an_upstream_model_of_the_same_name_changes_nothing() -> None:
    sent = body(model=b'"\\u006d"')
    assert written(Anthropic(api_key=KEY), sent, "m").body is sent


@pytest.mark.parametrize("model", ["other", 'a"b', "a\\b", "é😀", "\x00\n\u2028", "x" * 1000, ""])
def test_a_mapped_model_is_the_only_change(model: str) -> None:
    sent = b'{"max_tokens":1e2, "x":"\\u0065", "model" : "m" , "messages":[{"model":"m"}]}'
    parts = written(Anthropic(api_key=KEY), sent, model).body
    assert not isinstance(parts, bytes)
    spliced = b"".join(parts)
    assert spliced.startswith(b'{"max_tokens":1e2, "x":"\\u0065", "model" : "')
    assert spliced.endswith(b'" , "messages":[{"model":"m"}]}')
    assert json.loads(spliced) == {**json.loads(sent), "model": model}


def test_the_operator_sets_the_timeouts_and_the_tls_context() -> None:
    context, timeouts = ssl.create_default_context(), Timeouts(1.0, 2.0, 3.0)
    request = written(Anthropic(api_key=KEY, tls=context, timeouts=timeouts), body())
    assert request.origin.tls is context
    assert request.timeouts is timeouts


PARSED: dict[str, tuple[str, bytes, bytes]] = {
    "a host": ("https://h.example", b"h.example", b"/v1/messages"),
    "a slash at the end": ("https://h.example/", b"h.example", b"/v1/messages"),
    "a path": ("https://h.example/anthropic", b"h.example", b"/anthropic/v1/messages"),
    "a path with slashes at the end": ("https://h.example/a/b//", b"h.example", b"/a/b/v1/messages"),
    "a path that is percent-encoded": ("https://h.example/a%20b/%C3%A9", b"h.example", b"/a%20b/%C3%A9/v1/messages"),
    "a path with signs": ("https://h.example/a@b:c;d=e,f~g", b"h.example", b"/a@b:c;d=e,f~g/v1/messages"),
    "a port": ("https://h.example:8443/x", b"h.example:8443", b"/x/v1/messages"),
    "the scheme's own port": ("https://h.example:443", b"h.example", b"/v1/messages"),
    "a plain host": ("http://localhost", b"localhost", b"/v1/messages"),
    "a plain host with a port": ("http://localhost:8000", b"localhost:8000", b"/v1/messages"),
    "a plain host with the port of TLS": ("http://localhost:443", b"localhost:443", b"/v1/messages"),
    "an address": ("http://10.0.0.1:11434", b"10.0.0.1:11434", b"/v1/messages"),
    "an address of version 6": ("http://[::1]", b"[::1]", b"/v1/messages"),
    "an address of version 6 with a port": ("https://[2001:db8::1]:8443/p", b"[2001:db8::1]:8443", b"/p/v1/messages"),
    "capitals": ("HTTPS://H.Example/P", b"h.example", b"/P/v1/messages"),
}


@pytest.mark.parametrize(("base_url", "authority", "target"), PARSED.values(), ids=PARSED.keys())
def test_the_base_url_determines_the_server_and_path(base_url: str, authority: bytes, target: bytes) -> None:
    request = written(Anthropic(base_url=base_url, api_key=KEY), body())
    assert (request.origin.authority, request.target) == (authority, target)
    assert (request.origin.tls is None) == base_url.startswith("http://")


NOT_A_URL = "base_url: expected an http or https URL with a host, got "
TOO_MUCH = "base_url: must not contain a user, query or fragment; a credential has its own option"
NOT_PRINTABLE = "base_url: must be printable ASCII with a percent-encoded path and a valid port"
REFUSED: dict[str, tuple[str, str]] = {
    "nothing": ("", NOT_A_URL + '""'),
    "a host alone": ("h.example", NOT_A_URL + '"h.example"'),
    "no scheme": ("//h.example", NOT_A_URL + '"//h.example"'),
    "another scheme": ("ftp://h.example", NOT_A_URL + '"ftp://h.example"'),
    "no host": ("https:///v1", NOT_A_URL + '"https:///v1"'),
    "a scheme alone": ("https://", NOT_A_URL + '"https://"'),
    "a user": ("https://user@h.example", TOO_MUCH),
    "a user and a password": ("https://user:pw@h.example", TOO_MUCH),
    "an empty user": ("https://@h.example", TOO_MUCH),
    "a query": ("https://h.example/?a=b", TOO_MUCH),
    "a fragment": ("https://h.example/#a", TOO_MUCH),
    "a blank in the path": ("https://h.example/a b", NOT_PRINTABLE),
    "a path beyond ASCII": ("https://h.example/é", NOT_PRINTABLE),
    "a host beyond ASCII": ("https://hé.example", NOT_PRINTABLE),
}


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "/v1/messages", "/v1/messages/"])
@pytest.mark.parametrize("path", ["", "/proxy", "/v1/account"])
def test_a_base_url_that_ends_in_the_path_of_the_api_is_not_doubled(path: str, end: str) -> None:
    provider = Anthropic(base_url=f"http://h.example:8000{path}{end}", api_key=KEY)
    assert written(provider, body()).target == f"{path}/v1/messages".encode()
    assert provider.base_url == f"http://h.example:8000{path}"
    models = provider.models_request()
    assert models is not None
    assert models.target.startswith(f"{path}/v1/models?".encode())


def test_anthropics_own_api_needs_a_key_however_its_url_ends() -> None:
    for end in ("/", "/v1", "/v1/messages"):
        with pytest.raises(ValueError, match=r"^api_key: missing"):
            Anthropic(base_url=f"https://api.anthropic.com{end}")
        assert Anthropic(base_url=f"https://api.anthropic.com{end}", api_key=KEY).models


@pytest.mark.parametrize(("base_url", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_base_url_that_could_not_be_called_is_refused(base_url: str, words: str) -> None:
    with pytest.raises(ValueError, match="base_url") as refused:
        Anthropic(base_url=base_url, api_key=KEY)
    assert str(refused.value) == words


@pytest.mark.parametrize(
    "base_url",
    [
        "https://ho st",
        "https://h\x00.example",
        "https://h<>.example",
        "https://h.example:0",
        "https://h.example:99999",
        "https://h.example:port",
        "https://[::1",
        "https://h.exam\nple",
    ],
)
def test_a_host_or_a_port_that_is_none_is_refused(base_url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Anthropic(base_url=base_url, api_key=KEY)


LEAKY: dict[str, str] = {
    "as it should be": "https://user:hunter2@h.example",
    "another scheme": "ftp://user:hunter2@h.example",
    "another scheme, an at in the password": "ftp://user:a@hunter2@h.example",
    "another scheme, a slash in the password": "ftp://user:a/hunter2@h.example",
    "a slash in the password": "https://user:hunter2/x@h.example",
    "no scheme": "user:hunter2@h.example",
    "one slash too few": "https:/user:hunter2@h.example",
    "no host behind it": "https://user:hunter2@",
    "no at behind it": "https://user:hunter2",
    "a host that is none": "https://user:hunter2@ex℀mple",
    "an address that never ends": "https://user:hunter2@[::1",
    "a query": "https://h.example/?api_key=hunter2",
}


@pytest.mark.parametrize("base_url", LEAKY.values(), ids=LEAKY.keys())
def test_a_password_in_the_base_url_is_refused_and_never_shown(base_url: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        Anthropic(base_url=base_url, api_key=KEY)
    assert "hunter2" not in "".join(str(part) for part in traceback.format_exception_only(refused.value))
    assert "hunter2" not in str(refused.value.__cause__ or "")


def test_tls_goes_with_https() -> None:
    with pytest.raises(ValueError, match=r"^tls: can only be used with an https base_url$"):
        Anthropic(base_url="http://localhost", tls=ssl.create_default_context())


def test_the_service_itself_needs_a_key_and_any_provider_a_name() -> None:
    with pytest.raises(ValueError, match=r"^api_key: missing; https://api\.anthropic\.com requires one$"):
        Anthropic()
    with pytest.raises(ValueError, match=r"^name: expected a string that is not empty"):
        Anthropic(api_key=KEY, name="")
    assert Anthropic(base_url="http://localhost:8000").name == "anthropic"


@pytest.mark.parametrize("api_key", ["", "two words", "a line\n", "é"])
def test_a_key_that_can_t_be_sent_is_refused_and_not_shown(api_key: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII") as refused:
        Anthropic(api_key=api_key)
    assert not api_key or api_key not in str(refused.value)


REQUEST = HttpRequest(Origin("h", 80), b"POST", b"/", [(b"a", b"b")], b"body")


@pytest.mark.parametrize(
    ("provider", "line"),
    [
        (Anthropic(api_key=KEY), (b"x-api-key", KEY.encode())),
        (Anthropic(api_key=Secret(KEY)), (b"x-api-key", KEY.encode())),
        (Anthropic(api_key=KEY, auth="bearer"), (b"authorization", b"Bearer " + KEY.encode())),
    ],
    ids=["a key", "a secret", "a bearer token"],
)
async def test_the_credential_is_the_last_header(provider: Anthropic, line: tuple[bytes, bytes]) -> None:
    request = await provider.credential.apply(REQUEST, {})
    assert list(request.headers) == [(b"a", b"b"), line]
    assert (request.body, request.target, request.origin) == (b"body", b"/", REQUEST.origin)
    assert REQUEST.headers == [(b"a", b"b")]
    assert await provider.credential.refresh(request) is False
    assert provider.credential.redact(f"no {KEY}, {KEY}") == "no [secret], [secret]"


@pytest.mark.parametrize("version", [b"2023-06-01", b"2026-10-21"])
@pytest.mark.parametrize("more", [{}, {b"anthropic-beta": b"a,b"}, {b"anthropic-beta": b"a", b"anthropic-x": b""}])
def test_the_forwarded_headers_follow_our_own(version: bytes, more: dict[bytes, bytes]) -> None:
    forwarded = {b"anthropic-version": version, **more}
    headers = Anthropic(api_key=KEY).encode(ProviderRequest(decode(body()), forwarded)).request.headers
    assert list(dict(headers)) == [b"accept", b"accept-encoding", b"content-type", b"user-agent", *forwarded]
    assert list(headers)[4:] == list(forwarded.items())
    assert header_block(list(headers)) == headers


@pytest.mark.parametrize("auth", ["x-api-key", "bearer"])
async def test_without_a_key_no_credential_is_sent(auth: str) -> None:
    provider = Anthropic(base_url="http://localhost", auth="bearer" if auth == "bearer" else "x-api-key")
    assert list((await provider.credential.apply(REQUEST, {})).headers) == [(b"a", b"b")]
    assert provider.credential.redact("as it is") == "as it is"


def test_the_repr_shows_the_name_and_base_url_and_no_key() -> None:
    provider = Anthropic(api_key=KEY, base_url="https://h.example", name="mine")
    assert repr(provider) == "Anthropic(name='mine', base_url='https://h.example')"
    assert KEY not in repr(provider.credential)


class Reply:
    """A reply that is never read."""

    status = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    done = True

    def take(self) -> bytes:
        return b""

    async def more(self, within: float = 0.0) -> bytes | None:
        return b""

    def close(self) -> None:
        return None


def test_the_reply_is_unchanged() -> None:
    reply: HttpReply = Reply()
    assert Anthropic(api_key=KEY).decode(ProviderRequest(decode(body()), HEADERS), reply) is reply
