"""Claude on Amazon Bedrock, through InvokeModel.

Wire facts: AWS, "InvokeModel", "InvokeModelWithResponseStream", "CountTokens", "Amazon Bedrock endpoints and quotas",
"Use interface VPC endpoints"; vendor page "Claude on Amazon Bedrock".
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache, partial
from typing import Literal, TypedDict, Unpack, get_args

import msgspec

from bud_asgi.catalogue import served_at
from bud_asgi.http import Body, Codec, ConvertedReply, Header, HttpReply, HttpRequest, Origin, Timeouts, header_block
from bud_asgi.options import (
    OptionError,
    check_choice,
    check_flag,
    check_text,
    check_texts,
    check_type,
    key_text,
    mismatch,
    nearest,
)
from bud_asgi.printable import one_line
from bud_asgi.protocol.errors import NotFound
from bud_asgi.protocol.headers import Headers, media_type, reply_fields
from bud_asgi.protocol.patterns import base_name
from bud_asgi.providers.bedrock.chain import HostCredentials
from bud_asgi.providers.bedrock.credential import AwsCredential
from bud_asgi.providers.bedrock.errors import AwsError, error_in_reply, translate
from bud_asgi.providers.bedrock.frames import CONTENT_TYPE
from bud_asgi.providers.bedrock.request import (
    BedrockModel,
    ModelMap,
    check_no_guardrail_fields,
    check_size,
    count_body,
    find_model,
    invoke_body,
    is_identifier,
    path_of,
)
from bud_asgi.providers.bedrock.stream import CountToJson, EventsToSse
from bud_asgi.providers.compat.features import adapt
from bud_asgi.providers.compat.model_ids import generation
from bud_asgi.providers.compat.needs import NO_LOSS, Loss, Needs, loss_of
from bud_asgi.providers.errors import TranslatedUpstreamError, UpstreamUnavailable
from bud_asgi.providers.options import adjusted_rules, check_common, parse_base_url
from bud_asgi.providers.seam import COUNTING_UNSUPPORTED, Credential, EncodedRequest, ProviderRequest, Traits
from bud_asgi.secret import AnySecret

InferenceProfile = Literal["auto", "none", "global", "us", "eu", "jp", "apac", "au", "us-gov"]
"""The inference profile to call: the one that the model has in the region, none (the base id), or that of a prefix."""

ServiceTier = Literal["default", "flex", "priority", "reserved"]
"""Bedrock's service tiers."""

ClientHeader = Literal[
    "x-amzn-bedrock-guardrailidentifier",
    "x-amzn-bedrock-guardrailversion",
    "x-amzn-bedrock-performanceconfig-latency",
    "x-amzn-bedrock-request-metadata",
    "x-amzn-bedrock-service-tier",
    "x-amzn-bedrock-trace",
]
"""Headers of InvokeModel that the operator may let clients set."""

_log = logging.getLogger("bud_asgi")

_JSON = b"application/json"
_OWN_HEADERS: tuple[Header, ...] = (
    (b"accept-encoding", b"identity"),  # replies are relayed byte for byte
    (b"content-type", _JSON),
    (b"user-agent", b"bud_asgi"),
)
_COUNT_HEADERS = header_block(((b"accept", _JSON), *_OWN_HEADERS))
_SUFFIXES = (("cn-", "amazonaws.com.cn"), ("eusc-", "amazonaws.eu"), ("", "amazonaws.com"))
_VISIBLE = re.compile(r"[!-~]{1,2048}")
_GUARDRAIL_VERSION = re.compile(r"[1-9][0-9]{0,7}|DRAFT")
_PRINTABLE = re.compile(rb"[ -~\t]*")


class AwsOptions(TypedDict, total=False):
    """The options of `AwsCredential`. Without any, AWS's default credential chain is used."""

    profile: str | None
    access_key: AnySecret | None
    secret_key: AnySecret | None
    session_token: AnySecret | None
    role_arn: str | None
    external_id: str | None
    session_name: str | None
    bearer_token: AnySecret | None
    credentials: HostCredentials | None


