"""Claude on Google Cloud's Vertex AI (Agent Platform), through rawPredict.

Wire facts: vendor page "Claude on Vertex AI"; Google Cloud, "Use Claude models", "Claude token counting", "Deployments
and endpoints", "Quotas".
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Collection, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from bud_asgi.catalogue import served_at
from bud_asgi.http import HttpReply, HttpRequest, Origin, Timeouts, header_block
from bud_asgi.http.wire import content_length
from bud_asgi.options import check_text
from bud_asgi.protocol.errors import NotFound, RequestTooLarge
from bud_asgi.protocol.headers import Headers
from bud_asgi.protocol.patterns import base_name
from bud_asgi.protocol.request import splice
from bud_asgi.providers.compat.features import adapt
from bud_asgi.providers.compat.model_ids import anthropic_id, generation, vertex_id
from bud_asgi.providers.compat.needs import Loss, Needs, loss_of
from bud_asgi.providers.compat.rules import ServiceRules
from bud_asgi.providers.errors import TranslatedUpstreamError
from bud_asgi.providers.options import adjusted_rules, check_common, parse_base_url
from bud_asgi.providers.seam import Credential, EncodedRequest, ProviderRequest, Traits
from bud_asgi.providers.vertex.credential import PROJECT, PROJECT_EXPECTED, GoogleCredential
from bud_asgi.providers.vertex.errors import google_error, translate

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

_OWN_HEADERS = header_block(
    (
        (b"accept", b"application/json"),
        (b"accept-encoding", b"identity"),  # otherwise it compresses even its errors
        (b"content-type", b"application/json"),
        (b"user-agent", b"bud_asgi"),
    )
)
LAST_REGIONAL = (4, 6)
"""The last generation that single regions serve; later ones are at `global`, `us` and `eu` only."""

_LOCATION = re.compile(r"[a-z0-9-]{1,63}")
_LOCATION_EXPECTED = 'a location: "global", "us", "eu" or a region'
_MODEL = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,255}(?:@[0-9A-Za-z._-]{1,255})?")  # what is written into a path
_ALIAS = re.compile(r"@(?:default|latest)$")


class Vertex:
    """Claude models on Vertex AI, in one project and one location: `region` is `global`, `us`, `eu`, or a region.

    Tokens are counted in `count_region`, by default the same location. `base_url` replaces the location's own host
    (Private Service Connect, a proxy); it may end in `/v1`. `credentials`, `service_account_file`,
    `service_account_info` and `quota_project` are those of `GoogleCredential`; by default the environment's Application
    Default Credentials are used. `timeouts` are in seconds; `tls` replaces the default context (system certificate
    authorities, verified). `allow_betas` and `drop_betas` are beta flags, or patterns with `*`, to send although they
    are not known to be supported, and not to send; `drop_fields` are request fields to leave out, such as `metadata` or
    `tools.strict`. Raises `OptionError`.
    """

    def __init__(  # noqa: PLR0913 - one for each thing that differs between deployments
        self,
        *,
        project: str,
        region: str = "global",
        count_region: str | None = None,
        name: str = "vertex",
        base_url: str | None = None,
        credentials: Credentials | None = None,
        service_account_file: str | os.PathLike[str] | None = None,
        service_account_info: Mapping[str, object] | None = None,
        quota_project: str | None = None,
        timeouts: Timeouts | None = None,
        tls: ssl.SSLContext | None = None,
        allow_betas: Collection[str] = (),
        drop_betas: Collection[str] = (),
        drop_fields: Collection[str] = (),
    ) -> None:
        check_common(name, timeouts)
        self._rules = adjusted_rules("vertex", allow_betas, drop_betas, drop_fields)
        check_text("project", project, PROJECT_EXPECTED, PROJECT)
        check_text("region", region, _LOCATION_EXPECTED, _LOCATION)
        if count_region is not None:
            check_text("count_region", count_region, _LOCATION_EXPECTED, _LOCATION)
        self.name, self.project, self.region = name, project, region
        self.credential: Credential = GoogleCredential(
            credentials=credentials,
            service_account_file=service_account_file,
            service_account_info=service_account_info,
            quota_project=quota_project,
            name=name,
        )
        self.base_url = f"https://{host_of(region)}" if base_url is None else base_url
        self._origin, self._parent = self._counting = _parse_endpoint(project, region, self.base_url, tls)
        if count_region is not None and count_region != region:
            self._counting = _parse_endpoint(project, count_region, base_url or f"https://{host_of(count_region)}", tls)
        self._own_projects = tuple(filter(None, (project, quota_project)))
        self._timeouts = timeouts or Timeouts()
        loss_of, origins = partial(_loss_of, rules=self._rules), (self._origin, self._counting[0])
        self.traits = Traits(edits_bodies=True, loss_of=loss_of, origins=origins, service="gcp.vertex_ai")

    def __repr__(self) -> str:
        return f"Vertex(name={self.name!r}, project={self.project!r}, region={self.region!r})"

    @property
    def models(self) -> Sequence[str]:
        """The models on Vertex AI in this location. Each must be enabled in the project."""
        return _models_at(self.region)

    def models_request(self) -> HttpRequest | None:
        """Return `None`: Vertex AI has no Anthropic-format model list."""
        return None

    def encode(self, call: ProviderRequest) -> EncodedRequest:
        """Encode the request: the model goes into the path, the version into the body.

        What Vertex AI does not support is left out. Raises `InvalidRequest` for what cannot be left out, `NotFound` for
        an invalid model name, and `RequestTooLarge`.
        """
        request = call.request
        name = base_name(call.upstream_model)
        model = vertex_id(name)
        if not _MODEL.fullmatch(model):
            raise NotFound(f"model: {request.model}")
        adapted = adapt(call, self._rules, anthropic_id(name))
        without, changed = adapted.without, adapted.changed
        if request.counting:
            (origin, parent), method = self._counting, "count-tokens:rawPredict"
            if (model := _ALIAS.sub("", model)) != request.model:
                changed = {**changed, "model": msgspec.json.encode(model)}
        else:
            origin, parent, without = self._origin, self._parent, without | {"model"}
            method = f"{model}:{'streamRawPredict' if request.stream else 'rawPredict'}"
        body = splice(request, without=without, changed=changed)
        if content_length(body) > self._rules.max_body:
            raise RequestTooLarge(f"Request exceeds the maximum size of {self._rules.max_body} bytes")
        betas = ((b"anthropic-beta", ",".join(adapted.betas).encode()),) if adapted.betas else ()
        return EncodedRequest(
            HttpRequest(
                origin=origin,
                method=b"POST",
                target=f"{parent}/{method}".encode(),
                headers=_OWN_HEADERS + header_block(betas),
                body=body,
                timeouts=self._timeouts,
            ),
            adapted.dropped,
        )

    def decode(self, call: ProviderRequest, reply: HttpReply) -> HttpReply:
        """Return the reply unchanged: it is in the Anthropic format."""
        return reply

    def translate_error(
        self, call: ProviderRequest, status: int, headers: Headers, body: bytes
    ) -> TranslatedUpstreamError | None:
        """Translate an error of the front end; `None` for one of a model, which is an Anthropic error already."""
        error = google_error(status, body)
        return None if error is None else translate(error, call, self._own_projects)


def _loss_of(call: ProviderRequest, needs: Needs, rules: ServiceRules) -> Loss:
    return loss_of(call.request, needs, rules, anthropic_id(base_name(call.upstream_model)))


@cache
def _models_at(location: str) -> tuple[str, ...]:
    """The models at a location: a single region has no generation after `LAST_REGIONAL`."""
    served = served_at("vertex")
    if "-" not in location:
        return served
    return tuple(model for model in served if (generation(model) or LAST_REGIONAL) <= LAST_REGIONAL)


def _parse_endpoint(project: str, location: str, base_url: str, tls: ssl.SSLContext | None) -> tuple[Origin, str]:
    """Return the server of a location, and the path of its models."""
    origin, path = parse_base_url(base_url, tls)
    parent = f"projects/{quote(project, safe='')}/locations/{location}/publishers/anthropic/models"
    return origin, f"{path.removesuffix('/v1')}/v1/{parent}"


def host_of(location: str) -> str:
    """Return the host of a location ("Deployments and endpoints")."""
    if location == "global":
        return "aiplatform.googleapis.com"
    if "-" not in location:
        return f"aiplatform.{location}.rep.googleapis.com"
    return f"{location}-aiplatform.googleapis.com"
