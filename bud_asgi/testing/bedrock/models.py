"""What a request to Bedrock names: the operation and the model, by any of the identifiers that a path may hold.

Sources: "InvokeModel" (`modelId`), "Supported foundation models", "Supported Regions and models for inference
profiles"; "Claude on Amazon Bedrock" for the ids.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Literal
from urllib.parse import unquote

import msgspec

from bud_asgi.testing.anthropic.models import generation
from bud_asgi.testing.bedrock.errors import AwsRefused, aws_refused
from bud_asgi.testing.server.received import Received

Operation = Literal["InvokeModel", "InvokeModelWithResponseStream", "CountTokens"]

_OPERATIONS: Mapping[str, Operation] = {
    "invoke": "InvokeModel",
    "invoke-with-response-stream": "InvokeModelWithResponseStream",
    "count-tokens": "CountTokens",
}
_ROUTE = re.compile(r"/model/(.+)/(invoke|invoke-with-response-stream|count-tokens)")
_BASE = re.compile(r"anthropic\.(claude-[a-z0-9-]+?)(-v\d+(?::\d+)?)?")
_ARN = re.compile(r"arn:(aws(?:-[a-z-]+)?):bedrock:([a-z0-9-]{1,20}):(\d{12})?:([a-z-]+)/([a-zA-Z0-9.:-]+)")
_REGIONS = {
    "global": r"(?!us-gov-).*",
    "us": r"(us-(?!gov)|ca-).*",
    "eu": r"eu-.*",
    "jp": r"ap-northeast-[13]",
    "apac": r"ap-.*",
    "au": r"ap-southeast-[24]",
    "us-gov": r"us-gov-.*",
}
"""The prefixes of inference profiles, with the regions that each can be called in."""
_PROFILES_ONLY = (4, 0)
"""From this generation on a base id can't be called on demand."""
_COUNTED = (4, 6)
"""The last generation whose tokens can be counted."""


class Route(msgspec.Struct, frozen=True):
    """What the path of a request names."""

    operation: Operation
    identifier: str
    """The model's identifier, decoded once."""


class Place(msgspec.Struct, frozen=True):
    """Whose service it is, and where: the account, the region, and what it has there."""

    account: str
    region: str
    models: Collection[str] | None
    profiles: Mapping[str, str]

    def arn(self, identifier: str) -> str:
        """The ARN of what an identifier names, as the texts of refusals show it."""
        if identifier.startswith("arn:"):
            return identifier
        if identifier.startswith("anthropic."):
            return f"arn:aws:bedrock:{self.region}::foundation-model/{identifier}"
        return f"arn:aws:bedrock:{self.region}:{self.account}:inference-profile/{identifier}"

    def model(self, route: Route) -> str:
        """The name of the model that a request is for, as Anthropic has it. Raises `AwsRefused`."""
        if not 1 <= len(route.identifier) <= 2048:
            raise _unknown()
        return self._counted(route.identifier) if route.operation == "CountTokens" else self._invoked(route.identifier)

    def _invoked(self, identifier: str) -> str:
        if identifier.startswith("arn:"):
            return self._by_arn(identifier)
        prefix, dot, base = identifier.partition(".")
        if prefix in _REGIONS and dot:
            return self._by_profile(prefix, base)
        name = self._known(identifier)
        if generation(name) >= _PROFILES_ONLY:
            raise aws_refused(
                "ValidationException",
                f"Invocation of model ID {identifier} with on-demand throughput isn\u2019t supported. Retry your "
                "request with the ID or ARN of an inference profile that contains this model.",
            )
        return name

    def _counted(self, identifier: str) -> str:
        """Tokens are counted for base ids only."""
        found = _ARN.fullmatch(identifier)
        base = found[5] if found and found[4] == "foundation-model" else identifier
        if not base.startswith("anthropic.") or generation(self._known(base)) > _COUNTED:
            raise aws_refused("ValidationException", "The provided model doesn't support counting tokens.")
        return self._known(base)

    def _known(self, base: str) -> str:
        """The name of the model with this base id."""
        found = _BASE.fullmatch(base)
        if not found or not _is_named_right(found[1], found[2]):
            raise _unknown()
        if "does-not-exist" in base if self.models is None else base not in self.models:
            raise _unknown()
        return found[1]

    def _by_profile(self, prefix: str, base: str) -> str:
        if not re.fullmatch(_REGIONS[prefix], self.region):
            raise _unknown()
        return self._known(base)

    def _by_arn(self, arn: str) -> str:
        found = _ARN.fullmatch(arn)
        if not found or found[2] != self.region:
            raise _unknown()
        account, kind, resource = found[3], found[4], found[5]
        if kind == "foundation-model" and account is None:
            return self._invoked(resource)
        if account != self.account:
            raise aws_refused(
                "AccessDeniedException", "You don't have access to the model with the specified model ID."
            )
        if kind == "inference-profile":
            prefix, _, base = resource.partition(".")
            return self._by_profile(prefix, base) if prefix in _REGIONS else self._known(resource)
        if arn not in self.profiles:
            words = "Could not resolve the foundation model from the provided model identifier."
            raise aws_refused("ResourceNotFoundException", words)
        return self._known(self.profiles[arn])


def route_of(received: Received) -> Route | None:
    """What the path names; `None` for another path. An ARN's slash may be encoded or not."""
    found = _ROUTE.fullmatch(received.path.decode("latin-1"))
    return Route(_OPERATIONS[found[2]], unquote(found[1])) if found else None


def _is_named_right(name: str, version: str | None) -> bool:
    """Whether a base id has the parts that its generation's have: a date and a version, or neither, but for one."""
    if name == "claude-opus-4-6":
        return version == "-v1"
    dated = re.search(r"-20\d{6}$", name) is not None
    if generation(name) >= (4, 6) or name.endswith("-preview"):
        return not dated and version is None
    return dated and version is not None and ":" in version


def _unknown() -> AwsRefused:
    return aws_refused("ValidationException", "The provided model identifier is invalid.")
