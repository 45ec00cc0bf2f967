"""Anthropic's own API, and any server with the same API at another base URL.

Wire facts: vendor pages "API overview", "Create a Message", "Errors".
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Collection, Sequence
from copy import copy
from functools import partial
from typing import Literal, cast, get_args

import msgspec

from bud_asgi.catalogue import served_at
from bud_asgi.exchange import Principal
from bud_asgi.http import Body, Header, HttpReply, HttpRequest, Timeouts, header_block
from bud_asgi.options import OptionError, check_choice, check_flag, check_function, mismatch, url_shown
from bud_asgi.printable import one_line
from bud_asgi.protocol.errors import read_error, type_of_status
from bud_asgi.protocol.foreign_errors import error_text
from bud_asgi.protocol.headers import Headers, credential_headers, forwarded_headers
from bud_asgi.protocol.request import splice
from bud_asgi.providers.compat.features import adapt
from bud_asgi.providers.compat.needs import Loss, Needs, loss_of
from bud_asgi.providers.compat.rules import ServiceRules
from bud_asgi.providers.errors import TranslatedUpstreamError
from bud_asgi.providers.options import adjusted_rules, check_common, parse_base_url
from bud_asgi.providers.principal_keys import KeyFunction, PrincipalCredential, PrincipalKeys, key_line
from bud_asgi.providers.seam import Credential, EncodedRequest, ProviderRequest, Traits, serves_all
from bud_asgi.secret import AnySecret, Secret, secret_option

BASE_URL = "https://api.anthropic.com"
"""Anthropic's own API."""

_HOST = "api.anthropic.com"
_OWN_HEADERS = header_block(
    (
        (b"accept", b"application/json"),
        (b"accept-encoding", b"identity"),  # replies are relayed byte for byte
        (b"content-type", b"application/json"),
        (b"user-agent", b"bud_asgi"),
    )
)
_VERSION_ONLY: list[Header] = [(b"anthropic-version", b"2023-06-01")]
"""All that most clients' requests forward."""

_WITH_VERSION = _OWN_HEADERS + header_block(_VERSION_ONLY)
_MODELS_HEADERS = header_block([line for line in _WITH_VERSION if line[0] != b"content-type"])
_MODELS_TARGET = b"/v1/models?beta=true&limit=1000" + b"".join(
    b"&lifecycle%%5B%%5D=%b" % lifecycle for lifecycle in (b"active", b"deprecated", b"retired")
)
_MODELS_TIMEOUTS = Timeouts(connect=2.0, first_byte=5.0, silence=5.0)


_API_PATH = re.compile(r"(?:/v1(?:/messages)?)?/*$")
"""What a `base_url` may end in and does not need."""

_Auth = Literal["x-api-key", "bearer", "client"]


class ApiKeyCredential:
    """A fixed API key, sent as `x-api-key` or as a bearer token. `None` sends no credential."""

    is_operators = True

    def __init__(self, api_key: Secret | None, header: Literal["x-api-key", "bearer"]) -> None:
        self._api_key = api_key
        self._fields = header_block(() if api_key is None else (key_line(api_key, header),))

    async def apply(self, request: HttpRequest, client: Headers) -> HttpRequest:
        """Add the key to the request."""
        return request.with_headers(self._fields)

    async def refresh(self, refused: HttpRequest) -> bool:
        """Return `False`: there is no other key."""
        return False

    def redact(self, text: str) -> str:
        """Replace the key in `text`."""
        return self._api_key.redact(text) if self._api_key else text


class ClientCredential:
    """The client's own credential, passed through in the same headers."""

    is_operators = False

    async def apply(self, request: HttpRequest, client: Headers) -> HttpRequest:
        """Add the client's credential to the request."""
        return request.with_headers(credential_headers(client))

    async def refresh(self, refused: HttpRequest) -> bool:
        """Return `False`: only the client can get a new one."""
        return False

    def redact(self, text: str) -> str:
        """Return `text`: it cannot contain a credential of the operator."""
        return text


