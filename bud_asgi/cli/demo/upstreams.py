"""The upstreams of the demo: a stand-in for each service, and the provider that calls it."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import msgspec

from bud_asgi import Anthropic, Bedrock, Secret, Vertex
from bud_asgi.testing import StandIn, ThreadedStandIn
from bud_asgi.testing import bedrock as bedrock_stand_in
from bud_asgi.testing import vertex as vertex_stand_in
from bud_asgi.testing.google import Google


class Upstream(msgspec.Struct, frozen=True):
    """A provider and the stand-in that it calls."""

    provider: Anthropic | Bedrock | Vertex
    stand_in: ThreadedStandIn


def real_provider() -> Anthropic:
    """Return a provider for Anthropic's own service, with `ANTHROPIC_API_KEY`."""
    base_url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    return Anthropic(api_key=Secret.from_env("ANTHROPIC_API_KEY"), base_url=base_url)


@contextmanager
def stand_ins() -> Generator[list[Upstream]]:
    """Run stand-ins for Anthropic, Bedrock, Vertex AI and Google's token service, each in a thread."""
    aws, google = bedrock_stand_in.Bedrock(), Google()
    with ExitStack() as stack:
        anthropic = stack.enter_context(StandIn(api_key="sk-ant-stand-in").in_thread())
        bedrock = stack.enter_context(StandIn.of(aws).in_thread())
        tokens = stack.enter_context(StandIn.of(google).in_thread())
        vertex = stack.enter_context(StandIn.of(vertex_stand_in.Vertex(tokens=google.tokens)).in_thread())
        yield [
            Upstream(Anthropic(api_key=anthropic.api_key, base_url=anthropic.base_url), anthropic),
            Upstream(
                Bedrock(
                    region=aws.region,
                    endpoint=bedrock.base_url,
                    bearer_token=next(iter(aws.api_keys)),
                ),
                bedrock,
            ),
            Upstream(
                Vertex(
                    project=google.project,
                    base_url=vertex.base_url,
                    service_account_info=google.account.info(tokens.base_url),
                ),
                vertex,
            ),
        ]
