"""Claude on Amazon Bedrock, through InvokeModel.

Wire facts: AWS, "InvokeModel", "InvokeModelWithResponseStream", "CountTokens", "Amazon Bedrock endpoints and quotas",
"Use interface VPC endpoints"; vendor page "Claude on Amazon Bedrock".
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypedDict, Unpack, get_args

import msgspec

from bud_asgi.catalogue import served_at
from bud_asgi.http import Header, HttpReply, HttpRequest, Origin, Timeouts
from bud_asgi.protocol.errors import NotFound
from bud_asgi.protocol.headers import Headers, fields_of, media_type, relayed_headers
from bud_asgi.providers.base_url import parse_base_url
from bud_asgi.providers.bedrock.chain import HostCredentials
from bud_asgi.providers.bedrock.credential import AwsCredential
from bud_asgi.providers.bedrock.errors import AwsFault, fault_of_reply, refusal_of
from bud_asgi.providers.bedrock.frames import CONTENT_TYPE
from bud_asgi.providers.bedrock.request import (
    BedrockModel,
    check_size,
    count_body,
    find_model,
    invoke_body,
    is_identifier,
    path_of,
)
from bud_asgi.providers.bedrock.stream import ConvertedReply, CountToJson, EventsToSse
from bud_asgi.providers.compat.features import bridge, service_rules
from bud_asgi.providers.compat.model_ids import generation, geography
from bud_asgi.providers.failures import TranslatedUpstreamError, UpstreamUnavailable
from bud_asgi.providers.seam import Credential, EncodedRequest, ProviderRequest
from bud_asgi.secret import Secret

InferenceProfile = Literal["auto", "none", "global", "us", "eu", "jp", "apac", "au", "us-gov"]
"""Which inference profile of a model is called: one near the region, none (the base id), or the one with a prefix."""

ServiceTier = Literal["default", "flex", "priority", "reserved"]
"""How requests are weighed against those of others."""

ClientHeader = Literal[
    "x-amzn-bedrock-guardrailidentifier",
    "x-amzn-bedrock-guardrailversion",
    "x-amzn-bedrock-performanceconfig-latency",
    "x-amzn-bedrock-request-metadata",
    "x-amzn-bedrock-service-tier",
    "x-amzn-bedrock-trace",
]
"""Headers of InvokeModel that clients may be let choose."""

_JSON = b"application/json"
_OWN_HEADERS: tuple[Header, ...] = (
    (b"accept-encoding", b"identity"),  # bytes are relayed as they come: nothing here decompresses
    (b"content-type", _JSON),
    (b"user-agent", b"bud_asgi"),
)
_SUFFIXES = (("cn-", "amazonaws.com.cn"), ("eusc-", "amazonaws.eu"), ("", "amazonaws.com"))
_VISIBLE = re.compile(r"[!-~]{1,2048}")
_PRINTABLE = re.compile(rb"[ -~\t]*")

_log = logging.getLogger("bud_asgi")


class AwsOptions(TypedDict, total=False):
    """What proves the gateway to AWS; see `AwsCredential`. Nothing said: whatever AWS's own chain finds."""

    profile: str | None
    access_key: Secret | str | None
    secret_key: Secret | str | None
    session_token: Secret | str | None
    role_arn: str | None
    external_id: str | None
    session_name: str | None
    bearer_token: Secret | str | None
    credentials: HostCredentials | None