class Bedrock:
    """Claude models on Amazon Bedrock in one region.

    `endpoint` is a host or URL that replaces the region's own: a VPC endpoint, FIPS, a proxy; requests are still signed
    for `region`. A model is called through its `inference_profile`, unless `model_ids` maps its name to another Bedrock
    id or ARN. `service_tier` and `guardrail` (identifier and version) apply to all requests; `client_headers` names the
    headers that clients may set themselves, and with `user_profiles` they may set the user profile of a request, as
    `anthropic-user-profile-id` or `user_profile_id`. `allow_betas` and `drop_betas` are beta flags, or patterns with
    `*`, to send although they are not known to be supported, and not to send; `drop_fields` are request fields to leave
    out, such as `metadata` or `tools.strict`. `timeouts` are in seconds; `tls` replaces the default context (system
    certificate authorities, verified). The other options are those of `AwsCredential`. Raises `OptionError`.
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
        drop_betas: Collection[str] = (),
        drop_fields: Collection[str] = (),
        timeouts: Timeouts | None = None,
        tls: ssl.SSLContext | None = None,
        **credential: Unpack[AwsOptions],
    ) -> None:
        check_common(name, timeouts)
        _check_names(credential)
        check_flag("user_profiles", user_profiles)
        self._rules = adjusted_rules("bedrock", allow_betas, drop_betas, drop_fields)
        self.name, self.region = name, region
        self.credential: Credential = AwsCredential(region=region, service="bedrock", name=name, **credential)
        self._origin, self._path = _parse_endpoint(_host_of(region) if endpoint is None else endpoint, tls)
        self._model_ids = _checked_ids({} if model_ids is None else model_ids)
        self._models = ModelMap(region, _prefix(inference_profile, region), self._model_ids)
        self._find_model = lru_cache(maxsize=256)(partial(find_model, models=self._models))  # names are short
        fixed = header_block((*_OWN_HEADERS, *_fixed_headers(service_tier, guardrail)))
        self._headers = {accept: header_block(((b"accept", accept),)) + fixed for accept in (_JSON, CONTENT_TYPE)}
        self._client_headers = [name for name in _checked_headers(client_headers) if name not in dict(fixed)]
        loss_of, origins = self._loss_of, (self._origin,)
        self.traits = Traits(edits_bodies=True, loss_of=loss_of, origins=origins, service="aws.bedrock")
        if user_profiles:
            self.traits = msgspec.structs.replace(self.traits, allowed_fields=("user_profile_id",))
        self._has_guardrail = guardrail is not None
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
        """The models known to be on Bedrock in this region, and the keys of `model_ids`."""
        served = (model for model in served_at("bedrock") if self._models.identifier(model) is not None)
        return tuple(dict.fromkeys((*self._model_ids, *served)))

    def models_request(self) -> HttpRequest | None:
        """Return `None`: Bedrock has no Anthropic-format model list."""
        return None

    def encode(self, call: ProviderRequest) -> EncodedRequest:
        """Encode the request for InvokeModel, InvokeModelWithResponseStream or CountTokens.

        Raises `InvalidRequest` for what Bedrock does not support and cannot be left out, `NotFound` for an invalid
        model name, for a model that the region does not have and for one whose tokens are not counted, and
        `RequestTooLarge`.
        """
        request = call.request
        if self._has_guardrail:
            check_no_guardrail_fields(request)
        model = self._model_of(call)
        adapted = adapt(call, self._rules, model.name)
        more = self._user_profile(call)
        if request.counting:
            path = path_of(self._counting_id(model), "count-tokens")
            body: Body = count_body(request, adapted, more)
            headers = _COUNT_HEADERS
        else:
            path = path_of(model.identifier, "invoke-with-response-stream" if request.stream else "invoke")
            body = invoke_body(request, adapted, more)
            check_size(body, self._rules.max_body)
            headers = self._headers[CONTENT_TYPE if request.stream else _JSON]
            if own := self._set_by_client(call.headers):
                headers += header_block(own)
        target = self._path + path
        return EncodedRequest(
            HttpRequest(self._origin, b"POST", target, headers, body, self._timeouts),
            adapted.dropped,
        )

    def decode(self, call: ProviderRequest, reply: HttpReply) -> HttpReply:
        """Return the reply in the Anthropic format. A Message is unchanged.

        Raises `UpstreamUnavailable` if a stream was requested and the reply is not an event stream.
        """
        if call.request.counting:
            return _converted(reply, CountToJson(), _JSON)
        if not call.request.stream:
            return reply
        if media_type(reply_fields(reply.headers)) != CONTENT_TYPE:
            raise UpstreamUnavailable("The upstream's answer was not an event stream.")

        # The closure must not keep `call`: the body is freed while the stream goes on.
        model, request_id = call.request.model, call.request_id

        def translate_logged(error: AwsError) -> TranslatedUpstreamError:
            translated = translate(self._redacted(error), model)
            shown = one_line(translated.upstream_message)
            _log.warning("%s: %s ended its stream with an error: %s", request_id, self.name, shown)
            return translated

        codec = EventsToSse(request_id, translate_logged, call.attempt)
        return _converted(reply, codec, b"text/event-stream; charset=utf-8")

    def translate_error(
        self, call: ProviderRequest, status: int, headers: Headers, body: bytes
    ) -> TranslatedUpstreamError | None:
        """Translate an error of AWS; `None` for any other reply."""
        error = error_in_reply(status, headers, body)
        if error is None:
            return None
        return translate(self._redacted(error), call.request.model, counting=call.request.counting)

    def _model_of(self, call: ProviderRequest) -> BedrockModel:
        """Return the model of a request. Raises `NotFound`."""
        return self._find_model(base_name(call.upstream_model), base_name(call.request.model))

    def _loss_of(self, call: ProviderRequest, needs: Needs) -> Loss:
        """Return what a request would lose; nothing for an unknown model, which `encode` refuses."""
        try:
            return loss_of(call.request, needs, self._rules, self._model_of(call).name)
        except NotFound:
            return NO_LOSS

    def _redacted(self, error: AwsError) -> AwsError:
        return msgspec.structs.replace(error, text=self.credential.redact(error.text))

    def _counting_id(self, model: BedrockModel) -> str:
        """Return the id for CountTokens. Raises `NotFound` for newer models and those that are not Anthropic's."""
        model_generation, until = generation(model.name), self._rules.counts_until
        if model_generation is None or (until is not None and model_generation > until):
            raise NotFound(COUNTING_UNSUPPORTED)
        return model.base_id

    def _user_profile(self, call: ProviderRequest) -> Mapping[str, bytes]:
        """Move the user profile from the header to the body field that Bedrock reads, unless the body has one."""
        header = call.headers.get(b"anthropic-user-profile-id")
        if header is None or "user_profile_id" in call.request.spans:
            return {}
        return {"user_profile_id": msgspec.json.encode(header.decode("latin-1"))}

    def _set_by_client(self, client: Headers) -> list[Header]:
        """Return the client's headers that it may set."""
        return [
            (name, client[name])
            for name in self._client_headers
            if name in client and _PRINTABLE.fullmatch(client[name])
        ]


