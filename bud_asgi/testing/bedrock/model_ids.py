"""What the path of a request to Bedrock names: the operation, and the model by any of its identifiers.

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
from bud_asgi.testing.bedrock.errors import AwsRejected
from bud_asgi.testing.server.received import Received

Operation = Literal["InvokeModel", "InvokeModelWithResponseStream", "CountTokens"]

_OPERATIONS: Mapping[str, Operation] = {
    "invoke": "InvokeModel",
    "invoke-with-response-stream": "InvokeModelWithResponseStream",
    "count-tokens": "CountTokens",
}
_ROUTE = re.compile(r"/model/(.+)/(invoke|invoke-with-response-stream|count-tokens)")
_BASE_ID = re.compile(r"anthropic\.(claude-[a-z0-9-]+?)(-v\d+(?::\d+)?)?")
_ARN = re.compile(r"arn:(aws(?:-[a-z-]+)?):bedrock:([a-z0-9-]{1,20}):(\d{12})?:([a-z-]+)/([a-zA-Z0-9.:-]+)")
_PROFILE_REGIONS = {
    "global": r"(?!us-gov-).*",
    "us": r"(us-(?!gov)|ca-).*",
    "eu": r"eu-.*",
    "jp": r"ap-northeast-[13]",
    "apac": r"ap-.*",
    "au": r"ap-southeast-[24]",
    "us-gov": r"us-gov-.*",
}
"""The prefixes of inference profiles, with the regions where each can be called."""
_FIRST_PROFILE_ONLY_GENERATION = (4, 0)
"""From this generation on, a base id cannot be called on demand."""
_LAST_COUNTED_GENERATION = (4, 6)
"""The last generation that CountTokens supports."""


class Route(msgspec.Struct, frozen=True):
    """The operation and the model identifier of a path."""

    operation: Operation
    identifier: str
    """The model's identifier, percent-decoded once."""


class ModelResolver(msgspec.Struct, frozen=True):
    """Resolves model identifiers in one account and region. `models` of `None` allows every base id."""

    account: str
    region: str
    models: Collection[str] | None
    profiles: Mapping[str, str]

    def arn(self, identifier: str) -> str:
        """Return the ARN for an identifier, as error messages show it."""
        if identifier.startswith("arn:"):
            return identifier
        if identifier.startswith("anthropic."):
            return f"arn:aws:bedrock:{self.region}::foundation-model/{identifier}"
        return f"arn:aws:bedrock:{self.region}:{self.account}:inference-profile/{identifier}"

    def resolve(self, route: Route) -> str:
        """Return Anthropic's name of the model that a request is for. Raises `AwsRejected`."""
        if not 1 <= len(route.identifier) <= 2048:
            raise _invalid_identifier()
        if route.operation == "CountTokens":
            return self._resolve_counted(route.identifier)
        return self._resolve_invoked(route.identifier)

    def _resolve_invoked(self, identifier: str) -> str:
        if identifier.startswith("arn:"):
            return self._resolve_arn(identifier)
        prefix, dot, base = identifier.partition(".")
        if prefix in _PROFILE_REGIONS and dot:
            return self._resolve_profile(prefix, base)
        name = self._resolve_base_id(identifier)
        if generation(name) >= _FIRST_PROFILE_ONLY_GENERATION:
            raise AwsRejected(
                "ValidationException",
                f"Invocation of model ID {identifier} with on-demand throughput isn\u2019t supported. Retry your "
                "request with the ID or ARN of an inference profile that contains this model.",
            )
        return name

    def _resolve_counted(self, identifier: str) -> str:
        """CountTokens accepts base ids only."""
        found = _ARN.fullmatch(identifier)
        base = found[5] if found and found[4] == "foundation-model" else identifier
        if not base.startswith("anthropic.") or generation(self._resolve_base_id(base)) > _LAST_COUNTED_GENERATION:
            raise AwsRejected("ValidationException", "The provided model doesn't support counting tokens.")
        return self._resolve_base_id(base)

    def _resolve_base_id(self, base: str) -> str:
        found = _BASE_ID.fullmatch(base)
        if not found or not _has_expected_form(found[1], found[2]):
            raise _invalid_identifier()
        if "does-not-exist" in base if self.models is None else base not in self.models:
            raise _invalid_identifier()
        return found[1]

    def _resolve_profile(self, prefix: str, base: str) -> str:
        if not re.fullmatch(_PROFILE_REGIONS[prefix], self.region):
            raise _invalid_identifier()
        return self._resolve_base_id(base)

    def _resolve_arn(self, arn: str) -> str:
        found = _ARN.fullmatch(arn)
        if not found or found[2] != self.region:
            raise _invalid_identifier()
        account, kind, resource = found[3], found[4], found[5]
        if kind == "foundation-model" and account is None:
            return self._resolve_invoked(resource)
        if account != self.account:
            raise AwsRejected(
                "AccessDeniedException", "You don't have access to the model with the specified model ID."
            )
        if kind == "inference-profile":
            prefix, _, base = resource.partition(".")
            return (
                self._resolve_profile(prefix, base) if prefix in _PROFILE_REGIONS else self._resolve_base_id(resource)
            )
        if arn not in self.profiles:
            message = "Could not resolve the foundation model from the provided model identifier."
            raise AwsRejected("ResourceNotFoundException", message)
        return self._resolve_base_id(self.profiles[arn])


def parse_route(received: Received) -> Route | None:
    """Parse the path; `None` if it is not one of Bedrock Runtime. The slash of an ARN may be encoded or not."""
    found = _ROUTE.fullmatch(received.path.decode("latin-1"))
    return Route(_OPERATIONS[found[2]], unquote(found[1])) if found else None


def _has_expected_form(name: str, version: str | None) -> bool:
    """Whether a base id has the form of its generation: older ones have a date and a version, newer ones neither."""
    if name == "claude-opus-4-6":
        return version == "-v1"
    dated = re.search(r"-20\d{6}$", name) is not None
    if generation(name) >= (4, 6) or name.endswith("-preview"):
        return not dated and version is None
    return dated and version is not None and ":" in version


def _invalid_identifier() -> AwsRejected:
    return AwsRejected("ValidationException", "The provided model identifier is invalid.")
