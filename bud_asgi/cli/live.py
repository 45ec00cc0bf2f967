"""`check --live`: each target is called for real, at the price of nothing or of one token."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from bud_asgi.catalogue import current_models
from bud_asgi.cli.reachable import routes_of
from bud_asgi.cli.terminal import Progress, log_as_problems
from bud_asgi.config import Settings
from bud_asgi.extras import MissingExtra
from bud_asgi.http import Engine, HttpClient, HttpError, HttpReply, HttpRequest, read_body
from bud_asgi.printable import one_line
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.foreign_errors import error_text
from bud_asgi.protocol.headers import reply_fields
from bud_asgi.protocol.patterns import matches
from bud_asgi.protocol.request import decode_request
from bud_asgi.providers import Bedrock, Provider, ProviderRequest, UpstreamUnavailable, Vertex

TIMEOUT = 30.0
"""Seconds that one call may take, with the time to fetch credentials."""

_AT_ONCE = 8
_MAX_READ = 64 << 10
_MAX_SHOWN = 300
_HEADERS = {b"anthropic-version": b"2023-06-01", b"content-type": b"application/json"}
_NOT_COUNTED = frozenset({400, 403, 404, 405, 422, 501})
"""Statuses after which a message is tried: some services and models do not count tokens, or permit it separately."""


class LiveResult(msgspec.Struct, frozen=True, kw_only=True):
    """How one target answered.

    `model` is the provider's name for it; `None` where no model is known, and the model list was fetched. `status` is
    `None` where no answer came. `advice` is what to do about a failure.
    """

    provider: str
    model: str | None
    ok: bool
    message: str
    advice: str | None = None
    status: int | None = None
    milliseconds: int | None = None

    @property
    def outcome(self) -> str:
        """The result in a few words."""
        return self.message if self.ok else f"failed: {self.status or 'no answer'}"


def call_providers(settings: Settings) -> Sequence[LiveResult]:
    """Call every target of the routes, several at a time; shows the progress on a terminal."""
    calls = list(dict.fromkeys(_calls(settings)))
    with Progress(f"calling {len(calls)} target{'s' * (len(calls) > 1)}"), log_as_problems(shown=False):
        return asyncio.run(_call_all({provider.name: provider for provider in settings.providers}, calls))


def _calls(settings: Settings) -> Iterator[tuple[str, str | None]]:
    """The provider and the model of each target. A pattern is tried with the smallest model that matches it."""
    providers: Mapping[str, Provider] = {provider.name: provider for provider in settings.providers}
    for route in routes_of(settings):
        for target in (target for group in route.groups for target in group):
            model = target.model or (route.model if "*" not in route.model else None)
            yield target.provider, model or _example(providers[target.provider], route.model)


def _example(provider: Provider, pattern: str) -> str | None:
    known = provider.models or ([] if _lists_models(provider) else [model.id for model in current_models()])
    matching = [name for name in known if matches(pattern, name)]
    return next((name for name in matching if "haiku" in name), matching[0] if matching else None)


def _lists_models(provider: Provider) -> bool:
    return provider.models_request() is not None


async def _call_all(providers: Mapping[str, Provider], calls: Sequence[tuple[str, str | None]]) -> Sequence[LiveResult]:
    client, turn = Engine(), asyncio.Semaphore(_AT_ONCE)

    async def call(name: str, model: str | None) -> LiveResult:
        async with turn:
            return await _call(client, providers[name], model)

    try:
        return await asyncio.gather(*(call(name, model) for name, model in calls))
    finally:
        await client.aclose()


async def _call(client: HttpClient, provider: Provider, model: str | None) -> LiveResult:
    began = time.monotonic()
    try:
        async with asyncio.timeout(TIMEOUT):
            status, text = await _ask(client, provider, model)
    except TimeoutError:
        return _failed(provider, model, f"no answer within {TIMEOUT:g} seconds", _advice_without_answer(None))
    except (GatewayError, MissingExtra, HttpError) as error:
        return _failed(provider, model, _text_of(provider, error), _advice_on(provider, error))
    milliseconds = round((time.monotonic() - began) * 1000)
    return _judge(provider, model, status, text, milliseconds)


async def _ask(client: HttpClient, provider: Provider, model: str | None) -> tuple[int, str]:
    """Count the tokens of a short text or, where that is refused, answer it with one token. Returns status and text."""
    if model is None:
        request = provider.models_request()
        return await _send(client, provider, request) if request else (0, "no known model matches this route")
    try:
        status, text = await _send(client, provider, _request(provider, model, counting=True))
    except GatewayError as error:
        if isinstance(error, UpstreamUnavailable):
            raise
        status, text = error.status, str(error)
    if status not in _NOT_COUNTED:
        return status, text
    return await _send(client, provider, _request(provider, model, counting=False))


def _request(provider: Provider, model: str, *, counting: bool) -> HttpRequest:
    body: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    encoded = msgspec.json.encode(body if counting else {**body, "max_tokens": 1})
    request = decode_request(encoded, counting=counting, others=True)
    return provider.encode(ProviderRequest(request, _HEADERS, model, "check")).request


async def _send(client: HttpClient, provider: Provider, request: HttpRequest) -> tuple[int, str]:
    reply: HttpReply = await client.send(await provider.credential.apply(request, {}))
    try:
        body, _ = await read_body(reply, _MAX_READ)
    finally:
        reply.close()
    if reply.status == 200:
        return 200, ""
    text = error_text(body) or reply_fields(reply.headers).get(b"content-type", b"").decode("latin-1")
    return reply.status, one_line(provider.credential.redact(text), _MAX_SHOWN)


def _text_of(provider: Provider, error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, UpstreamUnavailable) and error.__cause__ else error
    return one_line(provider.credential.redact(str(cause)), _MAX_SHOWN)


def _judge(provider: Provider, model: str | None, status: int, text: str, milliseconds: int) -> LiveResult:
    is_clients = not provider.credential.is_operators and status in {401, 403}
    if status == 200 or is_clients:
        message = f"answered in {milliseconds} ms" if status == 200 else "reachable; each client sends its own key"
        return LiveResult(
            provider=provider.name, model=model, ok=True, message=message, status=status, milliseconds=milliseconds
        )
    if not status:
        return _failed(provider, model, text, "give the route a target with a model")
    message = f"{status} {text}".rstrip()
    return _failed(provider, model, message, _advice_on_status(provider, status), status, milliseconds)


def _failed(
    provider: Provider,
    model: str | None,
    message: str,
    advice: str,
    status: int | None = None,
    milliseconds: int | None = None,
) -> LiveResult:
    return LiveResult(
        provider=provider.name,
        model=model,
        ok=False,
        message=message,
        advice=advice,
        status=status,
        milliseconds=milliseconds,
    )


def _advice_on(provider: Provider, error: Exception) -> str:
    if isinstance(error, HttpError):
        return _advice_without_answer(error)
    if isinstance(error, UpstreamUnavailable):
        return _CREDENTIALS[_kind(provider)]
    return "change the route or the model" if isinstance(error, GatewayError) else "install it"


def _advice_without_answer(error: HttpError | None) -> str:
    if error is not None and error.kind == "tls":
        return "check the certificate of the server, and the certificate authorities of this machine"
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return "the gateway does not use the proxy of HTTPS_PROXY: allow direct connections, or set base_url to a relay"
    return "check the address, the DNS and the firewall of this machine"


def _advice_on_status(provider: Provider, status: int) -> str:
    kind = _kind(provider)
    if status == 401:
        return _CREDENTIALS[kind]
    if status == 403:
        return _PERMISSIONS[kind]
    if status == 404 or (status == 400 and kind == "bedrock"):
        return _MODELS[kind]
    if status in {429, 503, 529}:
        return "the provider accepts the credential but has no capacity now: try again, or raise the quota"
    if status >= 500:
        return "the provider fails: try again, and look at its status page"
    return "the provider refuses the request: check the address and the model"


def _kind(provider: Provider) -> str:
    return "bedrock" if isinstance(provider, Bedrock) else "vertex" if isinstance(provider, Vertex) else "anthropic"


_CREDENTIALS = {
    "anthropic": "check the value that api_key refers to: it may be expired, revoked or of another account",
    "bedrock": "check the AWS credentials: `aws sts get-caller-identity` shows whose they are",
    "vertex": "run `gcloud auth application-default login`, or set service_account_file",
}
_PERMISSIONS = {
    "anthropic": "the key may not use this model or workspace: check its permissions in the console",
    "bedrock": "allow bedrock:InvokeModel and bedrock:InvokeModelWithResponseStream, and request access to the model",
    "vertex": "grant the role roles/aiplatform.user, and enable the model in the project's Model Garden",
}
_MODELS = {
    "anthropic": "check the name of the model, and base_url",
    "bedrock": "check the model, the region and inference_profile: not every region serves every model",
    "vertex": "check the model and the region, and enable the model in the project's Model Garden",
}