class Bedrock:
    """Claude models on Amazon Bedrock in one region.

    `endpoint` is a host or URL that stands in place of the region's own: a VPC endpoint, FIPS, a proxy; signatures stay
    for `region`. A model is called by its `inference_profile`, or by what `model_ids` says for its name: an id or ARN
    of Bedrock's. `guardrail` is an identifier and a version. `service_tier` and `guardrail` hold for all requests;
    what else clients may choose is named in `client_headers`, and with `user_profiles` they may say whom a request is
    for (`anthropic-user-profile-id`). `allow_betas` are beta flags that travel although nobody knows whether Bedrock
    takes them, `drop_fields` top-level fields that don't. `timeouts` are in seconds, `tls` replaces the default context
    (system authorities, verified). Other options are for the credential. Raises `ValueError` for what could not be
    called.
    """

    def __init__(  # noqa: PLR0913 - one for each thing that differs between accounts
        self,
        *,
        region: str,
        name: str = "bedrock",
        endpoint: str | None = None,
        inference_profile: InferenceProfile = "auto",
        model_ids: Mapping[str, str] | None = None,
        service_tier: ServiceTier | None = None,
        guardrail: tuple[str, str] | None = None,
        client_headers: Collection[ClientHeader] = (),
        user_profiles: bool = False,
        allow_betas: Collection[str] = (),
        drop_fields: Collection[str] = (),
        timeouts: Timeouts | None = None,
        tls: ssl.SSLContext | None = None,
        **credential: Unpack[AwsOptions],
    ) -> None:
        if not name:
            raise ValueError("a provider must have a name")
        self.name = name
        self.region = region
        self.credential: Credential = AwsCredential(region=region, service="bedrock", name=name, **credential)
        self._origin, self._path = _place(_host_of(region) if endpoint is None else endpoint, tls)
        self._prefix = _prefix(inference_profile, region)
        self._model_ids = _checked_ids(model_ids or {})
        self._settings = _settings(service_tier, guardrail)
        set_already = {name for name, _ in self._settings}
        self._client_headers = [name for name in _checked_headers(client_headers) if name not in set_already]
        self._user_profiles = user_profiles
        self._rules = service_rules("bedrock").adjusted(allow_betas=allow_betas, drop_fields=drop_fields)
        self._timeouts = timeouts or Timeouts()

    def __repr__(self) -> str:
        return f"Bedrock(name={self.name!r}, region={self.region!r}, endpoint={self._origin.host!r})"

    @property
    def base_url(self) -> str:
        """The endpoint as a URL."""
        scheme = "http" if self._origin.tls is None else "https"
        return f"{scheme}://{self._origin.authority.decode()}{self._path.decode()}"

    @property
    def models(self) -> Sequence[str]:
        """Those that are known to be there, and those that were given an id."""
        return tuple(dict.fromkeys((*self._model_ids, *served_at("bedrock"))))

    def models_request(self) -> HttpRequest | None:
        """There is none of the kind that clients ask for."""
        return None

    def encode(self, call: ProviderRequest) -> EncodedRequest:
        """The call as InvokeModel, with or without a response stream, or as CountTokens.

        Raises `InvalidRequest` for what Bedrock can't be asked, `NotFound` for a name that can't be one of a model and
        for a model that is not counted for, `RequestTooLarge`.
        """
        request = call.request
        asked = request.model if call.model is None else call.model
        model = find_model(asked, request.model, self._model_ids, self._prefix)
        bridged = bridge(call, self._rules, model.name)
        more = self._user_profile(call)
        if request.counting:
            path = path_of(self._counted(model), "count-tokens")
            body = (count_body(request, bridged, more),)
            headers: Sequence[Header] = ((b"accept", _JSON), *_OWN_HEADERS)
        else:
            path = path_of(model.identifier, "invoke-with-response-stream" if request.stream else "invoke")
            body = invoke_body(request, bridged, more)
            check_size(body, self._rules.max_body)
            accept = CONTENT_TYPE if request.stream else _JSON
            headers = ((b"accept", accept), *_OWN_HEADERS, *self._settings, *self._chosen(call.headers))
        target = self._path + path
        return EncodedRequest(
            HttpRequest(self._origin, b"POST", target, headers, body, self._timeouts),
            bridged.dropped,
        )

    def decode(self, call: ProviderRequest, reply: HttpReply) -> HttpReply:
        """A Message as it came, a stream of its events, or a count, in the Anthropic format.

        Raises `UpstreamUnavailable` where a stream was asked for and something else came.
        """
        if call.request.counting:
            return ConvertedReply(reply, CountToJson(), _JSON)
        if not call.request.stream:
            return reply
        if media_type(fields_of(reply.headers)) != CONTENT_TYPE:
            raise UpstreamUnavailable("The upstream's answer was not an event stream.")

        model, request_id = call.request.model, call.request_id  # not the call: a stream outlives its body

        def explain(fault: AwsFault) -> TranslatedUpstreamError:
            refused = refusal_of(self._redacted(fault), model)
            _log.warning("%s: %s ended its stream: %.500s", request_id, self.name, refused.told)
            return refused

        return ConvertedReply(reply, EventsToSse(request_id, explain), b"text/event-stream; charset=utf-8")

    def translate_error(
        self, call: ProviderRequest, status: int, headers: Headers, body: bytes
    ) -> TranslatedUpstreamError | None:
        """What AWS's error means; `None` for an answer that is none of AWS's."""
        fault = fault_of_reply(status, headers, body)
        if fault is None:
            return None
        refused = refusal_of(self._redacted(fault), call.request.model, counting=call.request.counting)
        refused.headers = {
            name.decode(): value.decode("latin-1") for name, value in relayed_headers(headers, error=True)
        }
        if "x-should-retry" in refused.headers:
            refused.retryable = None
        return refused

    def _redacted(self, fault: AwsFault) -> AwsFault:
        return msgspec.structs.replace(fault, text=self.credential.redact(fault.text))

    def _counted(self, model: BedrockModel) -> str:
        """The id to count with. The newer models can't be counted for, nor what is no model of Anthropic's."""
        named, until = generation(model.name), self._rules.counts_until
        if named is None or (until is not None and named > until):
            raise NotFound("The upstream of this model does not count tokens.")
        return model.base_id

    def _user_profile(self, call: ProviderRequest) -> Mapping[str, bytes]:
        """Whom the request is for, from the header to where Bedrock looks for it; the body's own word wins."""
        header = call.headers.get(b"anthropic-user-profile-id")
        if not self._user_profiles or header is None or "user_profile_id" in call.request.spans:
            return {}
        return {"user_profile_id": msgspec.json.encode(header.decode("latin-1"))}

    def _chosen(self, client: Headers) -> list[Header]:
        """What the client may choose, and has chosen."""
        return [
            (name, client[name])
            for name in self._client_headers
            if name in client and _PRINTABLE.fullmatch(client[name])
        ]