def _converted(reply: HttpReply, codec: Codec, content_type: bytes) -> HttpReply:
    kept = [line for line in reply.headers if line[0] not in {b"content-type", b"content-length"}]
    return ConvertedReply(reply, codec, [*kept, (b"content-type", content_type)])


def _host_of(region: str) -> str:
    return f"bedrock-runtime.{region}." + next(suffix for start, suffix in _SUFFIXES if region.startswith(start))


def _prefix(inference_profile: InferenceProfile, region: str) -> str | None:
    """Return the prefix of the profile for all models; `None` for `auto`."""
    check_choice("inference_profile", inference_profile, get_args(InferenceProfile))
    if region.startswith("us-gov-") and inference_profile not in {"auto", "none", "us-gov"}:
        raise OptionError("inference_profile", f"{region} has the profiles of us-gov only", other="region")
    return None if inference_profile == "auto" else "" if inference_profile == "none" else inference_profile


def _checked_ids(model_ids: Mapping[str, str]) -> Mapping[str, str]:
    check_type("model_ids", model_ids, Mapping, "a mapping of model names to ids or ARNs on Bedrock")
    for name, identifier in model_ids.items():
        option, expected = f"model_ids.{key_text(str(name))}", "the id or ARN of a model on Bedrock"
        check_text(option, name, "a model name as the key")
        check_text(option, identifier, expected)
        if not is_identifier(identifier):
            raise mismatch(option, expected, identifier)
    return dict(model_ids)


def _check_names(credential: AwsOptions) -> None:
    for unknown in credential.keys() - AwsOptions.__annotations__.keys():
        raise TypeError(f"Bedrock has no option {unknown!r}{nearest(unknown, AwsOptions.__annotations__)}")


def _checked_headers(names: Collection[ClientHeader]) -> list[bytes]:
    headers = check_texts("client_headers", names, 'a list of header names, such as ["x-amzn-bedrock-trace"]')
    for name in headers:
        check_choice("client_headers", name, get_args(ClientHeader))
    return [name.encode() for name in headers]


def _fixed_headers(service_tier: ServiceTier | None, guardrail: tuple[str, str] | None) -> tuple[Header, ...]:
    """Return the headers that are the same for all requests."""
    settings: list[tuple[str, str]] = []
    if service_tier is not None:
        check_choice("service_tier", service_tier, get_args(ServiceTier))
        settings.append(("x-amzn-bedrock-service-tier", service_tier))
    if guardrail is not None:
        if not isinstance(guardrail, tuple | list) or len(guardrail) != 2:  # pyright: ignore[reportUnnecessaryIsInstance, reportUnnecessaryComparison]
            raise mismatch("guardrail", 'an id and a version, such as ("gr-abc123", "1")', guardrail)
        identifier, version = guardrail
        check_text("guardrail.id", identifier, "the id or ARN of a guardrail", _VISIBLE)
        check_text("guardrail.version", version, 'the version of a guardrail: a number or "DRAFT"', _GUARDRAIL_VERSION)
        settings.append(("x-amzn-bedrock-guardrailidentifier", identifier))
        settings.append(("x-amzn-bedrock-guardrailversion", version))
    return tuple((name.encode(), value.encode()) for name, value in settings)


def _parse_endpoint(endpoint: str, tls: ssl.SSLContext | None) -> tuple[Origin, bytes]:
    """Return the server of a host or URL, and the prefix of its paths."""
    check_text("endpoint", endpoint, "a host, or an http or https URL")
    origin, path = parse_base_url(endpoint if "://" in endpoint else f"https://{endpoint}", tls, "endpoint")
    return origin, path.encode()