class Anthropic:
    """Anthropic's Messages API, or another server that implements it (vLLM, Ollama, llama.cpp, a cloud's front end).

    `api_key` is sent as `x-api-key`, or as a bearer token with `auth="bearer"`; only a server at another `base_url`
    may have none. It may be a function of the `Principal`, also an async one, that returns the key of that caller, or
    `None`: then another target is tried. With `auth="client"` the client's own credential is passed through, and so
    are the upstream's errors about it. `/v1/messages` is appended to the path of `base_url`; if it has that at its end
    already, or `/v1`, it is not doubled. `tls` replaces the default context (system certificate authorities, verified).
    `timeouts` are in seconds. `trace_context` sends the `traceparent` and `tracestate` of the client, or of the attempt
    if that has a span. For a server that refuses what it does not know, `drop_betas` are beta flags, or patterns with
    `*`, not to send, except those in `allow_betas`; `drop_fields` are request fields to leave out, such as `metadata`
    or `tools.strict`. Raises `OptionError`.
    """

    def __init__(  # noqa: PLR0913 - one for each thing that differs between servers
        self,
        *,
        api_key: AnySecret | KeyFunction | None = None,
        base_url: str = BASE_URL,
        name: str = "anthropic",
        auth: _Auth = "x-api-key",
        timeouts: Timeouts | None = None,
        tls: ssl.SSLContext | None = None,
        trace_context: bool = False,
        allow_betas: Collection[str] = (),
        drop_betas: Collection[str] = (),
        drop_fields: Collection[str] = (),
    ) -> None:
        check_common(name, timeouts)
        check_choice("auth", auth, get_args(_Auth))
        check_flag("trace_context", trace_context)
        self._origin, path = parse_base_url(base_url, tls)
        base_url, path = (_API_PATH.sub("", text) for text in (base_url, path))
        if auth == "client" and api_key is not None:
            raise OptionError("api_key", 'cannot be combined with auth = "client"', other="auth")
        if api_key is None and base_url == BASE_URL and auth != "client":
            raise OptionError("api_key", f"missing; {BASE_URL} requires one", other="base_url")
        self.name, self.base_url = name, base_url
        self._auth: _Auth = auth
        self._keys = _principal_keys(api_key)
        secret = None if callable(api_key) else secret_option("api_key", api_key)
        self.credential: Credential = ClientCredential() if auth == "client" else ApiKeyCredential(secret, auth)
        self._path, self._target = path, f"{path}/v1/messages".encode()
        self._trace_context = trace_context
        self._timeouts = timeouts or Timeouts()
        rules = adjusted_rules("anthropic", allow_betas, drop_betas, drop_fields)
        self._rules = rules if drop_betas or drop_fields else None
        self.traits = Traits(
            edits_bodies=self._rules is not None,
            has_own_bounds=self._origin.host != _HOST,
            per_principal=self._keys is not None,
            loss_of=None if self._rules is None else partial(_loss_of, rules=self._rules),
            origins=(self._origin,),
        )

    def __repr__(self) -> str:
        return f"Anthropic(name={self.name!r}, base_url={url_shown(self.base_url)!r})"

    async def for_principal(self, principal: Principal) -> Anthropic:
        """Return this provider with the key of a principal. Raises `NoUpstreamKey` and `KeyUnavailable`."""
        if self._keys is None or self._auth == "client":
            return self
        provider = copy(self)
        key = await self._keys.get(principal)
        provider.credential = PrincipalCredential(self._keys, principal, key, self._auth)
        return provider

    @property
    def models(self) -> Sequence[str]:
        """The models of Anthropic's own API; empty for another server, which has a model list of its own."""
        return served_at("anthropic") if self.base_url == BASE_URL else ()

    def models_request(self) -> HttpRequest | None:
        """Return the request for the model list; `None` if its credential depends on the caller."""
        if not serves_all(self):
            return None
        return HttpRequest(
            self._origin, b"GET", self._path.encode() + _MODELS_TARGET, _MODELS_HEADERS, timeouts=_MODELS_TIMEOUTS
        )

    def encode(self, call: ProviderRequest) -> EncodedRequest:
        """Encode the request.

        Its body is unchanged, except that the upstream's model name replaces the client's, and for what the operator
        drops. Raises `InvalidRequest` for a field that cannot be left out although its beta flag is dropped.
        """
        request, model = call.request, call.request.model
        if call.model is not None or model.endswith("]"):
            model = call.upstream_model
        forwarded = forwarded_headers(call.headers, call.names, trace_context=self._trace_context)
        body: Body = request.body
        dropped: tuple[str, ...] = ()
        if self._rules is not None:
            adapted = adapt(call, self._rules, model)
            dropped = adapted.dropped
            renamed = {} if model == request.model else {"model": msgspec.json.encode(model)}
            body = splice(request, without=adapted.without, changed={**adapted.changed, **renamed})
            forwarded = _with_betas(forwarded, adapted.betas)
        elif model != request.model:
            body = request.with_value("model", msgspec.json.encode(model))
        return EncodedRequest(
            HttpRequest(
                self._origin,
                b"POST",
                self._target + b"/count_tokens" if request.counting else self._target,
                _WITH_VERSION if forwarded == _VERSION_ONLY else _OWN_HEADERS + header_block(forwarded),
                body,
                self._timeouts,
            ),
            dropped,
        )

    def decode(self, call: ProviderRequest, reply: HttpReply) -> HttpReply:
        """Return the reply unchanged."""
        return reply

    def translate_error(
        self, call: ProviderRequest, status: int, headers: Headers, body: bytes
    ) -> TranslatedUpstreamError | None:
        """Translate an error in another JSON form, such as OpenAI's; `None` for an Anthropic error, and for no JSON.

        Also `None` for what the sender treats in the same way whatever the form: a rejected credential of the
        operator's, and no token counting.
        """
        is_credential = status in {401, 403} and self.credential.is_operators
        if is_credential or (status == 404 and call.request.counting):
            return None
        parsed = read_error(body)
        text = error_text(body) if parsed is None or parsed.is_foreign else None
        if text is None:
            return None
        message = one_line(self.credential.redact(text))
        return TranslatedUpstreamError(
            message, status=status, type_=type_of_status(status), upstream_message=f"{status} {text}"
        )


AnthropicProvider = Anthropic
"""The same class, for a module that imports the SDK's `Anthropic` by name."""


def _principal_keys(api_key: object) -> PrincipalKeys | None:
    if not callable(api_key):
        return None
    expected = "a string, a Secret, or a function of the principal"
    if isinstance(api_key, type):
        raise mismatch("api_key", expected, api_key)
    check_function("api_key", api_key, expected, None)
    return PrincipalKeys(cast("KeyFunction", api_key))


def _loss_of(call: ProviderRequest, needs: Needs, rules: ServiceRules) -> Loss:
    return loss_of(call.request, needs, rules, call.upstream_model)


def _with_betas(headers: Sequence[Header], betas: Sequence[str]) -> Sequence[Header]:
    """Return the headers with these beta flags."""
    others = [line for line in headers if line[0] != b"anthropic-beta"]
    return [*others, (b"anthropic-beta", ",".join(betas).encode())] if betas else others