def _host_of(region: str) -> str:
    return f"bedrock-runtime.{region}." + next(suffix for start, suffix in _SUFFIXES if region.startswith(start))


def _prefix(inference_profile: InferenceProfile, region: str) -> str:
    if inference_profile not in get_args(InferenceProfile):
        known = ", ".join(get_args(InferenceProfile))
        raise ValueError(f"inference_profile must be one of {known}, not {inference_profile!r}")
    if inference_profile == "auto":
        return geography(region)
    return "" if inference_profile == "none" else inference_profile


def _checked_ids(model_ids: Mapping[str, str]) -> Mapping[str, str]:
    for name, identifier in model_ids.items():
        if not name or not is_identifier(identifier):
            raise ValueError(f"model_ids: {identifier[:200]!r} for {name!r} is no id or ARN of a model on Bedrock")
    return dict(model_ids)


def _checked_headers(names: Collection[ClientHeader]) -> list[bytes]:
    for name in names:
        if name not in get_args(ClientHeader):
            raise ValueError(f"client_headers must be among {', '.join(get_args(ClientHeader))}, not {name!r}")
    return [name.encode() for name in names]


def _settings(service_tier: ServiceTier | None, guardrail: tuple[str, str] | None) -> tuple[Header, ...]:
    """The headers that hold for all requests."""
    settings: list[tuple[str, str]] = []
    if service_tier is not None:
        if service_tier not in get_args(ServiceTier):
            raise ValueError(f"service_tier must be one of {', '.join(get_args(ServiceTier))}, not {service_tier!r}")
        settings.append(("x-amzn-bedrock-service-tier", service_tier))
    if guardrail is not None:
        identifier, version = guardrail
        if not _VISIBLE.fullmatch(identifier) or not _VISIBLE.fullmatch(version):
            raise ValueError("guardrail must be an identifier and a version")
        settings.append(("x-amzn-bedrock-guardrailidentifier", identifier))
        settings.append(("x-amzn-bedrock-guardrailversion", version))
    return tuple((name.encode(), value.encode()) for name, value in settings)


def _place(endpoint: str, tls: ssl.SSLContext | None) -> tuple[Origin, bytes]:
    """The server of a host or URL, and the path that goes before all others there."""
    try:
        origin, path = parse_base_url(endpoint if "://" in endpoint else f"https://{endpoint}", tls)
    except ValueError as error:
        raise ValueError(str(error).replace("base_url", "endpoint")) from None
    return origin, path.encode()
