"""Claude on Google Cloud's Vertex AI (Agent Platform), through rawPredict.

Wire facts: vendor page "Claude on Vertex AI"; Google Cloud, "Use Claude models", "Claude token counting", "Deployments
and endpoints", "Quotas".
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from bud_asgi.catalogue import served_at
from bud_asgi.http import Header, HttpReply, HttpRequest, Origin, Timeouts
from bud_asgi.http.wire import content_length
from bud_asgi.protocol.errors import RequestTooLarge
from bud_asgi.protocol.headers import Headers
from bud_asgi.protocol.request import edited
from bud_asgi.providers.base_url import parse_base_url
from bud_asgi.providers.compat.features import bridge, service_rules
from bud_asgi.providers.compat.model_ids import vertex_id
from bud_asgi.providers.failures import TranslatedUpstreamError
from bud_asgi.providers.seam import Credential, EncodedRequest, ProviderRequest
from bud_asgi.providers.vertex.credential import GoogleCredential
from bud_asgi.providers.vertex.errors import google_error, refusal_of

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

_OWN_HEADERS: tuple[Header, ...] = (
    (b"accept", b"application/json"),
    (b"accept-encoding", b"identity"),  # it compresses errors too, where it may
    (b"content-type", b"application/json"),
    (b"user-agent", b"bud_asgi"),
)
_LOCATION = re.compile(r"[a-z0-9-]+")
_PROJECT = re.compile(r"[!-~]+")
_ALIAS = re.compile(r"@(?:default|latest)$")


class Vertex:
    """Claude models on Vertex AI, in one project and one location: `region` is `global`, `us`, `eu`, or a region.

    Tokens are counted in `count_region`, by default in the same. `base_url` replaces the location's own host (Private
    Service Connect, a proxy); it may end in `/v1`. Who calls: see `GoogleCredential` for `credentials`,
    `service_account_file`, `service_account_info` and `quota_project`; the environment's Application Default
    Credentials, if nothing is said. `tls` and `timeouts` (seconds) are those of the calls. `allow_betas` are flags that
    travel although the table of what Vertex AI takes lacks them, `drop_fields` top-level fields that never do. Raises
    `ValueError` for what could not be called.
    """

    def __init__(  # noqa: PLR0913 - one for each thing that an operator may have to say
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
        drop_fields: Collection[str] = (),
    ) -> None:
        if not name:
            raise ValueError("a provider must have a name")
        if not _PROJECT.fullmatch(project):
            raise ValueError(f"the provider {name!r} needs a project, of visible ASCII")
        for location in (region, count_region or region):
            if not _LOCATION.fullmatch(location):
                raise ValueError(f"a location of Vertex AI can't be {location[:200]!r}")
        self.name, self.project, self.region = name, project, region
        self.credential: Credential = GoogleCredential(
            credentials=credentials,
            service_account_file=service_account_file,
            service_account_info=service_account_info,
            quota_project=quota_project,
            name=name,
        )
        self._origin, self._parent = _place(project, region, base_url, tls)
        self.base_url = base_url or f"https://{host_of(region)}"
        self._counting = self._origin, self._parent
        if count_region not in {None, region}:
            self._counting = _place(project, count_region or "", base_url, tls)
        self._own_projects = tuple(filter(None, (project, quota_project)))
        self._rules = service_rules("vertex").adjusted(allow_betas=allow_betas, drop_fields=drop_fields)
        self._timeouts = timeouts or Timeouts()

    def __repr__(self) -> str:
        return f"Vertex(name={self.name!r}, project={self.project!r}, region={self.region!r})"

    @property
    def models(self) -> Sequence[str]:
        """Those that Vertex AI has, somewhere: a project must enable each, and regions lack the latest."""
        return served_at("vertex")

    def models_request(self) -> HttpRequest | None:
        """There is none."""
        return None

    def encode(self, call: ProviderRequest) -> EncodedRequest:
        """The model goes into the path, the version into the body; what Vertex AI lacks is left out.

        Raises `InvalidRequest` for what can't be left out without harm, `RequestTooLarge`.
        """
        request = call.request
        asked = request.model if call.model is None else call.model
        bridged = bridge(call, self._rules, asked)
        model, without, changed = vertex_id(asked), bridged.without, bridged.changed
        if request.counting:
            (origin, parent), method = self._counting, "count-tokens:rawPredict"
            if (model := _ALIAS.sub("", model)) != request.model:
                changed = {**changed, "model": msgspec.json.encode(model)}
        else:
            origin, parent, without = self._origin, self._parent, without | {"model"}
            method = f"{quote(model, safe='@')}:{'streamRawPredict' if request.stream else 'rawPredict'}"
        body = edited(request, without=without, changed=changed)
        if content_length(body) > self._rules.max_body:
            raise RequestTooLarge(f"Request exceeds the maximum size of {self._rules.max_body} bytes")
        betas = ((b"anthropic-beta", ",".join(bridged.betas).encode()),) if bridged.betas else ()
        return EncodedRequest(
            HttpRequest(
                origin=origin,
                method=b"POST",
                target=f"{parent}/{method}".encode(),
                headers=(*_OWN_HEADERS, *betas),
                body=body,
                timeouts=self._timeouts,
            ),
            bridged.dropped,
        )

    def decode(self, call: ProviderRequest, reply: HttpReply) -> HttpReply:
        """The reply as it came: it is in the Anthropic format."""
        return reply

    def translate_error(
        self, call: ProviderRequest, status: int, headers: Headers, body: bytes
    ) -> TranslatedUpstreamError | None:
        """What the front end says, in the words of the Messages API; the models' own errors are in the envelope."""
        error = google_error(status, body)
        return None if error is None else refusal_of(error, call, self._own_projects)


def _place(project: str, location: str, base_url: str | None, tls: ssl.SSLContext | None) -> tuple[Origin, str]:
    """The server of a location, and the path of its models."""
    origin, path = parse_base_url(base_url or f"https://{host_of(location)}", tls)
    parent = f"projects/{quote(project, safe='')}/locations/{location}/publishers/anthropic/models"
    return origin, f"{path.removesuffix('/v1')}/v1/{parent}"


def host_of(location: str) -> str:
    """The host of a location ("Deployments and endpoints")."""
    if location == "global":
        return "aiplatform.googleapis.com"
    if "-" not in location:
        return f"aiplatform.{location}.rep.googleapis.com"
    return f"{location}-aiplatform.googleapis.com"
